"""A ledger's state in numbers and lines: the output of ``status`` and the end of ``run``."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from batcher.disk import Disk
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import State
from batcher.layout import LEDGER_NAME
from batcher.ledger.finished import JobRecord
from batcher.ledger.run_dir_lock import is_segment_held
from batcher.ledger.saved_snapshot import LastRun
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot, is_poor

USD_DIGITS = 6
REFUSED = "refused"
"""Listed like a state: the failed jobs whose inputs the API refused."""


class Status(msgspec.Struct, kw_only=True):
    """The seven states add up to ``total``, the jobs of the last run's manifest.

    ``submitting`` are the unknown jobs whose POST is in flight in a live run. ``cost_usd`` sums
    every attempt that may have been charged, at its reported cost, else at its price when submitted.
    ``estimated_cost_usd`` sums only the prices, ``reported_cost_usd`` only the costs the API reported;
    ``unpriced_attempts`` are the ones for which neither is known. ``bytes`` counts output files.
    """

    batch: str
    run_dir: str
    total: int
    pending: int
    unknown: int
    submitting: int
    submitted: int
    completed: int
    done: int
    failed: int
    cancelled: int
    duplicates: int
    orphaned: int
    cost_usd: float
    estimated_cost_usd: float
    reported_cost_usd: float
    unpriced_attempts: int
    bytes: int
    live: bool
    bad_quality: int = 0
    """Done jobs whose outputs have a note on their quality."""
    refused: int = 0
    """Failed jobs that the API refused for their inputs: they would be refused again."""


class Summary(Status, kw_only=True):
    """A status and what this run added. ``exit_code`` is that of the README's table."""

    selected: int
    elapsed_s: float
    submitted_now: int
    exit_code: int
    invalid: int = 0
    cancelled_now: int = 0
    cancelled_running: int = 0
    not_cancellable: int = 0
    """Results of ``--on-interrupt cancel``: cancelled and pending again, those of them that ran already
    and may be charged; not cancelled."""
    not_redone: int = 0
    """Jobs that ``--redo`` was to buy again, and that had no attempt left."""
    failed_now: int = 0
    """Jobs that failed, or were cancelled, in this run."""
    unknown_now: int = 0
    """Jobs that became unknown in this run."""
    newly: tuple[str, ...] = ()
    """The first of both."""
    stopped: str | None = None
    """Why the run stopped early, if it did."""


class ListedJob(msgspec.Struct, kw_only=True):
    """One job in ``status --list``."""

    job: str
    state: State
    source: str | None
    input: dict[str, Any] | None
    attempt: int | None = None
    vars: dict[str, Any] | None = None
    """The variables of its templates, if it has any."""
    stage: str | None = None
    code: int | str | None = None
    message: str | None = None
    refused: bool = False
    """Whether the API refused its inputs."""
    request_id: str | None = None
    quality: str | None = None
    submitting_at: str | None = None
    files: tuple[Artifact, ...] = ()


def status_of(run_dir: Path, snapshot: Snapshot, *, beside: Disk | None = None) -> Status:
    """The status of ``snapshot``; with ``beside``, also says what a live run is doing.

    ``beside`` is the disk that holds the locks of runs.
    """
    counts = {state.value: count for state, count in snapshot.counts.items()}
    listed = sum(counts.values())
    run = snapshot.last_run
    total = max(listed, run.total if run is not None and run.total is not None else 0)
    counts[State.PENDING.value] += total - listed
    live = _live_runs(run_dir, snapshot, beside) if beside is not None else []
    return Status(
        batch=run_dir.resolve().name,
        run_dir=str(run_dir),
        total=total,
        submitting=_under_way(snapshot, live),
        duplicates=(run.duplicates or 0) if run is not None else 0,
        orphaned=snapshot.orphaned,
        cost_usd=_rounded_usd(snapshot.spent_usd),
        estimated_cost_usd=_rounded_usd(_estimated_usd(snapshot)),
        reported_cost_usd=_rounded_usd(snapshot.reported_usd),
        unpriced_attempts=snapshot.unpriced_attempts,
        bytes=snapshot.bytes,
        live=bool(live),
        bad_quality=snapshot.poor,
        refused=snapshot.refused,
        **counts,
    )


def _rounded_usd(usd: float) -> float:
    """Without the dust of a sum, which could make a zero negative."""
    return round(usd, USD_DIGITS) + 0.0


def _estimated_usd(snapshot: Snapshot) -> float:
    """Sum of the prices, at submission, of the attempts that count."""
    return snapshot.spent_usd - snapshot.reported_usd + snapshot.reported_price_usd


def _live_runs(run_dir: Path, snapshot: Snapshot, disk: Disk) -> list[LastRun]:
    """The live runs, by their locks: the pid of a dead run may belong to another process now."""
    names = [LEDGER_NAME, *(name for name in segments_in(run_dir, disk) if name != LEDGER_NAME)]
    begun = [(name, run) for number, name in enumerate(names) if (run := snapshot.runs.get(number))]
    return [
        run
        for name, run in begun
        if not run.ended and _is_live(run, is_segment_held(run_dir, name, disk))
    ]


def _is_live(run: LastRun, held: bool | None) -> bool:
    """Whether a run is still live, as far as this machine knows; ``held``: whether it holds its lock."""
    if held is not None:
        return held
    pid = run.opening.pid or 0  # 0 and below would name groups of processes
    if run.opening.host != socket.gethostname() or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _under_way(snapshot: Snapshot, live: list[LastRun]) -> int:
    """Jobs whose POST was sent by a live run and is neither answered nor given up."""
    return sum(
        record.state is State.UNKNOWN
        and record.message is None
        and not record.orphaned
        and any(run.wrote(record.submitting_offset) for run in live)
        for _, record in snapshot.unfinished()
    )


def listed_jobs(
    snapshot: Snapshot, states: frozenset[str], *, bad: bool | None = None
) -> Iterator[ListedJob]:
    """The jobs in ``states`` (or ``refused``): done jobs in the order of completion, then the others.

    ``bad``: only those with (or without) a note on the quality of their outputs.
    """
    jobs = snapshot.items() if State.DONE in states else snapshot.unfinished()
    for job_id, record in jobs:
        fits = bad is None or is_poor(record) is bad
        named = record.state in states or (REFUSED in states and record.is_refused)
        if named and fits and not record.orphaned:
            yield listed_job(job_id, record, snapshot)


def listed_job(job_id: str, record: JobRecord, snapshot: Snapshot) -> ListedJob:
    """A job with details read from the ledger's lines, which must be durable."""
    intent = snapshot.line_at(record.submitting_offset) if record.submitting_offset >= 0 else None
    made = snapshot.line_at(record.input_offset) if record.input_offset >= 0 else None
    return ListedJob(
        job=job_id,
        state=record.state,
        attempt=record.attempt,
        source=intent.source if intent is not None else None,
        input=made.input if made is not None else None,
        vars=made.vars if made is not None else None,
        stage=record.stage,
        code=record.code,
        message=record.message,
        refused=record.is_refused,
        request_id=record.request_id,
        quality=record.quality,
        submitting_at=record.submitting_at,
        files=record.files,
    )
