"""Shards as a scheduler names them, and batches that several processes carry out together."""

import json
import os
import signal
import subprocess

import pytest

from batcher.errors import UsageError
from batcher.jobs.shard import Shard, shard_number, shard_of_environment
from tests.support.api_server import command, in_background, run_command, served
from tests.support.faults import FAST, KLING, wait_for, write_pairs


def slurm(task, first, last, count):
    names = ("ID", "MIN", "MAX", "COUNT")
    return {
        f"SLURM_ARRAY_TASK_{n}": str(v) for n, v in zip(names, (task, first, last, count), strict=True)
    }


def kubernetes(index, count):
    return {"JOB_COMPLETION_INDEX": str(index), "JOB_COMPLETIONS": str(count)}


@pytest.mark.parametrize(
    ("environ", "shard"),
    [
        (slurm(1, 1, 4, 4), Shard(4, 1)),
        (slurm(4, 1, 4, 4), Shard(4, 4)),
        (slurm(0, 0, 9, 10), Shard(10, 1)),
        (slurm(9, 0, 9, 10), Shard(10, 10)),
        (slurm(7, 1, 10, 4), Shard(4, 3)),  # --array=1-10:3
        (slurm(8, 0, 8, 3), Shard(3, 3)),  # --array=0-9:4
        (slurm(5, 5, 5, 1), Shard(1, 1)),
        (kubernetes(0, 3), Shard(3, 1)),
        (kubernetes(2, 3), Shard(3, 3)),
        (slurm(2, 1, 4, 4) | kubernetes(0, 9), Shard(4, 2)),
    ],
)
def test_the_scheduler_says_which_shard_this_is(environ, shard):
    assert shard_of_environment(environ) == shard


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({}, "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX"),
        (slurm(2, 1, 9, 3), "not evenly numbered"),  # --array=1,2,9
        (slurm(3, 1, 4, 3), "not evenly numbered"),  # --array=1,3,4
        (slurm(3, 1, 9, 5) | {"SLURM_ARRAY_TASK_ID": "4"}, "not evenly numbered"),
        (slurm(5, 1, 4, 4), "part 5 of 4"),
        (slurm(1, 1, 4, ""), "SLURM_ARRAY_TASK_COUNT is ''"),
        (slurm("x", 1, 4, 4), "SLURM_ARRAY_TASK_ID is 'x'"),
        (slurm("²", 1, 4, 4), "SLURM_ARRAY_TASK_ID is '²'"),
        ({"JOB_COMPLETION_INDEX": "0"}, "JOB_COMPLETIONS is ''"),
        (kubernetes(3, 3), "part 4 of 3"),
        (kubernetes(-1, 3), "JOB_COMPLETION_INDEX is '-1'"),
        (kubernetes(0, 0), "part 1 of 0"),
    ],
)
def test_an_environment_that_does_not_say_it_is_refused(environ, why):
    with pytest.raises(UsageError, match=f"--shard auto: .*{why}"):
        shard_of_environment(environ)


@pytest.fixture
def server():
    with served(KLING) as server:
        yield server


def start(server, cwd, *arguments, **env):
    return in_background(
        server, cwd, command("run", "pairs.csv", *FAST, *arguments), env=env, stderr=subprocess.PIPE
    )


def ended(process):
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def run_all(server, cwd, count):
    """All shards of a division at once, to their ends."""
    processes = [start(server, cwd, "--shard", f"{n}/{count}", "-c", 4) for n in range(1, count + 1)]
    for process in processes:
        code, errors = ended(process)
        assert code == 0, errors


