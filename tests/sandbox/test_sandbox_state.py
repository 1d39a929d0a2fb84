"""Requests outlive the process that took them, as they do at the real API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from batcher.cli.entry import cli
from batcher.errors import InputError, RunDirError
from batcher.sandbox.faults import Fault, Faults, FaultStage
from batcher.sandbox.journal import JobCreated, Journal, Spurned
from batcher.sandbox.server import Sandbox
from batcher.sandbox.settings import SandboxSettings, SandboxStats
from batcher.sandbox.store import RequestPhase, Store
from tests.sandbox.test_sandbox import CAT, KLING, LONG_S, TEXT_TO_IMAGE, FakeClock, serving


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "hidden" / "sandbox.jsonl"


async def test_a_request_goes_on_while_the_process_is_dead(state):
    clock = FakeClock()
    async with serving(state=state, clock=clock) as caller:
        request_id = await caller.submit()
    clock.elapsed_s += LONG_S
    async with serving(state=state, clock=clock) as caller:
        ended = await caller.result(request_id)
        assert ended["status"] == "succeeded"
        assert ended["finished_at"] < "2026-01-31T09:30:05"
        assert ended["output"]["video"].startswith(caller.origin)
        assert (await caller.fetch(ended["output"]["video"]))[0] == 200


async def test_accounts_and_cancellations_are_remembered(state):
    async with serving(state=state, balance_usd=3.0) as caller:
        first, second = await caller.submit(), await caller.submit()
        await caller.call("POST", f"/requests/{first}/cancel")
        before = caller.sandbox.stats
    async with serving(state=state, balance_usd=3.0) as caller:
        stats = caller.sandbox.stats
        assert (stats.jobs_created, stats.jobs_cancelled, stats.max_unfinished) == (2, 1, 2)
        assert stats.spent_usd == pytest.approx(before.spent_usd)
        assert (await caller.result(first))["status"] == "cancelled"
        assert (await caller.result(second))["status"] == "in_queue"
        await caller.submit()
        assert (await caller.call("POST", f"/models/{KLING}", json=CAT))[0] == 400


async def test_a_replay_gives_the_same_history(state):
    clock = FakeClock()
    async with serving(state=state, clock=clock, workers=2) as caller:
        ids = []
        for _ in range(12):
            ids.append(await caller.submit(TEXT_TO_IMAGE, {"prompt": str(len(ids))}))
            clock.elapsed_s += 0.1
        await caller.call("POST", f"/requests/{ids[9]}/cancel")
        clock.elapsed_s += LONG_S
        before = [(await caller.result(i))["finished_at"] for i in ids]
    async with serving(state=state, clock=clock, workers=2) as caller:
        assert before == [(await caller.result(i))["finished_at"] for i in ids]


async def test_the_same_sandbox_may_be_started_again(state):
    sandbox = Sandbox(SandboxSettings(state=state))
    await sandbox.start()
    await sandbox.stop()
    await sandbox.start()
    await sandbox.stop()
    await sandbox.stop()


async def test_without_a_state_file_requests_end_with_the_process():
    async with serving() as caller:
        request_id = await caller.submit()
    async with serving() as caller:
        assert (await caller.call("GET", f"/requests/{request_id}/result"))[0] == 404


async def test_a_torn_last_line_is_dropped_wherever_it_tears(state):
    async with serving(state=state) as caller:
        first, second = await caller.submit(), await caller.submit()
    whole = state.read_bytes()
    lines = whole.splitlines(keepends=True)
    for torn_bytes in (1, len(lines[1]) // 2, len(lines[1]) - 1):
        state.write_bytes(lines[0] + lines[1][:torn_bytes])
        async with serving(state=state) as caller:
            assert (await caller.result(first))["status"] == "in_queue"
            assert (await caller.call("GET", f"/requests/{second}/result"))[0] == 404
            assert state.read_bytes() == lines[0]
            assert await caller.submit() == second
        assert state.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("line", [b"nonsense\n", b'{"event":"other"}\n', b"\xff\xfe\n"])
async def test_a_damaged_line_stops_the_sandbox_and_leaves_the_file_alone(state, line):
    async with serving(state=state) as caller:
        await caller.submit()
    damaged = line + state.read_bytes()
    state.write_bytes(damaged)
    with pytest.raises(InputError, match=r"sandbox\.jsonl:1: "):
        await Sandbox(SandboxSettings(state=state)).start()
    assert state.read_bytes() == damaged


async def test_a_cancellation_of_nothing_is_damage(state):
    state.parent.mkdir()
    state.write_text('{"event":"cancelled","id":"nothing","at":1.0}\n')
    with pytest.raises(InputError, match="cancels 'nothing', which it never created"):
        await Sandbox(SandboxSettings(state=state)).start()


async def test_a_state_file_that_can_not_be_opened_or_written_is_said_so(tmp_path):
    with pytest.raises(RunDirError, match="can't write"):
        await Sandbox(SandboxSettings(state=tmp_path)).start()
    journal = Journal(Path("/dev/full"))
    with pytest.raises(RunDirError, match="No space left"):
        journal.append(Spurned("x"))
    journal.close()


async def test_what_went_wrong_before_a_restart_does_not_repeat_for_ever(state):
    """The fate of a POST is drawn by how many there were, also in processes that are gone."""
    fault = Fault.SUBMIT_INTERNAL
    created = []
    for _ in range(12):
        async with serving(state=state, faults=1.0, only_faults=frozenset({fault})) as caller:
            status, _ = await caller.call("POST", f"/models/{KLING}", json=CAT)
            assert status == 500
            created.append(caller.sandbox.stats.jobs_created)
    assert 2 <= created[-1] <= 10
    events = [json.loads(line)["event"] for line in state.read_text().splitlines()]
    assert sorted(set(events)) == ["created", "spurned"]
    ids = [entry.get("id") for entry in map(json.loads, state.read_text().splitlines())]
    assert len({i for i in ids if i}) == created[-1]


SERVER = """
import asyncio, sys
from pathlib import Path
from batcher.sandbox.server import Sandbox
from batcher.sandbox.settings import SandboxSettings

