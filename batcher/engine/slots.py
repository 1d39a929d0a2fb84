"""Slots: how many requests may be unfinished at the API, in all and by model (``-c``).

:class:`AutoSlots` (``-c auto``) discovers the limit, and the rate of calls that the API accepts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from batcher.clock import Clock
from batcher.jobs.job import Job
from batcher.pacing.adaptive import AUTO_START, LONG_PAUSE_S, Adaptive
from batcher.pacing.rate import RateLimit
from batcher.planning.plan import Decision


class Slots:
    """Limits unfinished requests at the API. Requests of earlier runs may exceed the limit.

    One limit for all models, and ``caps`` for some of them.
    """

    def __init__(self, limit: int, caps: Mapping[str, int] | None = None) -> None:
        self.limit = limit
        self.caps = ModelCaps(caps or {})
        self.held = 0
        self.stranded = 0
        self.closed = False
        self._own = limit
        self._changed = asyncio.Event()

    def widen(self, more: int) -> None:
        """Set the limit to ``more`` above its first value: shards that shared a cap have ended."""
        self.limit = max(self.limit, self._own + more)
        self._changed.set()

    def hold(self, model: str | None = None) -> None:
        """Take a slot even without room: for requests that exist already."""
        self.caps.hold(model)
        self.held += 1

    def free(self, model: str | None = None) -> None:
        """Give a slot back."""
        self.caps.free(model)
        self.held -= 1
        self._changed.set()

    def strand(self, model: str | None = None) -> None:
        """Take a slot permanently: a request that is no longer polled is still unfinished."""
        self.caps.strand(model)
        self.held += 1
        self.stranded += 1
        self._changed.set()

    def close(self) -> None:
        """End all waiting for slots."""
        self.closed = True
        self._changed.set()

    async def acquire(self, model: str | None = None) -> bool:
        """Wait for room, then take a slot; False if none can come free any more."""
        while self.held >= self.limit or not self.caps.has_room(model):
            if self.closed or self.caps.stuck(model) or 0 < self.limit <= self.stranded:
                return False
            self._changed.clear()
            await self._changed.wait()
        self.hold(model)
        return True


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The limits of a run. A shard of a larger run may be given more later."""

    slots: Slots
    rate: RateLimit

    def widen(self, more_slots: int, more_per_s: float) -> None:
        """Add to the first values of the limits. Less than was added before changes nothing."""
        self.slots.widen(more_slots)
        self.rate.widen(more_per_s)


QUEUED_MAX: Final = 1024
"""So many jobs wait for a cap before the jobs after them wait too."""
Patterns = tuple[str, ...]
STARTS_AT_ONCE = 100
START_STEP_S = 0.001
LOOK_AGAIN_S = 0.5
"""Seconds between checks whether a full window has grown."""


