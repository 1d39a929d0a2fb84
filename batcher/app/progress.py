"""What a run shows: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

from batcher.app.log_records import LogRecords
from batcher.clock import Clock
from batcher.ports import Silence
from batcher.terminal import money, visible, visible_json

if TYPE_CHECKING:
    from batcher.ports import EndedCall, JobEvent, RunView

LINE_EVERY_S = 60.0
LOOK_EVERY_S = 1.0
QUIET_BEATS = 5
BEAT_S = 0.2
SPINNER_AFTER_BEATS = 4
SPINNER = "|/-\\"
BEAT_MIN_S = 0.05
WARNINGS_KEPT = 50
UNKNOWN_COLUMNS, UNKNOWN_ROWS = 80, 24
BAR_FORMAT = (
    "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]{postfix}"
)


def in_words(view: RunView) -> str:
    """The state of a run in a few words, without zero counts."""
    counts = {
        "at the API": view.queued,
        "downloading": view.downloading,
        "failed": view.failed,
        "unknown": view.unknown,
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _put(line: str, stream: TextIO) -> None:
    """Write the line; ignores a closed or full stream, which is no reason to end a run."""
    with suppress(OSError, ValueError):
        print(visible(line), file=stream, flush=True)


def _tqdm() -> Any:
    """tqdm without ``TQDM_...`` variables: it reads them on import, and an invalid one would raise."""
    theirs = {name: value for name, value in os.environ.items() if name.startswith("TQDM_")}
    for name in theirs:
        del os.environ[name]
    try:
        from tqdm import tqdm
    finally:
        os.environ.update(theirs)
    return tqdm


def _has_no_size(stream: TextIO) -> bool:
    """Whether this is a terminal that says 0 × 0, as ``docker run -t``, ``script`` and ``expect`` do."""
    with suppress(OSError, ValueError):
        return 0 in os.get_terminal_size(stream.fileno())
    return False


def _shape(stream: TextIO) -> dict[str, Any]:
    """A terminal's size, for tqdm: updated when it changes, or 80 × 24 if it has none."""
    if _has_no_size(stream):
        return {"ncols": UNKNOWN_COLUMNS, "nrows": UNKNOWN_ROWS}
    return {"dynamic_ncols": True}


def money_in_words(view: RunView) -> str:
    """The amount spent, and the cap or the plan's total: ``$4.20 of at most $5.00``."""
    spent_usd, cap_usd, estimate_usd = view.money()
    spent = money(spent_usd)
    if cap_usd is not None:
        return f"{spent} of at most {money(cap_usd)}"
    if estimate_usd:
        return f"{spent} of about {money(max(estimate_usd, spent_usd))}"
    return spent if spent_usd else ""


class Bar(Silence):
    """One line on a terminal: counts, money and, while nothing changes, what the run is waiting for."""

    def __init__(self, stream: TextIO, *, colour: bool, make: Callable[[], Any] | None = None) -> None:
        self._stream = stream
        self._colour = "green" if colour else None
        self._make = make or _tqdm
        self._bar: Any = None
        self._beat: asyncio.TimerHandle | None = None
        self._beats = 0
        self._quiet_beats = 0

    def preparing(self, what: str) -> None:
        """Show activity before the run has begun; needs a running event loop."""
        self._beats += 1
        if self._beats > SPINNER_AFTER_BEATS:
            mark = SPINNER[self._beats % len(SPINNER)]
            _draw(f"{mark} {what} ({self._beats * BEAT_S:.0f} s)", self._stream)
        self._beat = asyncio.get_running_loop().call_later(BEAT_S, self.preparing, what)

    def prepared(self) -> None:
        """Clear what ``preparing`` shows."""
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
        if self._beats > SPINNER_AFTER_BEATS:
            _draw("", self._stream)
        self._beats = 0

    def started(self, view: RunView) -> None:
        self.prepared()
        if _has_no_size(self._stream):  # its recording is read as a log later
            _put(f"started: {_jobs(view.selected)}", self._stream)
        self._bar = self._make()(
            total=view.selected,
            initial=view.done,
            unit="job",
            file=self._stream,
            colour=self._colour,
            bar_format=BAR_FORMAT,
            smoothing=0.1,
            **_shape(self._stream),
        )
        self._look_again(view)

    def changed(self, view: RunView) -> None:
        self._quiet_beats = 0
        self._show(view, [])

    def _show(self, view: RunView, waits: Iterable[str]) -> None:
        words = [money_in_words(view), in_words(view), *waits]
        self._bar.set_postfix_str(visible("; ".join(filter(None, words))), refresh=False)
        self._bar.update(view.done - self._bar.n)

    def _look_again(self, view: RunView) -> None:
        """Once a second: update the clock, and show what the run is waiting for if nothing changed."""
        self._quiet_beats += 1
        with suppress(RuntimeError):  # no event loop, so nothing to wait in
            self._beat = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look_again, view)
            if self._quiet_beats > QUIET_BEATS:
                self._show(view, view.waits())
            self._bar.refresh()

    def warn(self, message: str) -> None:
        if self._bar is None:
            if self._beats > SPINNER_AFTER_BEATS:
                _draw("", self._stream)
            _put(message, self._stream)
        else:
            self._bar.write(visible(message), file=self._stream)

    note = warn

    def finished(self, view: RunView) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self.changed(view)
        self._bar.refresh()
        self._bar.close()


def _draw(text: str, stream: TextIO) -> None:
    """Draw over the terminal's line."""
    with suppress(OSError, ValueError):
        stream.write(f"\r\x1b[K{visible(text)}")
        stream.flush()


