"""The commands as functions: each connects the packages and reads from top to bottom."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from batcher.app.account import open_account
from batcher.app.bad_jobs import BadJobs, note_new
from batcher.app.calls import timed
from batcher.app.connect import Site, apis_in, check_same_api, connect, models_to_ask
from batcher.app.outcome import report_events, spending_of, summarise, why_stopped
from batcher.app.plan import doubts_about, specs_of
from batcher.app.prepare import (
    Prepared,
    balance_warning,
    confirm,
    odd_schemas,
    prepare,
    unchecked_models,
)
from batcher.app.run_dir_checks import (
    check_existing,
    check_is_manifest,
    check_outputs,
    moved_since,
    run_dir_of,
)
from batcher.app.tracing import trace_first
from batcher.clock import in_steps, iso
from batcher.dataset.acceptance import MediaInspector
from batcher.dataset.metadata import Describes, Later, Metadata, gather
from batcher.disk import cannot_write
from batcher.engine.account import Account
from batcher.engine.budget import Budget, Caps
from batcher.engine.canary import Canary
from batcher.engine.host import Host
from batcher.engine.interrupt import even_if_cancelled, surely_closed, unless_cancelled
from batcher.engine.lanes import Deps, lanes_of
from batcher.engine.runner import Runner
from batcher.engine.stop import Breaker
from batcher.errors import BatcherError, LockedError, OutOfTimeError
from batcher.jobs.lifecycle import FORMAT_VERSION, EventName, RunEvent, State
from batcher.jobs.shard import Shard
from batcher.ledger.ledger import Ledger
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.summary import Summary
from batcher.manifest.load import open_manifest
from batcher.options.record import record_of
from batcher.options.run import Options
from batcher.planning.plan import Plan
from batcher.providers.catalog import Specs
from batcher.providers.kept import keep_entries
from batcher.store.bucket import open_run_dir
from batcher.store.local import RunDir
from batcher.store.lost_ledger import check_nothing_lost
from batcher.terminal import counted, legible


async def run(options: Options, host: Host) -> Summary:
    """Plan, then submit, poll and download; resumes what the run directory already holds.

    The summary's ``exit_code`` is 0, 1, or that of the error that stopped the run early. Raises a
    BatcherError if nothing ran.
    """
    check_is_manifest(options, host.disk)
    if options.dask is None:
        return await run_here(options, host)
    from batcher.app.run_on_cluster import run_on_cluster

    return await run_on_cluster(options, options.dask, run_here, host)


async def run_here(options: Options, host: Host) -> Summary:
    """``run`` in this process: of the whole batch, or of one shard."""
    options = _on_the_clock(options, host)
    manifest = open_manifest(options.manifest, options.overrides, options.also)
    run_dir, shard = run_dir_of(options, manifest, host.disk), options.selection.shard
    manifest.leave_out(run_dir)
    store = open_run_dir(run_dir, host.disk, shard, options.bucket_url)
    check_existing(options, run_dir, host.disk)
    models = await in_steps(manifest.models(), host.clock)
    async with (
        connect(options.sandbox, host, run_dir, models=models) as site,
        store.session(),
    ):
        began_s = host.clock.monotonic()
        async with _in_time(options, host):
            specs = await specs_of(site, models, run_dir, host, options.pace.outage)
        options = _on_what_is_left(options, specs, host.clock.monotonic() - began_s)
        async with _ledger_if_any(run_dir, shard, site, host) as held:
            await site.reach(models_to_ask(held.snapshot))
            check_same_api(held.snapshot, site, run_dir)
            planning = prepare(options, manifest, specs, held.snapshot, run_dir)
            prepared = await in_steps(planning, host.clock)
            await check_outputs(prepared, store, held.snapshot)
            moved = moved_since(held.snapshot, store, host.disk)
            async with _in_time(options, host):
                traced = moved is None and await trace_first(held, site.provider, store, host)
            if traced:
                planning = prepare(options, manifest, specs, held.snapshot, run_dir)
                prepared = await in_steps(planning, host.clock)
                await check_outputs(prepared, store, held.snapshot)
            await _warn_of_balance(prepared, site, host)
            account = open_account(options, site.api, run_dir, host)
            book = account.book if account is not None else None
            confirm(prepared, host, doubts_about(prepared, held.snapshot, host, store, book))
            with _disk_refusals(run_dir):
                summary = await _execute(prepared, site, _Targets(held.take(), store, account), host)
        if shard is not None:
            gather(run_dir, shard, host.disk)
        return summary


def _on_the_clock(options: Options, host: Host) -> Options:
    """``options`` with the time at which ``--max-runtime`` is over: it counts from here."""
    if options.pace.max_runtime_s is None:
        return options
    ends_s = host.clock.monotonic() + options.pace.max_runtime_s
    return replace(options, pace=replace(options.pace, ends_s=ends_s))


def _on_what_is_left(options: Options, specs: Specs, asked_s: float) -> Options:
    """``options`` with less time for a first answer, if the API gave none while planning."""
    if not all(source.is_unanswered for source in specs.sources.values()):
        return options
    return replace(options, pace=replace(options.pace, outage=options.pace.outage.less(asked_s)))


@asynccontextmanager
async def _in_time(options: Options, host: Host) -> AsyncIterator[None]:
    """Raises OutOfTimeError if ``--max-runtime`` ends what is done inside."""
    ends_s = options.pace.ends_s
    try:
        async with asyncio.timeout(None if ends_s is None else ends_s - host.clock.monotonic()):
            yield
    except TimeoutError:
        raise OutOfTimeError("--max-runtime was over before anything was submitted") from None


async def _warn_of_balance(prepared: Prepared, site: Site, host: Host) -> None:
    if not prepared.plan.to_buy:
        return
    short = balance_warning(prepared, await site.balance_usd(prepared.specs.sources))
    if short is not None:
        host.observer.warn(short)


@contextmanager
def _disk_refusals(path: Path) -> Iterator[None]:
    """Translates an OSError to a RunDirError about ``path``, or about the file that the error names."""
    try:
        yield
    except OSError as error:
        named = error.filename
        raise cannot_write(Path(named) if isinstance(named, str) else path, error) from error


class _Held:
    """The ledger of a run directory: locked if it exists, created only when needed.

    An invalid manifest must not leave an empty run directory.
    """

    def __init__(self, run_dir: Path, shard: Shard | None, site: Site, host: Host) -> None:
        self._run_dir, self._shard, self._host = run_dir, shard, host
        self._ledger: Ledger | None = None
        self._is_ready = False
        with _disk_refusals(run_dir):
            if segments_in(run_dir, host.disk):
                self._ledger = self._open()
        try:
            check_same_api(self.snapshot, site, run_dir)
            check_nothing_lost(run_dir, self.snapshot, host.disk, shard)
        except BaseException:
            if self._ledger is not None:
                self._ledger.release()
            raise

    @property
    def snapshot(self) -> Snapshot:
        return self._ledger.snapshot if self._ledger is not None else Snapshot()

    def take(self) -> Ledger:
        """The ledger, created now if there was none. Raises RunDirError, LockedError."""
        if self._ledger is None:
            self._host.disk.make_dirs(self._run_dir)
            self._ledger = self._open()
            if self._shard is None and self._ledger.snapshot.records:
                raise LockedError(f"{self._run_dir}: another run began here; run again to resume it")
        if not self._is_ready:
            self._ledger.make_ready()
            self._is_ready = True
        return self._ledger

    def _open(self) -> Ledger:
        disk, clock = self._host.disk, self._host.clock
        return Ledger(self._run_dir, disk, clock, self._shard, ready=False)

    async def close(self) -> None:
        if self._ledger is not None:
            await self._ledger.close()


@asynccontextmanager
async def _ledger_if_any(
    run_dir: Path, shard: Shard | None, site: Site, host: Host
) -> AsyncIterator[_Held]:
    held = _Held(run_dir, shard, site, host)
    try:
        yield held
    finally:
        await even_if_cancelled(held.close())


@dataclass(frozen=True, slots=True)
class _Targets:
    """What a run writes: its ledger, its outputs, and the account's book (None: not kept)."""

    ledger: Ledger
    store: RunDir
    account: Account | None


