"""What the engine does by a provider's habits: cancels that cost, costs that are never named, uploads."""

from __future__ import annotations

import asyncio

import pytest

from batcher.errors import AuthRefused, BalanceExhausted, InterruptedRunError, NotFound, Rejected
from batcher.jobs.lifecycle import State
from batcher.ports import CostSource, Phase, Traits
from tests.support.engine import Api, Batch, answer, bought, in_virtual_time, job, some_jobs

SILENT = Traits((), 3600.0, cancels_running=True, cost=CostSource.NONE)


class Uploading(Api):
    """A provider that uploads media before each POST."""

    refusal: Exception = Rejected("too large")

    async def prepare(self, job):
        raise self.refusal


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path, Api(traits=SILENT))


@pytest.mark.parametrize(("may_cost", "spent_usd"), [(True, 1.0), (False, 0.0)])
@in_virtual_time
async def test_a_request_that_ran_until_it_was_cancelled_still_counts(batch, may_cost, spent_usd):
    cat = job("cat")
    await batch.hold(*bought(cat))
    batch.api.results["r1"] = [answer(Phase.CANCELLED, may_cost=may_cost)]
    ended = await batch.run([cat])
    assert ended.records["cat"].state is State.CANCELLED
    assert ended.spent_usd == spent_usd
    assert (await batch.run([cat])).spent_usd == spent_usd, "it is replayed so"


@pytest.mark.parametrize(("may_cost", "attempt", "spent_usd"), [(True, 2, 2.0), (False, 1, 1.0)])
@in_virtual_time
async def test_an_interrupt_that_cancels_what_runs_leaves_its_cost(batch, may_cost, attempt, spent_usd):
    cat = job("cat")
    batch.api.takes_s = 100

    async def halt(runner):
        await asyncio.sleep(10)
        batch.api.results["r1-cat"] = [answer(Phase.CANCELLED, may_cost=may_cost)]
        runner.control.halt(InterruptedRunError("signal 2"))

    first = await batch.run([cat], cancel_on_interrupt=True, meanwhile=halt)
    assert first.records["cat"].state is State.PENDING
    assert first.spent_usd == spent_usd - 1.0
    view = first.runner.view
    assert (view.cancelled_now, view.cancelled_running) == (1, int(may_cost))
    batch.api.results.clear()
    again = await batch.run([cat])
    record = again.records["cat"]
    assert (record.state, record.attempt, again.spent_usd) == (State.DONE, attempt, spent_usd)


@pytest.mark.parametrize(("source", "is_asked"), [(CostSource.NONE, False), (CostSource.RESULT, True)])
@in_virtual_time
async def test_a_provider_that_never_names_a_cost_is_not_asked_for_it_again(tmp_path, source, is_asked):
    batch = Batch(tmp_path, Api(traits=Traits((), 3600.0, cost=source)), max_cost_usd=9.0)
    await batch.run(some_jobs(1))
    polls = len(batch.api.polls)
    await batch.run(some_jobs(1))
    assert (len(batch.api.polls) > polls) is is_asked


@pytest.mark.parametrize(
    ("refusal", "code"), [(AuthRefused("who?"), 77), (BalanceExhausted("no credit"), 3)]
)
@in_virtual_time
async def test_an_upload_that_is_refused_for_the_whole_run_stops_it_and_fails_no_job(
    tmp_path, refusal, code
):
    batch = Batch(tmp_path, Uploading(traits=SILENT))
    batch.api.refusal = refusal
    ended = await batch.run(some_jobs(3))
    assert ended.error.exit_code == code
    assert ended.states == {}
    assert batch.api.posts == []


@in_virtual_time
async def test_an_address_for_uploads_that_is_gone_is_not_taken_for_an_unknown_model(tmp_path):
    batch = Batch(tmp_path, Uploading(traits=SILENT))
    batch.api.refusal = NotFound("nothing here", http_status=404)
    ended = await batch.run(some_jobs(3))
    assert ended.error.exit_code == 3
    assert "no files can be uploaded" in str(ended.error)
    assert "knows no model" not in str(ended.error)
    assert ended.states == {}


@in_virtual_time
async def test_an_upload_that_is_refused_for_its_content_fails_its_job(tmp_path):
    batch = Batch(tmp_path, Uploading(traits=SILENT))
    ended = await batch.run(some_jobs(1))
    assert ended.records["job-000"].message == "too large"
    assert ended.states == {"failed": 1}
