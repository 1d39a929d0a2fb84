"""Limits that nobody told: found, kept to, tried again at a price that can be afforded."""

import asyncio
import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.engine.slots import LOOK_AGAIN_S, AutoSlots
from batcher.errors import TurnedAway
from batcher.pacing.adaptive import (
    AUTO_MAX,
    AUTO_START,
    FAR_BEHIND_S,
    LOAD_SHARE,
    POLLS_FACTOR,
    POLLS_FEWEST,
    POLLS_SAVED,
    POST_GAIN,
    QUEUED_HOLD_S,
    Adaptive,
    CallRate,
    Latency,
    Window,
)
from batcher.pacing.allowance import Allowance
from batcher.ports import Phase
from benchmarks.simulated_limits import Client, Jobs, Server, outcome
from tests.support.engine import Batch, LoopClock, answer, in_virtual_time, some_jobs

MINUTE_S = 60.0


def after_a_minute(limit, jobs, *, by_rate=False, until_s=5 * MINUTE_S, retry_after_s=1.0):
    client = Client(Server(limit, by_rate), jobs, retry_after_s)
    client.run(until_s)
    return outcome(client, limit, MINUTE_S, until_s)


@pytest.mark.parametrize(("limit", "jobs_s"), [(8, 60), (50, 60), (50, 20), (200, 20)])
@pytest.mark.parametrize("retry_after_s", [1.0, None])
def test_a_limit_on_unfinished_requests_is_found_and_used(limit, jobs_s, retry_after_s):
    until_s = (10 if limit == 8 else 5) * MINUTE_S
    seen = after_a_minute(limit, Jobs(jobs_s), until_s=until_s, retry_after_s=retry_after_s)
    assert seen.used >= 0.93
    assert seen.refused <= 0.025


@pytest.mark.parametrize(
    ("limit", "jobs_s", "used"), [(10, 10, 0.95), (50, 10, 0.97), (50, 5, 0.97), (50, 60, 0.95)]
)
def test_a_limit_on_calls_a_second_is_found_and_used(limit, jobs_s, used):
    seen = after_a_minute(limit, Jobs(jobs_s), by_rate=True)
    assert seen.used >= used
    assert seen.refused <= 0.02


@pytest.mark.parametrize("by_rate", [False, True])
@pytest.mark.parametrize(("before", "after"), [(50, 20), (20, 50)])
def test_a_limit_that_changes_is_followed_both_ways(by_rate, before, after):
    client = Client(Server(before, by_rate, [(3 * MINUTE_S, after)]), Jobs(10), 1.0)
    client.run(7 * MINUTE_S)
    seen = outcome(client, after, 4 * MINUTE_S, 7 * MINUTE_S)
    assert seen.used >= 0.9
    assert seen.refused <= 0.02


# Window


def grow(window, now_s=0.0, rounds=20):
    """Fill the window again and again, each POST accepted, two seconds a round."""
    for number in range(rounds):
        at_s = now_s + 2.0 * number
        unfinished = 0
        while window.has_room(unfinished, at_s):
            window.accepted(unfinished, at_s)
            unfinished += 1
    return window


def test_a_window_begins_small_and_grows_while_nobody_objects():
    window = Window()
    assert window.limit == AUTO_START
    assert grow(window, rounds=2).limit <= 4 * AUTO_START
    assert grow(window, 10.0).limit == AUTO_MAX


def test_a_window_that_is_not_used_does_not_grow():
    window = Window()
    for number in range(100):
        window.accepted(1, float(number))
    assert window.limit == AUTO_START


def test_what_was_refused_once_is_the_limit_and_refused_again_it_fell():
    window = Window(limit=50)
    window.refused(40, 0.0, 1.0)
    assert window.limit == 40
    window.refused(40, 10.0, 1.0)
    assert window.limit == 30
    window.accepted(20, 11.0)
    window.refused(30, 20.0, 1.0)
    assert window.limit == 30


def test_calls_refused_together_are_refused_once():
    window = Window(limit=50)
    for _ in range(10):
        window.refused(40, 0.0, 2.0)
    assert window.limit == 40


def test_a_ceiling_is_tried_again_only_when_a_refusal_can_be_afforded():
    window = Window(limit=20)
    window.refused(10, 0.0, 1.0)
    for number in range(4):
        assert not window.has_room(10, 2.0 + number / 10)
        window.allowance.answered()
    assert not window.has_room(10, 4.0)
    assert window.has_room(10, 6.0)


