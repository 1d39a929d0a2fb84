"""A question on the terminal, which a signal ends at any moment."""

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
    """Ask on stderr until the terminal at stdin says yes or no.

    A signal ends the question, as a no; then those who handle signals hear of it. So does the end of the
    input. For the main thread.
    """
    with _woken_by_signals() as waker:
        answer = None
        while answer not in ANSWERS:
            click.echo(f"{question} [y/N]: ", nl=False, err=True)
            answer = _line(sys.stdin.fileno(), waker).strip().lower()
        return ANSWERS[answer]


def _line(terminal: int, waker: int) -> str:
    """What is typed up to the end of a line; nothing where a signal or the input's end comes first."""
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
    except OSError:  # it was closed, and who sat there has left
        return b""


@contextmanager
def _woken_by_signals() -> Iterator[int]:
    """A descriptor that is readable as soon as a signal arrives, whichever thread it interrupts.

    ``input`` waits on where a signal comes just before it reads, or reaches another thread. The loop,
    which stands still meanwhile, is told of them afterwards.
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
