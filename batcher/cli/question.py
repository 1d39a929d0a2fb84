"""A question on the terminal, which a signal can end at any moment."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

READ_BYTES: Final = 4096
ANSWERS: Final = {"y": True, "yes": True, "n": False, "no": False, "": False}


def agreed(question: str) -> bool:
    """Ask on stderr until the user answers yes or no on stdin.

    A signal ends the question with no, and is then passed on to the signal handlers. The end of the
    input also means no. Main thread only.
    """
    with _woken_by_signals() as waker:
        answer = None
        while answer not in ANSWERS:
            click.echo(f"{question} [y/N]: ", nl=False, err=True)
            answer = _line(sys.stdin.fileno(), waker).strip().lower()
        return ANSWERS[answer]


def _line(terminal: int, waker: int) -> str:
    """The line that the user types; empty if a signal or the end of the input comes first."""
    typed = b""
    while not typed.endswith(b"\n"):
        ready, _, _ = select.select([terminal, waker], [], [])
        piece = b"" if waker in ready else _typed(terminal)
        if not piece:
            return ""
        typed += piece
    return typed.decode(errors="replace")


def _typed(terminal: int) -> bytes:
    try:
        return os.read(terminal, READ_BYTES)
    except OSError:  # the terminal was closed
        return b""


@contextmanager
def _woken_by_signals() -> Iterator[int]:
    """A descriptor that becomes readable when a signal arrives, whichever thread it interrupts.

    ``input`` would keep waiting if a signal arrives just before it reads, or reaches another thread. The
    event loop, which is blocked meanwhile, gets the signals afterwards.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        with open(reader, "rb") as arrived:
            numbers = arrived.read()
        for number in numbers:
            signal.raise_signal(number)
