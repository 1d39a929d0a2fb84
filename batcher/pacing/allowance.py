"""How often an unknown limit may be tried: a budget for refusals."""

from __future__ import annotations

import math
from dataclasses import dataclass

PROBE_CALLS = 25
PROBE_CALLS_FIRST = 4
VOLLEY_PRICES = 3
PROBE_PAUSES = 5.0
PAUSE_MIN_S = 1.0


@dataclass(slots=True)
class Allowance:
    """The budget for refusals: a share of the calls, and a share of the time."""

    patience: int = 4
    """How many times the wait for the next try doubles."""
    confirmations: int = 0
    _calls: int = 0
    _paused_until_s: float = -math.inf
    _probe_at_s: float = -math.inf

    def answered(self) -> None:
        """A call was answered."""
        self._calls += 1

    def refused(self, now_s: float, pause_s: float, *, confirms: bool) -> bool:
        """A call was refused; returns whether that is new, or one of several refused together.

        ``confirms``: it was refused at a known ceiling.
        """
        news = now_s >= self._paused_until_s
        self._paused_until_s = max(self._paused_until_s, now_s + pause_s)
        if not news:
            self._calls = max(self._calls - self._price, -VOLLEY_PRICES * self._price)
            return False
        self.confirmations = min(self.confirmations + 1, self.patience) if confirms else 0
        self._calls = min(self._calls, 0)
        pauses = PROBE_PAUSES * 2.0**self.confirmations
        self._probe_at_s = now_s + pauses * max(pause_s, PAUSE_MIN_S)
        return True

    def affords(self, now_s: float) -> bool:
        """Whether the budget allows one more refusal."""
        return self._calls >= self._price and now_s >= self._probe_at_s

    @property
    def _price(self) -> int:
        return PROBE_CALLS * (1 + self.confirmations) if self.confirmations else PROBE_CALLS_FIRST
