"""How many at once, and how fast: unknown limits, discovered by their refusals.

A refused POST means too many unfinished requests; a refused poll can only mean too many calls a second.
Each limit climbs until it is refused, then stays at the value found, and tries a little more only if a
refusal is affordable: more rarely, the more often a ceiling was confirmed. Additive increase with
halving would waste a quarter of the capacity and cause a refusal every few seconds.

If calls are the limit, each request under way will need its polls. So no more are under way than the
rate can poll, and POSTs are spaced by what they and their polls take from it. Without both, requests
start and end in waves, and half of the time the rate is not used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from batcher.pacing.allowance import PAUSE_MIN_S, Allowance

AUTO_START = 8
AUTO_MAX = 1000
STEP_S = 2.0
STEP_AFTER_REFUSAL = 1.0
STEP_AFTER_STRAIN_SHARE = 0.1
CUT = 0.75
NEAR = 0.9
FULL_SHARE = 0.9
PACING_GAIN = 1.6
POST_GAIN = 1.2
"""POSTs may come this much faster than the rate can serve them for ever, to fill gaps."""
LOAD_SHARE = 1.3
"""Calls that requests under way may need, as a share of the rate: a line absorbs what chance adds."""
OUTLOOK_SMOOTHING = 0.05
POLLS_FACTOR = 2.0
"""So many times the usual polls if slots are the limit: a request whose end is unseen holds one."""
POLLS_SAVED = 2.3
"""So many polls fewer per request if calls are the limit: they are worth more as POSTs."""
POLLS_FEWEST = 1.25
LONG_PAUSE_S = 5.0

RATE_PATIENCE = 2

RATE_CUT = 0.9
RATE_CUT_MAX = 0.9
RATE_SMOOTHING_S = 2.0
RATE_CLIMB_PER_S = 0.03
RATE_PROBE_PER_S = 0.005
RATE_DOUBLING_S = 5.0
RATE_MIN_PER_S = 0.1
RATE_REST_S = 2.0
REFUSED_POLL_FRESH_S = 30.0

BINDING_S = 0.1
BINDING_SHARE = 0.9
"""The rate limits only if calls come at nearly that rate. Share of the level."""
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
    calls: float = 0.0
    """How many calls a request is expected to need, its POST included; 0 if unknown."""
    takes_s: float = math.inf
    """How long a request is expected to stay unfinished."""
    load_per_s: float = 0.0
    """Calls per second that the requests under way are expected to need."""
    _next_s: float = -math.inf
    _refused_at: float = math.inf
    _refusals: int = 0
    _cut_at_s: float = -math.inf
    _step: float = AUTO_START
    _step_s: float = STEP_S
    _step_from: float = AUTO_START
    _step_since_s: float = -math.inf

    @property
    def is_known(self) -> bool:
        """Whether the limit was found: it is about what was refused."""
        return self.limit * NEAR <= self._refused_at < math.inf

    def has_room(self, unfinished: int, now_s: float, *, waiting: bool = False) -> bool:
        """Whether one more may be submitted. Ask again from time to time: a full window may grow.

        ``waiting``: some of ``unfinished`` are POSTs that wait for their turn, so it isn't full yet.
        """
        if unfinished >= int(self.limit) and not waiting:
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

    def expects(self, calls: float, takes_s: float) -> None:
        """A request was accepted that will need ``calls`` calls within ``takes_s`` seconds."""
        if not self.calls:
            self.calls, self.takes_s = calls, takes_s
        self.calls += OUTLOOK_SMOOTHING * (calls - self.calls)
        self.takes_s += OUTLOOK_SMOOTHING * (takes_s - self.takes_s)

    def finished(self, took_s: float) -> None:
        """A request is no longer unfinished, ``took_s`` seconds after it was accepted."""
        self.load_per_s = max(self.load_per_s - self.calls / self.takes_s, 0.0)
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
    _next_post_s: float = -math.inf
    _measured_per_s: float = 0.0
    _measured_at_s: float = 0.0
    _climbed_at_s: float = 0.0
    _cut_at_s: float = -math.inf
    _answered: int = 0
    """Calls since the last cut."""
    _beyond_since_s: float | None = None

    def reserve_s(self, now_s: float) -> float:
        """Take the next place in line; returns the seconds until it comes."""
        if not self.is_known:
            return 0.0
        due_s = max(self._next_s, now_s)
        self._next_s = due_s + 1.0 / self.level_per_s
        return due_s - now_s

    def reserve_post_s(self, calls: float, now_s: float) -> float:
        """Take the next place for a POST that causes ``calls`` calls; returns the seconds until then."""
        due_s = max(self._next_post_s, now_s)
        self._next_post_s = due_s + calls / (POST_GAIN * self.level_per_s)
        return due_s - now_s

    @property
    def is_known(self) -> bool:
        """Whether a limit was found."""
        return not math.isinf(self.level_per_s)

    @property
    def is_probing(self) -> bool:
        """Whether calls come faster than the known ceiling, to see if it rose."""
        return self._beyond_since_s is not None

    def behind_s(self, now_s: float) -> float:
        """Seconds that a call would wait for its turn."""
        return max(self._next_s - now_s, 0.0)

    def answered(self, now_s: float) -> None:
        """A call was answered."""
        self.allowance.answered()
        self._answered += 1
        self._measured_per_s = self._lately_per_s(now_s) + 1.0 / RATE_SMOOTHING_S
        self._measured_at_s = now_s
        if self.is_known:
            self._climb(now_s)

    def refused(self, now_s: float, pause_s: float) -> None:
        """A call came too fast, and all calls pause for ``pause_s`` seconds."""
        known = self._cut_at_s > -math.inf
        if not self.allowance.refused(now_s, pause_s, confirms=known):
            return
        if known:
            self.ceiling_per_s = self._ceiling_per_s(now_s)
            self.level_per_s = self.ceiling_per_s = max(self.ceiling_per_s, RATE_MIN_PER_S)
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
        if self.behind_s(now_s) < BINDING_S or self._measured_per_s < BINDING_SHARE * self.level_per_s:
            return
        if self.level_per_s < self.ceiling_per_s:
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

    def serves(self, model: str, polled: int) -> bool:
        """Whether the call rate allows one more request of ``model``, with ``polled`` under way."""
        window = self.window(model)
        window.load_per_s = polled * window.calls / window.takes_s
        load_per_s = sum(each.load_per_s for each in self.windows.values())
        return not polled or load_per_s < LOAD_SHARE * self.rate.level_per_s

    def spacing_s(self, model: str, now_s: float) -> float:
        """Seconds until a POST may be sent: evenly spaced if the call rate is the limit."""
        window = self.window(model)
        if not self.rate.is_known:
            return 0.0
        if not window.calls:
            return window.reserve_s(now_s)
        return self.rate.reserve_post_s(window.calls, now_s)

    def expects(self, model: str, polls: float, takes_s: float) -> None:
        """A request of ``model`` was accepted: it needs ``polls`` polls in ``takes_s`` seconds."""
        self.window(model).expects(1.0 + polls, takes_s)

    def polls(self, model: str | None, usual: float) -> float:
        """How many polls a request of ``model`` is worth now, if it is usually worth ``usual``."""
        window = self.window(model or "")
        if not self.rate.is_known:
            return usual * POLLS_FACTOR if window.is_known else usual
        full_per_s = window.limit * window.calls / window.takes_s
        is_scarce = full_per_s >= self.rate.level_per_s
        return max(usual - POLLS_SAVED, POLLS_FEWEST) if is_scarce else usual

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
        if self.rate.is_probing or now_s - self._refused_poll_s < REFUSED_POLL_FRESH_S:
            self.rate.refused(now_s, pause_s)
        else:
            self.window(model).refused(unfinished, now_s, pause_s)

    def refused_poll(self, now_s: float, pause_s: float) -> None:
        """A poll was turned away: the only cause is too high a rate."""
        self._refused_poll_s = now_s
        self.rate.refused(now_s, pause_s)
