"""Finds out what became of unknown jobs, from providers that can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import Protocol

from batcher.clock import Clock
from batcher.engine.cancel import patiently
from batcher.engine.gateway import Providers
from batcher.engine.host import Host
from batcher.engine.submit import Healing, record_trace
from batcher.errors import CallError
from batcher.jobs.lifecycle import State
from batcher.ledger.ledger import Ledger
from batcher.ledger.snapshot import Snapshot
from batcher.ports import Lost, Trace, Tracing
from batcher.store.local import RunDir
from batcher.terminal import counted

SHOWN = 5


class LedgerInHand(Protocol):
    """A ledger that becomes writable when it is taken."""

    @property
    def snapshot(self) -> Snapshot: ...
    def take(self) -> Ledger: ...


@dataclass(slots=True)
class Traced:
    """The findings, as ids of jobs. Undecided jobs stay unknown."""

    found: list[str] = field(default_factory=list)
    not_created: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Providers that could not be asked, or gave no usable answer, and why."""

    def lines(self) -> Iterator[str]:
        """The findings as lines for the user."""
        yield from self.problems
        if self.found:
            found = counted(len(self.found), "unknown job was", "unknown jobs were")
            yield f"{found} found at their provider: {_some(self.found)}"
        if self.not_created:
            nothing = counted(len(self.not_created), "unknown job", "unknown jobs")
            yield f"{nothing} had created nothing, now pending: {_some(self.not_created)}"
        if self.undecided:
            left = counted(len(self.undecided), "job stays", "jobs stay")
            yield f"{left} unknown: {_some(self.undecided)}"


def traceable(
    snapshot: Snapshot, providers: Providers, is_ours: Callable[[str], bool] = lambda job_id: True
) -> list[Lost]:
    """The unknown jobs whose providers may know what became of them, by provider."""
    lost = [one for one in _unknown(snapshot, is_ours) if _traces(one, providers)]
    return sorted(lost, key=lambda one: providers(one.model).name)


def _unknown(snapshot: Snapshot, is_ours: Callable[[str], bool]) -> Iterator[Lost]:
    for job_id, record in snapshot.unfinished():
        if record.state is State.UNKNOWN and record.input_offset >= 0 and is_ours(job_id):
            made, sent = snapshot.line_at(record.input_offset), record.submitting_at or ""
            yield Lost(job_id, record.model or "", made.input or {}, datetime.fromisoformat(sent))


def _traces(lost: Lost, providers: Providers) -> bool:
    return providers(lost.model).traits.traces is not Tracing.NONE


async def trace_first(held: LedgerInHand, providers: Providers, store: RunDir, host: Host) -> bool:
    """Find out what became of unknown jobs before a run; returns whether any was decided."""
    lost = traceable(held.snapshot, providers, store.is_ours)
    if not lost:
        return False
    traced = await trace(held.take(), lost, providers, host.clock)
    for line in traced.lines():
        host.observer.warn(line)
    return bool(traced.found or traced.not_created)


def _some(jobs: list[str]) -> str:
    return ", ".join(jobs[:SHOWN]) + (f" and {len(jobs) - SHOWN} more" if len(jobs) > SHOWN else "")


async def trace(ledger: Ledger, lost: list[Lost], providers: Providers, clock: Clock) -> Traced:
    """Ask about ``lost`` jobs, sorted by provider, and record what is certain."""
    told, is_given = Traced(), ledger.snapshot.is_given
    for _, group in groupby(lost, key=lambda one: providers(one.model).name):
        asked = list(group)
        provider = providers(asked[0].model)
        try:
            traces = await patiently(clock, partial(provider.trace, asked, is_given))
        except CallError as error:
            traces = {}
            told.problems.append(
                f"{provider.name} can't tell what became of unknown jobs: {error.message}"
            )
        for one in asked:
            await _record(ledger, one.job_id, traces.get(one.job_id), told)
    return told


async def _record(ledger: Ledger, job_id: str, found: Trace | None, told: Traced) -> None:
    healing = Healing.UNTOLD if found is None else await record_trace(ledger, job_id, found)
    match healing:
        case Healing.CREATED:
            told.found.append(job_id)
        case Healing.NOTHING:
            told.not_created.append(job_id)
        case Healing.UNTOLD:
            told.undecided.append(job_id)
