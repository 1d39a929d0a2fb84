"""Why and how a run stops before its end: draining, halting, and the circuit breaker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from batcher.engine.slots import RunLimits
from batcher.errors import BatcherError, InterruptedRunError, StoppedError

PERCENT_FROM_JOBS = 50


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

    def note(self, error: BatcherError) -> None:
        """Some jobs will not end in this run; the others continue. The first reason stays."""
        self.error = self.error or error

    def drain(self, error: BatcherError) -> None:
        """Submit nothing more. The first reason stays."""
        self.note(error)
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
