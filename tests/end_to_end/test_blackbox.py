"""The installed command against a real HTTP server, from outside: what users see."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from aiohttp import web

from batcher.sandbox.faults import Fault
from batcher.sandbox.server import Sandbox
from batcher.sandbox.settings import SandboxSettings
from tests.forked import popen
from tests.support.api_server import (
    TOKEN,
    ApiServer,
    command,
    environment,
    in_background,
    run_command,
    run_typed,
    served,
)
from tests.support.faults import FAST, KLING, wait_for, write_pairs


@pytest.fixture
def server():
    with served(KLING) as server:
        yield server


def ledger(run_dir):
    return [json.loads(line) for line in (run_dir / "ledger.jsonl").read_text().splitlines()]


def test_25_rows_are_done_and_a_second_run_neither_posts_nor_downloads(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 25)
    first = run_command(server, tmp_path, "run", "pairs.csv", *FAST, "-c", 5, "--json")
    assert first.returncode == 0, first.stderr
    answer = json.loads(first.stdout)
    assert (answer["total"], answer["done"], answer["submitted_now"]) == (25, 25, 25)
    run_dir = tmp_path / "output" / "pairs"
    assert server.max_unfinished <= 5
    recorded = {line["request_id"] for line in ledger(run_dir) if line["event"] == "submitted"}
    assert recorded == set(server.created)
    rows = [json.loads(line) for line in (run_dir / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 25
    for row in rows:
        assert (run_dir / row["file_name"]).read_bytes() == server.created[row["request_id"]].media
    posts, downloads = len(server.posts), server.downloads
    before = (run_dir / "ledger.jsonl").read_bytes()
    second = run_command(server, tmp_path, "run", "pairs.csv", *FAST, "-c", 5)
    assert second.returncode == 0, second.stderr
    assert (len(server.posts), server.downloads) == (posts, downloads)
    assert (run_dir / "ledger.jsonl").read_bytes() == before


def test_auto_concurrency_carries_a_batch_to_its_end(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 20)
    result = run_command(server, tmp_path, "run", "pairs.csv", *FAST, "-c", "auto", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["done"] == len(server.posts) == 20


def test_the_token_goes_to_the_api_and_nowhere_else(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 3)
    result = run_command(server, tmp_path, "run", "pairs.csv", *FAST, "-v")
    assert result.returncode == 0
    assert server.tokens == {f"Bearer {TOKEN}"}
    assert all("Authorization" not in headers for headers in server.media_headers)
    written = [p.read_bytes() for p in (tmp_path / "output").rglob("*") if p.is_file()]
    assert all(TOKEN.encode() not in content for content in written)
    assert TOKEN not in result.stdout + result.stderr


def killed_at_work(server, cwd, after_s, *arguments):
    """Start the command, and kill it ``after_s`` after its first call to the API."""
    calls = len(server.posts) + server.polls
    process = in_background(server, cwd, command(*arguments))
    try:
        while len(server.posts) + server.polls == calls:
            assert process.poll() is None, "it ended before it called"
            time.sleep(0.002)
        time.sleep(after_s)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"


def test_kill_9_at_random_moments_never_posts_a_job_twice(server, tmp_path):
    server.generate_s, server.post_delay_s = 0.5, 0.02
    kills, slots = 10, 5
    jobs = 2 * kills * slots
    write_pairs(tmp_path / "pairs.csv", jobs)
    rng = random.Random(7)
    for _ in range(kills):
        killed_at_work(server, tmp_path, rng.uniform(0, 0.15), "run", "pairs.csv", *FAST, "-c", slots)
    assert 0 < len(server.posts) < jobs
    last = run_command(server, tmp_path, "run", "pairs.csv", *FAST, "-c", jobs, "--json")
    answer = json.loads(last.stdout)
    assert len({post["prompt"] for post in server.posts}) == len(server.posts)
    assert answer["done"] + answer["unknown"] == jobs
    assert last.returncode == int(answer["unknown"] > 0)
    known = {
        line["request_id"] for line in ledger(tmp_path / "output/pairs") if line["event"] == "submitted"
    }
    assert known <= set(server.created)
    assert len(known) == answer["done"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_leaves_a_whole_ledger_and_remote_work_running(server, tmp_path, number, code):
    server.generate_s = 2.0
    write_pairs(tmp_path / "pairs.csv", 30)
    process = in_background(
        server,
        tmp_path,
        command("run", "pairs.csv", *FAST, "-c", 6),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: len(server.posts) >= 6)
    process.send_signal(number)
    began = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert time.monotonic() - began < 5.5
    assert "6 requests are still running at the API" in out
    assert "Traceback" not in err
    server.generate_s = 0.1
    assert run_command(server, tmp_path, "run", "pairs.csv", *FAST).returncode == 0
    assert len({post["prompt"] for post in server.posts}) == len(server.posts) == 30


def test_two_runs_at_once_the_second_exits_75(server, tmp_path):
    server.generate_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 2)
    first = in_background(server, tmp_path, command("run", "pairs.csv", *FAST))
    wait_for(lambda: len(server.posts) == 2)
    second = run_command(server, tmp_path, "run", "pairs.csv", *FAST)
    assert second.returncode == 75
    assert "another run" in second.stderr
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 143


def test_bad_rows_are_all_named_at_once_and_nothing_is_sent(server, tmp_path):
    (tmp_path / "bad.csv").write_text(
        "prompt,image_url,duration\n"
        "a,https://example.com/a.png,7\n"
        ",https://example.com/b.png,5\n"
        "c,http://example.com/c.png,5\n"
    )
    result = run_command(server, tmp_path, "run", "bad.csv", "--model", KLING)
    assert result.returncode == 65
    assert "bad.csv:2: duration: " in result.stderr
    assert "bad.csv:3: prompt: " in result.stderr
    assert "bad.csv:4: image_url: " in result.stderr
    assert not server.posts
    assert not (tmp_path / "output").exists()


def test_a_missing_token_exits_77_and_plan_works_without_one(server, tmp_path):
    server.catalogue = {}
    write_pairs(tmp_path / "pairs.csv", 2)
    assert run_command(server, tmp_path, "run", "pairs.csv", *FAST, RUNCOMFY_TOKEN="").returncode == 77
    planned = run_command(server, tmp_path, "plan", "pairs.csv", "--json", RUNCOMFY_TOKEN="")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["total"] == 2
    assert json.loads(planned.stdout)["estimated_cost_usd"] is None


def test_a_refused_token_stops_with_77_and_the_jobs_stay_pending(server, tmp_path):
    server.on_post = lambda *_: web.json_response({"message": "bad token"}, status=401)
    write_pairs(tmp_path / "pairs.csv", 5)
    result = run_command(server, tmp_path, "run", "pairs.csv", *FAST, "--json")
    assert result.returncode == 77
    answer = json.loads(result.stdout)
    assert (answer["pending"], answer["unknown"], answer["failed"]) == (5, 0, 0)


def test_an_empty_balance_stops_with_3_and_later_the_same_command_goes_on(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 8)
    server.on_post = lambda s, _: (
        web.json_response({"error_code": 400002, "message": "InsufficientResources"}, status=400)
        if len(s.created) >= 4
        else None
    )
    result = run_command(server, tmp_path, "run", "pairs.csv", *FAST, "-c", 2, "--json")
    assert result.returncode == 3
    assert json.loads(result.stdout)["done"] == 4
    server.on_post = None
    assert run_command(server, tmp_path, "run", "pairs.csv", *FAST).returncode == 0
    assert len(server.created) == 8


def test_an_unanswered_post_is_unknown_until_the_users_word(server, tmp_path):
    def drop(_, body):
        return web.Response(status=500, text="oops") if body["prompt"].endswith("1") else None

    server.after_post = drop
    write_pairs(tmp_path / "pairs.csv", 3)
    result = run_command(server, tmp_path, "run", "pairs.csv", *FAST)
    assert result.returncode == 1
    assert "1 unknown" in result.stdout
    assert "--retry-unknown" in result.stdout
    again = run_command(server, tmp_path, "run", "pairs.csv", *FAST)
    assert (again.returncode, len(server.posts)) == (1, 3)
    server.after_post = None
    assert run_command(server, tmp_path, "run", "pairs.csv", *FAST, "--retry-unknown").returncode == 0
    assert server.posts_of("cat number 1") == 2


def test_nothing_but_plain_lines_without_a_terminal_and_nothing_at_all_when_quiet(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 3)
    quiet = run_command(server, tmp_path, "run", "pairs.csv", *FAST, "--quiet", "-o", "q")
    assert (quiet.stdout, quiet.stderr) == ("", "")
    loud = run_command(server, tmp_path, "run", "pairs.csv", *FAST, "-o", "l")
    assert "\r" not in loud.stderr
    assert "\x1b" not in loud.stderr
    assert 2 <= len(loud.stderr.splitlines()) <= 4


def imported_by(server, cwd, *words):
    """The modules that a command of a new interpreter imports."""
    told = subprocess.run(
        [sys.executable, "-X", "importtime", *command(*words)[1:]],
        cwd=cwd,
        env=environment(server, cwd),
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    return {line.rpartition("|")[2].strip() for line in told.splitlines()}


HEAVY = {"aiohttp", "yaml", "jsonschema_rs", "tqdm", "aiofiles", "filelock", "batcher.engine"}
HEAVY_FOR_A_RUN = {
    *("yaml", "tqdm", "jinja2", "PIL", "av", "openpyxl", "pyarrow", "dask", "obstore", "aiohttp.web"),
    *("batcher.report", "batcher.sandbox", "batcher.distributed"),
}


def test_commands_import_what_they_need_and_no_more(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    assert not imported_by(server, tmp_path, "plan", "pairs.csv") & HEAVY_FOR_A_RUN
    assert not imported_by(server, tmp_path, "run", "pairs.csv", *FAST) & HEAVY_FOR_A_RUN
    assert not imported_by(server, tmp_path, "status", "output/pairs") & HEAVY
    assert not imported_by(server, tmp_path, "--help") & HEAVY


def test_status_of_a_live_run_counts_what_is_being_submitted(server, tmp_path):
    server.posts_held = True
    write_pairs(tmp_path / "pairs.csv", 2)
    process = in_background(server, tmp_path, command("run", "pairs.csv", *FAST))
    wait_for(lambda: len(server.posts) == 2)
    live = json.loads(run_command(server, tmp_path, "status", "output/pairs", "--json").stdout)
    assert (live["unknown"], live["submitting"], live["live"]) == (2, 2, True)
    server.posts_held = False
    assert process.wait(20) == 0
    rest = json.loads(run_command(server, tmp_path, "status", "output/pairs", "--json").stdout)
    assert (rest["unknown"], rest["submitting"], rest["done"], rest["live"]) == (0, 0, 2, False)


def test_a_status_that_follows_ends_with_the_run(server, tmp_path):
    server.posts_held = True
    write_pairs(tmp_path / "pairs.csv", 2)
    place = {"cwd": tmp_path, "env": environment(server, tmp_path), "stdin": subprocess.DEVNULL}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = popen(command("run", "pairs.csv", *FAST), **place, **silent)
    wait_for(lambda: len(server.posts) == 2)
    follow = command("status", "output/pairs", "--follow", "--json")
    with popen(follow, **place, stdout=subprocess.PIPE, text=True) as following:
        first = following.stdout.readline()
        server.posts_held = False
        told = [json.loads(line) for line in [first, *following.stdout]]
    assert (following.wait(), process.wait(20)) == (0, 0)
    assert len(told) > 1
    assert (told[0]["live"], told[0]["done"]) == (True, 0)
    assert (told[-1]["live"], told[-1]["done"]) == (False, 2)


def test_verify_finds_a_damaged_and_a_missing_file_and_run_fetches_what_is_missing(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 3)
    run_command(server, tmp_path, "run", "pairs.csv", *FAST)
    assert run_command(server, tmp_path, "verify", "output/pairs").returncode == 0
    files = sorted((tmp_path / "output/pairs/media").iterdir())
    files[0].write_bytes(b"x" * files[0].stat().st_size)
    files[1].unlink()
    damaged = run_command(server, tmp_path, "verify", "output/pairs")
    assert damaged.returncode == 1
    assert files[0].name in damaged.stdout
    assert f"{files[1].name}: missing" in damaged.stdout
    downloads = server.downloads
    assert run_command(server, tmp_path, "run", "pairs.csv", *FAST).returncode == 0
    assert (server.downloads - downloads, len(server.posts)) == (1, 3)
    assert files[1].exists()


def test_cancel_tells_cancelled_from_not_cancellable(server, tmp_path):
    server.generate_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 3)
    process = in_background(server, tmp_path, command("run", "pairs.csv", *FAST))
    ledger = tmp_path / "output/pairs/ledger.jsonl"
    wait_for(lambda: ledger.exists() and ledger.read_text().count('"event":"submitted"') == 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    next(iter(server.created.values())).at -= 30
    told = json.loads(run_command(server, tmp_path, "cancel", "output/pairs", "--json").stdout)
    assert (len(told["cancelled"]), len(told["not_cancellable"])) == (2, 1)
    state = json.loads(run_command(server, tmp_path, "status", "output/pairs", "--json").stdout)
    assert (state["cancelled"], state["submitted"]) == (2, 1)


def test_an_edit_of_defaults_does_not_buy_everything_anew_unasked(server, tmp_path):
    manifest = tmp_path / "m.yaml"
    text = "defaults: {duration: %d, image_url: https://example.com/a.png}\njobs:\n- prompt: a\n- prompt: b\n"
    manifest.write_text(text % 5)
    assert run_command(server, tmp_path, "run", "m.yaml", *FAST, "--model", KLING).returncode == 0
    manifest.write_text(text % 10)
    refused = run_typed(server, tmp_path, "run", "m.yaml", *FAST, "--model", KLING)
    assert refused.returncode == 65
    assert "--yes" in refused.stderr
    assert len(server.posts) == 2
    assert (
        run_command(server, tmp_path, "run", "m.yaml", *FAST, "--yes", "--model", KLING).returncode == 0
    )
    state = json.loads(run_command(server, tmp_path, "status", "output/m", "--json").stdout)
    assert (state["total"], state["done"], state["orphaned"], len(server.posts)) == (2, 2, 2, 4)


def test_a_run_directory_that_can_not_be_written_exits_73(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    (tmp_path / "file").write_text("")
    result = run_command(server, tmp_path, "run", "pairs.csv", *FAST, "-o", "file/run")
    assert result.returncode == 73
    assert not server.posts


@pytest.mark.parametrize(
    "arguments", [["run"], ["frobnicate"], ["run", "x.csv", "--limit", "0"], ["run", "x.csv", "--redo"]]
)
def test_bad_usage_exits_64(tmp_path, arguments):
    result = run_command(None, tmp_path, *arguments)
    assert result.returncode == 64
    assert "Traceback" not in result.stderr


def test_an_unreachable_api_is_given_up_with_69(tmp_path):
    dead = ApiServer().start()
    dead.stop()
    write_pairs(tmp_path / "pairs.csv", 2)
    result = run_command(dead, tmp_path, "run", "pairs.csv", *FAST, "--outage-timeout", "2", "--json")
    assert result.returncode == 69
    assert json.loads(result.stdout)["pending"] == 2
    assert os.path.getsize(tmp_path / "output/pairs/ledger.jsonl") > 0


async def test_what_came_out_poorly_can_be_listed_and_bought_again(tmp_path):
    (tmp_path / "m.yaml").write_text(
        f"model: {KLING}\ndefaults: {{image_url: https://example.com/a.png}}\njobs:\n"
        "- prompt: in any shape\n- {prompt: not as asked for, aspect_ratio: '16:9'}\n"
    )
    batch = ("run", "m.yaml", "-o", "out", *FAST)
    bad_shapes = frozenset({Fault.GENERATE_OTHER_SHAPE})
    sandbox = Sandbox(SandboxSettings(speed=20, faults=1.0, only_faults=bad_shapes))
    async with sandbox as base:
        server = SimpleNamespace(base=base)
        assert (await asyncio.to_thread(run_command, server, tmp_path, *batch)).returncode == 0
        listing = run_command(None, tmp_path, "status", "out", "--list", "done", "--quality", "bad")
        listed = listing.stdout
        assert [json.loads(line)["quality"] for line in listed.splitlines()] == [
            "72×144 instead of 16:9"
        ]
        (tmp_path / "poor.txt").write_text(listed)
        redo = (*batch, "--only", "@poor.txt", "--redo", "--json")
        again = await asyncio.to_thread(run_command, server, tmp_path, *redo)
    assert (again.returncode, json.loads(again.stdout)["submitted_now"]) == (0, 1), again.stderr
    assert len(list((tmp_path / "out/superseded").iterdir())) == 1
    assert len((tmp_path / "out/metadata.jsonl").read_text().splitlines()) == 2