def test_a_ceiling_that_was_confirmed_often_is_tried_rarely():
    window, at_s = Window(limit=20), 0.0
    waits_s = []
    for _ in range(5):
        window.accepted(0, at_s)
        window.refused(10, at_s, 1.0)
        began_s = at_s
        while not window.has_room(10, at_s):
            window.allowance.answered()
            at_s += 0.1
        waits_s.append(at_s - began_s)
    assert waits_s == sorted(waits_s)
    assert waits_s[-1] >= 10 * waits_s[0]


def test_a_window_full_of_posts_that_wait_for_their_turn_does_not_grow():
    window = Window()
    assert not window.has_room(AUTO_START, 0.0, waiting=True)
    assert window.has_room(AUTO_START, 0.0)


def test_a_request_that_waits_in_a_queue_stops_the_growth_for_a_while():
    limits = Adaptive()
    limits.queued("m", 100.0)
    assert grow(limits.window("m"), 100.0, rounds=4).limit == AUTO_START
    assert grow(limits.window("m"), 101.0 + QUEUED_HOLD_S).limit > AUTO_START


def test_after_a_long_pause_it_begins_small_again():
    window = Window(limit=500)
    window.restart(2, 0.0)
    assert window.limit == AUTO_START


def test_slow_answers_make_the_window_smaller_once_in_a_while():
    window = Window(limit=100)
    for tenth in range(20):
        window.slow_down(100, tenth / 10)
    assert window.limit == pytest.approx(85)


@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["accepted", "refused", "slow", "restart"]), st.floats(0, 30)),
        max_size=80,
    )
)
def test_whatever_happens_a_window_stays_within_its_bounds(steps):
    window, now_s = Window(), 0.0
    for what, passed_s in steps:
        now_s += passed_s
        unfinished = max(int(window.limit) - 1, 0)
        if what == "accepted":
            window.allowance.answered()
            window.accepted(unfinished, now_s)
        elif what == "refused":
            window.refused(unfinished, now_s, 1.0)
        elif what == "slow":
            window.slow_down(unfinished, now_s)
        else:
            window.restart(unfinished, now_s)
        assert 1 <= window.limit <= AUTO_MAX
        assert window.reserve_s(now_s) >= 0
    assert window.has_room(0, now_s)


# Rate


def test_calls_are_free_until_a_poll_was_refused():
    rate = CallRate()
    assert [rate.reserve_s(0.0) for _ in range(100)] == [0.0] * 100
    assert rate.behind_s(0.0) == 0


def test_a_refused_rate_is_held_a_little_below_what_was_let_through():
    rate = CallRate()
    for number in range(200):
        rate.answered(number / 20)
    rate.refused(10.0, 1.0)
    assert 0.8 * 20 <= rate.level_per_s <= 20
    line = rate.line
    waits_s = [rate.reserve_s(11.0) for _ in range(3)]
    assert waits_s == pytest.approx([0, 1 / rate.level_per_s, 2 / rate.level_per_s])
    rate.refused(30.0, 1.0)
    assert rate.line == line + 1


def limited_to(per_s):
    """Limits that know that rate, and jobs of the model ``m``: 5 calls in 10 seconds."""
    limits = Adaptive()
    limits.rate.level_per_s = per_s
    limits.expects("m", 4.0, 10.0)
    return limits


def test_if_calls_are_the_limit_posts_come_as_fast_as_they_can_be_polled():
    limits = limited_to(20.0)
    waits_s = [limits.spacing_s("m", 0.0) for _ in range(3)]
    apart_s = 5.0 / (POST_GAIN * 20.0)
    assert waits_s == pytest.approx([0.0, apart_s, 2 * apart_s])


def test_if_calls_are_the_limit_no_more_are_under_way_than_can_be_polled():
    limits = limited_to(20.0)
    enough = LOAD_SHARE * 20.0 * 10.0 / 5.0
    assert limits.serves("m", int(enough) - 1)
    assert not limits.serves("m", int(enough) + 1)
    assert limits.serves("m", 0)
    assert Adaptive().serves("m", 10_000)


def test_models_share_the_calls_that_their_requests_need():
    limits = limited_to(20.0)
    limits.expects("other", 4.0, 10.0)
    assert limits.serves("other", 20)
    assert not limits.serves("m", 51)
    assert not limits.serves("other", 20)
    for _ in range(51):
        limits.window("m").finished(10.0)
    assert limits.serves("other", 20)


