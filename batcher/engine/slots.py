"""How fast a run goes: which poll schedule a request gets, and limits that adapt with ``-c auto``."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from batcher.clock import Clock, iso
from batcher.engine.stop import Slots
from batcher.ledger.snapshot import Snapshot
from batcher.pacing.adaptive import AUTO_START, LONG_PAUSE_S, Adaptive
from batcher.pacing.polling import LearnedPolls, Watch
from batcher.pacing.timings import seconds_between, timing_key

STARTS_AT_ONCE = 100
START_STEP_S = 0.001
LOOK_AGAIN_S = 0.5
"""How often a full window is asked whether it has grown meanwhile."""


class Traffic(Protocol):
    """Who is asked before each call and told of what came of it. ``model`` is None but for a POST."""

    def waiting(self, model: str | None) -> AbstractContextManager[None]:
        """Around all waiting that comes before a call."""
        ...

    def calling(self, model: str | None) -> AbstractContextManager[None]:
        """Around the call itself."""
        ...

    async def turn(self, model: str | None) -> None:
        """Wait until the call may go out as far as limits of our own are concerned."""
        ...

    def answered(self, model: str | None, took_s: float) -> None: ...
    def refused(self, model: str | None, pause_s: float) -> None: ...
    def finished(self, model: str | None, took_s: float) -> None: ...
    def queued(self, model: str | None) -> None: ...


class Unlimited:
    """With a fixed ``-c`` there is nothing to find out."""

    def waiting(self, model: str | None) -> AbstractContextManager[None]:
        return nullcontext()

    def calling(self, model: str | None) -> AbstractContextManager[None]:
        return nullcontext()

    async def turn(self, model: str | None) -> None: ...
    def answered(self, model: str | None, took_s: float) -> None: ...
    def refused(self, model: str | None, pause_s: float) -> None: ...
    def finished(self, model: str | None, took_s: float) -> None: ...
    def queued(self, model: str | None) -> None: ...


class Polling:
    """Gives each request its schedule: what the ledger tells of its like, or a fixed interval."""

    def __init__(self, snapshot: Snapshot, clock: Clock, polls: LearnedPolls, traffic: Traffic) -> None:
        self._snapshot = snapshot
        self._clock = clock
        self._polls = polls
        self._traffic = traffic
        polls.on_queued = traffic.queued

    @contextmanager
    def watching(self, job_id: str, *, taken_over: bool) -> Iterator[Watch]:
        """A schedule for the job's request, for as long as it is watched."""
        record = self._snapshot.records[job_id]
        key = self._snapshot.timings.key_of(job_id) or timing_key(record.model, {})
        age_s = self._age_s(record.submitting_at) if taken_over else 0.0
        watch = self._polls.watch(key, self._clock.monotonic(), age_s)
        try:
            yield watch
        finally:
            watch.close()
            self._traffic.finished(record.model, self._clock.monotonic() - watch.began_at_s + age_s)

    def _age_s(self, submitting_at: str | None) -> float:
        """By the wall clock, across runs: no more than a hint."""
        if submitting_at is None:
            return 0.0
        return max(seconds_between(submitting_at, iso(self._clock.now())) or 0.0, 0.0)


class Starts:
    """Spreads the start of a large run: what begins as one is polled as one, a thousand at a time."""

    def __init__(self, clock: Clock, concurrency: int) -> None:
        self._clock = clock
        self._left = concurrency
        self._free = STARTS_AT_ONCE

    async def space_out(self) -> None:
        """Wait a little where this is one of many requests that fill the slots for the first time."""
        self._left -= 1
        self._free -= 1
        if self._left > 0 and self._free < 0:
            await self._clock.sleep(START_STEP_S)


class AutoSlots(Slots):
    """``-c auto``: slots and calls by limits that are found out, a window for each model."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(AUTO_START)
        self.adaptive = Adaptive()
        self._clock = clock
        self._held: Counter[str | None] = Counter()
        self._waiting: Counter[str | None] = Counter()
        self._calling: Counter[str | None] = Counter()
        self._stranded: Counter[str | None] = Counter()

    def hold(self, model: str | None = None) -> None:
        self._held[model] += 1
        super().hold()

    def free(self, model: str | None = None) -> None:
        self._held[model] -= 1
        super().free()

    def strand(self, model: str | None = None) -> None:
        self._held[model] += 1
        self._stranded[model] += 1
        super().strand()

    async def acquire(self, model: str | None = None) -> bool:
        while not self._has_room(model, self._held[model]):
            if self._held[model] == self._stranded[model]:
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
        while line != rate.line:  # a refusal meanwhile has everybody line up again
            line = rate.line
            if wait_s := rate.reserve_s(self._clock.monotonic()):
                await self._clock.sleep(wait_s)

    async def _post_turn(self, model: str) -> None:
        """A window that shrank while a job held its slot keeps it waiting, while it can gain room."""
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

    def queued(self, model: str | None) -> None:
        """A request of ``model`` has others before it."""
        self.adaptive.queued(model or "", self._clock.monotonic())

    def _unfinished(self, model: str | None) -> int:
        return max(self._held[model] - self._waiting[model] - self._calling[model], 0)

    def _others(self, model: str) -> int:
        """Unfinished requests besides that of the POST which was just answered."""
        return max(self._unfinished(model) - 1, 0)

    def _has_room(self, model: str | None, held: int) -> bool:
        return self.adaptive.window(model or "").has_room(held, self._clock.monotonic())

    async def _changes(self) -> None:
        """Until a slot was given back, or for a moment: a full window grows by itself."""
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
