"""Manual commands: ``cancel`` requests, ``resolve`` unknown jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from batcher.app.connect import Site, check_same_api, connect, models_to_ask
from batcher.app.tracing import Traced, trace, traceable
from batcher.disk import Disk
from batcher.engine.cancel import CancelEnd, cancel_request, patiently
from batcher.engine.host import Host
from batcher.engine.poll import handle_of
from batcher.errors import (
    AuthRefused,
    CallError,
    CredentialsError,
    InputError,
    NotSent,
    RetryKind,
    UnreachableError,
    UsageError,
)
from batcher.jobs.lifecycle import SANDBOX_API, EventName, State
from batcher.ledger.finished import JobRecord
from batcher.ledger.ledger import Ledger, read_snapshot
from batcher.ledger.lines import events_naming
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot
from batcher.options.command import as_path, command
from batcher.options.facts import SandboxOptions
from batcher.ports import CancelOutcome, Handle, Provider, Result
from batcher.store.bucket import open_run_dir


@dataclass(slots=True)
class Cancelled:
    """The outcome of each request that ``cancel`` asked the API to cancel: job ids."""

    cancelled: list[str]
    may_cost: list[str]
    """Those of ``cancelled`` that ran already: they may be charged."""
    requested: list[str]
    """Accepted, but not ended yet: the next run polls the outcome."""
    not_cancellable: list[str]
    unanswered: list[tuple[str, str]]


async def cancel(run_dir: Path, host: Host) -> Cancelled:
    """Cancel what can be cancelled at the APIs; stops if one can't be reached.

    Raises LedgerError, LockedError, CredentialsError, UnreachableError.
    """
    async with _held(run_dir, host) as (site, ledger):
        told = Cancelled([], [], [], [], [])
        for job_id, record in list(ledger.snapshot.unfinished()):
            if record.state is State.SUBMITTED and record.request_id is not None:
                request = handle_of(record)
                asked = cancel_request(
                    site.provider(request.model), request, partial(patiently, host.clock)
                )
                await _note_cancel(asked, ledger, told, job_id)
        return told


async def _note_cancel(
    asked: Awaitable[CancelEnd], ledger: Ledger, told: Cancelled, job_id: str
) -> None:
    try:
        outcome, may_cost = await asked
    except (AuthRefused, NotSent) as error:
        raise _in_words(error) from error
    except CallError as error:
        told.unanswered.append((job_id, error.message))
        return
    if outcome is CancelOutcome.CANCELLED:
        await ledger.record(EventName.CANCELLED, job_id, may_cost=may_cost)
        told.cancelled.append(job_id)
        told.may_cost += [job_id] if may_cost else []
    elif outcome is CancelOutcome.REQUESTED:
        told.requested.append(job_id)
    else:
        told.not_cancellable.append(job_id)


async def resolve(run_dir: Path, job_id: str, request_id: str | None, host: Host) -> str:
    """Resolve an unknown job: its request is ``request_id``, or (None) none was created for it.

    Checks the id in the ledger, then at the API. Returns a description of what was recorded. Raises
    UsageError if the job is not unknown, InputError if the id can't be its request, CredentialsError
    or UnreachableError if the id could not be checked.
    """
    snapshot = read_snapshot(run_dir, host.disk)
    _unknown(snapshot, run_dir, job_id)
    if request_id is None:
        async with _ledger(run_dir, host) as ledger:
            _unknown(ledger.snapshot, run_dir, job_id)
            await ledger.record(EventName.DEFERRED, job_id, reason="settled by hand: not created")
        return f"{job_id}: not created; the next run submits it"
    async with _held(run_dir, host) as (site, ledger):
        record = _unknown(ledger.snapshot, run_dir, job_id)
        _check_new(run_dir, request_id, host.disk)
        request = Handle(record.model or "", request_id)
        result = await _ask(site.provider(request.model), request)
        _check_fits(record, request_id, result)
        await ledger.record(EventName.SUBMITTED, job_id, request_id=request_id)
        checked = "" if result.model is not None else " (the API does not say of which model it is)"
        return (
            f"{job_id}: is request {request_id}, which is {result.word}{checked}; "
            "the next run takes it up"
        )


async def resolve_all(run_dir: Path, host: Host) -> Traced:
    """Resolve the unknown jobs whose providers can tell what became of them.

    Raises LedgerError, LockedError, CredentialsError.
    """
    async with _held(run_dir, host) as (site, ledger):
        told = await trace(ledger, traceable(ledger.snapshot, site.provider), site.provider, host.clock)
        asked = {*told.found, *told.not_created, *told.undecided}
        unknown = ledger.snapshot.unfinished()
        told.undecided += [
            job for job, one in unknown if one.state is State.UNKNOWN and job not in asked
        ]
        return told


def _unknown(snapshot: Snapshot, run_dir: Path, job_id: str) -> JobRecord:
    record = snapshot.get(job_id)
    if record is None:
        listing = command("status", as_path(run_dir), "--list", "unknown")
        raise UsageError(f"{job_id}: no such job in the ledger; these are unknown: {listing}")
    if record.state is not State.UNKNOWN:
        raise UsageError(f"{job_id}: is {record.state}, there is nothing to resolve")
    return record


async def _ask(provider: Provider, request: Handle) -> Result:
    try:
        return await provider.result(request)
    except CallError as error:
        if isinstance(error, AuthRefused) or error.kind is RetryKind.TRANSIENT:
            raise _in_words(error) from error
        raise InputError(f"{request.id}: is no request that the API knows: {error.message}") from error


def _in_words(error: CallError) -> CredentialsError | UnreachableError:
    """Translates an error that is about the API and not about a request."""
    if isinstance(error, AuthRefused):
        return CredentialsError(f"the API refused the token: {error.message}")
    return UnreachableError(f"the API could not be asked, nothing was changed: {error.message}")


def _check_new(run_dir: Path, request_id: str, disk: Disk) -> None:
    """Raises InputError if any line of the ledger names the request, also of past attempts."""
    for name in segments_in(run_dir, disk):
        for event in events_naming(run_dir / name, request_id, disk):
            raise InputError(
                f"{request_id}: is the request of job {event.job} already (attempt {event.attempt})"
            )


def _check_fits(record: JobRecord, request_id: str, result: Result) -> None:
    if result.model is not None and result.model != record.model:
        raise InputError(f"{request_id}: is of model {result.model}, the job of {record.model}")


@asynccontextmanager
async def _held(run_dir: Path, host: Host) -> AsyncIterator[tuple[Site, Ledger]]:
    """The API that the last run in ``run_dir`` used, and the ledger, locked."""
    snapshot = read_snapshot(run_dir, host.disk)
    models, sandbox = models_to_ask(snapshot), _sandbox_of(snapshot)
    # With nothing to ask, no token is needed.
    async with connect(sandbox, host, run_dir, models=models, spending=bool(models)) as site:
        check_same_api(snapshot, site, run_dir)
        async with _ledger(run_dir, host) as ledger:
            yield site, ledger


@asynccontextmanager
async def _ledger(run_dir: Path, host: Host) -> AsyncIterator[Ledger]:
    """The ledger, locked; also holds the outputs' bucket and copies the ledger to it afterwards."""
    store = open_run_dir(run_dir, host.disk)
    async with store.session():
        ledger = Ledger(run_dir, host.disk, host.clock)
        try:
            await store.look()
            yield ledger
        finally:
            await ledger.close()


def _sandbox_of(snapshot: Snapshot) -> SandboxOptions | None:
    run = snapshot.last_run
    return SandboxOptions() if run is not None and run.api == SANDBOX_API else None
