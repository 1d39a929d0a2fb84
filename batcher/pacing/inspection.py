"""When to poll: the schedule with the best trade-off of calls and staleness for a known distribution.

The classic inspection problem (Barlow, Hunter and Proschan 1963), solved backwards over a grid of ages:
a poll costs ``call_worth_s``, and each second in which a finished request is not yet seen costs one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batcher.pacing.completion_times import Finishing

TRIES = 5
CLOSE_ENOUGH = 0.04
WORTH_MIN_SHARE = 0.002
"""A poll costs at least this share of the time that requests take: finer is of no use."""
EVEN_IS_AS_GOOD = 0.87


@dataclass(frozen=True, slots=True)
class Inspection:
    """The age of the next poll after a poll at each of ``ages_s`` found nothing.

    ``calls`` is the average number of polls per request, ``staleness_s`` the average time until a
    finished one is seen; ``call_worth_s`` is the price of a poll in seconds of staleness.
    """

    ages_s: Sequence[float]
    next_ages_s: Sequence[float]
    calls: float
    staleness_s: float
    call_worth_s: float
    even_s: float | None = None
    """If the schedule is hardly better than an even interval: that interval, which needs no estimate."""

    def after_s(self, age_s: float) -> float | None:
        """The age of the next poll; None if ``age_s`` is beyond the grid."""
        if self.even_s is not None:
            return age_s + self.even_s
        index = bisect_right(self.ages_s, age_s) - 1
        if index >= len(self.next_ages_s) - 1:
            return None
        low_s, high_s = self.ages_s[index], self.ages_s[index + 1]
        part = (age_s - low_s) / (high_s - low_s)
        return self.next_ages_s[index] * (1 - part) + self.next_ages_s[index + 1] * part


def inspect(curve: Finishing, calls: float, call_worth_s: float | None = None) -> Inspection:
    """The best schedule with about ``calls`` polls on average.

    ``call_worth_s`` is the start value of the search for the price of a poll, if one is known.
    """
    typical_s = curve.quantile_s(0.5)
    least_s = WORTH_MIN_SHARE * typical_s
    worth_s = max(call_worth_s or _first_guess_s(curve, calls), least_s)
    best = optimal(curve, worth_s)
    for _ in range(TRIES):
        if abs(best.calls / calls - 1.0) < CLOSE_ENOUGH:
            break
        change = (max(best.calls - 0.5, 0.3) / (calls - 0.5)) ** 2
        if worth_s <= least_s and change <= 1.0:
            break
        worth_s = max(worth_s * min(max(change, 0.05), 20.0), least_s)
        best = optimal(curve, worth_s)
    return _even_if_as_good(best, curve)


def _even_if_as_good(best: Inspection, curve: Finishing) -> Inspection:
    """An even interval with as many calls, if the schedule is only a little better."""
    even_s = curve.waiting_s() / max(best.calls - 0.5, 0.5)
    as_good = best.staleness_s > EVEN_IS_AS_GOOD * even_s / 2
    return replace(best, even_s=even_s) if as_good else best


def _first_guess_s(curve: Finishing, calls: float) -> float:
    """Continuous limit: the density of polls is the root of the hazard over twice their price."""
    steps = zip(pairwise(curve.ages_s), pairwise(curve.finished), strict=True)
    whole = sum(
        math.sqrt(max((end_s - start_s) * (after - before) * (1 - (before + after) / 2), 0.0))
        for (start_s, end_s), (before, after) in steps
    )
    return max(whole * whole / (2 * (calls - 0.5) ** 2), 1e-4)


def optimal(curve: Finishing, call_worth_s: float) -> Inspection:
    """The schedule of least cost if a poll costs ``call_worth_s``."""
    ages_s, finished = curve.ages_s, curve.finished
    areas = _areas(curve)
    last = len(ages_s) - 1
    costs, following = [0.0] * (last + 1), [last] * (last + 1)
    for at in range(last - 1, -1, -1):
        age_s, done, area = ages_s[at], finished[at], areas[at]
        look = call_worth_s * max(1.0 - done, 0.0)
        least, choice = float("inf"), last
        for then in range(at + 1, last + 1):
            cost = look + areas[then] - area - done * (ages_s[then] - age_s)
            if cost >= least:
                break  # staleness only grows from here on
            if cost + costs[then] < least:
                least, choice = cost + costs[then], then
        costs[at], following[at] = least, choice
    calls, staleness_s = _walk(curve, areas, following)
    next_ages_s = [ages_s[then] for then in following]
    return Inspection(ages_s, next_ages_s, calls, staleness_s, call_worth_s)


def _areas(curve: Finishing) -> list[float]:
    """The integral of the share that has finished, up to each age."""
    areas = [0.0]
    for (start_s, end_s), (before, after) in zip(
        pairwise(curve.ages_s), pairwise(curve.finished), strict=True
    ):
        areas.append(areas[-1] + (end_s - start_s) * (before + after) / 2)
    return areas


def _walk(curve: Finishing, areas: Sequence[float], following: Sequence[int]) -> tuple[float, float]:
    calls = staleness_s = 0.0
    at, last = 0, len(following) - 1
    while at < last:
        then = following[at]
        calls += 1.0 - curve.finished[at]
        ahead_s = curve.ages_s[then] - curve.ages_s[at]
        staleness_s += areas[then] - areas[at] - curve.finished[at] * ahead_s
        at = then
    return calls, staleness_s
