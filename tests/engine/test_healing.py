"""A POST that loses its answer heals within the run, if its provider can tell what became of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from batcher.errors import AuthRefused, OutcomeUnknown, Rejected, StoppedError
from batcher.jobs.lifecycle import State
from batcher.ports import Handle, Trace, Tracing, Traits
from tests.support.engine import Api, Batch, LoopClock, Request, bought, in_virtual_time, job, some_jobs

LISTING = Traits((), 3600.0, traces=Tracing.BY_LIST)
LOST = OutcomeUnknown("the connection was lost")


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Telling(Api):
    """A provider that answers questions about lost submissions from a script."""

    def __init__(self, *told: object, traits: Traits = LISTING) -> None:
        super().__init__(traits=traits, post_takes_s=0.1)
        self.told = list(told)
        self.asked: list[tuple[float, list[str]]] = []

    async def trace(self, lost, known):
        self.asked.append((now_s(), [one.job_id for one in lost]))
        found = self.told.pop(0) if len(self.told) > 1 else self.told[0]
        if isinstance(found, Exception):
            raise found
        for one in found.values():
            if one.request is not None:
                self.requests[one.request.id] = Request("cat", now_s())
        return found


def created(request_id="r9-cat"):
    return {"cat": Trace(Handle("acme/paint", request_id))}


def batch_with(tmp_path, *told, **fields):
    batch = Batch(tmp_path, Telling(*told, **fields))
    batch.api.posting["cat"] = [LOST]
    return batch


@in_virtual_time
async def test_a_request_that_was_created_is_found_and_watched_to_its_end(tmp_path):
    batch = batch_with(tmp_path, created())
    ended = await batch.run([job("cat")])
    assert ended.states == {"done": 1}
    assert batch.api.prompts == ["cat"]
    assert batch.story("cat") == ["submitting", "unanswered", "submitted", "completed", "done"]
    assert ended.records["cat"].request_id == "r9-cat"
    assert batch.api.asked[0][0] == pytest.approx(5.0, abs=0.2)


@in_virtual_time
async def test_if_nothing_was_created_the_job_is_submitted_again(tmp_path):
    batch = batch_with(tmp_path, {}, {}, {"cat": Trace(None)})
    ended = await batch.run([job("cat")])
    assert ended.states == {"done": 1}
    assert batch.api.prompts == ["cat", "cat"]
    assert batch.story("cat")[:4] == ["submitting", "unanswered", "deferred", "submitting"]
    assert (ended.records["cat"].attempt, ended.spent_usd) == (1, 1.0)


@in_virtual_time
async def test_a_wall_clock_that_jumps_delays_no_question(tmp_path):
    class Jumping(LoopClock):
        def now(self):
            return super().now() - timedelta(hours=now_s() > 2)

    batch = batch_with(tmp_path, {}, created())
    batch.clock = Jumping()
    assert (await batch.run([job("cat")])).states == {"done": 1}
    assert [at_s for at_s, _ in batch.api.asked] == [
        pytest.approx(at_s, abs=0.2) for at_s in (5.0, 25.0)
    ]


@pytest.mark.parametrize("told", [{}, Rejected("the list can't be read"), AuthRefused("who?")])
@in_virtual_time
async def test_what_can_not_be_told_stays_unknown(tmp_path, told):
    batch = batch_with(tmp_path, told)
    ended = await batch.run([job("cat")])
    assert ended.states == {"unknown": 1}
    assert batch.api.prompts == ["cat"]
    assert 300 < now_s() < 400


@in_virtual_time
async def test_a_provider_that_can_not_tell_is_not_asked(tmp_path):
    batch = batch_with(tmp_path, created(), traits=Traits((), 3600.0))
    assert (await batch.run([job("cat")])).states == {"unknown": 1}
    assert batch.api.asked == []
    assert now_s() < 5


@in_virtual_time
async def test_a_request_that_another_attempt_has_is_not_given_away_again(tmp_path):
    batch = batch_with(tmp_path, created("r1"))
    await batch.hold(*bought(job("dog"), "r1"))
    batch.api.knows("r1", age_s=1000)
    ended = await batch.run([job("cat"), job("dog")])
    assert ended.records["cat"].state is State.UNKNOWN
    assert ended.records["dog"].state is State.DONE


@in_virtual_time
async def test_all_posts_without_an_answer_are_asked_about_together(tmp_path):
    batch = batch_with(tmp_path, {})
    batch.api.posting = {one.id: [LOST] for one in some_jobs(3)}
    await batch.run([*some_jobs(3), job("answered")], concurrency=8)
    assert sorted(batch.api.asked[0][1]) == ["job-000", "job-001", "job-002"]


@in_virtual_time
async def test_a_run_that_stops_buys_nothing_again(tmp_path):
    batch = batch_with(tmp_path, {}, {"cat": Trace(None)})

    async def stop(runner):
        await asyncio.sleep(10)
        runner.control.drain(StoppedError("enough"))

    ended = await batch.run([job("cat")], meanwhile=stop)
    assert ended.states == {"pending": 1}
    assert batch.api.prompts == ["cat"]