async def _execute(prepared: Prepared, site: Site, targets: _Targets, host: Host) -> Summary:
    began_s = host.clock.monotonic()
    ledger, store = targets.ledger, targets.store
    if targets.account is not None:
        targets.account.follow(ledger, store.is_ours)
    for warning in (
        *ledger.warnings,
        *(f"left out: {problem}" for problem in prepared.tally.left_out()),
        *prepared.tally.notices(),
        *odd_schemas(prepared),
        *unchecked_models(prepared),
    ):
        host.observer.warn(warning)
    report_events(ledger, host.observer)
    before = BadJobs.of(ledger.snapshot)
    opening = _opening(prepared, site, apis_in(ledger.snapshot), host)
    sharded = prepared.options.selection.shard is not None
    metadata = Later() if sharded else Metadata(store, ledger, host.disk)
    try:
        for caveat in store.prepare():
            host.observer.warn(caveat)
        if prepared.plan.fetches:
            store.check_writable()
        await store.look()
        keep_entries(prepared.run_dir, prepared.specs.entries, host.disk)
        ledger.announce(opening)
        _note_leavers(ledger, prepared.plan)
        metadata.open(prepared.columns)
        runner = await _drive(prepared, site, targets, metadata, host)
    except asyncio.CancelledError:  # a notebook's cell was interrupted, or the caller cancelled
        ledger.close_run(RunEvent(run=opening.run, at=iso(host.clock.now()), ended=True))
        raise
    finally:
        unwritten = _closed(metadata)
    if prepared.roll.added:
        host.observer.warn(
            f"{counted(prepared.roll.added, 'row was', 'rows were')} added to the manifest, or changed, "
            "during the run: none was bought; run again to buy what is new"
        )
    stopped_by = why_stopped(
        runner.view.done >= prepared.plan.selected, runner.control.error, unwritten, runner.shortfall()
    )
    elapsed_s = host.clock.monotonic() - began_s
    summary = summarise(prepared, ledger.snapshot, runner.view, stopped_by, elapsed_s)
    note_new(summary, ledger.snapshot, before)
    ledger.close_run(_closing(opening, summary, iso(host.clock.now())))
    return summary


