"""The process of a command: its signals, its streams at the end, its exit; never a traceback."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from batcher.cli import streams
from batcher.errors import MachineError, OutputError, UsageError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
READ_BYTES = 4096
Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None
NEEDED_FILES = 128
"""Connections, outputs being written, and what Python itself opens."""
USEFUL_FILES = 4096


def at_a_limit(error: Exception) -> MachineError | None:
    """The error to tell if the process has reached a limit of its own; None for any other error."""
    if isinstance(error, MemoryError):
        return MachineError("out of memory: allow more (ulimit -v, or the container's limit)")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return MachineError("too many open files: allow more, such as with ulimit -n 1024")
    return None


class EndedBySignal(KeyboardInterrupt):
    """Raised if a signal arrives while no engine runs, so that there is nothing to stop."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number


def prepare() -> None:
    """Handle signals, and suppress what the interpreter and libraries would print."""
    _handle_with(_end_here)
    atexit.register(
        _handle_with, signal.SIG_IGN
    )  # the last to be called: what follows takes milliseconds
    logging.getLogger().addHandler(logging.NullHandler())
    sys.unraisablehook = lambda _: None
    streams.take_over()


def check_working_directory() -> None:
    """Raises UsageError if the working directory was deleted, because relative paths would fail."""
    try:
        os.getcwd()  # noqa: PTH109 - only its existence matters
    except FileNotFoundError:
        raise UsageError("the working directory no longer exists; change to one that does") from None


def allow_open_files() -> None:
    """Raise the soft limit of open files as far as is useful: some systems begin with 256.

    Raises MachineError if it stays so low that a run could break off in the middle.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = USEFUL_FILES if hard == resource.RLIM_INFINITY else min(hard, USEFUL_FILES)
    if resource.RLIM_INFINITY not in (soft, limit) and soft < limit:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            soft = limit
    if soft != resource.RLIM_INFINITY and soft < NEEDED_FILES:
        raise MachineError(
            f"only {soft} files may be open at once here, and batcher needs {NEEDED_FILES}: raise the "
            "limit (ulimit -n 1024)"
        )


@contextmanager
def interruptible() -> Iterator[None]:
    """The first signal inside raises EndedBySignal; all others end the process at once."""
    _handle_with(_raise)
    try:
        yield
    finally:
        _handle_with(_end_here)


@contextmanager
def signals_to(receive: Callable[[int], None]) -> Iterator[None]:
    """Call ``receive`` with the number of each signal inside, in the running event loop.

    After a signal was received, one that comes later than this block ends the process at once. Main
    thread only. The loop's ``add_signal_handler`` is not used: when its handlers are removed, there is a
    moment in which a signal kills the process or raises KeyboardInterrupt.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    reader, writer = os.pipe()
    for end in (reader, writer):
        os.set_blocking(end, False)
    received: list[int] = []

    def read() -> None:
        for number in os.read(reader, READ_BYTES):
            received.append(number)
            receive(number)

    loop.add_reader(reader, read)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = _handle_with(lambda number, frame: None)
    try:
        yield
    finally:
        _handle_with(_end_here if received else before)
        signal.set_wakeup_fd(wakeup)
        loop.remove_reader(reader)
        os.close(writer)
        os.close(reader)


@contextmanager
def ignoring_closed_pipe(exit_code: int) -> Iterator[None]:
    """For the output at the end: a closed pipe doesn't change the exit code.

    If standard output can't be written, a run that succeeded raises OutputError.
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
    """Exit. After a signal without waiting for threads, because some can't be stopped."""
    _flush()
    if code not in {128 + number for number in SIGNALS}:
        sys.exit(code)
    _handle_with(signal.SIG_IGN)
    atexit._run_exitfuncs()
    os._exit(code)


def _flush() -> None:
    """Discard output to a closed pipe: otherwise the interpreter would print an error at its exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, OutputError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _handle_with(handler: Handler) -> Handler:
    """Handle all signals in this way, but those that nohup, or a shell for its background jobs, ignores.

    Returns how they were handled before.
    """
    before: Handler = None
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before = signal.signal(number, handler)
    return before


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    _handle_with(_end_here)
    raise EndedBySignal(number)


def _end_here(number: int, frame: FrameType | None) -> NoReturn:
    """An exception would show where it can't be caught: in the interpreter's last steps, for example."""
    os._exit(128 + number)
