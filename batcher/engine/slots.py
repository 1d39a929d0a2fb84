"""The pace of a run: a poll schedule for each request, and adaptive limits for ``-c auto``."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
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
"""Seconds between checks whether a full window has grown."""


class Traffic(Protocol):
    """Called before and around each call. ``model`` is None except for a POST."""

    def waiting(self, model: str | None) -> AbstractContextManager[None]:
        """Wraps all waiting before a call."""
        ...

    def calling(self, model: str | None) -> AbstractContextManager[None]:
        """Wraps the call itself."""
        ...

    async def turn(self, model: str | None) -> None:
        """Wait until our own limits allow the call."""
        ...

    def answered(self, model: str | None, took_s: float) -> None: ...
    def refused(self, model: str | None, pause_s: float) -> None: ...
    def finished(self, model: str | None, took_s: float) -> None: ...
    def queued(self, model: str | None) -> None: ...


class Unlimited:
    """For a fixed ``-c``: no limit to discover."""

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
    """Gives each request its schedule: learned from similar requests, or a fixed interval."""

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
        """Measured by the wall clock, across runs: only a hint."""
        if submitting_at is None:
            return 0.0
        return max(seconds_between(submitting_at, iso(self._clock.now())) or 0.0, 0.0)


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

    def queued(self, model: str | None) -> None:
        """A request of ``model`` is waiting in the API's queue."""
        self.adaptive.queued(model or "", self._clock.monotonic())

    def _unfinished(self, model: str | None) -> int:
        return max(self._held[model] - self._waiting[model] - self._calling[model], 0)

    def _others(self, model: str) -> int:
        """Unfinished requests, without the one whose POST was just answered."""
        return max(self._unfinished(model) - 1, 0)

    def _has_room(self, model: str | None, held: int) -> bool:
        return self.adaptive.window(model or "").has_room(held, self._clock.monotonic())

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
