"""``--canary``: a few varied jobs run first; the others wait for their outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from batcher.clock import Clock
from batcher.errors import StoppedError
from batcher.jobs.lifecycle import Stage, State
from batcher.ledger.finished import JobRecord
from batcher.ledger.snapshot import Snapshot
from batcher.options.facts import DEFAULT_CANARY_FAILURES, JobShare
from batcher.terminal import money


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """The outcome of the first jobs. ``cost_usd`` is None if the cost of any of them is unknown.

    ``unjudged`` have not ended: they outlasted ``--job-timeout``, or were never submitted.
    """

    jobs: int
    failed: int
    unjudged: int
    cost_usd: float | None
    took_s: float

    def __str__(self) -> str:
        cost = "at an unknown price" if self.cost_usd is None else f"for {money(self.cost_usd)}"
        well = f"{self.jobs - self.failed - self.unjudged} of {self.jobs} jobs went well"
        if self.unjudged:
            well += f", {self.unjudged} have not ended"
        return f"canary: {well}, {cost}, in {max(round(self.took_s), 1)} s"


GoOn = Callable[[CanaryReport], bool]
"""Shows a successful canary, and asks whether to continue if a user can answer."""


def just_go_on(report: CanaryReport) -> bool:
    """For callers without a user to ask."""
    del report
    return True


@dataclass(slots=True)
class Canary:
    """Holds the other jobs until those in ``ids`` have ended, then releases them or stops the run.

    The jobs in ``ids`` have to be submitted first.
    """

    ids: frozenset[str]
    limit: JobShare
    snapshot: Snapshot
    clock: Clock
    go_on: GoOn = just_go_on
    _began_s: float | None = field(init=False, default=None)
    _open: set[str] = field(init=False, default_factory=set)
    _settled: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _judged: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    async def holds_back(self, job_id: str) -> StoppedError | None:
        """Return when the job may be submitted; the reason to stop if it may not."""
        if job_id in self.ids:
            self._open.add(job_id)
            self._settled.clear()
            self._began_s = self.clock.monotonic() if self._began_s is None else self._began_s
        elif not self._judged.is_set():
            if self._open:
                await self._settled.wait()
            self._judged.set()
            return self._verdict()
        return None

    async def holds_retry(self, job_id: str) -> None:
        """Return when the canary was judged: a request of an earlier run may fail before that."""
        if self.ids and job_id not in self.ids:
            await self._judged.wait()

    @contextmanager
    def watching(self, job_id: str) -> Iterator[None]:
        """Wraps a job's whole lifecycle."""
        try:
            yield
        finally:
            self.leave_out(job_id)

    def leave_out(self, job_id: str) -> None:
        """The job has ended, or will not be submitted."""
        self._open.discard(job_id)
        if not self._open:
            self._settled.set()

    def report(self) -> CanaryReport:
        """The jobs' outcome so far."""
        records = [record for job_id in self.ids if (record := self.snapshot.get(job_id)) is not None]
        charges = [record.charge_usd for record in records]
        known = [usd for usd in charges if usd is not None]
        began_s = self.clock.monotonic() if self._began_s is None else self._began_s
        return CanaryReport(
            jobs=len(self.ids),
            failed=sum(map(_went_wrong, records)),
            unjudged=len(self.ids) - sum(map(_has_ended, records)),
            cost_usd=sum(known) if len(known) == len(charges) else None,
            took_s=self.clock.monotonic() - began_s,
        )

    def _verdict(self) -> StoppedError | None:
        report = self.report()
        if not report.jobs:
            return None
        bad = report.failed + report.unjudged
        if self.limit.is_passed(bad, report.jobs):
            why = f"{bad} did not go well, more than --canary-failures {self.limit}"
            return StoppedError(f"{report}; {why}: nothing more was submitted")
        if not self.go_on(report):
            return StoppedError(f"{report}; you chose to stop: the rest stays pending")
        return None


def no_canary(snapshot: Snapshot, clock: Clock) -> Canary:
    """A canary that holds no job."""
    return Canary(frozenset(), DEFAULT_CANARY_FAILURES, snapshot, clock)


def _went_wrong(record: JobRecord) -> bool:
    """Failed, cancelled, or without an answer; a failed download doesn't count."""
    failed = record.state is State.FAILED and record.stage is not Stage.DOWNLOAD
    return failed or record.state in (State.UNKNOWN, State.CANCELLED)


def _has_ended(record: JobRecord) -> bool:
    """Whether a job has reached its outcome; ``unknown`` is one."""
    return record.state not in (State.PENDING, State.SUBMITTED)
