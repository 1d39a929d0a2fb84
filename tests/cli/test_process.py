"""A command's signals: each has its exit code at every moment, and none shows a traceback."""

import asyncio
import signal
import subprocess
import sys
import textwrap
from unittest.mock import patch

import pytest

from batcher.cli import process
from tests.support.api_server import in_background
from tests.support.faults import end_with, wait_for, write_pairs

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _handlers():
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ended(code):
    """How a process ends that runs ``code`` after ``process.prepare()``."""
    head = "import os, signal\nfrom batcher.cli import process\nprocess.prepare()\n"
    words = [sys.executable, "-c", head + textwrap.dedent(code)]
    told = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    assert not told.stderr, told.stderr
    return told.returncode, told.stdout


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_what_the_command_does_and_one_after_it_the_process(number):
    code = f"""
        with process.interruptible():
            try:
                os.kill(os.getpid(), {number})
            except process.EndedBySignal as end:
                print("ended", end.exit_code, flush=True)
                os.kill(os.getpid(), {number})
        print("not reached", flush=True)
    """
    assert ended(code) == (128 + number, f"ended {128 + number}\n")


def test_after_what_can_be_interrupted_a_signal_ends_the_process():
    code = """
        with process.interruptible():
            pass
        os.kill(os.getpid(), 15)
        print("not reached", flush=True)
    """
    assert ended(code) == (143, "")


SIGNAL_ON_IMPORT = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None, loading=sys.argv[1]):
        if name == loading:
            os.kill(os.getpid(), 15)

sys.meta_path.insert(0, Finder())
from batcher.__main__ import main
sys.argv = ["batcher", "plan", "pairs.csv", "--sandbox"]
main()
"""


@pytest.mark.parametrize(
    ("module", "told"),
    [("batcher.cli.entry", ""), ("asyncio", "batcher: interrupted by signal 15\n")],
)
def test_a_signal_while_the_command_loads_ends_it_in_the_same_way(module, told, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    words = [sys.executable, "-c", SIGNAL_ON_IMPORT, module]
    loading = subprocess.run(
        words, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=30
    )
    assert (loading.returncode, loading.stdout, loading.stderr) == (143, "", told)


@pytest.mark.parametrize(
    "late",
    [
        "atexit.register(os.kill, os.getpid(), 15)",
        "threading._register_atexit(os.kill, os.getpid(), 15)",
    ],
)
def test_a_signal_while_the_interpreter_ends_shows_nothing(late):
    code = f"""
        import atexit, threading
        {late}
        with process.interruptible():
            pass
        process.leave(0)
    """
    assert ended(code) == (143, "")


def test_a_signal_in_the_very_last_moment_changes_nothing():
    code = """
        class Last:
            def __del__(self, kill=os.kill, pid=os.getpid()):
                kill(pid, 15)
                print("reached")
        last = Last()
        process.leave(3)
    """
    assert ended(code) == (3, "reached\n")


async def test_signals_are_received_in_the_loop_and_never_have_the_usual_effect_meanwhile():
    received, handlers, install = [], [], signal.signal

    def noted(number, handler):
        handlers.append(handler)
        return install(number, handler)

    with process.interruptible(), patch("signal.signal", noted):
        with process.signals_to(received.append):
            for number in NUMBERS:
                signal.raise_signal(number)
            await asyncio.sleep(0.01)
        assert received == NUMBERS
        assert not {*handlers} & {signal.SIG_DFL, signal.default_int_handler}
        assert signal.getsignal(signal.SIGTERM) is process._end_here


async def test_after_a_block_without_signals_they_are_handled_as_before():
    with process.interruptible():
        with process.signals_to(lambda _: None):
            pass
        with pytest.raises(process.EndedBySignal):
            signal.raise_signal(signal.SIGTERM)


async def test_a_signal_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    received = []
    with process.interruptible(), process.signals_to(received.append):
        signal.raise_signal(signal.SIGHUP)
        await asyncio.sleep(0.01)
    assert received == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", NUMBERS)
def test_each_signal_ends_a_plan_with_its_own_code(number, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 100_000)
    words = [sys.executable, "-m", "batcher", "plan", "pairs.csv", "--sandbox"]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with in_background(None, tmp_path, words, **both) as planning:
        wait_for(
            lambda: (tmp_path / ".cache").exists() or planning.poll() is not None or _reads(planning)
        )
        told = end_with(planning, number)
    assert (told.code, told.err) == (128 + number, f"batcher: interrupted by signal {number}\n")


def _reads(planning):
    """Whether the process has opened the manifest, so that its handlers are in place."""
    import psutil

    return any(file.path.endswith("pairs.csv") for file in psutil.Process(planning.pid).open_files())
