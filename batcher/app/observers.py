"""Observers of a command: those of its run, and those that also learn how it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from batcher.ledger.summary import Summary
from batcher.ports import EndedCall, JobEvent, Observer, RunView, Silence, listens


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended. ``summary`` is None if nothing ran; then ``error`` says why."""

    exit_code: int
    summary: Summary | None = None
    error: str | None = None

    @property
    def reason(self) -> str | None:
        """Why the run stopped early, or did not begin."""
        return self.summary.stopped if self.summary is not None else self.error


class Reporter(Silence):
    """An observer that also learns how the command ended, even if nothing ran; here it ignores all.

    ``ended`` may take a few seconds.
    """

    def ended(self, ending: Ending) -> None: ...


class Guarded(Silence):
    """A caller's own observer. If it raises, that is told to it, and the run goes on.

    A POST's answer, for one, is not on disk yet when ``call`` is told of it.
    """

    def __init__(self, observer: Observer) -> None:
        for method in ("started", "changed", "event", "call", "warn", "finished"):
            if listens(observer, method):
                setattr(self, method, partial(self._tell, method, getattr(observer, method)))

    def _tell(self, method: str, tell: Callable[[object], None], what: object) -> None:
        try:
            tell(what)
        except Exception as error:  # noqa: BLE001 - it is the caller's code, which may raise anything
            if method != "warn":
                self.warn(f"the observer's {method}() failed: {type(error).__name__}: {error}")


class ObserverGroup:
    """The observer that is ``shown`` to the user, and reporters beside it."""

    def __init__(self, shown: Observer, reporters: Iterable[Reporter]) -> None:
        self.shown = shown
        self._reporters = tuple(reporters)

    @property
    def wants_more(self) -> bool:
        """Whether there are reporters, which need each event and each call."""
        return bool(self._reporters)

    def started(self, view: RunView) -> None:
        self.shown.started(view)
        for reporter in self._reporters:
            reporter.started(view)

    def changed(self, view: RunView) -> None:
        self.shown.changed(view)
        for reporter in self._reporters:
            reporter.changed(view)

    def warn(self, message: str) -> None:
        self.shown.warn(message)
        for reporter in self._reporters:
            reporter.warn(message)

    def event(self, event: JobEvent) -> None:
        if listens(self.shown, "event"):
            self.shown.event(event)
        for reporter in self._reporters:
            reporter.event(event)

    def call(self, call: EndedCall) -> None:
        if listens(self.shown, "call"):
            self.shown.call(call)
        for reporter in self._reporters:
            reporter.call(call)

    def finished(self, view: RunView) -> None:
        self.shown.finished(view)
        for reporter in self._reporters:
            reporter.finished(view)

    def ended(self, ending: Ending) -> None:
        for reporter in self._reporters:
            reporter.ended(ending)
