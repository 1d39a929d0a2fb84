"""Questions on a terminal: what counts as a yes, and that no signal is lost while one is open."""

import asyncio
import os
import pty
import signal
import sys
import threading
from contextlib import contextmanager, redirect_stderr
from unittest.mock import patch

import pytest

from batcher.cli.question import _line, _woken_by_signals, agreed

END_OF_INPUT = b"\x04"


@contextmanager
def terminal():
    """Our end of a terminal that is this process's stdin and stderr meanwhile."""
    ours, theirs = pty.openpty()
    try:
        with (
            open(theirs) as stdin,
            open(os.dup(theirs), "w") as stderr,
            patch.object(sys, "stdin", stdin),
            redirect_stderr(stderr),
        ):
            yield ours
    finally:
        os.close(ours)


@contextmanager
def heard_by_the_loop(number):
    """The signals ``number`` that the loop hears of."""
    loop, heard = asyncio.get_running_loop(), asyncio.Queue()
    loop.add_signal_handler(number, heard.put_nowait, number)
    try:
        yield heard
    finally:
        loop.remove_signal_handler(number)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (b"y\n", True),
        (b" YES \n", True),
        (b"n\n", False),
        (b"no\n", False),
        (b"\n", False),
        (b"what?\n\xff\ny\n", True),
        (END_OF_INPUT, False),
        (b"y" + END_OF_INPUT * 2, False),
    ],
    ids=repr,
)
def test_only_a_whole_yes_is_one(typed, expected):
    with terminal() as ours:
        os.write(ours, typed)
        assert agreed("Buy?") is expected


def test_it_asks_again_until_it_is_told():
    with terminal() as ours:
        os.write(ours, b"perhaps\nn\n")
        assert not agreed("Buy?")
        shown = b""
        while shown.count(b"Buy? [y/N]: ") < 2:
            shown += os.read(ours, 4096)


def test_a_terminal_that_was_closed_says_no(monkeypatch):
    ours, theirs = pty.openpty()
    os.close(ours)
    with open(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert not agreed("Buy?")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_that_reaches_another_thread_ends_it_and_the_loop_hears_of_it_once(number):
    def interrupt():
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 4096)
        signal.pthread_kill(threading.get_ident(), number)

    with terminal() as ours, heard_by_the_loop(number) as heard:
        thread = threading.Thread(target=interrupt)
        thread.start()
        assert not agreed("Go on?")
        thread.join()
        assert await heard.get() == number
        await asyncio.sleep(0)
        assert heard.empty()


async def test_a_signal_that_comes_after_the_answer_is_heard_all_the_same():
    with terminal() as ours, heard_by_the_loop(signal.SIGTERM) as heard:
        os.write(ours, b"y\n")
        with _woken_by_signals() as waker:
            assert _line(sys.stdin.fileno(), waker) == "y\n"
            signal.raise_signal(signal.SIGTERM)
        assert await heard.get() == signal.SIGTERM
