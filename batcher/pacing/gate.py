"""When a call may be sent: exponential backoff with full jitter, and one gate for all calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

GATE_BASE_S = 1.0
GATE_CAP_S = 60.0
REACH_BASE_S = 0.5
REACH_CAP_S = 5.0
SPREAD_CAP_S = 1.0
SINGLE_PAUSE_S = 5.0
"""A command that makes single calls, without a gate, waits this long if the API names no time."""
CATALOGUE_PAUSE_S = 1.0
CATALOGUE_PAUSE_MAX_S = 10.0
"""A catalogue is asked again soon, whatever time the API names: what it knows is not essential."""


def full_jitter_s(attempt: int, rng: Random, *, base_s: float, cap_s: float) -> float:
    """Seconds to wait before retry ``attempt`` (from 0): uniform in 0 .. min(cap, base * 2**attempt).

    Full jitter spreads retries best among clients that failed together.
    """
    ceiling_s = min(cap_s, base_s * 2.0 ** min(attempt, 60))
    return rng.uniform(0.0, ceiling_s)


def single_pause_s(retry_after_s: float | None) -> float:
    """Seconds to wait before a single call that was turned away is made again."""
    return SINGLE_PAUSE_S if retry_after_s is None else retry_after_s


def catalogue_pause_s(retry_after_s: float | None) -> float:
    """Seconds to wait before a catalogue is asked again, after a call that failed."""
    return CATALOGUE_PAUSE_S if retry_after_s is None else min(retry_after_s, CATALOGUE_PAUSE_MAX_S)


class Gate:
    """One gate for all calls to the API, so that a 429 pauses them once and they don't retry as a herd.

    A server's ``Retry-After`` is respected in full; without one, or if the server can't be reached,
    the pauses grow with each consecutive refusal.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._open_at_s = 0.0
        self._spread_s = 0.0
        self._refusals = 0
        self._misses = 0

    def delay_s(self, now_s: float) -> float:
        """Seconds until a call may go out: 0 if the gate is open.

        A closed gate adds a small random delay for each caller, so that they don't start together.
        """
        closed_s = self.closed_s(now_s)
        return closed_s + self._rng.uniform(0.0, self._spread_s) if closed_s else 0.0

    def closed_s(self, now_s: float) -> float:
        """Seconds until the gate opens, for all; 0 if it is open."""
        return max(self._open_at_s - now_s, 0.0)

    def turned_away(self, now_s: float, retry_after_s: float | None) -> float:
        """The API turned a call away: close, and return for how many seconds.

        Calls that were sent together and refused together count as one refusal and cause one pause.
        """
        if retry_after_s is None and self._refusals and now_s < self._open_at_s:
            return self._open_at_s - now_s
        pause_s = retry_after_s
        if pause_s is None:
            pause_s = GATE_BASE_S + full_jitter_s(
                self._refusals, self._rng, base_s=GATE_BASE_S, cap_s=GATE_CAP_S
            )
        self._refusals += 1
        return self._close(now_s, pause_s)

    def unreachable(self, now_s: float) -> float:
        """The API could not be reached: close for a time that grows with each consecutive miss."""
        pause_s = full_jitter_s(self._misses, self._rng, base_s=REACH_BASE_S, cap_s=REACH_CAP_S)
        self._misses += 1
        return self._close(now_s, pause_s)

    def answered(self) -> None:
        """The API answered a call: reset the counts of refusals and misses."""
        self._refusals = self._misses = 0

    def _close(self, now_s: float, pause_s: float) -> float:
        self._open_at_s = max(self._open_at_s, now_s + pause_s)
        self._spread_s = min(SPREAD_CAP_S, pause_s)
        return pause_s
