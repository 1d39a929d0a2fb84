"""Polls that learn: calls and staleness counted in virtual time, and bounds that hold for any history."""

import asyncio
from functools import partial
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.pacing.completion_times import estimate
from batcher.pacing.inspection import inspect, optimal
from batcher.pacing.polling import (
    LEARNED_FROM,
    LEARNED_MIN_S,
    POLL_GROWTH,
    POLL_MAX_S,
    QUEUE_WAIT_MAX_S,
    LearnedPolls,
    calls_for,
)
from batcher.pacing.timings import Span
from benchmarks.simulated_polls import (
    KEY,
    Cost,
    Remembered,
    World,
    changing,
    fixed_with,
    growing,
    lognormal,
    true_curve,
    two_kinds,
)
from tests.support.engine import virtual_loop
from tests.support.engine_polls import EnginePolls

SPANS = st.lists(
    st.tuples(st.floats(0, 1), st.floats(1e-3, 1e5)).map(lambda pair: Span(pair[0] * pair[1], pair[1])),
    min_size=LEARNED_FROM,
    max_size=40,
)


def learned(takes, **world):
    """The mean over a few seeds: one alone is at the mercy of its draws."""
    costs = [World(takes, jobs=800, seed=seed, **world).learned() for seed in (1, 2)]
    return Cost(sum(c.calls for c in costs) / 2, sum(c.staleness_s for c in costs) / 2)


def fixed(takes, calls, longest_s=200.0):
    return fixed_with(partial(World, takes, jobs=800, seed=1), calls, longest_s)


@pytest.mark.parametrize(("sigma", "stale_share"), [(0.1, 0.020), (0.3, 0.052)])
@pytest.mark.parametrize("under_way", [8, 64])
def test_jobs_of_a_minute_take_six_polls_and_are_seen_in_time(sigma, stale_share, under_way):
    cost = learned(lognormal(60, sigma), under_way=under_way)
    assert cost.calls <= 6.05
    assert cost.staleness_s <= 60 * stale_share


def test_widely_spread_times_are_polled_no_worse_than_at_a_fixed_interval():
    takes = lognormal(60, 0.6)
    cost = learned(takes)
    assert cost.staleness_s <= fixed(takes, cost.calls).staleness_s


@pytest.mark.parametrize("takes", [lognormal(60, 1.0), lambda rng, number: rng.expovariate(1 / 60)])
def test_where_there_is_nothing_to_learn_little_is_lost(takes):
    cost = learned(takes)
    assert cost.staleness_s <= 1.12 * fixed(takes, cost.calls, 400.0).staleness_s


def test_short_jobs_come_close_to_the_best_that_any_schedule_can_do():
    cost = learned(lognormal(2, 0.5))
    best = inspect(true_curve(2, 0.5, 300), cost.calls)
    assert cost.calls <= 2.65
    assert cost.staleness_s <= 1.15 * best.staleness_s * (best.calls - 0.5) / (cost.calls - 0.5)


@pytest.mark.parametrize(
    ("takes", "gain"),
    [
        (two_kinds(lognormal(10, 0.1), lognormal(120, 0.1)), 0.7),
        (growing(60, 0.1, 4, 800), 0.5),
        (changing(lognormal(60, 0.1), lognormal(150, 0.1), 400), 0.6),
        (changing(lognormal(150, 0.1), lognormal(40, 0.1), 400), 0.9),
        (lambda rng, number: 60.0, 0.1),
    ],
    ids=["two kinds", "growing queues", "slower at once", "faster at once", "always the same"],
)
def test_times_that_are_of_two_kinds_or_change_are_still_worth_learning(takes, gain):
    cost = learned(takes)
    assert cost.staleness_s <= gain * fixed(takes, cost.calls, 400.0).staleness_s


def test_learning_does_not_drift_however_long_it_goes_on():
    """Each generation learns from polls that the one before it placed."""
    takes = lognormal(60, 0.1)
    early = World(takes, jobs=1300, seed=4).learned(warm_up=300)
    late = World(takes, jobs=4000, seed=4).learned(warm_up=3000)
    assert late.calls == pytest.approx(early.calls, rel=0.1)
    assert late.staleness_s == pytest.approx(early.staleness_s, rel=0.2)


@pytest.mark.parametrize("interval_s", [5.0, None])
def test_the_engine_polls_as_the_simulation_does(tmp_path, interval_s):
    world = World(lognormal(60, 0.3), jobs=150, under_way=16, seed=5)
    simulated = world.fixed(interval_s) if interval_s else world.learned()
    with asyncio.Runner(loop_factory=virtual_loop) as runner:
        engine = EnginePolls(tmp_path, lognormal(60, 0.3), Random(6))
        calls, stale_s = runner.run(engine.run(150, 16, interval_s))
    assert calls == pytest.approx(simulated.calls, rel=0.15)
    assert stale_s == pytest.approx(simulated.staleness_s, rel=0.25)


def test_what_an_earlier_run_saw_is_known_from_the_start(tmp_path):
    def run(jobs):
        with asyncio.Runner(loop_factory=virtual_loop) as runner:
            engine = EnginePolls(tmp_path, lognormal(60, 0.1), Random(jobs))
            runner.run(engine.run(jobs, 16, None, warm_up_jobs=0))
            return engine.api.calls

    run(100)
    second = run(140)
    assert len(second) == 40
    assert sum(list(second.values())[:16]) / 16 <= 9
    assert sum(second.values()) / 40 <= 7


