"""How many at once, and how fast: unknown limits, discovered by their refusals.

A refused POST means too many unfinished requests; a refused poll can only mean too many calls a second.
Each limit climbs until it is refused, then stays at the value found, and tries a little more only if a
refusal is affordable: more rarely, the more often a ceiling was confirmed. Additive increase with
halving would waste a quarter of the capacity and cause a refusal every few seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

AUTO_START = 8
AUTO_MAX = 1000
STEP_S = 2.0
STEP_AFTER_REFUSAL = 1.0
STEP_AFTER_STRAIN_SHARE = 0.1
CUT = 0.75
NEAR = 0.9
FULL_SHARE = 0.9
PACING_GAIN = 1.6
LONG_PAUSE_S = 5.0

PROBE_CALLS = 25
PROBE_CALLS_FIRST = 4
VOLLEY_PRICES = 3
PROBE_PAUSES = 5.0
RATE_PATIENCE = 2
PAUSE_MIN_S = 1.0

RATE_CUT = 0.9
RATE_CUT_MAX = 0.9
RATE_KEPT = 0.98
RATE_SMOOTHING_S = 2.0
RATE_CLIMB_PER_S = 0.03
RATE_PROBE_PER_S = 0.005
RATE_DOUBLING_S = 5.0
RATE_MIN_PER_S = 0.1
RATE_REST_S = 2.0
REFUSED_POLL_FRESH_S = 30.0

BINDING_S = 0.2
BEHIND_S = 3.0
"""If calls wait this long for their turn, more requests would only wait longer. Seconds."""
FAR_BEHIND_S = 10.0
SLOW_FACTOR = 2.0
SLOW_SLACK_S = 0.1
SLOW_CUT = 0.85
SLOW_EVERY_S = 5.0
LATENCY_SMOOTHING = 0.1
BASELINE_DRIFT = 0.0005
ROUND_SMOOTHING = 0.1
QUEUED_HOLD_S = 10.0


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


@dataclass(slots=True)
class Window:
    """How many requests of one model may be unfinished.

    ``unfinished`` counts those under way, without the current POST.
    """

    limit: float = AUTO_START
    ceiling: float = math.inf
    """The number under way when a POST was refused."""
    allowance: Allowance = field(default_factory=Allowance)
    held_until_s: float = -math.inf
    round_s: float = 0.0
    """How long a request has recently stayed unfinished."""
    _next_s: float = -math.inf
    _refused_at: float = math.inf
    _refusals: int = 0
    _cut_at_s: float = -math.inf
    _step: float = AUTO_START
    _step_s: float = STEP_S
    _step_from: float = AUTO_START
    _step_since_s: float = -math.inf

    def has_room(self, unfinished: int, now_s: float) -> bool:
        """Whether one more may be submitted. Ask again from time to time: a full window may grow."""
        if unfinished >= int(self.limit):
            self._climb(now_s)
        return unfinished < int(self.limit)

    def reserve_s(self, now_s: float) -> float:
        """Take the next place in line for a POST; returns the seconds until it comes.

        A full window is spread over most of the time that requests take. Requests that start
        together end together, and would be polled and replaced in bursts from then on.
        """
        due_s = max(self._next_s, now_s)
        self._next_s = due_s + self.round_s / (PACING_GAIN * max(self.limit, 1.0))
        return due_s - now_s

    def accepted(self, unfinished: int, now_s: float) -> None:
        """A POST was accepted."""
        self._refusals = 0
        if unfinished + 1 > self.ceiling:
            self.ceiling = math.inf
        if unfinished + 1 >= FULL_SHARE * int(self.limit):
            self._climb(now_s)

    def refused(self, unfinished: int, now_s: float, pause_s: float) -> None:
        """A POST was refused, and all calls pause for ``pause_s`` seconds."""
        confirms = NEAR * self._refused_at <= unfinished <= self._refused_at / NEAR
        if not self.allowance.refused(now_s, pause_s, confirms=confirms):
            return
        self._refusals += 1
        self.ceiling = self._refused_at = max(float(unfinished), 1.0)
        # After one refusal, this is the limit; after another with nothing accepted between, it fell.
        self.limit = self.ceiling if self._refusals == 1 else max(CUT * self.ceiling, 1.0)
        self._begin_steps(STEP_AFTER_REFUSAL, STEP_S, now_s)

    def finished(self, took_s: float) -> None:
        """A request is no longer unfinished, ``took_s`` seconds after it was accepted."""
        self.round_s += ROUND_SMOOTHING * (took_s - self.round_s) if self.round_s else took_s

    def slow_down(self, unfinished: int, now_s: float) -> None:
        """Answers are too slow: lower the window, then measure the effect."""
        if now_s - self._cut_at_s < max(SLOW_EVERY_S, self.round_s / 2):
            return
        self._cut_at_s = now_s
        self.limit = max(min(self.limit, unfinished) * SLOW_CUT, 1.0)
        step = max(STEP_AFTER_STRAIN_SHARE * self.limit, 1.0)
        self._begin_steps(step, max(STEP_S, self.round_s / 2), now_s)

    def restart(self, unfinished: int, now_s: float) -> None:
        """After a long pause: grow from the requests under way instead of starting all at once."""
        self.limit = min(self.limit, max(unfinished + 1.0, AUTO_START))
        self._begin_steps(AUTO_START, STEP_S, now_s)

    def _begin_steps(self, step: float, step_s: float, now_s: float) -> None:
        self._step, self._step_s = step, step_s
        self._step_from, self._step_since_s = self.limit, now_s

    def _climb(self, now_s: float) -> None:
        """One more for each POST accepted when full, in steps that double and give answers time."""
        if now_s < self.held_until_s:
            return
        if now_s - self._step_since_s >= self._step_s:
            grown = self.limit >= self._step_from + self._step
            self._begin_steps(self._step * 2.0 if grown else self._step, self._step_s, now_s)
        if self.limit + 1 <= self.ceiling or self.allowance.affords(now_s):
            self.limit = min(self.limit + 1.0, self._step_from + self._step, AUTO_MAX)


@dataclass(slots=True)
class CallRate:
    """Calls per second, of all kinds; unlimited until a poll is refused."""

    level_per_s: float = math.inf
    ceiling_per_s: float = math.inf
    allowance: Allowance = field(default_factory=lambda: Allowance(RATE_PATIENCE))
    line: int = 0
    """Incremented when all waiting calls must queue again: earlier reservations are void."""
    _next_s: float = -math.inf
    _measured_per_s: float = 0.0
    _measured_at_s: float = 0.0
    _climbed_at_s: float = 0.0
    _cut_at_s: float = -math.inf
    _answered: int = 0
    """Calls since the last cut."""
    _beyond_since_s: float | None = None

    def reserve_s(self, now_s: float) -> float:
        """Take the next place in line; returns the seconds until it comes."""
        if math.isinf(self.level_per_s):
            return 0.0
        due_s = max(self._next_s, now_s)
        self._next_s = due_s + 1.0 / self.level_per_s
        return due_s - now_s

    def behind_s(self, now_s: float) -> float:
        """Seconds that a call would wait for its turn."""
        return max(self._next_s - now_s, 0.0)

    def answered(self, now_s: float) -> None:
        """A call was answered."""
        self.allowance.answered()
        self._answered += 1
        self._measured_per_s = self._lately_per_s(now_s) + 1.0 / RATE_SMOOTHING_S
        self._measured_at_s = now_s
        if not math.isinf(self.level_per_s):
            self._climb(now_s)

    def refused(self, now_s: float, pause_s: float) -> None:
        """A call came too fast, and all calls pause for ``pause_s`` seconds."""
        known = self._cut_at_s > -math.inf
        if not self.allowance.refused(now_s, pause_s, confirms=known):
            return
        if known:
            self.ceiling_per_s = self._ceiling_per_s(now_s)
            self.level_per_s = max(RATE_KEPT * self.ceiling_per_s, RATE_MIN_PER_S)
        else:
            self.level_per_s = max(RATE_CUT * self._lately_per_s(now_s), RATE_MIN_PER_S)
        self._cut_at_s, self._answered = now_s, 0
        self._next_s = now_s + pause_s
        self._climbed_at_s = now_s + pause_s + RATE_REST_S
        self._beyond_since_s = None
        self.line += 1

    def _ceiling_per_s(self, now_s: float) -> float:
        """The rate that the server accepts: the calls it answered between two refusals.

        Whatever burst it allows was used up at both.
        """
        answered_per_s = self._answered / max(now_s - self._cut_at_s, PAUSE_MIN_S)
        return min(max(answered_per_s, RATE_CUT_MAX * self.level_per_s), self.level_per_s)

    def _climb(self, now_s: float) -> None:
        """Grow by a share per second while it limits calls; beyond the ceiling slowly, then faster."""
        passed_s = min(now_s - self._climbed_at_s, 1.0)
        if passed_s < 0.0:
            return
        self._climbed_at_s = now_s
        if self.behind_s(now_s) < BINDING_S:
            return
        if self.level_per_s < self.ceiling_per_s * RATE_KEPT:
            self.level_per_s *= 1.0 + RATE_CLIMB_PER_S * passed_s
        elif self._beyond_since_s is not None or self.allowance.affords(now_s):
            if self._beyond_since_s is None:
                self._beyond_since_s = now_s
            doublings = min((now_s - self._beyond_since_s) / RATE_DOUBLING_S, 4.0)
            self.level_per_s *= 1.0 + RATE_PROBE_PER_S * 2.0**doublings * passed_s

    def _lately_per_s(self, now_s: float) -> float:
        passed_s = max(now_s - self._measured_at_s, 0.0)
        return self._measured_per_s * math.exp(-passed_s / RATE_SMOOTHING_S)


@dataclass(slots=True)
class Latency:
    """Whether answers take longer than before: the sign of an overloaded server."""

    usual_s: float = math.inf
    lately_s: float = 0.0

    def is_high(self, took_s: float) -> bool:
        """Record one answer that took ``took_s`` seconds."""
        if math.isinf(self.usual_s):
            self.usual_s = self.lately_s = took_s
        self.lately_s += LATENCY_SMOOTHING * (took_s - self.lately_s)
        self.usual_s += BASELINE_DRIFT * (self.lately_s - self.usual_s)
        self.usual_s = min(self.usual_s, self.lately_s)
        return self.lately_s > SLOW_FACTOR * self.usual_s + SLOW_SLACK_S


class Adaptive:
    """The limits of one run: a window for each model, one rate and one latency check for all."""

    def __init__(self) -> None:
        self.rate = CallRate()
        self.windows: dict[str, Window] = {}
        self._latency = Latency()
        self._refused_poll_s = -math.inf

    def window(self, model: str) -> Window:
        """The window of ``model``."""
        if (window := self.windows.get(model)) is None:
            window = self.windows[model] = Window()
        return window

    def answered(self, took_s: float, now_s: float) -> bool:
        """A call was answered after ``took_s`` seconds; returns whether to slow down."""
        self.rate.answered(now_s)
        for window in self.windows.values():
            window.allowance.answered()
        return self._latency.is_high(took_s) or self.rate.behind_s(now_s) > FAR_BEHIND_S

    def spacing_s(self, model: str, now_s: float) -> float:
        """Seconds until a POST may be sent: evenly spaced if the call rate is the limit."""
        return 0.0 if math.isinf(self.rate.level_per_s) else self.window(model).reserve_s(now_s)

    def accepted(self, model: str, unfinished: int, now_s: float) -> None:
        """A POST was accepted while ``unfinished`` others of ``model`` were under way."""
        window = self.window(model)
        if self.rate.behind_s(now_s) > BEHIND_S:
            window.held_until_s = max(window.held_until_s, now_s + max(window.round_s, STEP_S))
        window.accepted(unfinished, now_s)

    def queued(self, model: str, now_s: float) -> None:
        """A request is queued at the API: more of them would only wait longer."""
        self.window(model).held_until_s = now_s + QUEUED_HOLD_S

    def refused_post(self, model: str, unfinished: int, now_s: float, pause_s: float) -> None:
        """A POST was turned away, and all calls pause for ``pause_s`` seconds."""
        if now_s - self._refused_poll_s < REFUSED_POLL_FRESH_S:
            self.rate.refused(now_s, pause_s)
        else:
            self.window(model).refused(unfinished, now_s, pause_s)

    def refused_poll(self, now_s: float, pause_s: float) -> None:
        """A poll was turned away: the only cause is too high a rate."""
        self._refused_poll_s = now_s
        self.rate.refused(now_s, pause_s)