def test_a_slot_limit_is_worth_more_polls_and_a_limit_on_calls_fewer():
    limits = Adaptive()
    assert limits.polls("m", 4.0) == 4.0
    limits.refused_post("m", 20, 0.0, 1.0)
    assert (limits.polls("m", 4.0), limits.polls("other", 4.0)) == (4.0 * POLLS_FACTOR, 4.0)
    limits = limited_to(20.0)
    assert limits.polls("m", 4.0) == 4.0  # its window is too small to need that many calls
    limits.window("m").limit = 50.0
    assert limits.polls("m", 4.0) == pytest.approx(4.0 - POLLS_SAVED)
    assert limits.polls("m", 2.0) == POLLS_FEWEST


def test_a_rate_grows_only_if_calls_come_nearly_that_fast():
    for per_s, grows in ((20, True), (10, False)):
        rate = CallRate(level_per_s=20.0)
        for number in range(5 * per_s):
            for _ in range(20 * (number == 4 * per_s)):
                rate.reserve_s(number / per_s)  # a line of calls
            rate.answered(number / per_s)
        assert (rate.level_per_s > 20.0) == grows


def test_a_post_refused_while_a_higher_rate_is_tried_came_too_fast():
    limits = limited_to(20.0)
    limits.rate._beyond_since_s = 0.0
    limits.window("m").limit = 40.0
    limits.refused_post("m", 20, 1.0, 1.0)
    assert limits.window("m").limit == 40.0
    assert limits.rate.line == 1


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), refused_share=st.floats(0, 1))
def test_whatever_happens_a_rate_stays_above_nothing(seed, refused_share):
    rate, rng, now_s = CallRate(), Random(seed), 0.0
    for _ in range(200):
        now_s += rng.expovariate(5.0)
        assert rate.reserve_s(now_s) >= 0
        if rng.random() < refused_share:
            rate.refused(now_s, rng.uniform(0, 3))
        else:
            rate.answered(now_s)
    assert rate.level_per_s > 0


def test_an_allowance_counts_a_volley_against_the_calls_but_not_without_end():
    allowance = Allowance()
    assert allowance.refused(0.0, 1.0, confirms=False)
    for _ in range(1000):
        assert not allowance.refused(0.5, 1.0, confirms=False)
    for _ in range(30):
        allowance.answered()
    assert allowance.affords(100.0)


# Strain


def test_answers_that_take_twice_as_long_are_noticed_and_a_slow_api_is_not():
    latency = Latency()
    assert not any(latency.is_high(2.0) for _ in range(1000))
    assert any(latency.is_high(6.0) for _ in range(20))


def test_calls_that_wait_far_too_long_for_their_turn_are_a_strain():
    limits = Adaptive()
    limits.answered(0.1, 0.0)
    limits.refused_poll(1.0, 1.0)
    while limits.rate.behind_s(2.0) <= FAR_BEHIND_S:
        assert not limits.answered(0.1, 2.0)
        limits.rate.reserve_s(2.0)
    assert limits.answered(0.1, 2.0)


def test_models_have_windows_of_their_own_and_one_rate():
    limits = Adaptive()
    limits.refused_post("one", 5, 0.0, 1.0)
    assert (limits.window("one").limit, limits.window("two").limit) == (5, AUTO_START)
    assert math.isinf(limits.rate.level_per_s)
    limits.refused_poll(10.0, 1.0)
    limits.refused_post("two", 5, 11.5, 1.0)
    assert limits.window("two").limit == AUTO_START


# The engine


def crowded(api, limit):
    """An API that turns POSTs away beyond ``limit`` unfinished requests, each done as its time is up."""
    submit, refused = api.submit, []

    async def limited(model, body):
        now_s = asyncio.get_running_loop().time()
        busy = sum(now_s - request.at_s < api.takes_s for request in api.requests.values())
        if busy >= limit:
            refused.append(now_s)
            raise TurnedAway("too many", retry_after_s=1.0)
        return await submit(model, body)

    api.submit = limited
    return refused


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


@in_virtual_time
async def test_auto_finds_what_an_api_takes_and_all_jobs_are_done(batch):
    batch.api.takes_s = 20.0
    refused = crowded(batch.api, 20)
    ended = await batch.run(some_jobs(300), adapts=True)
    took_s = asyncio.get_running_loop().time()
    assert ended.states == {"done": 300}
    assert took_s <= 1.2 * 300 * 20 / 20
    calls = len(batch.api.polls) + len(batch.api.posts) + len(refused)
    assert sum(at_s > MINUTE_S for at_s in refused) <= 0.03 * calls


