"""``--quiet`` speaks when a human is needed, and only then; ``--on-lock`` says what a busy directory means."""

import json
import os
import re
import socket
import subprocess

import pytest
from aiohttp import web

from batcher.app.run_dir_checks import LOOK_EVERY_S, when_free
from batcher.disk import LocalDisk
from batcher.errors import LockedError
from tests.support.api_server import command, in_background, run_command, run_typed, served
from tests.support.faults import FAST, KLING, write_pairs

QUIET = (*FAST, "--quiet", "-o", "out")


@pytest.fixture
def server():
    with served(KLING) as server:
        yield server


def refuse(prompt):
    def answer(served, body):
        if body.get("prompt") == prompt:
            return web.json_response({"error_code": 400123, "message": "not this one"}, status=400)
        return None

    return answer


def test_a_quiet_run_says_what_newly_failed_and_how_to_go_on_and_is_silent_when_nothing_is_new(
    server, tmp_path
):
    write_pairs(tmp_path / "pairs.csv", 3)
    server.on_post = refuse("cat number 1")
    first = run_command(server, tmp_path, "run", "pairs.csv", *QUIET, "--ignore-old-failures")
    assert (first.returncode, first.stdout) == (1, "")
    assert first.stderr.startswith("batcher: out: exit 1, 1 newly failed\n")
    assert "2 of 3 jobs done" in first.stderr
    assert re.search(r"cat-number-1-\w+: at submit .*not this one", first.stderr)
    again = re.search(
        r"to submit unchanged ones again, at their price:\n +(batcher run .* --retry-refused)",
        first.stderr,
    )
    assert again is not None
    second = run_command(server, tmp_path, "run", "pairs.csv", *QUIET, "--ignore-old-failures")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    loud = run_command(server, tmp_path, "run", "pairs.csv", *QUIET)
    assert (loud.returncode, loud.stderr.splitlines()[0]) == (1, "batcher: out: exit 1, no new failures")


def test_a_new_failure_is_named_before_the_old_ones(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 24)
    server.on_post = lambda served, body: (
        None if len(served.posts) % 2 else web.json_response({"message": body["prompt"]}, status=400)
    )
    assert run_command(server, tmp_path, "run", "pairs.csv", *QUIET).returncode == 1
    write_pairs(tmp_path / "pairs.csv", 25)
    server.on_post = refuse("cat number 24")
    told = run_command(server, tmp_path, "run", "pairs.csv", *QUIET).stderr
    lines = told.splitlines()
    assert lines[0] == "batcher: out: exit 1, 1 newly failed"
    assert lines[
        lines.index("13 were refused for their inputs, and would be refused again:") + 1
    ].startswith("  cat-number-24-")


def test_an_unanswered_post_is_told_quietly_with_the_command_that_settles_it(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    server.after_post = lambda served, body: web.Response(status=500)
    ended = run_command(server, tmp_path, "run", "pairs.csv", *QUIET)
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (
        1,
        "batcher: out: exit 1, 1 newly unknown",
    )
    assert re.search(r"batcher resolve out cat-number-0-\w+ --not-created", ended.stderr)


def test_a_quiet_refusal_names_its_reason(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    refused = run_typed(server, tmp_path, "run", "pairs.csv", *QUIET)
    assert (refused.returncode, refused.stdout) == (64, "")
    assert "no cap was given" in refused.stderr


def test_a_busy_directory_fails_with_pid_host_and_time_or_is_skipped_without_a_word(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    assert run_command(server, tmp_path, "run", "pairs.csv", *QUIET).returncode == 0
    release = LocalDisk().lock(tmp_path / "out/.batcher/lock")
    failed = run_command(server, tmp_path, "run", "pairs.csv", *QUIET)
    assert failed.returncode == 75
    assert f"(pid {os.getpid()} on {socket.gethostname()}, since 20" in failed.stderr
    assert "-o" not in failed.stderr.split()
    skipped = run_command(server, tmp_path, "run", "pairs.csv", *FAST, "-o", "out", "--on-lock", "skip")
    assert (skipped.returncode, skipped.stdout, skipped.stderr) == (0, "", "")
    told = run_command(server, tmp_path, "run", "pairs.csv", *QUIET, "--on-lock", "skip", "--json")
    assert json.loads(told.stdout)["exit_code"] == told.returncode == 0
    release()


def test_a_run_waits_for_the_one_before_it(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    assert run_command(server, tmp_path, "run", "pairs.csv", *QUIET).returncode == 0
    release = LocalDisk().lock(tmp_path / "out/.batcher/lock")
    waits = in_background(
        server,
        tmp_path,
        command("run", "pairs.csv", *QUIET, "--on-lock", "wait=1ms"),
        stderr=subprocess.PIPE,
    )
    assert (waits.wait(30), "another run holds" in waits.communicate()[1]) == (75, True)
    release()


class Jumping:
    """A clock on which time passes when somebody sleeps."""

    now_s = 0.0

    def monotonic(self):
        return self.now_s

    async def sleep(self, seconds):
        self.now_s += seconds


async def test_waiting_ends_when_the_other_run_does_or_when_the_time_is_over():
    clock, tries = Jumping(), []

    async def busy_until_12():
        tries.append(clock.monotonic())
        if clock.monotonic() < 12:
            raise LockedError("held")
        return "ran"

    assert await when_free(busy_until_12, 600, clock) == "ran"
    assert tries == [0, LOOK_EVERY_S, 2 * LOOK_EVERY_S, 3 * LOOK_EVERY_S]
    clock.now_s = 0.0
    with pytest.raises(LockedError):
        await when_free(busy_until_12, 7, clock)
    assert clock.monotonic() == 7


def test_a_rolling_manifest_needs_one_permission_and_still_a_cap(server, tmp_path):
    rolled = ("run", "pairs.csv", *QUIET)
    write_pairs(tmp_path / "pairs.csv", 1)
    assert run_command(server, tmp_path, *rolled).returncode == 0
    rows = write_pairs(tmp_path / "pairs.csv", 2).read_text().splitlines(keepends=True)
    (tmp_path / "pairs.csv").write_text(rows[0] + rows[2])
    refused = run_typed(server, tmp_path, *rolled, "--max-cost", 9)
    assert (refused.returncode, len(server.posts)) == (65, 1)
    assert "add --allow-removed (for a rolling manifest) or --yes" in refused.stderr
    assert run_typed(server, tmp_path, *rolled, "--allow-removed").returncode == 64
    bought = run_typed(server, tmp_path, *rolled, "--allow-removed", "--max-cost", 9)
    assert (bought.returncode, bought.stderr, len(server.posts)) == (0, "", 2)
