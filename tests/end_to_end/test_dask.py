"""``--dask`` from outside: real workers, a real server that counts, real kills and signals."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from aiohttp import web

from batcher.jobs.shard import shard_number
from tests.support.api_server import TOKEN, ApiServer, command, environment, run_command
from tests.support.faults import (
    KLING,
    SlowServer,
    end_with,
    posted_once,
    run,
    states,
    wait_for,
    write_pairs,
)

FAST = ("--poll", "0.05")
IN_SECONDS = 30.0


@pytest.fixture
def server():
    served = SlowServer(generate_s=0.3).start()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def shared():
    """A cluster as somebody else might run it, one worker with three threads, and its server."""
    import dask
    from distributed import LocalCluster

    served = SlowServer(generate_s=0.3).start()
    before = dict(os.environ)
    os.environ |= {"RUNCOMFY_MODEL_API_BASE": served.base, "RUNCOMFY_TOKEN": TOKEN}
    quiet = {"dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL, "memory_limit": 0}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, threads_per_worker=3, host="127.0.0.1", **quiet) as cluster,
    ):
        yield cluster.scheduler_address, served
    os.environ.clear()
    os.environ |= before
    served.stop()


@contextlib.contextmanager
def started(server, cwd, *arguments):
    """The command under way in a group of its own, as a terminal would start it."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment(server, cwd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def workers_of(process):
    """The processes that carry out shards, of a command or of these tests."""
    below = psutil.Process(process.pid).children(recursive=True)
    return [one for one in below if any("spawn_main" in part for part in one.cmdline())]


def lines(run_dir):
    for segment in run_dir.glob("ledger*.jsonl"):
        content = segment.read_bytes()
        yield from (json.loads(line) for line in content.splitlines())


def settle(server, cwd, run_dir):
    """What a user does about unknown jobs: looks them up where the API lists them, and says which they are."""
    listed = run_command(None, cwd, "status", run_dir, "--list", "unknown").stdout.splitlines()
    for job in map(json.loads, listed):
        made = [
            one.id for one in server.created.values() if one.body["prompt"] == job["input"]["prompt"]
        ]
        found = ("--request-id", *made) if made else ("--not-created",)
        assert run_command(server, cwd, "resolve", run_dir, job["job"], *found).returncode == 0


def quiet_moment(server, posts):
    """At least so many were bought, and none is being bought now."""
    wait_for(lambda: len(server.posts) >= posts, timeout_s=100.0)  # workers start slowly
    for _ in range(200):
        before = len(server.posts)
        time.sleep(0.05)
        if len(server.posts) == before:
            return


def test_two_dead_workers_cost_no_job_and_no_second_charge(server, tmp_path):
    server.generate_s, jobs, cap = 0.6, 200, 32
    write_pairs(tmp_path / "pairs.csv", jobs)
    batch = ("run", "pairs.csv", *FAST, "-c", cap, "--dask", "local:4", "--json")
    with started(server, tmp_path, *batch) as process:
        for posts in (40, 90):
            quiet_moment(server, posts)
            workers_of(process)[0].kill()
        out, err = process.communicate(timeout=90)
    answer = json.loads(out)
    assert answer["done"] + answer["unknown"] == answer["total"] == jobs, err
    assert answer["unknown"] <= 2 * cap // 4
    assert process.returncode == int(answer["unknown"] > 0)
    assert posted_once(server)
    assert server.max_unfinished <= cap + answer["unknown"]
    accepted = [
        line["request_id"] for line in lines(tmp_path / "output/pairs") if line["event"] == "submitted"
    ]
    assert set(accepted) <= set(server.created)
    assert answer["submitted_now"] == len(accepted) == answer["done"]
    rows = (tmp_path / "output/pairs/metadata.jsonl").read_text().splitlines()
    assert len(rows) == answer["done"]
    runs = [line["pid"] for line in lines(tmp_path / "output/pairs") if line.get("pid")]
    assert len(runs) > 4, "no shard was taken over, by a new process or another: nothing was tried here"
    assert TOKEN not in out + err
    settle(server, tmp_path, "output/pairs")
    last = run(server, tmp_path, "pairs.csv", "--json")
    assert (json.loads(last.stdout)["done"], posted_once(server)) == (jobs, True)


def test_ctrl_c_on_the_terminal_winds_up_all_shards_within_the_grace(server, tmp_path):
    server.generate_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 20)
    with started(server, tmp_path, "run", "pairs.csv", *FAST, "-c", 6, "--dask", "local:2") as process:
        wait_for(lambda: len(server.posts) == 6)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=IN_SECONDS)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert states(tmp_path / "output/pairs") == {"submitted": 6, "pending": 14}
    assert "Resume with: batcher run pairs.csv -c 6 --dask local:2\n" in out
    server.generate_s = 0.1
    again = run(server, tmp_path, "pairs.csv", "-c", 6, "--json")
    assert json.loads(again.stdout)["done"] == len(server.posts) == 20, again.stderr


