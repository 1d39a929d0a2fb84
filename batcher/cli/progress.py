"""Watchers of a run: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from batcher.clock import Clock, iso
from batcher.terminal import visible, visible_json

if TYPE_CHECKING:
    from batcher.engine.view import RunView

LINE_EVERY_S = 60.0
BEAT_MIN_S = 0.05
UNKNOWN_COLUMNS, UNKNOWN_ROWS = 80, 24
BAR_FORMAT = (
    "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]{postfix}"
)


def in_words(view: RunView) -> str:
    """The state of a run in a few words: only what there is any of."""
    counts = {
        "at the API": view.queued,
        "downloading": view.downloading,
        "failed": view.failed,
        "unknown": view.unknown,
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _put(line: str, stream: TextIO) -> None:
    """Say it, or don't: that nobody listens any more is no reason to end a run."""
    with suppress(OSError, ValueError):
        print(visible(line), file=stream, flush=True)


def _tqdm() -> Any:
    """tqdm without ``TQDM_...`` variables: it reads them at its import, and a wrong one would raise."""
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
    """A terminal's size, for tqdm: followed as it changes, or 80 × 24 if it has none."""
    if _has_no_size(stream):
        return {"ncols": UNKNOWN_COLUMNS, "nrows": UNKNOWN_ROWS}
    return {"dynamic_ncols": True}


class Bar:
    """One line on a terminal."""

    def __init__(self, stream: TextIO, *, colour: bool) -> None:
        self._stream = stream
        self._colour = "green" if colour else None
        self._bar: Any = None

    def started(self, view: RunView) -> None:
        if _has_no_size(self._stream):  # what it records is read as a log later
            _put(f"started: {view.selected} jobs", self._stream)
        self._bar = _tqdm()(
            total=view.selected,
            initial=view.done,
            unit="job",
            file=self._stream,
            colour=self._colour,
            bar_format=BAR_FORMAT,
            smoothing=0.1,
            **_shape(self._stream),
        )

    def changed(self, view: RunView) -> None:
        self._bar.set_postfix_str(in_words(view), refresh=False)
        self._bar.update(view.done - self._bar.n)

    def warn(self, message: str) -> None:
        if self._bar is None:
            _put(message, self._stream)
        else:
            self._bar.write(visible(message), file=self._stream)

    def finished(self, view: RunView) -> None:
        self.changed(view)
        self._bar.refresh()
        self._bar.close()


class LogLines:
    """A line at the start, one a minute (what is awaited, too), one at the end. For logs and cron."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._last_s = clock.monotonic()
        self._beat: asyncio.TimerHandle | None = None

    def started(self, view: RunView) -> None:
        self._say(f"started: {view.selected} jobs")
        self._look_again(view)

    def changed(self, view: RunView) -> None:
        if self._clock.monotonic() - self._last_s >= LINE_EVERY_S:
            self._say("; ".join([_so_far(view), *view.waits()]))

    def warn(self, message: str) -> None:
        self._say(message)

    def finished(self, view: RunView) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self._say(f"ended: {_so_far(view)}")

    def _say(self, text: str) -> None:
        self._last_s = self._clock.monotonic()
        _put(f"batcher: {text}", self._stream)

    def _look_again(self, view: RunView) -> None:
        """Say what is awaited if nothing changes for a minute."""
        self.changed(view)
        with suppress(RuntimeError):  # no event loop, so nothing to wait in
            left_s = LINE_EVERY_S - (self._clock.monotonic() - self._last_s)
            self._beat = asyncio.get_running_loop().call_later(
                max(left_s, BEAT_MIN_S), self._look_again, view
            )


def _so_far(view: RunView) -> str:
    return f"{view.done}/{view.selected} done, {in_words(view)}".rstrip(", ")


class JsonLines(LogLines):
    """The same lines as JSON objects: ``at``, ``message``."""

    def _say(self, text: str) -> None:
        self._last_s = self._clock.monotonic()
        _put(visible_json({"at": iso(self._clock.now()), "message": text}), self._stream)


class Quiet:
    """Says only what is wrong."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def started(self, view: RunView) -> None: ...
    def changed(self, view: RunView) -> None: ...

    def warn(self, message: str) -> None:
        _put(f"batcher: {message}", self._stream)

    def finished(self, view: RunView) -> None: ...


@contextmanager
def byte_bar(total_bytes: int, stream: TextIO, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """A bar that counts bytes, where there is a terminal to show it on; gives what moves it on."""
    with _tqdm()(
        total=total_bytes, unit="B", unit_scale=True, file=stream, disable=not shown, **_shape(stream)
    ) as bar:
        yield bar.update
