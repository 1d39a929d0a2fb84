"""Standard streams that don't break a run if they are closed, full, or their terminal is gone."""

from __future__ import annotations

import io
import os
import sys
from typing import Final, TextIO

from batcher.errors import OutputError

_STANDARD: Final = (0, 1, 2)


class Heedless(io.FileIO):
    """Ignores write errors: messages that can't be printed are no reason to stop."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


class Strict(io.FileIO):
    """Raises OutputError if a write fails, except for a pipe that its reader closed."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"standard output: can't write: {error.strerror or error}") from error


def take_over() -> None:
    """Replace the standard streams by ones that are open, accept any text, and handle errors.

    A closed descriptor is opened on the null device first: otherwise the next file would get its number,
    and printed text could end up in a ledger.
    """
    for descriptor in _STANDARD:
        _open_if_closed(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the life of the process
    sys.stdout = _text(Strict(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(Heedless(2, "w", closefd=False), sys.stderr)


def _open_if_closed(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
        os.set_inheritable(descriptor, True)


def _text(raw: io.FileIO, before: TextIO | None) -> TextIO:
    """``raw`` as text, encoded as the stream ``before`` was; flushed with each line of a terminal."""
    encoding = before.encoding if before is not None else "utf-8"
    if before is not None:
        before.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == 2,
    )
