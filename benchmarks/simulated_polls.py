"""Requests that are polled, in no time: what a schedule costs in calls, and in seconds of staleness."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from statistics import NormalDist, fmean
from typing import Any

from batcher.pacing.completion_times import Finishing
from batcher.pacing.polling import LearnedPolls, PollSchedule
from batcher.pacing.timings import SPANS_PER_KEY, Span

KEY = ("acme/film", None)
Duration = Callable[[Random, int], float]
"""Draws how long the request with that number takes, in seconds."""
Starter = Callable[[float], Any]
"""Gives a request that is accepted at that second its schedule."""


@dataclass(frozen=True)
class Cost:
    """What a schedule came to: calls a job, and how long results waited to be seen, on average."""

    calls: float
    staleness_s: float


class Remembered:
    """A history that is told directly what a ledger would tell."""

    def __init__(self) -> None:
        self._spans: deque[Span] = deque(maxlen=SPANS_PER_KEY)

    def count(self, key: object) -> int:
        return len(self._spans)

    def spans(self, key: object) -> list[Span]:
        return list(self._spans)

    def add(self, span: Span) -> None:
        self._spans.append(span)


def lognormal(median_s: float, sigma: float) -> Duration:
    return lambda rng, number: median_s * math.exp(sigma * rng.gauss(0.0, 1.0))


def two_kinds(fast: Duration, slow: Duration) -> Duration:
    return lambda rng, number: (fast if rng.random() < 0.5 else slow)(rng, number)


def changing(before: Duration, after: Duration, at_job: int) -> Duration:
    return lambda rng, number: (before if number < at_job else after)(rng, number)


def growing(median_s: float, sigma: float, factor: float, over_jobs: int) -> Duration:
    """Queues that get longer: the median rises to ``factor`` times what it was."""
    return lambda rng, number: lognormal(
        median_s * (1.0 + (factor - 1.0) * min(number / over_jobs, 1.0)), sigma
    )(rng, number)


class World:
    """A run of ``jobs`` requests, ``under_way`` at a time."""

    def __init__(self, takes: Duration, *, jobs: int = 1500, under_way: int = 32, seed: int = 1) -> None:
        self._takes = takes
        self._jobs = jobs
        self._under_way = under_way
        self._seed = seed
        self.history = Remembered()

    def learned(self, kind: type[LearnedPolls] = LearnedPolls, warm_up: int = 50) -> Cost:
        polls = kind(self.history, Random(self._seed))
        return self.run(lambda now_s: polls.watch(KEY, now_s), warm_up)

    def fixed(self, interval_s: float) -> Cost:
        rng = Random(self._seed)
        return self.run(lambda now_s: PollSchedule(rng, interval_s))

    def untaught(self) -> Cost:
        rng = Random(self._seed)
        return self.run(lambda now_s: PollSchedule(rng))

    def run(self, start: Starter, warm_up: int = 50) -> Cost:
        """Poll every request to its end; the first ``warm_up`` and what began with them don't count."""
        durations, order = Random(self._seed + 1), itertools.count()
        numbers, looks, seen = itertools.count(), [], []

        def begin(now_s: float) -> None:
            number = next(numbers)
            schedule = start(now_s)
            takes_s = self._takes(durations, number)
            entry = (now_s + schedule.first_s(), next(order), now_s, takes_s, schedule, 1, number)
            heapq.heappush(looks, entry)

        for place in range(self._under_way):
            begin(place * 1e-3)
        while looks:
            now_s, _, began_s, takes_s, schedule, calls, number = heapq.heappop(looks)
            age_s = now_s - began_s
            if age_s < takes_s:
                after_s = now_s + schedule.next_s(age_s)
                entry = (after_s, next(order), began_s, takes_s, schedule, calls + 1, number)
                heapq.heappush(looks, entry)
                continue
            if hasattr(schedule, "close"):
                self.history.add(Span(schedule.unfinished_s, age_s))
                schedule.close()
            if number >= warm_up + self._under_way:
                seen.append((calls, age_s - takes_s))
            if number + self._under_way < self._jobs:
                begin(now_s)
        return Cost(fmean(calls for calls, _ in seen), fmean(stale_s for _, stale_s in seen))


def fixed_with(world: Callable[[], World], calls: float, longest_s: float) -> Cost:
    """What a fixed interval costs that takes as many calls: the interval is searched for."""
    low_s, high_s = longest_s / 1000, longest_s
    for _ in range(12):
        interval_s = math.sqrt(low_s * high_s)
        cost = world().fixed(interval_s)
        low_s, high_s = (interval_s, high_s) if cost.calls > calls else (low_s, interval_s)
    # The last stretch by proportion: what is left of the difference is noise of the search.
    return Cost(calls, cost.staleness_s * (cost.calls - 0.5) / (calls - 0.5))


def true_curve(median_s: float, sigma: float, steps: int = 600) -> Finishing:
    """What nobody can know: the distribution itself, to compare with."""
    normal = NormalDist()
    scores = [-4.0 + 8.5 * step / steps for step in range(steps + 1)]
    ages_s = [median_s * math.exp(sigma * score) for score in scores]
    return Finishing([0.0, *ages_s], [0.0, *(normal.cdf(score) for score in scores)])
