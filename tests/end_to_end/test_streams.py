"""Standard streams that are closed, full, or without a terminal: how a command ends doesn't change."""

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.support.api_server import command, environment, in_background, run_command, served, typed
from tests.support.faults import KLING, events, write_pairs


@pytest.fixture
def server():
    with served() as server:
        yield server


def batcher(server, cwd, shell, *arguments, **env):
    """The command with its descriptors as ``shell`` leaves them: ``<&-``, ``>/dev/full``."""
    line = f'exec "$@" {shell}'
    return subprocess.run(
        ["sh", "-c", line, "sh", *command(*arguments)],
        cwd=cwd,
        env=environment(server, cwd, **env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_closed_descriptors_change_nothing_and_no_file_gets_their_numbers(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 2)
    ended = batcher(server, tmp_path, "<&- >&- 2>&-", "run", "pairs.csv", "--poll", "0.05", "-v")
    assert ended.returncode == 0
    run_dir = tmp_path / "output/pairs"
    assert events(run_dir)["done"] == 2  # every line of it is JSON
    assert all(b"jobs done" not in file.read_bytes() for file in run_dir.rglob("*") if file.is_file())


def test_output_that_can_not_be_written_is_an_error_in_words(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    ended = batcher(server, tmp_path, ">/dev/full", "run", "pairs.csv", "--poll", "0.05", "--json")
    assert ended.returncode == 74
    assert ended.stderr.endswith("batcher: standard output: can't write: No space left on device\n")
    assert events(tmp_path / "output/pairs")["done"] == 1
    told = batcher(server, tmp_path, ">/dev/full", "status", "output/pairs", "--json")
    assert (told.returncode, "internal" in told.stderr) == (74, False)


def test_a_full_disk_under_standard_error_ends_nothing(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    ended = batcher(server, tmp_path, "2>/dev/full", "run", "pairs.csv", "--poll", "0.05", "--json")
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["done"] == 1
    assert batcher(server, tmp_path, "2>/dev/full", "run", "gone.csv").returncode == 65


def test_a_prompt_of_any_letters_is_told_by_a_terminal_that_knows_ascii_only(server, tmp_path):
    (tmp_path / "pairs.csv").write_text(
        "id,prompt,image_url\ncat,\u732b,https://example.com/a.png\n", encoding="utf-8"
    )
    env = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ended = run_command(server, tmp_path, "plan", "pairs.csv", "--model", KLING, **env)
    assert ended.returncode == 0, ended.stderr
    write_pairs(tmp_path / "pairs.csv", 1, prompt="\u732b {}")
    ended = run_command(server, tmp_path, "plan", "pairs.csv", **env)
    assert (ended.returncode, "set PYTHONUTF8=1" in ended.stderr) == (65, True)


@pytest.mark.parametrize("size", [(0, 0), (24, 80)])
def test_a_terminal_without_a_size_shows_progress_and_a_broken_variable_stops_nothing(
    server, tmp_path, size
):
    write_pairs(tmp_path / "pairs.csv", 2)
    ours, theirs = pty.openpty()
    os.set_blocking(ours, True)
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    process = in_background(
        server,
        tmp_path,
        command("run", "pairs.csv", "--poll", "0.05"),
        env={"TQDM_NCOLS": "abc", "TQDM_MININTERVAL": "x"},
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while piece := _read(ours):
        shown += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0
    assert b"2/2" in shown
    assert all(len(line.decode()) <= 81 + 20 for line in shown.split(b"\r"))


def _read(fd):
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""


def test_a_user_without_home_and_passwd_entry_needs_none(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib\n"
        "def none(*_): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = none\n"
    )
    path = f"{tmp_path}:{os.path.dirname(os.path.dirname(os.path.dirname(__file__)))}"
    ended = run_command(server, tmp_path, "run", "pairs.csv", "--poll", "0.05", PYTHONPATH=path)
    assert (ended.returncode, ended.stderr.count("home")) == (0, 0)


def test_processes_of_a_script_without_a_main_guard_are_told_of_it(tmp_path, monkeypatch):
    from batcher.distributed import cluster

    script = type(sys)("__main__")
    script.__file__ = str(tmp_path / "batch.py")
    monkeypatch.setitem(sys.modules, "__main__", script)
    assert 'batch.py: what starts the run must stand below `if __name__ == "__main__":`' in (
        cluster._missing_guard()
    )


def in_a_shell(script, cwd, words):
    """Run ``words`` after ``script``."""
    return subprocess.run(
        ["sh", "-c", f'{script} && exec "$@"', "sh", *words],
        cwd=cwd,
        env=environment(None, cwd),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_working_directory_that_is_gone_is_named(tmp_path):
    ended = in_a_shell("mkdir d && cd d && rmdir ../d", tmp_path, command("run", "m.yaml"))
    assert (ended.returncode, "working directory no longer exists" in ended.stderr) == (64, True)


def test_a_reader_that_has_gone_is_no_failure_of_a_plan(tmp_path):
    write_pairs(tmp_path / "pairs.csv", 2)
    reading, writing = os.pipe()
    os.close(reading)
    planned = command("plan", "pairs.csv", "--sandbox")
    ended = subprocess.run(
        planned,
        cwd=tmp_path,
        env=environment(None, tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("limit", "code"), [("-n 40", 71), ("-n 127", 71), ("-n 128", 0), ("-S -n 40", 0), ("-n 8", 71)]
)
def test_a_shell_that_allows_too_few_open_files_is_told_before_anything_is_sent(tmp_path, limit, code):
    """A soft limit is raised: macOS begins with 256."""
    ended = in_a_shell(f"ulimit {limit}", tmp_path, typed("--version"))
    assert (ended.returncode, "ulimit -n 1024" in ended.stderr) == (code, bool(code)), ended.stderr
