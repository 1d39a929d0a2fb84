"""The extra ``speed``: the command on another event loop, with the same manners."""

import asyncio
import json
import signal
import socket
import subprocess
import time

import pytest

from batcher.cli.event_loop import fast_loop
from tests.forked import ROOT
from tests.support.api_server import command, environment, run_command, served
from tests.support.faults import KLING

pytest.importorskip("uvloop")
FAST = ("--poll", "0.1")
SAYS_WHICH = "import asyncio, sys; from batcher.cli.event_loop import fast_loop; print(fast_loop())"


@pytest.fixture
def server():
    with served() as server:
        yield server


def manifest(folder, jobs):
    rows = [
        {"id": f"job-{n}", "prompt": f"cat {n}", "image_url": "https://example.com/a.png"}
        for n in range(jobs)
    ]
    (folder / "m.json").write_text(json.dumps({"name": "m", "model": KLING, "jobs": rows}))


def test_it_is_used_where_it_is_installed_and_hidden_from_the_other_tests(server, tmp_path):
    import sys

    def told(**env):
        environ = environment(server, tmp_path, **env)
        return subprocess.run(
            [sys.executable, "-c", SAYS_WHICH], env=environ, capture_output=True, text=True, check=True
        ).stdout

    assert "FastLoop" in told(PYTHONPATH=ROOT)
    assert told() == "None\n"


def test_a_batch_is_done_and_does_nothing_the_second_time(server, tmp_path):
    manifest(tmp_path, 12)
    for _ in range(2):
        ran = run_command(server, tmp_path, "run", "m.json", *FAST, "-c", 4, PYTHONPATH=ROOT)
        assert ran.returncode == 0, ran.stderr
    assert len(server.posts) == 12
    assert server.max_unfinished <= 4


def test_an_interrupt_leaves_a_whole_ledger_that_goes_on(server, tmp_path):
    manifest(tmp_path, 12)
    server.generate_s = 30.0
    environ = environment(server, tmp_path, PYTHONPATH=ROOT)
    process = subprocess.Popen(
        command("run", "m.json", *FAST, "-c", 4),
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + 30
    while len(server.posts) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    server.generate_s = 0.0
    again = run_command(server, tmp_path, "run", "m.json", *FAST, PYTHONPATH=ROOT)
    assert again.returncode == 0, again.stderr
    assert len(server.posts) == 12


def test_names_are_looked_up_in_threads_of_ours(monkeypatch):
    asked = []

    def look_up(host, port, **hints):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        assert runner.run(_resolve())[0][4] == ("127.0.0.1", 443)
    assert asked == ["somewhere.test"]


async def _resolve():
    return await asyncio.get_running_loop().getaddrinfo("somewhere.test", 443, type=socket.SOCK_STREAM)