def asked(server, cwd, *arguments):
    """What a command of one run directory prints as JSON."""
    result = run_command(server, cwd, *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def check_whole(server, cwd, jobs):
    """Every reader sees one batch, all of it done, nothing bought twice."""
    state = asked(server, cwd, "status", "output/pairs", "--json")
    assert (state["total"], state["done"], state["live"]) == (jobs, jobs, False)
    assert len({post["prompt"] for post in server.posts}) == len(server.posts) == jobs
    rows = [json.loads(line) for line in (cwd / "output/pairs/metadata.jsonl").read_text().splitlines()]
    assert len({row["job"] for row in rows}) == len(rows) == jobs
    assert {row["request_id"] for row in rows} == set(server.created)
    assert asked(server, cwd, "verify", "output/pairs", "--json") == {"checked": jobs, "damaged": []}
    exported = run_command(server, cwd, "export", "output/pairs", "--format", "csv", "-o", "table")
    assert exported.returncode == 0, exported.stderr
    (table,) = (cwd / "table").glob("*.csv")
    assert len(table.read_text().splitlines()) == jobs + 1
    assert run_command(server, cwd, "report", "output/pairs").returncode == 0
    report = (cwd / "output/pairs/report.html").read_text()
    assert all(row["job"] in report for row in rows)


def segments(cwd):
    return sorted(name for name in os.listdir(cwd / "output/pairs") if name.startswith("ledger"))


def test_three_shards_then_five_then_none_are_one_batch_and_nothing_is_bought_twice(server, tmp_path):
    server.generate_s = 1.0
    write_pairs(tmp_path / "pairs.csv", 30)
    first, killed, third = (start(server, tmp_path, "--shard", f"{n}/3", "-c", 4) for n in (1, 2, 3))
    mine = tmp_path / "output/pairs/ledger.2-of-3.jsonl"
    wait_for(lambda: mine.exists() and b'"event":"submitted"' in mine.read_bytes())
    live = asked(server, tmp_path, "status", "output/pairs", "--json")
    assert (live["total"], live["live"]) == (30, True)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    server.generate_s = 0.1
    for process in (first, third):
        code, errors = ended(process)
        assert code == 0, errors
    code, errors = ended(start(server, tmp_path, "--shard", "2/3", "-c", 4))
    state = asked(server, tmp_path, "status", "output/pairs", "--json")
    assert (code, state["done"] + state["unknown"]) == (int(state["unknown"] > 0), 30), errors
    for line in run_command(
        server, tmp_path, "status", "output/pairs", "--list", "unknown"
    ).stdout.splitlines():
        settle(server, tmp_path, json.loads(line))
    assert segments(tmp_path)[-3:] == [f"ledger.{n}-of-3.jsonl" for n in (1, 2, 3)]

    write_pairs(tmp_path / "pairs.csv", 50)
    run_all(server, tmp_path, 5)
    check_whole(server, tmp_path, 50)

    write_pairs(tmp_path / "pairs.csv", 56)
    assert run_command(server, tmp_path, "run", "pairs.csv", *FAST).returncode == 0
    check_whole(server, tmp_path, 56)
    run_all(server, tmp_path, 3)
    check_whole(server, tmp_path, 56)
    assert len(segments(tmp_path)) == 1 + 3 + 5


def settle(server, cwd, unknown):
    """What a user does about a job whose POST may have arrived."""
    made = [one for one in server.created.values() if one.body["prompt"] == unknown["input"]["prompt"]]
    word = ("--request-id", made[0].id) if made else ("--not-created",)
    result = run_command(server, cwd, "resolve", "output/pairs", unknown["job"], *word)
    assert result.returncode == 0, result.stderr


def test_while_a_shard_runs_another_division_or_the_same_shard_exits_75(server, tmp_path):
    server.generate_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 12)
    running = start(server, tmp_path, "--shard", "1/2", "-c", 12)
    wait_for(lambda: len(server.posts) >= 1)
    for arguments in ([], ["--shard", "1/3"], ["--shard", "1/2"], ["--shard", "1/1"]):
        refused = run_command(server, tmp_path, "run", "pairs.csv", *FAST, *arguments)
        assert (refused.returncode, "another run" in refused.stderr) == (75, True), arguments
    beside = start(server, tmp_path, "--shard", "2/2", "-c", 12)
    wait_for(lambda: len(server.posts) == 12)
    for process in (running, beside):
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == 143
    check_each_tells_of_its_own(tmp_path, 2)


def check_each_tells_of_its_own(cwd, count):
    for number in range(1, count + 1):
        path = cwd / f"output/pairs/ledger.{number}-of-{count}.jsonl"
        told = [json.loads(line) for line in path.read_text().splitlines()]
        assert {shard_number(line["job"], count) for line in told if "job" in line} == {number}


@pytest.mark.parametrize("scheduler", ["slurm", "kubernetes"])
def test_the_shard_is_taken_from_the_scheduler(server, tmp_path, scheduler):
    write_pairs(tmp_path / "pairs.csv", 12)
    for index in range(2):
        env = slurm(index + 4, 4, 5, 2) if scheduler == "slurm" else kubernetes(index, 2)
        code, errors = ended(start(server, tmp_path, "--shard", "auto", **env))
        assert code == 0, errors
    assert segments(tmp_path) == ["ledger.1-of-2.jsonl", "ledger.2-of-2.jsonl"]
    check_whole(server, tmp_path, 12)


@pytest.mark.parametrize(
    "env", [{}, slurm(3, 1, 9, 3), kubernetes(3, 3)], ids=["none", "uneven", "beyond"]
)
def test_a_scheduler_that_does_not_say_it_exits_64(tmp_path, env):
    write_pairs(tmp_path / "pairs.csv", 2)
    result = run_command(None, tmp_path, "run", "pairs.csv", "--shard", "auto", **env)
    assert result.returncode == 64
    assert "--shard auto" in result.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "1/2/3", "-1/3"])
def test_a_shard_that_there_is_not_exits_64(tmp_path, text):
    write_pairs(tmp_path / "pairs.csv", 2)
    assert run_command(None, tmp_path, "run", "pairs.csv", f"--shard={text}").returncode == 64


def test_a_job_that_comes_back_to_the_manifest_is_taken_note_of_by_its_own_shard(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 8)
    run_all(server, tmp_path, 2)
    whole = (tmp_path / "pairs.csv").read_text()
    for rows in (4, 8):
        (tmp_path / "pairs.csv").write_text("".join(whole.splitlines(keepends=True)[: rows + 1]))
        for shard in ("2/2", "1/2"):
            code, errors = ended(start(server, tmp_path, "--shard", shard))
            assert code == 0, errors
    check_whole(server, tmp_path, 8)
    check_each_tells_of_its_own(tmp_path, 2)


def test_max_cost_holds_over_all_shards_together(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 30)
    capped = ("--max-cost", 10, "--assume-price", 1)
    price_usd = asked(server, tmp_path, "plan", "pairs.csv", "--json")["estimated_cost_usd"] / 30
    processes = [start(server, tmp_path, "--shard", f"{n}/3", *capped) for n in (1, 2, 3)]
    assert {ended(process)[0] for process in processes} <= {1, 3}
    parts = 3 * (10 / 3 // price_usd)
    assert len(server.posts) == parts
