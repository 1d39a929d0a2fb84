"""Finds out during a run what became of its own lost submissions, if their provider can tell.

Later may be too late: some providers forget inputs, or all of a request, within an hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import Final, NamedTuple

from batcher.clock import Clock
from batcher.engine.gateway import ApiLine, Lines
from batcher.errors import CallError
from batcher.jobs.job import Job, recorded
from batcher.jobs.lifecycle import EventName
from batcher.ledger.ledger import Ledger
from batcher.ports import Lost, Trace, Tracing

ASK_AT_S: Final = (5.0, 25.0, 95.0, 200.0, 320.0)
"""Seconds from the intent. A request is listed soon; that there is none is certain later."""
NOT_CREATED: Final = "not created: the provider has no such request"


class Healing(Enum):
    """What became of a lost submission."""

    CREATED = auto()
    """Its request was found: the job is submitted."""
    NOTHING = auto()
    """It created nothing: the job is pending."""
    UNTOLD = auto()


class _Posted(NamedTuple):
    """A POST under way or without an answer, and the reading of the clock at its intent."""

    lost: Lost
    at_s: float


async def record_trace(ledger: Ledger, job_id: str, found: Trace) -> Healing:
    """Record what a provider found about a lost submission. A request of another attempt is no news."""
    request = found.request
    if request is None:
        await ledger.record(EventName.DEFERRED, job_id, reason=NOT_CREATED)
        return Healing.NOTHING
    if ledger.snapshot.requests.get(request.id) is not None:
        return Healing.UNTOLD
    await ledger.record(EventName.SUBMITTED, job_id, request_id=request.id, urls=request.urls)
    return Healing.CREATED


class Healer:
    """Asks providers about POSTs without an answer, and records what is certain."""

    def __init__(self, lines: Lines, ledger: Ledger, clock: Clock) -> None:
        self._lines = lines
        self._ledger = ledger
        self._clock = clock
        self._open: dict[str, _Posted] = {}
        self._healing: dict[str, str] = {}

    def waits(self) -> Iterator[str]:
        """What the run is waiting for, in words."""
        for name in dict.fromkeys(self._healing.values()):
            yield f"{name} is asked what became of submissions without an answer"

    def posts(self, job: Job) -> None:
        """A job's POST is about to leave."""
        lost = Lost(job.id, job.model, recorded(job.input), self._clock.now())
        self._open[job.id] = _Posted(lost, self._clock.monotonic())

    def ended(self, job: Job) -> None:
        """A job's POST was answered, or given up."""
        self._open.pop(job.id, None)

    async def heal(self, job: Job, line: ApiLine) -> Healing:
        """Ask what became of a job's lost POST until that is certain, or can't be told any more."""
        if line.provider.traits.traces is Tracing.NONE:
            return Healing.UNTOLD
        began_s = self._open[job.id].at_s
        self._healing[job.id] = line.provider.name
        try:
            for ask_at_s in ASK_AT_S:
                await self._clock.sleep(ask_at_s - (self._clock.monotonic() - began_s))
                if (found := await self._traced(job, line)) is not None:
                    return await record_trace(self._ledger, job.id, found)
        finally:
            del self._healing[job.id]
        return Healing.UNTOLD

    async def _traced(self, job: Job, line: ApiLine) -> Trace | None:
        """What is certain about a job's POST.

        POSTs under way are asked about too: one of an equal job may have created what is found.
        """
        provider = line.provider
        lost = [one.lost for one in self._open.values() if self._lines.of(one.lost.model) is line]
        try:
            return (await line.call(lambda: provider.trace(lost, self._is_given))).get(job.id)
        except CallError:
            return None

    def _is_given(self, request_id: str) -> bool:
        return self._ledger.snapshot.requests.get(request_id) is not None
