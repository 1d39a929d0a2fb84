"""When requests finish: a distribution learned from polls, which only say "not yet" or "already".

Each observation is an interval of ages: a finished request ended between two polls, one that still runs
ends after its last. The estimate is the self-consistent one (Turnbull 1976), stopped early from a smooth
start. If the time of the poll were taken for the time of finishing, every schedule would learn its own
delays, and drift.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batcher.pacing.timings import Span

QUANTILES = 56
STEPS = 36
TAIL_STEPS = 18
TAIL_GROWTH = 1.14
MARGIN = 1.05
CLOSEST = 1.003
ROUNDS = 5
SMOOTHINGS = 2
HALF_LIFE = 100
"""After this many newer observations one counts half: queues change in length."""
SHAPE_SHARE = 0.9
FLAT_LOG_SIGMA = 0.02
IQR_OF_NORMAL = 1.349
SHORTEST_S = 0.01
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Finishing:
    """The share of requests that have finished by each of ``ages_s`` (rising, from 0)."""

    ages_s: Sequence[float]
    finished: Sequence[float]

    def quantile_s(self, share: float) -> float:
        """The age in seconds by which ``share`` of the requests have finished."""
        index = min(max(bisect_left(self.finished, share), 1), len(self.ages_s) - 1)
        low, high = self.finished[index - 1], self.finished[index]
        part = (share - low) / (high - low) if high > low else 1.0
        return self.ages_s[index - 1] + part * (self.ages_s[index] - self.ages_s[index - 1])

    def waiting_s(self, from_s: float = 0.0) -> float:
        """The mean time that requests take, or the part of it beyond the age ``from_s``."""
        steps = zip(pairwise(self.ages_s), pairwise(self.finished), strict=True)
        return sum(
            (end_s - start_s) * max(1.0 - (before + after) / 2, 0.0)
            for (start_s, end_s), (before, after) in steps
            if start_s >= from_s
        )


def estimate(spans: Sequence[Span], running_s: Sequence[float]) -> Finishing:
    """The distribution behind ``spans`` (the oldest first) and the ages of running requests.

    Always gives some weight to ages beyond those seen: otherwise a request that takes longer would
    never be polled again.
    """
    ages_s = _ages(spans)
    weights = [0.5 ** (back / HALF_LIFE) for back in range(len(spans) - 1, -1, -1)]
    seen = sum(weights)
    cells = _cells(spans, weights, ages_s)
    if running_s:
        # As many as are under way, a window of completions sees only in part: never more than it.
        each = min(1.0, seen / len(running_s))
        cells += _censored(running_s, each, ages_s)
    widths = [math.log(end_s / start_s) for start_s, end_s in pairwise(ages_s[1:])]
    shares = _shape(spans, ages_s)
    for _ in range(ROUNDS):
        shares = _smooth(_consistent(shares, cells), widths)
    return _with_tail(ages_s, shares, 1.0 / (seen + 2.0))


Cell = tuple[int, int, float]
"""The range between the ages at two indices (the second excluded), with a weight."""


def _ages(spans: Sequence[Span]) -> list[float]:
    """A grid that is fine where requests finish and extends far beyond."""
    ends_s = sorted(end_s for span in spans for end_s in span if end_s > 0.0)
    low_s = max(ends_s[0] / 4, SHORTEST_S)
    top_s = max(ends_s[-1] * MARGIN, low_s * 2)
    ratio = top_s / low_s
    even = [low_s * ratio ** (step / STEPS) for step in range(STEPS + 1)]
    dense = [ends_s[len(ends_s) * step // QUANTILES] for step in range(QUANTILES)]
    tail = [top_s * TAIL_GROWTH**step for step in range(1, TAIL_STEPS + 1)]
    return [0.0, *_apart(sorted(even + dense)), *tail]


def _apart(ages_s: list[float]) -> Iterator[float]:
    last_s = 0.0
    for age_s in ages_s:
        if age_s > max(last_s * CLOSEST, SHORTEST_S / 2):
            yield age_s
            last_s = age_s


def _cells(spans: Sequence[Span], weights: Sequence[float], ages_s: Sequence[float]) -> list[Cell]:
    cells = []
    for span, weight in zip(spans, weights, strict=True):
        end = max(_nearest(ages_s, span.by_s), 1)
        cells.append((min(_nearest(ages_s, span.after_s), end - 1), end, weight))
    return cells


def _censored(running_s: Sequence[float], weight: float, ages_s: Sequence[float]) -> list[Cell]:
    last = len(ages_s) - 1
    return [(min(_nearest(ages_s, age_s), last - 1), last, weight) for age_s in running_s]


def _nearest(ages_s: Sequence[float], age_s: float) -> int:
    index = bisect_left(ages_s, age_s)
    if index >= len(ages_s):
        return len(ages_s) - 1
    return index - (index > 0 and age_s - ages_s[index - 1] < ages_s[index] - age_s)


def _shape(spans: Sequence[Span], ages_s: Sequence[float]) -> list[float]:
    """The start of the iteration: mostly a lognormal from the middle half, the rest even in log age."""
    middles = sorted(math.log((span.after_s + span.by_s) / 2) for span in spans)
    count = len(middles)
    spread = (middles[count * 3 // 4] - middles[count // 4]) / IQR_OF_NORMAL
    sigma = max(spread, FLAT_LOG_SIGMA)
    middle = middles[count // 2]
    below = [0.0, *(_NORMAL.cdf((math.log(age_s) - middle) / sigma) for age_s in ages_s[1:])]
    even = 1.0 / (len(ages_s) - 1)
    return [SHAPE_SHARE * (high - low) + (1 - SHAPE_SHARE) * even for low, high in pairwise(below)]


def _consistent(shares: Sequence[float], cells: Sequence[Cell]) -> list[float]:
    """One iteration: split each observation over its cells in proportion to their current shares."""
    below = [0.0, *accumulate(shares)]
    change = [0.0] * (len(shares) + 1)
    total = 0.0
    for first, end, weight in cells:
        factor = weight / max(below[end] - below[first], 1e-12)
        change[first] += factor
        change[end] -= factor
        total += weight
    return [share * factor / total for share, factor in zip(shares, accumulate(change), strict=False)]


def _smooth(shares: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Even out the density in log age between neighbours: 256 polls don't resolve small ripples.

    All but the first step, which begins at age 0.
    """
    first, rest = shares[0], list(shares[1:])
    for _ in range(SMOOTHINGS):
        padded = [rest[0], *rest, rest[-1]]
        wide = [widths[0], *widths, widths[-1]]
        rest = [
            wide[at]
            * (padded[at - 1] + padded[at] + padded[at + 1])
            / (wide[at - 1] + wide[at] + wide[at + 1])
            for at in range(1, len(padded) - 1)
        ]
    scale = (1.0 - first) / max(sum(rest), 1e-12)
    return [first, *(share * scale for share in rest)]


def _with_tail(ages_s: Sequence[float], shares: Sequence[float], tail_share: float) -> Finishing:
    """Spread ``tail_share`` evenly in log age over the ages beyond all that were seen."""
    body = len(shares) - TAIL_STEPS
    scale = (1.0 - tail_share) / max(sum(shares), 1e-12)
    mixed = [share * scale + (tail_share / TAIL_STEPS) * (at >= body) for at, share in enumerate(shares)]
    return Finishing(ages_s, [0.0, *accumulate(mixed)])