async def main():
    print(await Sandbox(SandboxSettings(state=Path(sys.argv[1]))).start(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_process_has_lost_nothing_that_it_answered(state):
    import aiohttp

    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SERVER, str(state)]
    ids: list[Any] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        base = server.stdout.readline().strip()
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer x"}) as session:
            for number in range(20):
                url = f"{base}/models/{TEXT_TO_IMAGE}"
                async with session.post(url, json={"prompt": str(number)}) as answer:
                    ids.append((await answer.json())["request_id"])
        server.send_signal(signal.SIGKILL)
    async with serving(state=state, clock=SandboxSettings().clock) as caller:
        assert caller.sandbox.stats.jobs_created == 20
        for request_id in ids:
            assert (await caller.result(request_id))["request_id"] == request_id


def test_an_unknown_job_can_be_looked_up_and_settled_in_the_sandbox(tmp_path, monkeypatch):
    def typed(*words):
        return CliRunner().invoke(cli, words, standalone_mode=False)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Faults, "draw", lambda *asked: lost_answer(*asked[1:]))
    Path("m.yaml").write_text(
        "model: blackforestlabs/flux-1/dev/text-to-image\njobs: [{id: cat, prompt: a cat}]\n"
    )
    again = ("run", "m.yaml", "--sandbox", "--sandbox-speed", "100", "-o", "out")
    ended = typed(*again)
    assert "batcher sandbox generations out" in ended.output
    before = Path("out/.batcher/sandbox.jsonl").read_bytes()
    (made,) = map(json.loads, typed("sandbox", "generations", "out", "--json").output.splitlines())
    assert (made["prompt"], made["model"].split("/")[0]) == ("a cat", "blackforestlabs")
    assert made["request_id"] in typed("sandbox", "generations", "out").output
    assert Path("out/.batcher/sandbox.jsonl").read_bytes() == before
    assert typed("resolve", "out", "cat", "--request-id", made["request_id"]).return_value == 0
    assert typed(*again).return_value == 0
    assert len(typed("sandbox", "generations", "out").output.splitlines()) == 1, "bought once"


def lost_answer(stage, *_):
    return Fault.SUBMIT_DROPPED if stage is FaultStage.SUBMIT else None


def test_a_run_directory_without_a_sandbox_says_so(tmp_path):
    said = CliRunner().invoke(cli, ["sandbox", "generations", str(tmp_path)], standalone_mode=False)
    assert isinstance(said.exception, InputError)
    assert "--sandbox" in str(said.exception)


def order_of(number: int) -> JobCreated:
    """One that waits for no second and runs for ten."""
    return JobCreated(str(number), 0.0, TEXT_TO_IMAGE, str(number), msgspec.Raw(b"{}"), 1.0, 0.0, 10.0)


@pytest.mark.parametrize(("charged", "refunded_usd"), [(False, 1.0), (True, 0.0)])
def test_a_running_request_that_is_cancelled_leaves_its_worker_to_the_next(charged, refunded_usd, state):
    clock, stats = FakeClock(), SandboxStats()
    store = Store(SandboxSettings(workers=1, clock=clock, state=state), stats)
    start_s = store.now_s()
    orders = [msgspec.structs.replace(order_of(number), at=start_s) for number in range(2)]
    with store.alone():
        for order in orders:
            store.create(order)
    clock.elapsed_s = 4.0
    running, waiting = (store.get(order.id) for order in orders)
    assert [running.phase(start_s + 4.0), waiting.phase(start_s + 4.0)] == [
        RequestPhase.IN_PROGRESS,
        RequestPhase.IN_QUEUE,
    ]
    with store.alone():
        store.cancel(running, charged=charged)
    assert store.get(waiting.order.id).phase(start_s + 4.0) is RequestPhase.IN_PROGRESS
    assert running.phase(start_s + 4.0) is RequestPhase.CANCELLED
    assert (stats.jobs_cancelled, stats.refunded_usd) == (1, refunded_usd)
    replayed = Store(SandboxSettings(workers=1, clock=clock, state=state), SandboxStats())
    assert [one.ended_s for one in replayed.all()] == [one.ended_s for one in store.all()]
    store.close()
    replayed.close()
