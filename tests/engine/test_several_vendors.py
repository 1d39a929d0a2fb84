"""One vendor that stops answering, or refuses the token, ends its own jobs and nobody else's."""

from __future__ import annotations

import asyncio

import pytest

from batcher.errors import AuthRefused, BalanceExhausted, NotFound, NotSent, OutcomeUnknown, Unavailable
from batcher.jobs.lifecycle import State
from batcher.ports import Tracing, Traits
from tests.support.engine import Api, Batch, Silence, bought, in_virtual_time, job

LISTING = Traits((), 3600.0, traces=Tracing.BY_LIST)


class Down(Api):
    """A vendor that answers nothing from a moment on."""

    from_s: float = 0.0

    def check(self, failure):
        if asyncio.get_running_loop().time() >= self.from_s:
            raise failure

    async def submit(self, model, body):
        self.check(NotSent("no route"))
        return await super().submit(model, body)

    async def result(self, asked):
        self.check(Unavailable("502 Bad Gateway"))
        return await super().result(asked)

    async def trace(self, lost, known):
        self.check(Unavailable("502 Bad Gateway"))
        return {}


class Warnings(Silence):
    def __init__(self):
        self.told = []

    def warn(self, message):
        self.told.append(message)


def of(vendor, count):
    prefix = "" if vendor == "own" else f"{vendor}:"
    return [job(f"{vendor}-{n}", model=f"{prefix}a/model", prompt=f"{vendor} {n}") for n in range(count)]


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path, observer=Warnings(), others={"fal": Down(name="fal", traits=LISTING)})


@in_virtual_time
async def test_a_vendor_that_never_answers_leaves_its_jobs_and_the_others_end(batch):
    ended = await batch.run([*of("fal", 3), *of("own", 40)], concurrency=4)
    assert ended.states["done"] == 40
    assert {ended.records[f"fal-{n}"].state for n in range(3) if f"fal-{n}" in ended.records} <= {
        State.PENDING
    }
    assert ended.error.exit_code == 69
    assert "fal: the API has not answered for" in str(ended.error)
    assert any("those of other providers go on" in told for told in batch.observer.told)
    again = await batch.run([*of("fal", 3), *of("own", 40)])
    assert (again.error.exit_code, len(batch.api.posts)) == (69, 40)


@in_virtual_time
async def test_requests_of_a_vendor_that_fell_silent_are_polled_by_the_next_run(batch):
    fal = batch.others["fal"]
    fal.from_s, fal.takes_s, batch.api.takes_s = 30.0, 60.0, 900.0
    ended = await batch.run([*of("fal", 2), *of("own", 2)])
    assert [ended.records[f"fal-{n}"].state for n in range(2)] == [State.SUBMITTED] * 2
    assert [ended.records[f"own-{n}"].state for n in range(2)] == [State.DONE] * 2
    polls = len(fal.polls)
    fal.from_s = 1e9
    again = await batch.run([*of("fal", 2), *of("own", 2)])
    assert (again.states, again.error) == ({"done": 4}, None)
    assert len(fal.posts) == 2
    assert len(fal.polls) > polls


@in_virtual_time
async def test_a_lost_submission_at_a_vendor_that_fell_silent_stays_unknown(batch):
    fal = batch.others["fal"]
    fal.from_s = 0.05  # while the first POST is under way
    fal.posting["fal 0"] = [OutcomeUnknown("the connection was lost")]
    ended = await batch.run([*of("fal", 1), *of("own", 5)])
    assert ended.states == {"done": 5, "unknown": 1}
    assert ended.runner.view.unknown == 1
    assert ended.error.exit_code == 69
    assert len(fal.posts) == 1


@in_virtual_time
async def test_all_vendors_silent_end_the_run(batch):
    batch.api = Down()
    ended = await batch.run([*of("fal", 3), *of("own", 3)])
    assert ended.error.exit_code == 69
    assert ended.runner.control.halted
    assert "done" not in ended.states


@pytest.mark.parametrize(("refusal", "code"), [(AuthRefused("who?"), 77), (BalanceExhausted("0"), 3)])
@in_virtual_time
async def test_a_token_or_a_balance_is_of_one_vendor(batch, refusal, code):
    fal = batch.others["fal"]
    fal.from_s = 1e9
    fal.posting["fal 1"] = [refusal]
    ended = await batch.run([*of("fal", 6), *of("own", 10)], concurrency=2)
    assert ended.error.exit_code == code
    assert str(ended.error).startswith("fal: ")
    assert all(ended.records[f"own-{n}"].state is State.DONE for n in range(10))
    assert fal.prompts[:2] == ["fal 0", "fal 1"]
    assert len(fal.posts) <= 3, "nothing more is submitted there"
    assert ended.records["fal-0"].state is State.DONE, "its request is polled to its end"


@in_virtual_time
async def test_a_token_that_every_vendor_refuses_stops_the_run(batch):
    fal = batch.others["fal"]
    fal.from_s = 1e9
    fal.posting["fal 0"], batch.api.posting["own 0"] = [AuthRefused("who?")], [AuthRefused("who?")]
    ended = await batch.run([*of("fal", 1), *of("own", 5)], concurrency=1)
    assert ended.runner.control.draining
    assert len(batch.api.posts) == 1


@in_virtual_time
async def test_a_model_that_does_not_exist_stops_the_whole_run(batch):
    fal = batch.others["fal"]
    fal.from_s = 1e9
    fal.posting["fal 0"] = [NotFound("no such model", http_status=404)]
    ended = await batch.run([*of("fal", 1), *of("own", 20)], concurrency=1)
    assert ended.error.exit_code == 3
    assert batch.api.posts == []


@in_virtual_time
async def test_a_token_refused_for_results_closes_that_vendor_only(batch):
    fal = batch.others["fal"]
    fal.from_s = 1e9
    await batch.hold(*bought(of("fal", 1)[0], "r1-fal 0"))
    fal.results["r1-fal 0"] = [AuthRefused("who?")]
    ended = await batch.run([*of("fal", 3), *of("own", 3)])
    assert ended.error.exit_code == 77
    assert all(ended.records[f"own-{n}"].state is State.DONE for n in range(3))


@in_virtual_time
async def test_the_wait_for_one_vendor_names_it(batch):
    told = []

    async def listen(runner):
        await asyncio.sleep(20)
        told.extend(runner.view.waits())

    batch.api.takes_s = 900.0
    await batch.run([*of("fal", 2), *of("own", 2)], meanwhile=listen)
    assert any(t.startswith("fal: the API has not answered for") for t in told)
