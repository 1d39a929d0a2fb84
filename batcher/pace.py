"""When to try, poll and admit: pure decisions on numbers, a clock reading and an rng."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random


def full_jitter_s(attempt: int, rng: Random, *, base_s: float, cap_s: float) -> float:
    """Seconds to wait before retry ``attempt`` (from 0): uniform in 0 .. min(cap, base * 2**attempt).

    Full jitter spreads retries best among clients that failed together.
    """
    ceiling_s = min(cap_s, base_s * 2.0 ** min(attempt, 60))
    return rng.uniform(0.0, ceiling_s)
