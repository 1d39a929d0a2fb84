"""The commands as functions: each wires the rooms together and reads straight down."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from batcher.body import request_body
from batcher.clock import iso
from batcher.disk import cannot_write
from batcher.errors import InputError, LockedError, UsageError
from batcher.jobs import Job
from batcher.ledger import LEDGER_NAME, Ledger, read_snapshot
from batcher.lifecycle import FORMAT_VERSION, EventName, RunEvent, Snapshot, State
from batcher.manifest import Manifest, Tally, open_manifest
from batcher.metadata import Columns, Metadata
from batcher.options import Host, Money, Options
from batcher.plan import Bucket, Decision, Plan, PriceOf, decide, make_plan
from batcher.probe.inspector import MediaInspector
from batcher.rundir import RunDir
from batcher.runner import Budget, Deps, Runner
from batcher.runner.control import Breaker
from batcher.schema import ModelSpec
from batcher.service.catalog import Specs
from batcher.site import Site, check_same_api, connect
from batcher.summary import Summary, status_of

OUTPUT_ROOT = Path("output")
ASK_FROM_JOBS = 20


@dataclass(frozen=True, slots=True)
class Prepared:
    """A manifest checked against schemas and ledger: what a run would do with it."""

    options: Options
    run_dir: Path
    manifest: Manifest
    specs: Specs
    plan: Plan
    tally: Tally
    columns: Columns
    price_of: PriceOf
    spent_usd: float

    def work(self, snapshot: Snapshot) -> Iterator[tuple[Job, Decision]]:
        """The second pass: each selected job with what is to be done with it, as it stands then."""
        jobs = self.manifest.jobs(self.specs.by_model, Tally())
        for job, selected in self.options.selection.select(jobs):
            if selected:
                yield job, decide(job, snapshot.get(job.id), self.options.policy)


async def run(options: Options, host: Host) -> Summary:
    """Plan, then submit, poll and download; resumes whatever the run directory already holds.

    The summary's ``exit_code`` is 0, 1, or that of the reason why the run stopped early. Raises a
    BatcherError where nothing ran.
    """
    manifest = open_manifest(options.manifest, options.overrides)
    run_dir = run_dir_of(options, manifest)
    async with connect(options.sandbox, host, run_dir) as site:
        specs = await site.catalog.specs(manifest.models())
        async with _ledger_if_any(run_dir, site, host) as held:
            prepared = prepare(options, manifest, specs, held.snapshot, run_dir)
            confirm(prepared, host)
            return await _execute(prepared, site, held.take(), host)


async def plan(options: Options, host: Host) -> Prepared:
    """All of ``run`` except spending: needs neither token nor network, and writes nothing."""
    manifest = open_manifest(options.manifest, options.overrides)
    run_dir = run_dir_of(options, manifest)
    async with connect(options.sandbox, host, None, spending=False) as site:
        specs = await site.catalog.specs(manifest.models())
        snapshot = Snapshot()
        if host.disk.size(run_dir / LEDGER_NAME) is not None:
            snapshot, _ = read_snapshot(run_dir, host.disk)
            check_same_api(snapshot, site, run_dir)
        return prepare(options, manifest, specs, snapshot, run_dir)


def run_dir_of(options: Options, manifest: Manifest) -> Path:
    """Where a run keeps everything: as asked for, else ``output/<batch name>``."""
    suffix = "-sandbox" if options.sandbox is not None else ""
    return options.output or OUTPUT_ROOT / f"{manifest.name}{suffix}"


def prepare(
    options: Options, manifest: Manifest, specs: Specs, snapshot: Snapshot, run_dir: Path
) -> Prepared:
    """Check every row against schema and ledger. Raises ManifestError, InputError, UsageError."""
    if specs.unknown:
        raise InputError("\n".join(f"{model}: the API knows no such model" for model in specs.unknown))
    tally, columns = Tally(), Columns()
    price_of = pricer(specs.by_model, options.money)
    jobs = columns.watch(manifest.jobs(specs.by_model, tally))
    made = make_plan(jobs, snapshot, options.selection, options.policy, price_of)
    if not options.skip_invalid:
        tally.raise_if_invalid()
    made.duplicates, made.invalid = tally.duplicates, tally.invalid
    _check_limits(options, made)
    return Prepared(
        options, run_dir, manifest, specs, made, tally, columns, price_of, snapshot.spent_usd
    )


def _check_limits(options: Options, made: Plan) -> None:
    if options.selection.only is not None and not made.selected:
        raise UsageError("--only matches no job of this manifest; `batcher plan` shows some ids")
    if options.money.max_cost_usd is not None and made.estimated_cost_usd is None:
        raise InputError(
            "--max-cost can't be kept: the price of some jobs is not known; name one with "
            "--assume-price USD"
        )


def pricer(specs: Mapping[str, ModelSpec], money: Money) -> PriceOf:
    """What one attempt of a job costs in USD, as far as anybody says."""

    def price_of(job: Job) -> float | None:
        spec = specs.get(job.model)
        price_usd = spec.price_usd(job.input) if spec is not None else None
        return money.assume_price_usd if price_usd is None else price_usd

    return price_of


def confirm(prepared: Prepared, host: Host) -> None:
    """Ask on a terminal before buying much, or anything while paid jobs have left the manifest.

    Raises InputError where there is nobody to ask, UsageError where the answer is no.
    """
    options, made = prepared.options, prepared.plan
    if options.money.assume_yes or options.sandbox is not None or not made.to_buy:
        return
    leavers = (
        f"{made.left_paid} jobs already paid for are no longer in the manifest, and {made.to_buy} "
        "would be bought (an edit of `defaults` looks like that: every job becomes a new one)"
    )
    if host.confirm is None:
        if made.left_paid:
            raise InputError(f"{leavers}. Nothing was submitted; if that is meant, add --yes")
        return
    asks = made.left_paid or made.to_buy > ASK_FROM_JOBS
    if asks and not host.confirm(made, prepared.run_dir, leavers if made.left_paid else None):
        raise UsageError("not confirmed: nothing was submitted")


class _Held:
    """The ledger of a run directory: locked if there is one, made only once it is needed.

    A manifest that turns out to be bad must not leave an empty run directory behind.
    """

    def __init__(self, run_dir: Path, site: Site, host: Host) -> None:
        self._run_dir, self._host = run_dir, host
        self._ledger: Ledger | None = None
        if host.disk.size(run_dir / LEDGER_NAME) is not None:
            self._ledger = Ledger(run_dir, host.disk, host.clock)
            try:
                check_same_api(self._ledger.snapshot, site, run_dir)
            except BaseException:
                self._ledger.release()
                raise

    @property
    def snapshot(self) -> Snapshot:
        return self._ledger.snapshot if self._ledger is not None else Snapshot()

    def take(self) -> Ledger:
        """The ledger, made now if there was none. Raises RunDirError, LockedError."""
        if self._ledger is None:
            try:
                self._host.disk.make_dirs(self._run_dir)
            except OSError as error:
                raise cannot_write(self._run_dir, error) from error
            self._ledger = Ledger(self._run_dir, self._host.disk, self._host.clock)
            if self._ledger.snapshot.records:
                raise LockedError(f"{self._run_dir}: another run began here; run again to resume it")
        return self._ledger

    async def close(self) -> None:
        if self._ledger is not None:
            await self._ledger.close()


@asynccontextmanager
async def _ledger_if_any(run_dir: Path, site: Site, host: Host) -> AsyncIterator[_Held]:
    held = _Held(run_dir, site, host)
    try:
        yield held
    finally:
        await held.close()


async def _execute(prepared: Prepared, site: Site, ledger: Ledger, host: Host) -> Summary:
    began_s = host.clock.monotonic()
    run_dir = RunDir(prepared.run_dir, host.disk)
    for warning in (*ledger.warnings, *prepared.tally.warnings):
        host.observer.warn(warning)
    opening = _opening(prepared, site, host)
    metadata = Metadata(run_dir, ledger, host.disk)
    try:
        run_dir.prepare()
        ledger.announce(opening)
        _note_leavers(ledger, prepared.plan)
        metadata.open(prepared.columns)
        runner = await _drive(prepared, site, ledger, (run_dir, metadata), host)
    finally:
        metadata.close()
    summary = _summarise(prepared, ledger, runner, host.clock.monotonic() - began_s)
    ledger.close_run(_closing(opening, summary, iso(host.clock.now())))
    return summary


async def _drive(
    prepared: Prepared,
    site: Site,
    ledger: Ledger,
    stores: tuple[RunDir, Metadata],
    host: Host,
) -> Runner:
    options = prepared.options
    budget = Budget(ledger, prepared.price_of, options.money.max_cost_usd)
    breaker = Breaker(options.money.max_failures, options.money.max_failures_percent)
    async with site.downloader(host, options.trust, options.pace.downloads) as fetcher:
        deps = Deps(
            service=site.service,
            fetcher=fetcher,
            ledger=ledger,
            run_dir=stores[0],
            metadata=stores[1],
            body_of=request_body,
            clock=host.clock,
            rng=host.rng,
            observer=host.observer,
            inspector=MediaInspector(prepared.run_dir, ledger, host.disk),
        )
        runner = Runner(deps, options.pace, budget, breaker)
        with host.signals(runner.control):
            await runner.run(prepared.plan, prepared.work(ledger.snapshot))
    return runner


def _note_leavers(ledger: Ledger, made: Plan) -> None:
    for job_id in made.orphans:
        ledger.append(EventName.ORPHANED, job_id)
    for job_id in made.returned:
        ledger.append(EventName.RELISTED, job_id)


def _opening(prepared: Prepared, site: Site, host: Host) -> RunEvent:
    return RunEvent(
        run=uuid.uuid4().hex[:12],
        at=iso(host.clock.now()),
        manifest=str(prepared.manifest.path),
        api=site.api,
        version=FORMAT_VERSION,
        host=socket.gethostname(),
        pid=os.getpid(),
        total=prepared.plan.total,
        selected=prepared.plan.selected,
        duplicates=prepared.plan.duplicates,
        invalid=prepared.plan.invalid,
    )


def _closing(opening: RunEvent, summary: Summary, at: str) -> RunEvent:
    counts = {state.value: getattr(summary, state.value) for state in State}
    return RunEvent(run=opening.run, at=at, ended=True, exit_code=summary.exit_code, counts=counts)


def _summarise(prepared: Prepared, ledger: Ledger, runner: Runner, elapsed_s: float) -> Summary:
    error = runner.control.error or runner.shortfall()
    present = status_of(prepared.run_dir, ledger.snapshot)
    made = prepared.plan
    fields = {name: getattr(present, name) for name in present.__struct_fields__}
    fields |= {"total": made.total, "duplicates": made.duplicates}
    fields["pending"] += made.total - present.total
    return Summary(
        **fields,
        selected=made.selected,
        elapsed_s=round(elapsed_s, 3),
        submitted_now=runner.view.submitted_now,
        invalid=made.invalid,
        stopped=str(error) if error is not None else None,
        exit_code=error.exit_code if error is not None else _exit_code(prepared, runner),
    )


def _exit_code(prepared: Prepared, runner: Runner) -> int:
    made = prepared.plan
    excused = 0
    if prepared.options.ignore_old_failures:
        excused = sum(map(made.count, (Bucket.FAILED, Bucket.CANCELLED)))
    return int(runner.view.done + excused < made.selected or made.invalid > 0)