async def _drive(
    prepared: Prepared, site: Site, targets: _Targets, metadata: Describes, host: Host
) -> Runner:
    options, ledger = prepared.options, targets.ledger
    price_usd, shard = prepared.survey.estimate.price_usd, options.selection.shard
    caps = Caps(options.money.max_cost_usd, options.money.assume_price_usd)
    budget = Budget(ledger, price_usd, caps, shard)
    breaker = Breaker(options.money.max_failures, options.money.max_failures_percent)
    opened = site.downloader(host, options.trust, options.pace.downloads)
    async with surely_closed(opened) as downloader:
        providers, fetcher = timed(site.provider, downloader, host.observer, host.clock)
        deps = Deps(
            providers=providers,
            fetcher=fetcher,
            ledger=ledger,
            run_dir=targets.store,
            metadata=metadata,
            clock=host.clock,
            rng=host.rng,
            observer=host.observer,
            inspector=MediaInspector(prepared.run_dir, ledger.snapshot),
            account=targets.account,
            policy=options.policy,
            vendors=len(site.vendors),
        )
        canary = Canary(
            prepared.canary, options.money.canary_failures, ledger.snapshot, host.clock, host.go_on
        )
        runner = Runner(deps, options.pace, lanes_of(deps, options.pace, budget), breaker, canary)
        runner.view.run = ledger.run_id
        runner.view.money = spending_of(prepared, ledger, budget)
        with host.signals(runner.control):
            work = runner.run(prepared.plan, prepared.work(ledger.snapshot))
            await unless_cancelled(work, runner.control)
    return runner


def _note_leavers(ledger: Ledger, made: Plan) -> None:
    for job_id in made.orphans:
        ledger.append(EventName.ORPHANED, job_id)
    for job_id in made.returned:
        ledger.append(EventName.RELISTED, job_id)


def _opening(prepared: Prepared, site: Site, before: dict[str, str], host: Host) -> RunEvent:
    device, inode = host.disk.device_and_inode(prepared.run_dir) or (None, None)
    return RunEvent(
        run=uuid.uuid4().hex[:12],
        at=iso(host.clock.now()),
        manifest=legible(prepared.manifest.path),
        asked=record_of(prepared.options.given, prepared.run_dir),
        api=site.api,
        other_apis={**before, **site.other_apis} or None,
        version=FORMAT_VERSION,
        identity=prepared.manifest.rule,
        host=socket.gethostname(),
        device=device,
        inode=inode,
        pid=os.getpid(),
        total=prepared.plan.total,
        selected=prepared.plan.selected,
        duplicates=prepared.plan.duplicates,
        invalid=prepared.plan.invalid,
    )


def _closed(metadata: Describes) -> BatcherError | None:
    """Close ``metadata``; returns why it is not whole: the next run makes it again."""
    try:
        metadata.close()
    except BatcherError as error:
        return error
    return None


def _closing(opening: RunEvent, summary: Summary, at: str) -> RunEvent:
    counts = {state.value: getattr(summary, state.value) for state in State}
    return RunEvent(run=opening.run, at=at, ended=True, exit_code=summary.exit_code, counts=counts)
