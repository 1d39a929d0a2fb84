"""Disks that are full, read-only or out of bounds, under the installed command."""

import ctypes
import os
import resource
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from batcher.ledger.ledger import RESERVE_BYTES
from tests.support.api_server import command, environment
from tests.support.faults import SlowServer, ledger, posted_once, run, states, write_pairs

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


@pytest.fixture
def server():
    served = SlowServer(generate_s=0.0).start()
    yield served
    served.stop()


def run_within(server, cwd, preexec, *arguments):
    ended = subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(server, cwd),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=preexec,
        check=False,
    )
    assert "Traceback" not in ended.stdout + ended.stderr
    return ended


def file_limit(size_bytes):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


def bound_by_modes():
    """Take from root, in this process, what lets it pass by the modes of files."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@contextmanager
def small_disk(megabytes):
    """A file system of its own, where this machine lets us mount one."""
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tempfile.mkdtemp()
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        os.rmdir(folder)
        pytest.skip(f"can't mount a tmpfs here: {made.stderr.decode().strip()}")
    try:
        yield Path(folder)
    finally:
        subprocess.run(["umount", folder], check=True)
        os.rmdir(folder)


def test_a_ledger_that_reaches_the_file_size_limit_ends_the_run_with_whole_lines(server, tmp_path):
    server.generate_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 60, prompt="cat number {} " + "x" * 20_000)
    full = run_within(
        server, tmp_path, file_limit(RESERVE_BYTES + 300_000), "run", "pairs.csv", "-c", "60", "--yes"
    )
    assert full.returncode == 73
    assert "ledger.jsonl: can't write: File too large" in full.stdout + full.stderr
    server.generate_s = 0.0
    run_dir = tmp_path / "output/pairs"
    intended = {one["job"] for one in ledger(run_dir) if one["event"] == "submitting"}
    assert len(server.posts) <= len(intended), "no POST without its intent on disk"
    again = run(server, tmp_path, "pairs.csv", "-c", 30)
    assert again.returncode in (0, 1), again.stderr
    assert posted_once(server)
    found = states(run_dir)
    assert sum(found.values()) == 60
    assert found["done"] + found.get("unknown", 0) == 60


def test_a_full_disk_under_the_ledger_records_the_answers_on_their_way_in_its_reserve(server, tmp_path):
    server.post_delay_s = 0.2
    write_pairs(tmp_path / "pairs.csv", 200, prompt="cat number {} " + "x" * 20_000)
    with small_disk(1) as disk:
        full = run_within(
            server,
            tmp_path,
            None,
            "run",
            "pairs.csv",
            "-c",
            "4",
            "--yes",
            "--poll",
            "0.1",
            "-o",
            str(disk / "run"),
        )
        assert full.returncode == 73
        assert "no space left" in (full.stdout + full.stderr).lower()
        known = {one["request_id"] for one in ledger(disk / "run") if one["event"] == "submitted"}
        assert known == set(server.created), "every request that was paid for is on record"
        assert states(disk / "run").get("unknown", 0) == 0
        shutil.copytree(disk / "run", tmp_path / "run")
    server.post_delay_s = 0.0
    again = run(server, tmp_path, "pairs.csv", "-c", 60, "-o", "run")
    assert again.returncode == 0, again.stderr
    assert posted_once(server)


def test_a_download_beyond_the_file_size_limit_ends_the_run_and_the_next_one_fetches_it(
    server, tmp_path
):
    server.on_media = lambda s, made: web.Response(body=s.created[made["id"]].media + bytes(1 << 20))
    write_pairs(tmp_path / "pairs.csv", 3)
    full = run_within(server, tmp_path, file_limit(RESERVE_BYTES + 100_000), "run", "pairs.csv")
    assert full.returncode == 73
    run_dir = tmp_path / "output/pairs"
    assert not list((run_dir / "media").iterdir())
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    assert len(server.posts) == 3
    assert states(run_dir) == {"done": 3}


def test_a_disk_that_fills_up_with_downloads_keeps_what_was_paid_for(server, tmp_path):
    server.on_media = lambda s, made: web.Response(body=s.created[made["id"]].media + bytes(700_000))
    write_pairs(tmp_path / "pairs.csv", 6)
    with small_disk(2) as disk:
        full = run_within(server, tmp_path, None, "run", "pairs.csv", "-c", "6", "-o", str(disk / "run"))
        assert full.returncode == 73
        assert all(path.stat().st_size > 700_000 for path in (disk / "run/media").iterdir())
        shutil.copytree(disk / "run", tmp_path / "run")
    assert run(server, tmp_path, "pairs.csv", "-o", "run").returncode == 0
    assert posted_once(server)


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_run_directory_that_may_not_be_written_or_entered_is_refused_before_the_first_post(
    server, tmp_path, mode
):
    write_pairs(tmp_path / "pairs.csv", 1)
    (tmp_path / "run").mkdir(mode=0o755)
    (tmp_path / "run").chmod(mode)
    refused = run_within(server, tmp_path, bound_by_modes, "run", "pairs.csv", "-o", "run")
    assert refused.returncode == 73
    assert "run" in refused.stderr
    assert "internal" not in refused.stderr
    assert not server.posts


def test_a_read_only_copy_of_a_run_can_still_be_looked_at_and_checked(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 2)
    assert run(server, tmp_path, "pairs.csv", "-o", "run").returncode == 0
    for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    looked = run_within(server, tmp_path, bound_by_modes, "status", "run")
    assert (looked.returncode, "2 of 2 jobs done" in looked.stdout) == (0, True)
    assert run_within(server, tmp_path, bound_by_modes, "verify", "run").returncode == 0
    planned = run_within(server, tmp_path, bound_by_modes, "plan", "pairs.csv", "-o", "run")
    assert planned.returncode == 0, planned.stderr
    refused = run_within(server, tmp_path, bound_by_modes, "run", "pairs.csv", "-o", "run")
    assert refused.returncode == 73
    assert "can't write" in refused.stderr


def test_a_ledger_that_may_not_be_read_is_named_and_nothing_is_bought(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/ledger.jsonl").write_text("")
    (tmp_path / "run/ledger.jsonl").chmod(0)
    (tmp_path / "run").chmod(0o777)
    for arguments in (
        ["run", "pairs.csv", "-o", "run"],
        ["plan", "pairs.csv", "-o", "run"],
        ["status", "run"],
    ):
        refused = run_within(server, tmp_path, bound_by_modes, *arguments)
        assert refused.returncode in (65, 73)
        assert "ledger.jsonl" in refused.stderr
    assert not server.posts


def test_files_are_made_with_the_users_umask(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    for umask in (0o022, 0o077):
        done = run_within(
            server,
            tmp_path,
            lambda umask=umask: os.umask(umask),
            "run",
            "pairs.csv",
            "-o",
            f"run-{umask}",
        )
        assert done.returncode == 0
        for path in (tmp_path / f"run-{umask}").rglob("*"):
            if ".batcher" not in path.parts:
                expected = 0o777 if path.is_dir() else 0o666
                assert path.stat().st_mode & 0o777 == expected & ~umask, path