def watch_of(spans, seed=1):
    history = Remembered()
    for span in spans:
        history.add(span)
    return LearnedPolls(history, Random(seed)).watch(KEY, 0.0)


@settings(max_examples=40)
@given(spans=SPANS, age_s=st.floats(0.001, 1e5))
def test_for_any_history_the_next_poll_comes_neither_at_once_nor_never(spans, age_s):
    watch = watch_of(spans)
    longest_s = max(span.by_s for span in spans)
    assert LEARNED_MIN_S <= watch.first_s() <= max(12 * longest_s, 2)
    assert LEARNED_MIN_S <= watch.next_s(age_s) <= max(20 * longest_s, 1.2 * POLL_MAX_S)


@settings(max_examples=40)
@given(spans=SPANS, running_s=st.lists(st.floats(0, 1e5), max_size=30))
def test_for_any_history_the_estimate_is_a_distribution(spans, running_s):
    curve = estimate(spans, running_s)
    assert curve.ages_s[0] == curve.finished[0] == 0
    assert all(later > earlier for earlier, later in pairwise(curve.ages_s))
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(curve.finished))
    assert curve.finished[-1] == pytest.approx(1)
    assert curve.waiting_s() > 0


@settings(max_examples=30)
@given(spans=SPANS, calls=st.floats(2, 9))
def test_the_best_schedule_is_better_than_even_looks_at_the_same_price(spans, calls):
    curve = estimate(spans, [])
    best = inspect(curve, calls)
    worth_s = best.call_worth_s
    price = best.calls * worth_s + best.staleness_s
    dearer = optimal(curve, 2 * worth_s)
    assert dearer.calls <= best.calls + 1e-9
    assert price <= dearer.calls * worth_s + dearer.staleness_s + 1e-6 * price


def test_a_poll_that_saw_the_end_late_does_not_make_it_late():
    """Polled every 30 s, jobs of 45 s are seen at 60 s; their median is not taken for 60."""
    rng = Random(2)
    spans = [Span(30.0 + shift, 60.0 + shift) for shift in (rng.uniform(-15, 15) for _ in range(200))]
    spans = [span for span in spans if span.after_s < 45.0 <= span.by_s]
    assert estimate(spans, []).quantile_s(0.5) == pytest.approx(45, rel=0.1)


def test_what_still_runs_tells_that_it_takes_longer_than_it_did():
    spans = [Span(58.0, 60.0)] * 20
    assert estimate(spans, []).quantile_s(0.5) < 61
    assert estimate(spans, [100.0] * 30).quantile_s(0.5) > 61


def test_the_longer_jobs_take_the_more_polls_they_are_worth():
    assert calls_for(0.1) == calls_for(2.0) < calls_for(60.0) < 6 < calls_for(3600.0) < 11


def test_a_request_worth_more_polls_is_seen_sooner():
    def outlook(factor):
        history = Remembered()
        for span in [Span(by_s - 2.0, by_s) for by_s in range(50, 80)]:
            history.add(span)
        polls = LearnedPolls(history, Random(1))
        polls.worth = lambda model, usual: factor * usual
        watch = polls.watch(KEY, 0.0)
        assert polls.outlook(watch) is None
        watch.first_s()
        return polls.outlook(watch)

    usual, twice = outlook(1.0), outlook(2.0)
    assert twice.polls >= 1.3 * usual.polls
    assert 64 < twice.takes_s < usual.takes_s


def test_before_anything_is_learned_steps_grow():
    watch = watch_of([Span(50.0, 60.0)] * (LEARNED_FROM - 1))
    assert watch.first_s() == pytest.approx(1, rel=0.11)
    assert watch.next_s(40.0) == pytest.approx(40 * POLL_GROWTH, rel=0.11)


def test_a_place_in_the_queue_puts_polls_off_by_how_fast_it_moves():
    quick, slow = (watch_of([], seed=3) for _ in range(2))
    quick.next_s(1.0, 100)
    slow.next_s(1.0, 100)
    assert quick.next_s(11.0, 0) < 5
    assert slow.next_s(11.0, 90) > 40
    assert slow.next_s(100.0, 89) == QUEUE_WAIT_MAX_S


def test_a_request_taken_over_is_polled_by_its_age():
    spans = [Span(58.0, 60.0)] * 20
    history = Remembered()
    for span in spans:
        history.add(span)
    polls = LearnedPolls(history, Random(1))
    assert polls.watch(KEY, 0.0).first_s() > 50
    assert polls.watch(KEY, 0.0, age_s=50.0).first_s() < 12


def test_watches_that_ended_are_let_go():
    polls = LearnedPolls(Remembered(), Random(1))
    for _ in range(100):
        polls.watch(KEY, 0.0).close()
    assert not polls._lessons[KEY].watches


def test_requests_that_began_together_are_not_polled_together():
    polls = LearnedPolls(Remembered(), Random(1))
    history = polls._history
    rng = Random(5)
    for _ in range(100):
        by_s = 60 + rng.gauss(0, 6)
        history.add(Span(by_s - 2, by_s))
    firsts = sorted(polls.watch(KEY, 0.0).first_s() for _ in range(1000))
    busiest = max(sum(at <= first < at + 0.1 for first in firsts) for at in firsts[::20])
    assert busiest <= 200