def test_the_parts_of_cap_and_budget_add_up(shared, tmp_path):
    address, server = shared
    server.max_unfinished, already = 0, len(server.posts)
    write_pairs(tmp_path / "pairs.csv", 24, prompt="within the budget {}")
    money = ("--assume-price", "0.5", "--max-cost", "8")
    ended = run(server, tmp_path, "pairs.csv", "-c", 7, *money, "--dask", address, "--json")
    answer = json.loads(ended.stdout)
    assert (ended.returncode, answer["exit_code"]) == (3, 3), ended.stderr
    assert "--max-cost $8.00" in answer["stopped"]
    bought = len(server.posts) - already
    assert 12 < bought == answer["done"] == answer["submitted_now"] <= 16
    assert answer["pending"] == 24 - bought
    assert answer["cost_usd"] == bought * 0.5
    assert server.max_unfinished <= 7
    rest = run(
        server, tmp_path, "pairs.csv", "-c", 7, "--assume-price", "0.5", "--dask", address, "--json"
    )
    assert (rest.returncode, json.loads(rest.stdout)["done"]) == (0, 24), rest.stderr


def test_shards_that_ended_leave_their_part_of_the_cap_to_the_others(shared, tmp_path):
    address, server = shared
    server.max_unfinished = 0
    ids = [f"job-{n}" for n in range(90)]
    of_each = [[job for job in ids if shard_number(job, 3) == number] for number in (1, 2, 3)]
    jobs = [*of_each[0][:24], of_each[1][0], of_each[2][0]]
    rows = [f"{job},{KLING},a share of the cap {job},https://example.com/a.png,5\n" for job in jobs]
    (tmp_path / "pairs.csv").write_text("id,model,prompt,image_url,duration\n" + "".join(rows))
    ended = run(server, tmp_path, "pairs.csv", *FAST, "-c", 6, "--dask", address, "--json")
    assert (ended.returncode, json.loads(ended.stdout)["done"]) == (0, 26), ended.stderr
    # Each shard has two of the six, and two shards have one job each: by itself it would be four.
    assert server.max_unfinished == 6


def test_a_limit_is_of_the_whole_manifest_and_requests_taken_over_count(shared, tmp_path):
    address, server = shared
    write_pairs(tmp_path / "pairs.csv", 40, prompt="only the first {}")
    few = run(server, tmp_path, "pairs.csv", "--limit", 5, "--dask", address, "--json")
    answer = json.loads(few.stdout)
    assert (few.returncode, answer["done"], answer["selected"]) == (0, 5, 5), few.stderr
    assert {post["prompt"] for post in server.posts[-5:]} == {f"only the first {n}" for n in range(5)}


def test_a_sandbox_is_one_for_all_shards(shared, tmp_path):
    address, _ = shared
    write_pairs(tmp_path / "pairs.csv", 30)
    batch = ("pairs.csv", "--sandbox", "--sandbox-speed", 30, "-o", "out", "--dask", address, "--json")
    ended = run(None, tmp_path, *batch)
    assert (ended.returncode, json.loads(ended.stdout)["done"]) == (0, 30), ended.stderr
    state = (tmp_path / "out/.batcher/sandbox.jsonl").read_text()
    made = [json.loads(line) for line in state.splitlines()]
    assert (
        len({entry["key"] for entry in made}) == len({entry["id"] for entry in made}) == len(made) == 30
    )


def test_workers_take_the_token_from_their_own_environment(shared, tmp_path):
    address, server = shared
    server.tokens.clear()
    write_pairs(tmp_path / "pairs.csv", 3, prompt="whose token {}")
    foreign = {"RUNCOMFY_TOKEN": "a-token-that-no-worker-uses"}
    ended = run(server, tmp_path, "pairs.csv", "--dask", address, "--json", **foreign)
    assert json.loads(ended.stdout)["done"] == 3, ended.stderr
    assert server.tokens == {f"Bearer {TOKEN}"}


def test_what_stops_the_shards_stops_the_run_in_their_words(shared, tmp_path):
    address, server = shared
    write_pairs(tmp_path / "pairs.csv", 9, prompt="refused {}")
    server.on_post = lambda *_: web.json_response({"message": "who are you?"}, status=401)
    try:
        ended = run(server, tmp_path, "pairs.csv", "--dask", address, "--json")
    finally:
        server.on_post = None
    answer = json.loads(ended.stdout)
    assert (ended.returncode, answer["exit_code"], answer["pending"]) == (77, 77, 9), ended.stderr
    assert "who are you?" in answer["stopped"]


def test_failures_of_all_shards_count_together_and_one_that_stops_stops_all(shared, tmp_path):
    address, server = shared
    write_pairs(tmp_path / "pairs.csv", 90, prompt="fails {}")
    server.on_result = lambda _, asked: web.json_response(
        {"request_id": asked["id"], "status": "failed", "error": "no such luck"}
    )
    try:
        ended = run(
            server, tmp_path, "pairs.csv", "-c", 6, "--max-failures", 7, "--dask", address, "--json"
        )
    finally:
        server.on_result = None
        for request in server.created.values():
            request.seen_finished = True
    answer = json.loads(ended.stdout)
    assert (ended.returncode, answer["submitted"]) == (3, 0), ended.stderr
    assert "--max-failures" in answer["stopped"]
    assert 2 < answer["failed"] < 45 <= answer["pending"]
    assert answer["failed_now"] == answer["failed"], "none of them failed in an earlier run"


