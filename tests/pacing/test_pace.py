"""Pacing: bounds of every wait, one gate for all, an even rate, a patient schedule."""

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.pacing.gate import GATE_BASE_S, GATE_CAP_S, REACH_CAP_S, SPREAD_CAP_S, Gate, full_jitter_s
from batcher.pacing.polling import POLL_FIRST_S, POLL_JITTER, POLL_MAX_S, POLL_MIN_S, PollSchedule
from batcher.pacing.rate import RateLimit

SEEDS = st.integers(0, 2**32)
TIMES_S = st.floats(0, 1e6)


def gate(seed=1):
    return Gate(Random(seed))


@given(
    seed=SEEDS, attempt=st.integers(0, 10**6), base_s=st.floats(0.001, 100), cap_s=st.floats(0.001, 1000)
)
def test_a_jittered_wait_stays_within_its_bounds_for_any_attempt(seed, attempt, base_s, cap_s):
    wait_s = full_jitter_s(attempt, Random(seed), base_s=base_s, cap_s=cap_s)
    assert 0 <= wait_s <= cap_s
    if attempt < 10:
        assert wait_s <= base_s * 2**attempt


def test_jittered_waits_grow_until_the_cap_and_fill_their_range():
    rng = Random(1)
    longest_s = [max(full_jitter_s(n, rng, base_s=1, cap_s=8) for _ in range(400)) for n in range(6)]
    assert longest_s == pytest.approx([1, 2, 4, 8, 8, 8], rel=0.05)


def test_an_open_gate_holds_nobody():
    assert gate().delay_s(0.0) == 0
    assert gate().delay_s(1e9) == 0


@given(seed=SEEDS, now_s=TIMES_S, wait_s=st.floats(0.01, 3600))
def test_a_wait_that_the_server_named_is_kept_to_the_full_and_not_much_more(seed, now_s, wait_s):
    closed = gate(seed)
    assert closed.turned_away(now_s, wait_s) == wait_s
    rest_s = wait_s / 2
    assert wait_s * (1 - 1e-6) - 1e-6 <= closed.delay_s(now_s) <= wait_s + SPREAD_CAP_S + 1e-6
    assert rest_s - 1e-6 <= closed.delay_s(now_s + rest_s) <= rest_s + SPREAD_CAP_S + 1e-6
    assert closed.delay_s(now_s + wait_s + 1e-6) == 0


def test_callers_of_a_closed_gate_do_not_leave_as_one():
    closed = gate()
    closed.turned_away(0.0, 10.0)
    assert len({closed.delay_s(0.0) for _ in range(100)}) == 100


def test_a_shorter_wait_never_opens_a_gate_that_a_longer_one_closed():
    closed = gate()
    closed.turned_away(0.0, 100.0)
    closed.turned_away(1.0, 1.0)
    closed.unreachable(1.0)
    assert closed.delay_s(50.0) >= 50


@given(seed=SEEDS, refusals=st.integers(1, 30))
def test_pauses_that_nobody_named_grow_with_each_refusal_up_to_a_cap(seed, refusals):
    closed = gate(seed)
    for number in range(refusals):
        pause_s = closed.turned_away(0.0, None)
        assert GATE_BASE_S <= pause_s <= GATE_BASE_S + min(GATE_CAP_S, 2.0**number)


@given(seed=SEEDS, misses=st.integers(1, 30))
def test_an_api_that_can_not_be_reached_is_tried_again_within_seconds(seed, misses):
    closed = gate(seed)
    for number in range(misses):
        assert 0 <= closed.unreachable(0.0) <= min(REACH_CAP_S, 0.5 * 2**number)


def test_an_answer_ends_the_row_of_refusals():
    closed = gate()
    for _ in range(20):
        closed.turned_away(0.0, None)
        closed.unreachable(0.0)
    closed.answered()
    assert closed.turned_away(0.0, None) <= GATE_BASE_S + 1
    assert closed.unreachable(0.0) <= 0.5


def test_without_a_rate_nobody_waits():
    free = RateLimit(None)
    assert [free.reserve_s(5.0) for _ in range(3)] == [0, 0, 0]


def test_places_are_evenly_spaced_however_many_ask_at_once():
    assert [RateLimit(2.0).reserve_s(7.0)] == [0]
    limit = RateLimit(2.0)
    assert [limit.reserve_s(7.0) for _ in range(4)] == pytest.approx([0, 0.5, 1.0, 1.5])


def test_idle_time_saves_up_no_burst():
    limit = RateLimit(1.0)
    limit.reserve_s(0.0)
    assert [limit.reserve_s(100.0) for _ in range(3)] == pytest.approx([0, 1, 2])


@given(per_s=st.floats(0.01, 1000), steps_s=st.lists(st.floats(0, 10), min_size=2, max_size=50))
def test_no_two_places_are_closer_than_the_rate_allows(per_s, steps_s):
    limit, now_s, places_s = RateLimit(per_s), 0.0, []
    for step_s in steps_s:
        now_s += step_s
        wait_s = limit.reserve_s(now_s)
        assert wait_s >= 0
        places_s.append(now_s + wait_s)
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(places_s)]
    assert min(gaps_s) >= 1 / per_s - 1e-6


@given(seed=SEEDS, age_s=TIMES_S)
def test_a_request_is_asked_after_rarely_once_it_is_old_but_never_forgotten(seed, age_s):
    schedule = PollSchedule(Random(seed))
    assert abs(schedule.first_s() - POLL_FIRST_S) <= POLL_FIRST_S * POLL_JITTER + 1e-9
    wait_s = schedule.next_s(age_s)
    assert POLL_MIN_S * (1 - POLL_JITTER) <= wait_s <= POLL_MAX_S * (1 + POLL_JITTER)
    if 10 <= age_s <= 60:
        assert wait_s == pytest.approx(0.3 * age_s, rel=0.11)


@given(seed=SEEDS, interval_s=st.floats(0.1, 600), age_s=TIMES_S)
def test_a_fixed_interval_is_kept_at_any_age(seed, interval_s, age_s):
    schedule = PollSchedule(Random(seed), interval_s)
    for wait_s in (schedule.first_s(), schedule.next_s(age_s)):
        assert wait_s == pytest.approx(interval_s, rel=POLL_JITTER + 1e-9)