@in_virtual_time
async def test_auto_with_nobody_in_the_way_goes_far_beyond_the_default(batch):
    await batch.run(some_jobs(200), adapts=True)
    assert 50 <= batch.api.peak <= 200


@in_virtual_time
async def test_auto_leaves_a_queue_alone(batch):
    batch.api.takes_s = 200.0
    queued = answer(Phase.QUEUED, queue_position=5)
    batch.api.results = {f"job-{number:03d}": [queued] * 500 for number in range(AUTO_START)}
    runs = asyncio.create_task(batch.run(some_jobs(900), adapts=True))
    await asyncio.sleep(4)
    before = batch.api.peak
    await asyncio.sleep(60)
    assert batch.api.peak <= before + 3 * AUTO_START
    runs.cancel()
    await asyncio.wait([runs])


@in_virtual_time
async def test_auto_passes_requests_that_outlast_their_time(batch):
    batch.api.takes_s = 1e9
    ended = await batch.run(some_jobs(30), adapts=True, job_timeout_s=30.0)
    assert ended.states == {"submitted": 30}


@in_virtual_time
async def test_a_window_full_of_requests_that_nobody_watches_gives_no_slot_any_more():
    slots = AutoSlots(LoopClock())
    slots.adaptive.window("m").refused(3, 0.0, 1.0)
    for _ in range(3):
        assert await slots.acquire("m")
        slots.free("m")
        slots.strand("m")
    assert not await slots.acquire("m")
    assert await slots.acquire("another")


@in_virtual_time
async def test_requests_that_nobody_watches_need_no_calls():
    slots = AutoSlots(LoopClock())
    slots.adaptive.window("m").limit = 100.0
    slots.adaptive.rate.level_per_s = 1.0
    slots.expects("m", 4.0, 10.0)
    for _ in range(50):
        slots.hold("m")
        slots.strand("m")
        slots.free("m")
    assert await slots.acquire("m")


def too_fast(api, per_s):
    """An API that turns away calls beyond ``per_s`` in the last second."""
    submit, result, calls = api.submit, api.result, []

    def limited(call):
        async def checked(*arguments):
            now_s = asyncio.get_running_loop().time()
            if sum(at_s > now_s - 1.0 for at_s in calls[-per_s:]) >= per_s:
                raise TurnedAway("too fast", retry_after_s=1.0)
            calls.append(now_s)
            return await call(*arguments)

        return checked

    api.submit, api.result = limited(submit), limited(result)
    return calls


@in_virtual_time
async def test_auto_uses_the_rate_of_calls_that_an_api_accepts(batch):
    batch.api.takes_s = 10.0
    calls = too_fast(batch.api, 20)
    ended = await batch.run(some_jobs(300), adapts=True)
    assert ended.states == {"done": 300}
    steady = [at_s for at_s in calls if 30.0 <= at_s < calls[-1] - 20.0]
    assert len(steady) >= 0.75 * 20 * (calls[-1] - 50.0)
    assert batch.api.peak <= 150


@in_virtual_time
async def test_a_post_that_was_put_off_waits_until_the_window_has_room_again():
    slots = AutoSlots(LoopClock())
    for _ in range(3):
        slots.hold("m")
    slots.adaptive.window("m").refused(2, 0.0, 1.0)
    with slots.waiting("m"):
        turn = asyncio.create_task(slots.turn("m"))
        await asyncio.sleep(4)
        assert not turn.done()
        slots.free("m")
        await asyncio.sleep(LOOK_AGAIN_S)
        assert turn.done()


@in_virtual_time
async def test_hundreds_of_requests_do_not_begin_as_one(batch):
    await batch.run(some_jobs(500), concurrency=400)
    assert batch.api.peak == 400
    times_s = [at_s for at_s, _ in batch.api.posts[:400]]
    polls_s = sorted(at_s for at_s, _ in batch.api.polls)
    assert max(sum(begin <= at_s < begin + 0.1 for at_s in times_s) for begin in times_s[::50]) <= 210
    assert max(sum(begin <= at_s < begin + 0.1 for at_s in polls_s) for begin in polls_s[::100]) <= 250


@in_virtual_time
async def test_a_fixed_number_stays_what_it_is(batch):
    await batch.run(some_jobs(40), concurrency=5)
    assert batch.api.peak == 5
