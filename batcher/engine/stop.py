"""How a run is limited and stopped: its limits, the reason to stop, and the circuit breaker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from batcher.engine.model_caps import ModelCaps
from batcher.errors import BatcherError, InterruptedRunError, StoppedError
from batcher.pacing.rate import RateLimit

PERCENT_FROM_JOBS = 50


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


class Control:
    """Why the run stops before its end, if it does.

    *Draining* submits nothing more and finishes what is in flight. *Halted* also cancels polls and
    downloads, and waits only for the answers to POSTs in flight. *Aborting* doesn't wait for them.

    ``limits`` are None if nothing is submitted from here.
    """

    def __init__(self, limits: RunLimits | None = None) -> None:
        self.limits = limits
        self.error: BatcherError | None = None
        self.draining = False
        self.halting = asyncio.Event()
        self.aborting = asyncio.Event()

    @property
    def halted(self) -> bool:
        """Whether polls and downloads must be cancelled."""
        return self.halting.is_set()

    @property
    def interrupted(self) -> bool:
        """Whether a first signal ended the run, and no second one came."""
        return isinstance(self.error, InterruptedRunError) and not self.aborting.is_set()

    def drain(self, error: BatcherError) -> None:
        """Submit nothing more. The first reason stays."""
        self.error = self.error or error
        self.draining = True
        if self.limits is not None:
            self.limits.slots.close()

    def halt(self, error: BatcherError) -> None:
        """Cancel everything. Overrides a reason to drain; the first reason to halt stays."""
        if not self.halted:
            self.error = error
        self.draining = True
        self.halting.set()

    def abort(self, error: BatcherError) -> None:
        """Halt without waiting for POSTs in flight: their outcome stays unknown."""
        self.halt(error)
        self.aborting.set()


@dataclass(slots=True)
class Breaker:
    """Stops submitting when too many jobs of this run failed at submit or generate.

    ``limit`` is a number of jobs or, with ``percent``, a share of the finished ones, which is checked
    from the 50th on.
    """

    limit: float | None = None
    percent: bool = False
    finished: int = 0
    failed: int = 0

    def note(self, failed: bool) -> StoppedError | None:
        """Count a job that was generated or failed; the reason to stop once the limit is passed."""
        self.finished += 1
        self.failed += failed
        if self.limit is None:
            return None
        value: float = self.failed
        if self.percent:
            if self.finished < PERCENT_FROM_JOBS:
                return None
            value = 100.0 * self.failed / self.finished
        if value <= self.limit:
            return None
        sign = "%" if self.percent else ""
        return StoppedError(
            f"{self.failed} of {self.finished} jobs of this run failed, more than --max-failures "
            f"{self.limit:g}{sign}: nothing more was submitted"
        )
