"""How a command ends: by a signal at any moment, and never with a traceback."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from batcher.cli import streams
from batcher.errors import OutputError, UsageError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndedBySignal(KeyboardInterrupt):
    """Raised where a signal arrives while no engine runs: there is nothing to wind up."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number


def prepare() -> None:
    """Take over signals, and keep to ourselves what the interpreter and libraries would print."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, a shell's background job
            signal.signal(number, _received)
    logging.getLogger().addHandler(logging.NullHandler())
    sys.unraisablehook = lambda _: None
    streams.take_over()


def check_working_directory() -> None:
    """Raises UsageError if it was deleted beneath us: no relative path means anything then."""
    try:
        os.getcwd()  # noqa: PTH109 - nothing else is asked for
    except FileNotFoundError:
        raise UsageError("the working directory no longer exists; change to one that does") from None


@contextmanager
def perhaps_unheard(exit_code: int) -> Iterator[None]:
    """For what is said at the end: that the reader of a pipe has gone doesn't change how it ended.

    Where standard output can't be written, a run that ended well raises OutputError.
    """
    try:
        yield
    except BrokenPipeError:
        pass
    except OutputError:
        if not exit_code:
            raise
    _flush()


def leave(code: int) -> NoReturn:
    """Exit. After a signal without waiting for threads: some can't be told to stop."""
    _flush()
    if code not in {128 + number for number in SIGNALS}:
        sys.exit(code)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    atexit._run_exitfuncs()
    os._exit(code)


def _flush() -> None:
    """Get rid of what nobody reads any more, or the interpreter would fail to, and say so."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, OutputError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _received(number: int, frame: FrameType | None) -> NoReturn:
    raise EndedBySignal(number)