def progress_bar() -> Bar:
    """A bar for Python: a widget in a notebook, else a line on stderr."""
    colour = "NO_COLOR" not in os.environ
    return Bar(sys.stderr, colour=colour, make=_notebook_tqdm if _in_notebook() else None)


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _notebook_tqdm() -> Any:
    """tqdm as a widget, if the notebook has widgets."""
    plain = _tqdm()
    if find_spec("ipywidgets") is None:
        return plain
    from tqdm.notebook import tqdm

    return tqdm


class LogLines(Silence):
    """A line at the start, one a minute (or why the run waits), one at the end. For logs and cron."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._last_s = clock.monotonic()
        self._beat: asyncio.TimerHandle | None = None

    def started(self, view: RunView) -> None:
        self._say(f"started: {_jobs(view.selected)}", view)
        self._look_again(view)

    def changed(self, view: RunView) -> None:
        if self._clock.monotonic() - self._last_s >= LINE_EVERY_S:
            self._say("; ".join([_so_far(view), *view.waits()]), view)

    def warn(self, message: str) -> None:
        self._last_s = self._clock.monotonic()
        self.note(message, "warning")

    def finished(self, view: RunView) -> None:
        if self._beat is not None:
            self._beat.cancel()
        so_far = f"{_so_far(view)}{_left(view)}"
        if view.stopped is None:
            self._say(f"ended: {so_far}", view)
        else:
            reason = " ".join(view.stopped.split("\n"))
            self._say(f"ended early: {so_far}; {reason}", view)

    def note(self, text: str, level: str = "info") -> None:
        """Print a line in addition to those once a minute."""
        del level
        at = self._clock.now().isoformat(timespec="seconds")[:19]
        _put(f"{at}Z batcher: {text}", self._stream)

    def _say(self, text: str, view: RunView) -> None:
        """The line that is printed once a minute, about the state of ``view``."""
        del view
        self._last_s = self._clock.monotonic()
        self.note(text)

    def _look_again(self, view: RunView) -> None:
        """Print what the run is waiting for if nothing changes for a minute."""
        self.changed(view)
        with suppress(RuntimeError):  # no event loop, so nothing to wait in
            left_s = LINE_EVERY_S - (self._clock.monotonic() - self._last_s)
            self._beat = asyncio.get_running_loop().call_later(
                max(left_s, BEAT_MIN_S), self._look_again, view
            )


def _so_far(view: RunView) -> str:
    return f"{view.done}/{view.selected} done, {in_words(view)}".rstrip(", ")


def _left(view: RunView) -> str:
    """The jobs that a run has left as they were: neither done nor among those that it counts."""
    counted = view.done + view.queued + view.downloading + view.failed + view.unknown
    return f", {view.selected - counted} left for a later run" if view.selected > counted else ""


def json_records(stream: TextIO, clock: Clock) -> LogRecords:
    """LogRecords as one line of JSON each, on ``stream``."""
    return LogRecords(clock, lambda _, record: _put(visible_json(record), stream))


class JsonLines(LogLines):
    """The same lines as JSON objects, with the counts as numbers, and one for each job that ends."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        super().__init__(stream, clock)
        self.records = json_records(stream, clock)

    def started(self, view: RunView) -> None:
        self.records.run = view.run
        super().started(view)

    def note(self, text: str, level: str = "info") -> None:
        self.records.write(level, text)

    def event(self, event: JobEvent) -> None:
        self.records.event(event)

    def _say(self, text: str, view: RunView) -> None:
        self._last_s = self._clock.monotonic()
        counts = {"selected": view.selected, "done": view.done, "failed": view.failed}
        counts |= {"unknown": view.unknown, "at_api": view.queued, "downloading": view.downloading}
        self.records.write("info", text, **counts)


class Verbose:
    """``--verbose``: the output of another watcher, and a line for each finished call."""

    def __init__(self, inner: Bar | LogLines) -> None:
        self.inner = inner
        self.started = inner.started
        self.changed = inner.changed
        self.event = inner.event
        self.warn = inner.warn
        self.finished = inner.finished

    def call(self, call: EndedCall) -> None:
        text = f"{call.kind} {call.what}: {call.outcome} ({call.took_s:.3f} s)"
        if isinstance(self.inner, JsonLines):
            self.inner.records.call(call, text)
        else:
            self.inner.note(text)


class Quiet(Silence):
    """Prints only warnings: as lines, or to ``records``."""

    def __init__(self, stream: TextIO, records: LogRecords | None = None) -> None:
        self._stream = stream
        self._records = records

    def warn(self, message: str) -> None:
        if self._records is not None:
            self._records.write("warning", message)
        else:
            _put(f"batcher: {message}", self._stream)


class Held(Quiet):
    """Keeps what is wrong to itself until a human turns out to be needed."""

    def __init__(self, stream: TextIO, records: LogRecords | None = None) -> None:
        super().__init__(stream, records)
        self._kept: dict[str, None] = {}
        self._more = 0

    def warn(self, message: str) -> None:
        if len(self._kept) < WARNINGS_KEPT or message in self._kept:
            self._kept[message] = None
        else:
            self._more += 1

    def tell(self) -> None:
        """Say what was kept, once."""
        for message in self._kept:
            super().warn(message)
        if self._more:
            super().warn(f"... and {self._more} more warnings")
        self._kept, self._more = {}, 0


@contextmanager
def byte_bar(total_bytes: int, stream: TextIO, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """A bar that counts bytes, if there is a terminal; yields the function that advances it."""
    with _tqdm()(
        total=total_bytes, unit="B", unit_scale=True, file=stream, disable=not shown, **_shape(stream)
    ) as bar:
        yield bar.update
