"""``-c`` is what the API has unfinished: what earlier runs left, and POSTs that were never answered."""

import asyncio
from itertools import pairwise

import pytest

from batcher.engine.stop import Breaker
from batcher.engine.unwatched import LEAST_HOLD_S, UNTIMED_HOLD_S
from batcher.errors import OutcomeUnknown
from batcher.jobs.lifecycle import State
from batcher.options.facts import Policy, Selection
from tests.support.engine import (
    Api,
    Batch,
    bought,
    for_ever,
    in_virtual_time,
    job,
    observer_that,
    some_jobs,
)

LOST = OutcomeUnknown("502 Bad Gateway", http_status=502)
HOURS_S = 7200.0


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


def now_s():
    return asyncio.get_running_loop().time()


class Losing(Api):
    """Makes a request of each POST as it arrives, and answers those of ``lost`` as a gateway does."""

    def __init__(self, lost=(), **fields):
        super().__init__(**fields)
        self.lost = set(lost)
        self.made_s = []

    async def submit(self, model, body):
        self.made_s.append(now_s())
        handle = await super().submit(model, body)
        if self.requests[handle.id].prompt in self.lost:
            raise LOST
        return handle

    @property
    def most_at_once(self):
        """The most requests that were unfinished at one moment."""
        return max(
            sum(0 <= moment - made_s < self.takes_s for made_s in self.made_s) for moment in self.made_s
        )


async def kill(runner):
    await asyncio.sleep(0.05)
    runner.control.abort(RuntimeError("kill -9"))


@in_virtual_time
async def test_killed_and_run_again_there_are_never_more_unfinished_than_the_cap(batch):
    batch.api = Losing(takes_s=300.0)
    for _ in range(4):
        await batch.run(some_jobs(12), concurrency=3, meanwhile=kill)
    await batch.run(some_jobs(12), concurrency=3)
    assert len(batch.api.made_s) == 12
    assert batch.api.most_at_once == 3


@in_virtual_time
async def test_an_unanswered_post_holds_its_slot_for_as_long_as_such_a_job_may_take(batch):
    batch.api.posting["job-000"] = [LOST]
    await batch.run(some_jobs(2), concurrency=1)
    assert batch.api.posts[1][0] == pytest.approx(UNTIMED_HOLD_S, abs=10)


@in_virtual_time
async def test_how_long_that_is_is_learned_from_the_ledger(batch):
    batch.api.takes_s = 200.0
    await batch.run([job("one")])
    batch.api.posting["job-000"] = [LOST]
    began_s = now_s()
    await batch.run([job("one"), *some_jobs(2)], concurrency=1)
    assert batch.api.posts[2][0] - began_s == pytest.approx(400, abs=30)


@in_virtual_time
async def test_a_job_timeout_below_that_bounds_it(batch):
    batch.api.posting["job-000"] = [LOST]
    await batch.run(some_jobs(2), concurrency=1, job_timeout_s=100.0)
    assert batch.api.posts[1][0] == pytest.approx(100, abs=10)


@in_virtual_time
async def test_unknown_and_running_requests_outside_the_selection_hold_slots_too(batch):
    await batch.hold(*bought(job("far"), "r-far"), *bought(job("lost"))[:1])
    batch.api.knows("r-far")
    batch.selection = Selection(only="job-*")
    await batch.run([job("far"), job("lost"), *some_jobs(4)], concurrency=3)
    early = [moment for moment, _ in batch.api.posts if moment < LEAST_HOLD_S]
    assert len(early) > 1
    gaps = [second - first for first, second in pairwise(early)]
    assert min(gaps) >= batch.api.takes_s, "two slots were held, so one was left"


@in_virtual_time
async def test_what_is_so_old_that_it_must_have_ended_holds_nothing(batch):
    await batch.hold(*bought(job("lost"))[:1])
    await asyncio.sleep(HOURS_S)
    await batch.run([job("lost"), *some_jobs(1)], concurrency=1)
    assert batch.api.posts[0][0] - HOURS_S < 1


@in_virtual_time
async def test_a_clock_that_was_set_back_makes_nothing_older_than_it_is(batch):
    await asyncio.sleep(HOURS_S)
    await batch.hold(*bought(job("lost"))[:1])
    batch.clock.now = lambda: type(batch.clock).now(batch.clock).replace(year=2025)
    await batch.run([job("lost"), *some_jobs(1)], concurrency=1)
    assert batch.api.posts[0][0] - HOURS_S == pytest.approx(UNTIMED_HOLD_S, abs=10)


@in_virtual_time
async def test_what_is_waited_for_is_said_once(batch):
    told = []
    batch.observer = observer_that(warn=told.append)
    await batch.hold(*bought(job("lost"))[:1])
    await batch.run([job("lost"), *some_jobs(3)], concurrency=1)
    (line,) = told
    assert "1 request that" in line
    assert "waiting for up to 900 s" in line


@in_virtual_time
async def test_slots_that_nothing_frees_are_named_in_every_long_wait(batch):
    told = []

    async def listen(runner):
        await asyncio.sleep(30)
        told.extend(runner.view.waits())

    batch.api.posting["job-000"] = [LOST]
    await batch.run(some_jobs(2), concurrency=1, meanwhile=listen)
    assert "fill -c 1: waiting for up to 870 s" in told[-1]


@in_virtual_time
async def test_settled_by_hand_it_holds_nothing(batch):
    await batch.hold(*bought(job("lost"))[:1], ("deferred", "lost", {"reason": "by hand"}))
    await batch.run([job("lost"), *some_jobs(1)], concurrency=1)
    assert batch.api.posts[0][0] < 1


@in_virtual_time
async def test_unanswered_posts_count_for_max_failures(batch):
    batch.breaker = Breaker(3)
    for number in (0, 2, 4, 6):
        batch.api.posting[f"job-{number:03d}"] = [LOST]
    ended = await batch.run(some_jobs(40), concurrency=20)
    assert ended.error.exit_code == 3
    assert "--max-failures 3" in str(ended.error)
    assert ended.states["unknown"] == 4


@pytest.mark.parametrize(("concurrency", "posts"), [(2, 2), (4, 4), (64, 64)])
@in_virtual_time
async def test_a_row_of_them_stops_the_run(batch, concurrency, posts):
    batch.api = Losing({one.id for one in some_jobs(300)}, takes_s=HOURS_S)
    ended = await batch.run(some_jobs(300), concurrency=concurrency)
    assert ended.error.exit_code == 3
    assert "in a row were not answered" in str(ended.error)
    assert len(batch.api.posts) <= posts
    assert now_s() < 10


@in_virtual_time
async def test_an_answer_in_between_begins_a_new_row(batch):
    for number in range(40):
        if number % 5:
            batch.api.posting[f"job-{number:03d}"] = for_ever(LOST)
    ended = await batch.run(some_jobs(40), concurrency=40, rate_per_s=1.0)
    assert ended.error is None
    assert len(ended.ids(State.UNKNOWN)) == 32


@in_virtual_time
async def test_bought_again_by_the_users_word_both_count(batch):
    batch.api = Losing(takes_s=100.0)
    await batch.hold(*bought(job("lost"))[:1])
    batch.policy = Policy(retry_unknown=True)
    await batch.run([job("lost")], concurrency=1)
    assert batch.api.posts[0][0] == pytest.approx(UNTIMED_HOLD_S, abs=10)