class ModelCaps:
    """Counts unfinished requests by pattern. A model needs room in each cap whose pattern it matches."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.limits = limits
        self._held: Counter[str] = Counter()
        self._stranded: Counter[str] = Counter()
        self._known: dict[str | None, Patterns] = {}

    def patterns(self, model: str | None) -> Patterns:
        """The patterns that ``model`` matches."""
        found = self._known.get(model)
        if found is None:
            found = tuple(one for one in self.limits if fnmatchcase(model or "", one))
            self._known[model] = found
        return found

    def hold(self, model: str | None) -> None:
        """Count a request, even without room."""
        for one in self.patterns(model):
            self._held[one] += 1

    def free(self, model: str | None) -> None:
        """A request has ended."""
        for one in self.patterns(model):
            self._held[one] -= 1

    def strand(self, model: str | None) -> None:
        """A request that is no longer polled counts until the run ends."""
        self.hold(model)
        self._stranded.update(self.patterns(model))

    def has_room(self, model: str | None) -> bool:
        """Whether one more request may be unfinished."""
        patterns = self.patterns(model)
        return not patterns or all(self._held[one] < self.limits[one] for one in patterns)

    def stuck(self, model: str | None) -> str | None:
        """The cap that leaves no room until the run ends, as it is typed; None if there is none."""
        full = (one for one in self.patterns(model) if self._stranded[one] >= self.limits[one])
        return next((self._shown(one) for one in full), None)

    def full(self) -> Iterator[str]:
        """The caps without room now, as they are typed."""
        return (self._shown(one) for one in self.limits if self._held[one] >= self.limits[one])

    def _shown(self, pattern: str) -> str:
        return f"-c {pattern}={self.limits[pattern]}"


class CapQueues:
    """A queue for each set of caps: jobs that wait for a cap don't hold up jobs of other models.

    ``start`` waits for room and starts a job; ``spawn`` runs a queue beside the others.
    """

    def __init__(
        self,
        caps: ModelCaps,
        start: Callable[[Job, Decision], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._caps = caps
        self._start = start
        self._spawn = spawn
        self._queues: dict[Patterns, asyncio.Queue[tuple[Job, Decision] | None]] = {}

    async def put(self, job: Job, decision: Decision) -> None:
        """Start a job, or queue it if its model is capped."""
        patterns = self._caps.patterns(job.model)
        if not patterns:
            await self._start(job, decision)
            return
        if patterns not in self._queues:
            self._queues[patterns] = asyncio.Queue(QUEUED_MAX)
            self._spawn(self._work(self._queues[patterns]))
        await self._queues[patterns].put((job, decision))

    async def close(self) -> None:
        """No more jobs come."""
        for queue in self._queues.values():
            await queue.put(None)

    def waits(self) -> Iterator[str]:
        """How many jobs wait for which caps, in words."""
        waiting = sum(queue.qsize() for queue in self._queues.values())
        if waiting and (full := ", ".join(self._caps.full())):
            yield f"{waiting} or more jobs wait for room in {full}"

    async def _work(self, queue: asyncio.Queue[tuple[Job, Decision] | None]) -> None:
        while (entry := await queue.get()) is not None:
            await self._start(*entry)


class Starts:
    """Spreads the start of a large run: requests that start together are polled together."""

    def __init__(self, clock: Clock, concurrency: int) -> None:
        self._clock = clock
        self._left = concurrency
        self._free = STARTS_AT_ONCE

    async def space_out(self) -> None:
        """Wait a little if this is one of many requests that fill the slots for the first time."""
        self._left -= 1
        self._free -= 1
        if self._left > 0 and self._free < 0:
            await self._clock.sleep(START_STEP_S)


class AutoSlots(Slots):
    """``-c auto``: discovered limits on slots and calls, with one window for each model."""

    def __init__(self, clock: Clock, caps: Mapping[str, int] | None = None) -> None:
        super().__init__(AUTO_START, caps)
        self.adaptive = Adaptive()
        self._clock = clock
        self._held: Counter[str | None] = Counter()
        self._waiting: Counter[str | None] = Counter()
        self._calling: Counter[str | None] = Counter()
        self._stranded: Counter[str | None] = Counter()

    def hold(self, model: str | None = None) -> None:
        self._held[model] += 1
        super().hold(model)

    def free(self, model: str | None = None) -> None:
        self._held[model] -= 1
        super().free(model)

    def strand(self, model: str | None = None) -> None:
        self._held[model] += 1
        self._stranded[model] += 1
        super().strand(model)

    async def acquire(self, model: str | None = None) -> bool:
        while not (self.caps.has_room(model) and self._has_room(model, self._held[model])):
            if self.caps.stuck(model) or self._held[model] == self._stranded[model]:
                return False
            await self._changes()
        self.hold(model)
        return True

    @contextmanager
    def waiting(self, model: str | None) -> Iterator[None]:
        with _counted(self._waiting, model):
            yield

    @contextmanager
    def calling(self, model: str | None) -> Iterator[None]:
        with _counted(self._calling, model):
            yield

    async def turn(self, model: str | None) -> None:
        if model is not None:
            await self._post_turn(model)
        rate = self.adaptive.rate
        line = None
        while line != rate.line:  # after a refusal, all waiting calls queue again
            line = rate.line
            if wait_s := rate.reserve_s(self._clock.monotonic()):
                await self._clock.sleep(wait_s)

    async def _post_turn(self, model: str) -> None:
        """If the window shrank while a job held its slot, wait as long as it can get room."""
        while (others := self._held[model] - self._waiting[model]) > self._stranded[model]:
            if self._has_room(model, others):
                break
            await self._clock.sleep(LOOK_AGAIN_S)
        if wait_s := self.adaptive.spacing_s(model, self._clock.monotonic()):
            await self._clock.sleep(wait_s)

    def answered(self, model: str | None, took_s: float) -> None:
        now_s = self._clock.monotonic()
        if self.adaptive.answered(took_s, now_s):
            for each, window in self.adaptive.windows.items():
                window.slow_down(self._unfinished(each), now_s)
        if model is not None:
            self.adaptive.accepted(model, self._others(model), now_s)

    def refused(self, model: str | None, pause_s: float) -> None:
        now_s = self._clock.monotonic()
        if model is None:
            self.adaptive.refused_poll(now_s, pause_s)
        else:
            self.adaptive.refused_post(model, self._others(model), now_s, pause_s)
        if pause_s >= LONG_PAUSE_S:
            for each, window in self.adaptive.windows.items():
                window.restart(self._unfinished(each), now_s)

    def finished(self, model: str | None, took_s: float) -> None:
        self.adaptive.window(model or "").finished(took_s)

    def expects(self, model: str | None, polls: float, takes_s: float) -> None:
        """A request of ``model`` is now watched: it needs ``polls`` polls in ``takes_s`` seconds."""
        self.adaptive.expects(model or "", polls, takes_s)

    def polls(self, model: str | None, usual: float) -> float:
        """How many polls a request of ``model`` is worth now, if it is usually worth ``usual``."""
        return self.adaptive.polls(model, usual)

    def queued(self, model: str | None) -> None:
        """A request of ``model`` is waiting in the API's queue."""
        self.adaptive.queued(model or "", self._clock.monotonic())

    def _unfinished(self, model: str | None) -> int:
        return max(self._held[model] - self._waiting[model] - self._calling[model], 0)

    def _others(self, model: str) -> int:
        """Unfinished requests, without the one whose POST was just answered."""
        return max(self._unfinished(model) - 1, 0)

    def _has_room(self, model: str | None, held: int) -> bool:
        name, waiting = model or "", self._waiting[model] > 0
        if not self.adaptive.serves(name, held - self._stranded[model]):
            return False
        return self.adaptive.window(name).has_room(held, self._clock.monotonic(), waiting=waiting)

    async def _changes(self) -> None:
        """Wait until a slot is freed, or briefly: a full window grows by itself."""
        self._changed.clear()
        moment = asyncio.create_task(self._clock.sleep(LOOK_AGAIN_S))
        change = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait([moment, change], return_when=asyncio.FIRST_COMPLETED)
        finally:
            moment.cancel()
            change.cancel()


@contextmanager
def _counted(counts: Counter[str | None], model: str | None) -> Iterator[None]:
    counts[model] += 1
    try:
        yield
    finally:
        counts[model] -= 1
