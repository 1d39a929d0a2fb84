"""An even rate of calls."""

from __future__ import annotations


class RateLimit:
    """At most ``per_s`` submissions a second, evenly spaced (the generic cell rate algorithm)."""

    def __init__(self, per_s: float | None) -> None:
        self._own_per_s = per_s
        self._interval_s = 1.0 / per_s if per_s else 0.0
        self._next_s = 0.0

    def widen(self, more_per_s: float) -> None:
        """Set the rate to ``more_per_s`` above its first value, for later callers."""
        if self._own_per_s is not None:
            self._interval_s = min(self._interval_s, 1.0 / (self._own_per_s + more_per_s))

    def reserve_s(self, now_s: float) -> float:
        """Reserve the next turn; returns the seconds until then."""
        due_s = max(self._next_s, now_s)
        self._next_s = due_s + self._interval_s
        return due_s - now_s
