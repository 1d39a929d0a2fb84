"""Watchers of a run: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from batcher.clock import Clock, iso

if TYPE_CHECKING:
    from batcher.runner.view import RunView

LINE_EVERY_S = 60.0
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


class Bar:
    """One line on a terminal."""

    def __init__(self, stream: TextIO, *, colour: bool) -> None:
        self._stream = stream
        self._colour = "green" if colour else None
        self._bar: Any = None

    def started(self, view: RunView) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=view.selected,
            initial=view.done,
            unit="job",
            file=self._stream,
            dynamic_ncols=True,
            colour=self._colour,
            bar_format=BAR_FORMAT,
            smoothing=0.1,
        )

    def changed(self, view: RunView) -> None:
        self._bar.set_postfix_str(in_words(view), refresh=False)
        self._bar.update(view.done - self._bar.n)

    def warn(self, message: str) -> None:
        if self._bar is None:
            print(message, file=self._stream)
        else:
            self._bar.write(message, file=self._stream)

    def finished(self, view: RunView) -> None:
        self.changed(view)
        self._bar.refresh()
        self._bar.close()


class Lines:
    """A line at the start, at most one a minute, one at the end. For logs and cron."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._last_s = clock.monotonic()

    def started(self, view: RunView) -> None:
        self._say(f"started: {view.selected} jobs")

    def changed(self, view: RunView) -> None:
        if self._clock.monotonic() - self._last_s >= LINE_EVERY_S:
            self._say(f"{view.done}/{view.selected} done, {in_words(view)}".rstrip(", "))

    def warn(self, message: str) -> None:
        self._say(message)

    def finished(self, view: RunView) -> None:
        self._say(f"ended: {view.done}/{view.selected} done, {in_words(view)}".rstrip(", "))

    def _say(self, text: str) -> None:
        self._last_s = self._clock.monotonic()
        print(f"batcher: {text}", file=self._stream, flush=True)


class JsonLines(Lines):
    """The same lines as JSON objects: ``at``, ``message``."""

    def _say(self, text: str) -> None:
        self._last_s = self._clock.monotonic()
        line = msgspec.json.encode({"at": iso(self._clock.now()), "message": text})
        print(line.decode(), file=self._stream, flush=True)


class Quiet:
    """Says only what is wrong."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def started(self, view: RunView) -> None: ...
    def changed(self, view: RunView) -> None: ...

    def warn(self, message: str) -> None:
        print(f"batcher: {message}", file=self._stream, flush=True)

    def finished(self, view: RunView) -> None: ...
