"""How many at once, and how fast: limits that nobody told, found by their refusals.

Two kinds of limit look alike from outside: so many unfinished requests, and so many calls a second. A
refused poll can only mean the second. A refused POST is asked once more after the pause: accepted then,
with as many unfinished as before, it had come too fast; refused again, there were too many.

What was found is kept just below, and tried again only as refusals can be afforded: after a hundred
calls, and after fifty times the pause that a refusal costs. Additive increase with a decrease by half
would give a quarter of the capacity away, and have a refusal every few seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

AUTO_START = 8
AUTO_MAX = 2000
CUT = 0.75
CONFIRMED_BY = 2
DOUBLING_S = 2.0
QUEUED_HOLD_S = 10.0
PROBE_CALLS = 100
PROBE_PAUSES = 50.0
PAUSE_MIN_S = 1.0
LONG_PAUSE_S = 5.0
FULL_SHARE = 0.9

RATE_CUT = 0.9
RATE_SMOOTHING_S = 2.0
RATE_CLIMB_PER_S = 0.01
RATE_KEPT = 0.97
RATE_DOUBLING_S = 5.0
RATE_MIN_PER_S = 0.1
RATE_FRESH_S = 30.0

BEHIND_S = 2.0
"""Calls that wait so long for their turn are too many."""
SLOW_FACTOR = 2.0
SLOW_SLACK_S = 0.1
SLOW_CUT = 0.9
SLOW_EVERY_S = 5.0
LATENCY_SMOOTHING = 0.1
BASELINE_DRIFT = 0.0005


@dataclass(slots=True)
class Allowance:
    """What refusals cost, and whether one more can be afforded."""

    calls: int = 0
    paused_until_s: float = -math.inf
    next_probe_s: float = -math.inf

    def answered(self) -> None:
        """A call was answered."""
        self.calls += 1

    def refused(self, now_s: float, pause_s: float) -> bool:
        """A call was refused; whether that is news, or one of a volley."""
        news = now_s >= self.paused_until_s
        self.paused_until_s = max(self.paused_until_s, now_s + pause_s)
        self.next_probe_s = now_s + PROBE_PAUSES * max(pause_s, PAUSE_MIN_S)
        self.calls = min(self.calls, 0) if news else self.calls - PROBE_CALLS
        return news

    def affords(self, now_s: float) -> bool:
        """Whether a refusal now is within what a refusal may cost."""
        return self.calls >= PROBE_CALLS and now_s >= self.next_probe_s


@dataclass(slots=True)
class Window:
    """How many requests of one model may be unfinished.

    ``unfinished`` counts those under way, without the POST that is spoken of.
    """

    limit: float = AUTO_START
    ceiling: float = math.inf
    """As many were under way when POSTs were refused."""
    refusals: int = 0
    """POSTs refused since one was accepted."""
    doubted_at: int | None = None
    allowance: Allowance = field(default_factory=Allowance)
    held_until_s: float = -math.inf
    _doubling_from: float = AUTO_START
    _doubling_since_s: float = -math.inf

    def room(self, unfinished: int) -> bool:
        """Whether one more may be submitted."""
        return unfinished < int(self.limit)

    def accepted(self, unfinished: int, now_s: float) -> bool:
        """A POST was accepted; True where that shows that the last refusal was for coming too fast."""
        self.refusals = 0
        if unfinished + 1 > self.ceiling:
            self.ceiling = math.inf
        too_fast = self.doubted_at is not None and unfinished >= self.doubted_at
        if too_fast:
            self.doubted_at = None
        elif unfinished + 1 >= FULL_SHARE * int(self.limit):
            self._climb(now_s)
        return too_fast

    def refused(self, unfinished: int, now_s: float, pause_s: float) -> None:
        """A POST was refused, and all calls pause for ``pause_s`` seconds."""
        if not self.allowance.refused(now_s, pause_s):
            return
        self.refusals += 1
        if self.refusals == 1 and unfinished < self.ceiling:
            self.doubted_at = unfinished
            self.limit = unfinished + 1.0  # the same once more, and nothing beyond it
            return
        self.doubted_at = None
        self.ceiling = max(unfinished, 1.0)
        surprises = self.refusals > CONFIRMED_BY
        self.limit = max(CUT * unfinished, 1.0) if surprises else self.ceiling

    def slow_down(self, unfinished: int) -> None:
        """Answers take longer than they should: fewer at once."""
        self.limit = max(min(self.limit, unfinished) * SLOW_CUT, 1.0)

    def restart(self, unfinished: int, now_s: float) -> None:
        """After a long pause: go on from what is under way, rather than all at once."""
        self.limit = min(self.limit, max(unfinished + 1.0, AUTO_START))
        self._doubling_from, self._doubling_since_s = self.limit, now_s

    def _climb(self, now_s: float) -> None:
        """One more for each POST accepted when full: doubles, but not faster than answers tell.

        Beyond a known ceiling only where a refusal can be afforded.
        """
        if now_s < self.held_until_s:
            return
        if now_s - self._doubling_since_s >= DOUBLING_S:
            self._doubling_from, self._doubling_since_s = self.limit, now_s
        if self.limit + 1 > self.ceiling and not self.allowance.affords(now_s):
            return
        self.limit = min(self.limit + 1.0, 2.0 * self._doubling_from, AUTO_MAX)


@dataclass(slots=True)
class CallRate:
    """How many calls a second, of all kinds; free until one was refused for coming too fast."""

    level_per_s: float = math.inf
    ceiling_per_s: float = math.inf
    allowance: Allowance = field(default_factory=Allowance)
    wait_s: float = 0.0
    """How long the last call in line had to wait."""
    _measured_per_s: float = 0.0
    _measured_at_s: float = 0.0
    _climbed_at_s: float = 0.0
    _beyond_since_s: float | None = None
    _cut_at_s: float = -math.inf
    _next_s: float = -math.inf

    def reserve_s(self, now_s: float) -> float:
        """Take the next place in line; returns the seconds until it comes."""
        if math.isinf(self.level_per_s):
            return 0.0
        due_s = max(self._next_s, now_s)
        self._next_s = due_s + 1.0 / self.level_per_s
        self.wait_s = due_s - now_s
        return self.wait_s

    def answered(self, now_s: float) -> None:
        """A call was answered."""
        self.allowance.answered()
        self._measure(now_s)
        if not math.isinf(self.level_per_s):
            self._climb(now_s)

    def refused(self, now_s: float, pause_s: float) -> None:
        """A call came too fast, and all calls pause for ``pause_s`` seconds."""
        if not self.allowance.refused(now_s, pause_s):
            return
        reached_per_s = max(min(self.level_per_s, self._now_per_s(now_s)), RATE_MIN_PER_S)
        calm = now_s - self._cut_at_s >= RATE_FRESH_S
        self.ceiling_per_s = reached_per_s
        self.level_per_s = reached_per_s * (RATE_KEPT if calm and self._cut_at_s > 0 else RATE_CUT)
        self._cut_at_s = self._climbed_at_s = now_s + pause_s
        self._next_s = max(self._next_s, now_s) if self.wait_s < pause_s else now_s
        self._beyond_since_s = None

    def _climb(self, now_s: float) -> None:
        """By a part a second while it is what holds calls back; past the ceiling ever faster."""
        passed_s = min(max(now_s - self._climbed_at_s, 0.0), 1.0)
        self._climbed_at_s = max(now_s, self._climbed_at_s)
        if not self.wait_s:
            return
        if self.level_per_s < self.ceiling_per_s * RATE_KEPT:
            self.level_per_s *= 1.0 + RATE_CLIMB_PER_S * passed_s
        elif self._beyond_since_s is not None or self.allowance.affords(now_s):
            since_s = self._beyond_since_s = (
                now_s if self._beyond_since_s is None else self._beyond_since_s
            )
            speed = RATE_CLIMB_PER_S * 2.0 ** min((now_s - since_s) / RATE_DOUBLING_S, 4.0)
            self.level_per_s *= 1.0 + speed * passed_s

    def _measure(self, now_s: float) -> None:
        self._measured_per_s = self._now_per_s(now_s) + 1.0 / RATE_SMOOTHING_S
        self._measured_at_s = now_s

    def _now_per_s(self, now_s: float) -> float:
        passed_s = max(now_s - self._measured_at_s, 0.0)
        return self._measured_per_s * math.exp(-passed_s / RATE_SMOOTHING_S)


@dataclass(slots=True)
class Latency:
    """Whether answers take longer than they used to: the mark of a server that has too much to do."""

    usual_s: float = math.inf
    lately_s: float = 0.0
    told_at_s: float = -math.inf

    def note(self, took_s: float, now_s: float) -> bool:
        """Take in one answer; whether it is time to slow down, at most once in some seconds."""
        if math.isinf(self.usual_s):
            self.usual_s = self.lately_s = took_s
        self.lately_s += LATENCY_SMOOTHING * (took_s - self.lately_s)
        self.usual_s = min(self.usual_s + BASELINE_DRIFT * (self.lately_s - self.usual_s), self.lately_s)
        slow = self.lately_s > SLOW_FACTOR * self.usual_s + SLOW_SLACK_S
        if not slow or now_s - self.told_at_s < SLOW_EVERY_S:
            return False
        self.told_at_s = now_s
        return True


class Adaptive:
    """The limits of one run: a window for each model, one rate and one sense of strain for all."""

    def __init__(self) -> None:
        self.rate = CallRate()
        self.latency = Latency()
        self._windows: dict[str, Window] = {}
        self._refused_poll_s = -math.inf
        self._resumes_at_s = -math.inf

    def window(self, model: str) -> Window:
        """The window of ``model``."""
        return self._windows.setdefault(model, Window())

    def answered(self, took_s: float, now_s: float) -> bool:
        """Any call was answered after ``took_s`` seconds; whether answers have become slow."""
        self.rate.answered(now_s)
        for window in self._windows.values():
            window.allowance.answered()
        behind = self.rate.wait_s > BEHIND_S and now_s - self.latency.told_at_s >= SLOW_EVERY_S
        if behind:
            self.latency.told_at_s = now_s
        return self.latency.note(took_s, now_s) or behind

    def accepted(self, model: str, unfinished: int, now_s: float) -> None:
        """A POST was accepted while ``unfinished`` others of ``model`` were under way."""
        if self.rate.wait_s > BEHIND_S / 2:
            self.window(model).held_until_s = now_s + 1.0
        if self.window(model).accepted(unfinished, now_s):
            self.rate.refused(now_s, 0.0)

    def queued(self, model: str, now_s: float) -> None:
        """A request has others before it: more of them would only wait longer."""
        self.window(model).held_until_s = now_s + QUEUED_HOLD_S

    def refused_post(self, model: str, unfinished: int, now_s: float, pause_s: float) -> None:
        """A POST was turned away, and all calls pause for ``pause_s`` seconds."""
        if now_s - self._refused_poll_s < RATE_FRESH_S:
            self.rate.refused(now_s, pause_s)
        else:
            self.window(model).refused(unfinished, now_s, pause_s)

    def refused_poll(self, now_s: float, pause_s: float) -> None:
        """A poll was turned away: it can only have come too fast."""
        self._refused_poll_s = now_s
        self.rate.refused(now_s, pause_s)
