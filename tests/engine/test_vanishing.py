"""What a provider deletes soonest is asked for and fetched first, and what was lost is said."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from batcher.jobs.lifecycle import EventName, Stage, State
from batcher.ports import Silence, Traits
from tests.support.engine import Api, Batch, answer, bought, for_ever, in_virtual_time, job, some_jobs

HOUR_S = 3600.0


class Told(Silence):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


class TwoVendors(Batch):
    """The provider of ``short`` models keeps results for an hour, that of others for a week."""

    def _deps(self, *parts):
        hour = dataclasses.replace(self.api, name="hour", traits=Traits((), HOUR_S))
        return dataclasses.replace(
            super()._deps(*parts), providers=lambda model: hour if model == "short" else self.api
        )

    async def hold_submitted(self, *jobs, ended=()):
        """Jobs that an earlier run submitted, ten minutes after each other."""
        for one in jobs:
            lines = [(EventName.COMPLETED, one.id, {})] if one.id in ended else []
            await self.hold(*bought(one, f"r-{one.id}"), *lines)
            self.api.knows(f"r-{one.id}", age_s=1000)
            await asyncio.sleep(600)


@pytest.fixture
def batch(tmp_path):
    return TwoVendors(tmp_path, Api(), observer=Told())


def first_polls(batch):
    return [request.removeprefix("r-") for request in dict.fromkeys(r for _, r in batch.api.polls)]


@in_virtual_time
async def test_requests_are_asked_about_in_the_order_in_which_their_results_are_deleted(batch):
    weekly, old, young = job("weekly"), job("old", model="short"), job("young", model="short")
    await batch.hold_submitted(weekly, old, young)
    began_s = asyncio.get_running_loop().time()
    ended = await batch.run([young, weekly, old])
    assert ended.states == {"done": 3}
    assert first_polls(batch) == ["old", "young", "weekly"]
    assert all(at_s - began_s <= 1.0 for at_s, _ in batch.api.polls)
    assert batch.observer.warnings == []


@in_virtual_time
async def test_results_are_collected_in_that_order_and_before_the_rows_above_them_are_bought(batch):
    weekly, old, young = job("weekly"), job("old", model="short"), job("young", model="short")
    await batch.hold_submitted(weekly, old, young, ended=("weekly", "old", "young"))
    ended = await batch.run([*some_jobs(5), young, weekly, old], concurrency=1)
    assert ended.states == {"done": 8}
    assert ended.runner.view.done == 8, "none is counted again when its row is read"
    assert first_polls(batch)[:3] == ["old", "young", "weekly"]
    assert batch.api.polls[2][0] <= batch.api.posts[0][0] + 0.1


@in_virtual_time
async def test_a_result_that_is_fetched_on_resume_is_fetched_once(batch):
    cat = job("cat", model="short")
    await batch.hold_submitted(cat, ended=("cat",))
    await batch.run([cat])
    assert batch.files.fetched == ["https://cdn/r-cat.mp4"]


@in_virtual_time
async def test_a_run_that_was_down_for_longer_says_what_may_be_lost(batch):
    one, two, weekly = job("one", model="short"), job("two", model="short"), job("weekly")
    await batch.hold_submitted(one, two, weekly, ended=("two",))
    await asyncio.sleep(HOUR_S)
    await batch.run([one, two, weekly])
    (told,) = batch.observer.warnings
    assert told.startswith("2 jobs were submitted longer ago than hour keeps results (1:00:00)")


@pytest.mark.parametrize("ended", [(), ("cat",)])
@in_virtual_time
async def test_a_result_that_was_deleted_is_paid_and_lost_and_never_bought_again(batch, ended):
    cat = job("cat", model="short")
    await batch.hold_submitted(cat, ended=ended)
    batch.api.results["r-cat"] = for_ever(answer(urls=(), removed=True, message="paid, result lost"))
    began_s = asyncio.get_running_loop().time()
    record = (await batch.run([cat])).records["cat"]
    assert (record.state, record.stage, record.code) == (State.FAILED, Stage.DOWNLOAD, "expired")
    assert record.message.endswith("paid, result lost")
    assert record.charge_usd == 1.0
    assert asyncio.get_running_loop().time() - began_s < 2.0  # believed at once
    assert batch.api.posts == []
