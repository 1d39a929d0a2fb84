"""``plan``: all of ``run`` except spending, and what it foresees."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from batcher.app.account import bought_elsewhere, read_book
from batcher.app.check_urls import UrlReport, check_urls
from batcher.app.connect import Site, check_same_api, connect
from batcher.app.model_names import check_known
from batcher.app.prepare import Prepared, balance_warning, odd_schemas, prepare, question_before
from batcher.app.run_dir_checks import (
    check_existing,
    check_is_manifest,
    check_outputs,
    moved_since,
    run_dir_of,
)
from batcher.app.show_bodies import ShownJob, shown_jobs
from batcher.clock import in_steps
from batcher.engine.host import Host
from batcher.ledger.book import Book, PeriodRoom
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.summary import status_of
from batcher.manifest.load import open_manifest
from batcher.options.facts import DEFAULT_OUTAGE, Outage
from batcher.options.run import Options
from batcher.providers.catalog import Specs
from batcher.providers.kept import kept_entries
from batcher.store.bucket import open_run_dir
from batcher.store.local import RunDir
from batcher.store.lost_ledger import check_nothing_lost


async def plan(options: Options, host: Host) -> Planned:
    """All of ``run`` except spending: needs neither token nor network, and writes nothing."""
    check_is_manifest(options, host.disk)
    manifest = open_manifest(options.manifest, options.overrides, options.also)
    run_dir = run_dir_of(options, manifest, host.disk)
    manifest.leave_out(run_dir)
    models = await in_steps(manifest.models(), host.clock)
    async with connect(options.sandbox, host, None, models=models, spending=False) as site:
        specs = await specs_of(site, models, run_dir, host)
        snapshot = await _read(options, run_dir, site, host)
        planning = prepare(options, manifest, specs, snapshot, run_dir)
        prepared = await in_steps(planning, host.clock)
        store = open_run_dir(run_dir, host.disk, options.selection.shard, options.bucket_url)
        if not status_of(run_dir, snapshot, beside=host.disk).live:  # a live run is adding outputs
            await check_outputs(prepared, store, snapshot)
        check_existing(options, run_dir, host.disk)
        book = read_book(options, site.api, run_dir, host)
        planned = foresee(prepared, snapshot, host, store, book)
        shown = await shown_jobs(prepared.work(snapshot), options.show or 0, site.provider)
        planned = replace(planned, shown=shown)
        if prepared.plan.to_buy:
            planned = planned.with_balance(await site.balance_usd(models))
        if options.check_urls:
            async with site.lookup() as lookup:
                planned = replace(planned, urls=await check_urls(prepared.media_urls(snapshot), lookup))
    return planned


async def _read(options: Options, run_dir: Path, site: Site, host: Host) -> Snapshot:
    """The state in the ledger, if there is one; as ``run`` would read it."""
    shard, snapshot = options.selection.shard, Snapshot()
    store = open_run_dir(run_dir, host.disk, shard, options.bucket_url)
    async with store.ledger_folder() as folder:
        if segments_in(folder, host.disk):
            snapshot = read_snapshot(folder, host.disk)
            check_same_api(snapshot, site, run_dir)
        check_nothing_lost(folder, snapshot, host.disk, shard)
    return snapshot


async def specs_of(
    site: Site, models: Collection[str], run_dir: Path, host: Host, outage: Outage = DEFAULT_OUTAGE
) -> Specs:
    """The specs of a manifest's models; if the API doesn't answer, those that earlier runs kept.

    Raises InputError for models that don't exist.
    """
    specs = await site.specs(models, kept_entries(run_dir, host.disk), outage)
    await check_known(specs, site.catalog)
    return specs


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long a plan's jobs may take. ``duration_s`` is None if a model is not in the ledger.

    ``seen`` counts the generations that the forecast is based on.
    """

    duration_s: float | None
    seen: int


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan to print. ``urls`` is None if they were not checked, ``shown`` are the jobs of
    ``--show``, ``rooms`` what ``--max-cost-per`` leaves."""

    prepared: Prepared
    forecast: Forecast
    warnings: tuple[str, ...]
    urls: UrlReport | None = None
    balance_usd: float | None = None
    """The account's balance; None if it can't be queried."""
    shown: tuple[ShownJob, ...] = ()
    rooms: tuple[PeriodRoom, ...] = ()

    def with_balance(self, balance_usd: float | None) -> Planned:
        """The plan with the account's balance, and a warning if that is too low."""
        short = balance_warning(self.prepared, balance_usd)
        warnings = self.warnings if short is None else (*self.warnings, short)
        return replace(self, balance_usd=balance_usd, warnings=warnings)


def foresee(
    prepared: Prepared, snapshot: Snapshot, host: Host, store: RunDir, book: Book | None
) -> Planned:
    """A plan with its warnings. ``book`` is the account's, None if there is none."""
    seen_s = snapshot.timings.by_model()
    concurrency = prepared.options.pace.concurrency
    expected = forecast(prepared.survey.estimate.jobs_by_model(), seen_s, concurrency)
    question = question_before(prepared, doubts_about(prepared, snapshot, host, store, book))
    return Planned(
        prepared,
        expected,
        (
            *prepared.tally.notices(),
            *odd_schemas(prepared),
            *prepared.survey.urls.warnings(host.clock.now(), expected.duration_s),
            *([] if question is None else [f"{question.text}: a run asks, or needs {question.flag}"]),
        ),
        rooms=tuple(book.rooms()) if book is not None else (),
    )


def doubts_about(
    prepared: Prepared, snapshot: Snapshot, host: Host, store: RunDir, book: Book | None
) -> str | None:
    """Why jobs to be bought may already be paid for: in a moved run directory, or in another one."""
    doubts = (
        moved_since(snapshot, store, host.disk),
        bought_elsewhere(prepared, snapshot, book),
    )
    return ". ".join(filter(None, doubts)) or None


def forecast(
    jobs_by_model: Mapping[str, int], seen_s: Mapping[str, list[float]], concurrency: int
) -> Forecast:
    """The median duration of each model's jobs, one after the other in ``concurrency`` rows."""
    seen = sum(len(seen_s.get(model, ())) for model in jobs_by_model)
    if not jobs_by_model or any(not seen_s.get(model) for model in jobs_by_model):
        return Forecast(None, seen)
    medians_s = {model: statistics.median(seen_s[model]) for model in jobs_by_model}
    in_a_row_s = sum(medians_s[model] * count for model, count in jobs_by_model.items())
    return Forecast(max(in_a_row_s / concurrency, *medians_s.values()), seen)
