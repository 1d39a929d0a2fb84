"""Tellers: observers that also learn how the command ended, even if nothing ran."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

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


class Teller(Observer, Protocol):
    """An observer that also learns how the command ended. That may take a few seconds."""

    def ended(self, ending: Ending) -> None: ...


class Deaf(Silence):
    """A teller that ignores everything: the base of the others."""

    def ended(self, ending: Ending) -> None: ...


class Watchers:
    """The observer that is ``shown`` to the user, and tellers beside it."""

    def __init__(self, shown: Observer, tellers: Iterable[Teller]) -> None:
        self.shown = shown
        self._tellers = tuple(tellers)

    @property
    def wants_more(self) -> bool:
        """Whether there are tellers, which need each event and each call."""
        return bool(self._tellers)

    def started(self, view: RunView) -> None:
        self.shown.started(view)
        for teller in self._tellers:
            teller.started(view)

    def changed(self, view: RunView) -> None:
        self.shown.changed(view)
        for teller in self._tellers:
            teller.changed(view)

    def warn(self, message: str) -> None:
        self.shown.warn(message)
        for teller in self._tellers:
            teller.warn(message)

    def event(self, event: JobEvent) -> None:
        if listens(self.shown, "event"):
            self.shown.event(event)
        for teller in self._tellers:
            teller.event(event)

    def call(self, call: EndedCall) -> None:
        if listens(self.shown, "call"):
            self.shown.call(call)
        for teller in self._tellers:
            teller.call(call)

    def finished(self, view: RunView) -> None:
        self.shown.finished(view)
        for teller in self._tellers:
            teller.finished(view)

    def ended(self, ending: Ending) -> None:
        for teller in self._tellers:
            teller.ended(ending)
