"""The short way to start a command does what the long way does."""

import json
import signal
import subprocess

import pytest

from tests.forked import Forked, can_fork, popen
from tests.support.api_server import ApiServer, command, environment
from tests.support.faults import wait_for, write_pairs

PIPES = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
CASES = [
    (["plan", "pairs.csv", "--json"], {}),
    (["plan", "gone.csv"], {}),
    (["--nonsense"], {}),
    (["plan", "pairs.csv"], {"BATCHER_CONCURRENCY": "many"}),
]


def test_exit_code_output_directory_and_environment_are_those_of_a_started_process(tmp_path):
    write_pairs(tmp_path / "pairs.csv", 2)
    env = environment(None, tmp_path)
    told = []
    for start in (popen, subprocess.Popen):
        for arguments, more in CASES:
            with start(command(*arguments), cwd=tmp_path, env=env | more, **PIPES) as process:
                told.append((*process.communicate(), process.returncode))
    assert told[: len(CASES)] == told[len(CASES) :]
    assert [code for *_, code in told[: len(CASES)]] == [0, 65, 64, 64]
    assert json.loads(told[0][0])["total"] == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_signals_reach_it_and_its_ending_is_told(tmp_path, number):
    server = ApiServer(generate_s=60.0).start()
    write_pairs(tmp_path / "pairs.csv", 1)
    words = command("run", "pairs.csv", "--poll", "0.05")
    env = environment(server, tmp_path)
    with popen(words, cwd=tmp_path, env=env, start_new_session=True, **PIPES) as process:
        assert isinstance(process, Forked)
        wait_for(lambda: server.posts)
        assert process.poll() is None
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    server.stop()


def test_what_depends_on_the_start_of_an_interpreter_is_started(tmp_path):
    env = environment(None, tmp_path)
    assert can_fork(command("status", "out"), env)
    assert not can_fork(command("status", "out"), env | {"PYTHONUTF8": "0"})
    assert not can_fork(command("status", "out"), env | {"TQDM_NCOLS": "x"})
    assert not can_fork(command("run", "m.csv", "--dask", "local:2"), env)
    assert not can_fork(["sh", "-c", "batcher"], env)
