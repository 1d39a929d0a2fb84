"""When to poll: at a fixed interval, by the request's age, or by how long similar requests took."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, NamedTuple, Protocol

from batcher.pacing.completion_times import Finishing, estimate
from batcher.pacing.inspection import Inspection, inspect

if TYPE_CHECKING:
    from batcher.pacing.timings import Span, TimingKey

POLL_FIRST_S = 1.0
POLL_GROWTH = 0.3
POLL_MIN_S = 0.5
POLL_MAX_S = 20.0
POLL_JITTER = 0.1

LEARNED_FROM = 6
"""Learned schedules start after this many finished requests."""
LEARNED_MIN_S = 0.01
LEARNED_JITTER = 0.15
"""Share of the gap between two polls: separates requests that start together, at little staleness."""
CALLS_SHORT = 2.55
CALLS_PER_E_FOLD = 0.982
SHORT_S = 2.0
RUNNING_SAMPLE = 256
RELEARN_S = 1.0
RELEARN_SHARE = 1 / 8
LATE_QUANTILE = 0.9
LATE_FACTOR = 2.0
LATE_CHANCE = 2.0
QUEUE_SMOOTHING = 0.3
QUEUE_SHARE = 0.5
QUEUE_WAIT_MAX_S = 120.0


class PollSchedule:
    """When to ask for a result: at a fixed interval, or at steps that grow with the request's age."""

    def __init__(self, rng: Random, interval_s: float | None = None) -> None:
        self._rng = rng
        self._interval_s = interval_s

    def first_s(self) -> float:
        """Seconds from the answer of the POST to the first poll."""
        return self._jittered(self._interval_s or POLL_FIRST_S)

    def next_s(self, age_s: float, queue_position: int | None = None) -> float:
        """Seconds from a poll that found nothing, ``age_s`` after the POST, to the next one."""
        del queue_position
        if self._interval_s is not None:
            return self._jittered(self._interval_s)
        return self._jittered(min(max(age_s * POLL_GROWTH, POLL_MIN_S), POLL_MAX_S))

    def _jittered(self, delay_s: float) -> float:
        return delay_s * self._rng.uniform(1.0 - POLL_JITTER, 1.0 + POLL_JITTER)


class Polls(Protocol):
    """When to ask for one request's result."""

    def first_s(self) -> float: ...
    def next_s(self, age_s: float, queue_position: int | None = None) -> float: ...


class DurationHistory(Protocol):
    """A record of how long requests took, which grows as they finish."""

    def count(self, key: TimingKey) -> int: ...
    def spans(self, key: TimingKey) -> Sequence[Span]: ...


def calls_for(typical_s: float) -> float:
    """How many polls a request of ``typical_s`` seconds is worth: one more for each factor of e."""
    return CALLS_SHORT + CALLS_PER_E_FOLD * math.log(max(typical_s / SHORT_S, 1.0))


class Outlook(NamedTuple):
    """What a request is expected to need: ``polls``, and ``takes_s`` seconds until its end is seen."""

    polls: float
    takes_s: float


@dataclass(slots=True)
class _Lesson:
    """The schedule learned for one key, and its requests that are being watched."""

    inspection: Inspection | None = None
    outlook: Outlook | None = None
    learned_at_s: float = -math.inf
    finished: int = 0
    news: int = 0
    """Informative polls since then: of a finished request, or of one later than most."""
    late_s: float = math.inf
    watches: dict[Watch, None] = field(default_factory=dict)
    queue_per_s: float = 0.0
    """How fast requests move up in the queue; 0 if unknown."""