def test_a_shard_that_dask_gives_up_is_given_out_again(shared, tmp_path):
    address, server = shared
    already = len(server.posts)
    write_pairs(tmp_path / "pairs.csv", 30, prompt="try again {}")
    batch = ("run", "pairs.csv", *FAST, "-c", 6, "--dask", address, "--json")
    with started(server, tmp_path, *batch) as process:
        quiet_moment(server, already + 9)
        workers_of(psutil.Process())[0].kill()
        out, err = process.communicate(timeout=60)
    answer = json.loads(out)
    assert answer["done"] + answer["unknown"] == 30, err
    assert answer["stopped"] is None
    assert posted_once(server)


def test_a_scheduler_that_does_not_answer_is_given_up_in_seconds(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 3)
    dead = ApiServer().start()
    dead.stop()
    with started(
        server, tmp_path, "run", "pairs.csv", "--dask", f"tcp://127.0.0.1:{dead.port}", "--json"
    ) as process:
        out, err = process.communicate(timeout=IN_SECONDS)
    assert process.returncode == json.loads(out)["exit_code"] == 69
    assert "no Dask scheduler answers" in err
    assert "Traceback" not in err
    assert not server.posts
    assert not (tmp_path / "output").exists()


@contextlib.contextmanager
def lone_scheduler(server, cwd):
    """A scheduler in a process of its own, with a worker of two threads in another; its address, too."""
    settings = {"cwd": cwd, "env": environment(server, cwd), "stdout": subprocess.DEVNULL}
    settings |= {"stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    dask_command = [sys.executable, "-m", "dask"]
    here, told = ["--host", "127.0.0.1"], cwd / "scheduler.json"
    scheduler = [*here, "--port", "0", "--no-dashboard", "--scheduler-file", str(told)]
    worker = [*here, "--scheduler-file", str(told), "--no-nanny", "--no-dashboard", "--nthreads", "2"]
    processes = [subprocess.Popen([*dask_command, "scheduler", *scheduler], **settings)]
    try:
        wait_for(lambda: told.exists() and told.stat().st_size > 0)
        processes.append(subprocess.Popen([*dask_command, "worker", *worker], **settings))
        yield processes[0], json.loads(told.read_text())["address"]
    finally:
        for one in processes:
            one.kill()
            one.wait()


def test_a_scheduler_that_is_lost_on_the_way_ends_the_run_with_a_summary(server, tmp_path):
    server.generate_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 20)
    with lone_scheduler(server, tmp_path) as (scheduler, address):
        batch = ("run", "pairs.csv", *FAST, "-c", 6, "--dask", address, "--json")
        with started(server, tmp_path, *batch) as process:
            wait_for(lambda: len(server.posts) == 6)
            scheduler.kill()
            out, err = process.communicate(timeout=IN_SECONDS)
    answer = json.loads(out)
    assert process.returncode == answer["exit_code"] == 69, err
    assert answer["stopped"].startswith("lost the Dask scheduler")
    assert (answer["pending"], answer["submitted"] + answer["unknown"]) == (14, 6)
    assert "Traceback" not in out + err
    assert posted_once(server)


def test_a_bucket_takes_the_outputs_of_all_shards_and_another_state_directory_goes_on(shared, tmp_path):
    address, server = shared
    already, bucket = len(server.posts), tmp_path / "bucket"

    def ended(state_dir, rows, *on):
        write_pairs(tmp_path / "pairs.csv", rows, prompt="to a bucket {}")
        place = ("-o", bucket.as_uri(), "--state-dir", state_dir, "--json")
        answer = run(server, tmp_path, "pairs.csv", *place, *on)
        found = json.loads(answer.stdout)
        return answer.returncode, found["done"], found["submitted_now"]

    assert ended("here", 8, "--dask", address) == (0, 8, 8)
    assert ended("elsewhere", 10, "--dask", address) == (0, 10, 2)
    assert ended("once more", 10) == (0, 10, 0)
    assert len(server.posts) - already == 10
    made = [one.media for one in server.created.values() if "to a bucket" in one.body["prompt"]]
    assert sorted(path.read_bytes() for path in (bucket / "media").iterdir()) == sorted(made)
    assert len((bucket / "metadata.jsonl").read_text().splitlines()) == 10
    assert not (bucket / ".batcher/holder.json").exists()


def test_a_second_signal_exits_at_once(server, tmp_path):
    server.generate_s, server.post_delay_s = 60.0, 60.0
    write_pairs(tmp_path / "pairs.csv", 20)
    batch = ("run", "pairs.csv", "--dask", "local:2", "-c", 4, "--grace", "60s")
    with started(server, tmp_path, *batch) as process:
        wait_for(lambda: len(server.posts) == 4)
        ended = end_with(process, signal.SIGTERM, signal.SIGTERM)
    assert ended.code == 143, ended.err
    assert states(tmp_path / "output/pairs") == {"unknown": 4, "pending": 16}
    assert ended.took_s < IN_SECONDS
