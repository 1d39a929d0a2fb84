"""Several processes serve one sandbox: what one of them did, all of them know, whichever is killed."""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.cli.entry import cli
from batcher.errors import InputError
from batcher.sandbox.journal import Journal, Spurned
from tests.sandbox.test_sandbox import CAT, KLING, LONG_S, TEXT_TO_IMAGE, Caller, FakeClock, serving
from tests.support.api_server import command, in_background
from tests.support.faults import wait_for, write_pairs

JOB = {"prompt": "a lighthouse"}
FAST = ("--sandbox", "--sandbox-speed", 30, "--poll", 0.05, "-c", 6)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / ".batcher" / "sandbox.jsonl"


async def charged(caller: Caller) -> float:
    async with caller.session.get(f"{caller.origin}/sandbox/stats") as answer:
        return (await answer.json())["spent_usd"]


async def test_what_one_process_was_asked_for_another_delivers(state):
    clock = FakeClock()
    async with serving(state=state, clock=clock) as one, serving(state=state, clock=clock) as other:
        request_id = await one.submit()
        assert (await other.result(request_id))["status"] == "in_queue"
        clock.elapsed_s += LONG_S
        url = (await one.result(request_id))["output"]["video"]
        status, _, whole = await one.fetch(url)
        elsewhere = url.replace(one.origin, other.origin)
        assert (status, (await other.fetch(elsewhere))[2]) == (200, whole)


async def test_samples_bought_from_two_processes_are_two_requests(state):
    async with serving(state=state) as one, serving(state=state) as other:
        ids = [await who.submit(TEXT_TO_IMAGE, JOB) for who in (one, other, other, one)]
    async with serving() as alone:
        assert ids == [await alone.submit(TEXT_TO_IMAGE, JOB) for _ in ids]


async def test_processes_share_balance_and_cancellations(state):
    clock = FakeClock()
    shared: dict[str, Any] = {"state": state, "clock": clock, "balance_usd": 1.5}
    async with serving(**shared) as one, serving(**shared) as other:
        request_id = await one.submit()
        status, body = await other.call("POST", f"/models/{KLING}", json=CAT)
        assert (status, body["error_code"]) == (400, 400002)
        _, body = await other.call("POST", f"/requests/{request_id}/cancel")
        assert body["outcome"] == "cancelled"
        assert (await one.result(request_id))["status"] == "cancelled"
        await one.submit()
        await other.result(request_id)
        assert await charged(one) == await charged(other) == pytest.approx(1.4)


async def test_a_line_that_another_process_died_over_is_no_ones_request(state):
    async with serving(state=state) as one, serving(state=state) as other:
        first = await one.submit()
        with state.open("ab") as file:
            file.write(b'{"event":"created","id":"torn')
        assert (await other.result(first))["status"] == "in_queue"
        second = await other.submit()
        assert (await one.result(second))["status"] == "in_queue"
        assert [json.loads(line)["id"] for line in state.read_bytes().splitlines()] == [first, second]


def test_a_line_of_another_process_that_can_not_be_read_is_said_with_its_number(tmp_path):
    state = tmp_path / "sandbox.jsonl"
    journal = Journal(state)
    with journal.alone() as news:
        assert not [*news]
        journal.append(Spurned("x"))
    with state.open("ab") as file:
        file.write(b"nonsense\n")
    with pytest.raises(InputError, match=r"sandbox\.jsonl:2: "):
        [*journal.news()]
    journal.close()


@settings(max_examples=30, deadline=None)
@given(
    turns=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=20),
    read_size_bytes=st.sampled_from([1, 20, 100, 10_000]),
)
def test_every_process_reads_all_lines_in_one_order(tmp_path_factory, turns, read_size_bytes):
    """Whoever appends, whatever is torn in between: each line is read once by everybody."""
    state = tmp_path_factory.mktemp("shared") / "sandbox.jsonl"
    with patch("batcher.sandbox.journal._READ_SIZE_BYTES", read_size_bytes):
        seen = keys_seen(state, turns)
    assert seen[0] == seen[1] == seen[2] == [str(number) for number in range(len(turns))]


def keys_seen(state: Path, turns: list[tuple[int, bool]]) -> list[list[Any]]:
    """What each of three processes read, and wrote itself, in its order."""
    journals = [Journal(state) for _ in range(3)]
    seen: list[list[Any]] = [[], [], []]
    for number, (who, torn) in enumerate(turns):
        with journals[who].alone() as news:
            seen[who].extend(entry.key for entry in news)
            journals[who].append(Spurned(str(number)))
            seen[who].append(str(number))
        if torn:
            with state.open("ab") as file:
                file.write(b'{"event":"spu')
        reader = (who + 1) % 3
        seen[reader].extend(entry.key for entry in journals[reader].news())
    for keys, journal in zip(seen, journals, strict=True):
        keys.extend(entry.key for entry in journal.news())
        journal.close()
    return seen


def shard(cwd: Path, number: int) -> subprocess.Popen[str]:
    words = command("run", "pairs.csv", *FAST, "--shard", f"{number}/2", "-o", "out")
    return in_background(None, cwd, words)


def test_shards_share_a_sandbox_and_a_kill_buys_nothing_twice(tmp_path):
    jobs, state = 24, tmp_path / "out" / ".batcher" / "sandbox.jsonl"
    write_pairs(tmp_path / "pairs.csv", jobs)
    killed, whole = shard(tmp_path, 1), shard(tmp_path, 2)
    mine = tmp_path / "out" / "ledger.1-of-2.jsonl"
    wait_for(lambda: mine.exists() and mine.read_bytes().count(b'"event":"submitted"') > 2)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert whole.wait(60) == 0
    assert shard(tmp_path, 1).wait(60) in (0, 1)
    told = CliRunner().invoke(cli, ["status", str(tmp_path / "out"), "--json"], standalone_mode=False)
    status = json.loads(told.stdout)
    assert (status["done"] + status["unknown"], status["failed"]) == (jobs, 0)
    made = [json.loads(line) for line in state.read_text().splitlines()]
    keys = Counter(entry["key"] for entry in made)
    assert max(keys.values()) == 1, "bought twice"
    assert jobs - status["unknown"] <= len(made) <= jobs