class LearnedPolls:
    """Poll schedules learned from the times at which earlier requests finished.

    One for all requests of a run. With ``interval_s`` the interval is fixed and nothing is learned.
    """

    calls_for = staticmethod(calls_for)

    def __init__(self, history: DurationHistory, rng: Random, interval_s: float | None = None) -> None:
        self.on_queued: Callable[[str | None], None] = lambda model: None
        """Called with the model of a request that is queued behind others."""
        self.worth: Callable[[str | None, float], float] = lambda model, usual: usual
        """How many polls a request of a model is worth now; :func:`calls_for` gives the usual number."""
        self._history = history
        self._rng = rng
        self._is_fixed = interval_s is not None
        self._untaught = PollSchedule(rng, interval_s)
        self._lessons: dict[TimingKey, _Lesson] = {}

    def watch(self, key: TimingKey, now_s: float, age_s: float = 0.0) -> Watch:
        """Start watching a request of ``key`` accepted ``age_s`` seconds ago. Close it at the end."""
        lesson = self._lessons.setdefault(key, _Lesson())
        watch = Watch(self, key, now_s, age_s)
        lesson.watches[watch] = None
        return watch

    def delay_s(self, watch: Watch, age_s: float) -> float:
        """Seconds from ``age_s``, at which the request of ``watch`` was unfinished, to the next poll."""
        lesson = self._lessons[watch.key]
        lesson.news += age_s >= lesson.late_s
        inspection = self._current(watch.key, lesson, watch.began_at_s + age_s - watch.age_at_start_s)
        look_s = inspection.after_s(age_s) if inspection is not None else None
        if inspection is None or look_s is None:
            return self._untaught.next_s(age_s) if age_s else self._untaught.first_s()
        beyond_s = inspection.after_s(look_s) or look_s * (1.0 + POLL_GROWTH)
        jitter_s = (beyond_s - look_s) * LEARNED_JITTER * self._rng.uniform(-1.0, 1.0)
        return max(look_s - age_s + jitter_s, LEARNED_MIN_S)

    def queued_s(self, watch: Watch, age_s: float, position: int | None) -> float:
        """Seconds for which a request surely stays in the queue, by its speed so far."""
        lesson = self._lessons[watch.key]
        passed_s = age_s - watch.unfinished_s
        if self._is_fixed or position is None or watch.position is None or passed_s <= 0.0:
            return 0.0
        per_s = max(watch.position - position, 0) / passed_s
        lesson.queue_per_s += QUEUE_SMOOTHING * (per_s - lesson.queue_per_s)
        if not position or not lesson.queue_per_s:
            return 0.0
        return min(QUEUE_SHARE * position / lesson.queue_per_s, QUEUE_WAIT_MAX_S)

    def outlook(self, watch: Watch) -> Outlook | None:
        """What a request like that of ``watch`` needs; None if that isn't known yet."""
        return self._lessons[watch.key].outlook

    def close(self, watch: Watch) -> None:
        """The request finished, or is no longer watched."""
        lesson = self._lessons[watch.key]
        lesson.news += 1
        lesson.finished += 1
        lesson.watches.pop(watch, None)

    def _current(self, key: TimingKey, lesson: _Lesson, now_s: float) -> Inspection | None:
        count = self._history.count(key)
        if self._is_fixed or count < LEARNED_FROM:
            return None
        early = now_s - lesson.learned_at_s < RELEARN_S
        if lesson.inspection is None or not (early or lesson.news < max(count * RELEARN_SHARE, 2)):
            spans = self._history.spans(key)
            if len(spans) >= LEARNED_FROM:  # fewer after a wall clock was set back
                self._learn(lesson, spans, now_s, key[0])
        return lesson.inspection

    def _learn(self, lesson: _Lesson, spans: Sequence[Span], now_s: float, model: str | None) -> None:
        curve = estimate(spans, ())
        running_s = [watch.unfinished_s for watch in lesson.watches]
        if lesson.finished < len(running_s) or _too_many_late(curve, running_s):
            curve = estimate(spans, running_s[:: 1 + len(running_s) // RUNNING_SAMPLE])
        before = lesson.inspection
        guess_s = before.call_worth_s if before is not None else None
        calls = self.worth(model, self.calls_for(curve.quantile_s(0.5)))
        best = lesson.inspection = inspect(curve, calls, guess_s)
        lesson.outlook = Outlook(best.calls, curve.waiting_s() + best.staleness_s)
        lesson.late_s = curve.quantile_s(0.9)
        lesson.learned_at_s, lesson.news = now_s, 0


def _too_many_late(curve: Finishing, running_s: Sequence[float]) -> bool:
    """Whether more requests are overdue than chance explains: then they take longer than before.

    In a steady state, the share of requests under way that are older than some age is the share of
    all waiting that happens beyond it.
    """
    late_s = curve.quantile_s(LATE_QUANTILE)
    late = sum(age_s > late_s for age_s in running_s)
    expected = len(running_s) * curve.waiting_s(late_s) / curve.waiting_s()
    return late > LATE_FACTOR * expected + LATE_CHANCE


@dataclass(slots=True, eq=False)
class Watch:
    """One watched request, by its age since it was accepted.

    ``unfinished_s`` is the age at which it was last seen unfinished.
    """

    polls: LearnedPolls
    key: TimingKey
    began_at_s: float
    age_at_start_s: float = 0.0
    unfinished_s: float = 0.0
    position: int | None = None

    def first_s(self) -> float:
        """Seconds from the start of the watch to the first poll."""
        return self.polls.delay_s(self, self.age_at_start_s)

    def next_s(self, age_s: float, queue_position: int | None = None) -> float:
        """Seconds from a poll that found nothing, ``age_s`` after the start, to the next one.

        A ``queue_position`` (0: the next) can only make it later: the queue keeps its order.
        """
        age_s += self.age_at_start_s
        if queue_position:
            self.polls.on_queued(self.key[0])
        queued_s = self.polls.queued_s(self, age_s, queue_position)
        self.unfinished_s, self.position = age_s, queue_position
        return max(self.polls.delay_s(self, age_s), queued_s)

    def close(self) -> None:
        """Stop watching."""
        self.polls.close(self)
