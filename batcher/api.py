"""``batcher`` from Python: the same engine, no signal handlers, no questions, progress off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Literal, TypedDict, Unpack

from batcher import app
from batcher.bucket.place import is_bucket_url
from batcher.disk import LocalDisk
from batcher.errors import IncompleteError
from batcher.ledger import read_snapshot
from batcher.manifest import Overrides
from batcher.options import DEFAULT_MAX_FILE_BYTES, Host, Money, Options, SandboxOptions, Trust
from batcher.pace import AUTO_START
from batcher.planning import DEFAULT_MAX_ATTEMPTS, Plan, Policy, Selection
from batcher.runner import Pace
from batcher.runner.canary import DEFAULT_CANARY_FAILURES, Share
from batcher.runner.limits import DEFAULT_CONCURRENCY, DEFAULT_DOWNLOADS, DEFAULT_JOB_TIMEOUT_S
from batcher.runner.line import DEFAULT_OUTAGE_S
from batcher.runner.view import Observer, Silence
from batcher.shards import Shard
from batcher.summary import Status, Summary, status_of


class RunOptions(TypedDict, total=False):
    """What ``run`` and ``plan`` take besides the manifest: the options of the command line.

    Durations are seconds, sizes bytes, money USD. ``yes`` buys also while jobs already paid for have
    left the manifest. ``max_failures`` is a number of jobs, ``max_failures_percent`` a share of those
    that finished. ``output`` may be the URL of a bucket; then ``state_dir`` keeps the ledger.
    ``dask`` is the address of a cluster's scheduler, or ``local:N``; :func:`plan` goes by
    none. ``observer`` is told how the run goes.
    """

    output: str | PathLike[str] | None
    state_dir: str | PathLike[str] | None
    model: str | None
    set: Mapping[str, str]
    skip_invalid: bool
    limit: int | None
    only: str | Iterable[str] | None
    shard: tuple[int, int] | None
    retry_failed: bool
    retry_unknown: bool
    redo: bool
    max_attempts: int
    concurrency: int | Literal["auto"]
    downloads: int
    rate_per_s: float | None
    poll_interval_s: float | None
    job_timeout_s: float | None
    outage_timeout_s: float
    max_cost_usd: float | None
    assume_price_usd: float | None
    max_failures: float | None
    max_failures_percent: float | None
    canary: int | None
    canary_failures_percent: float
    yes: bool
    allow_hosts: Iterable[str]
    max_file_bytes: int
    sandbox: bool | SandboxOptions
    dask: str | None
    observer: Observer


async def run(manifest: str | PathLike[str], **options: Unpack[RunOptions]) -> Summary:
    """Run ``manifest`` to its end; resumes whatever the run directory already holds.

    Returns the summary where the run came to its end, also if some jobs failed: see its
    ``exit_code`` (0 or 1) and :func:`raise_if_incomplete`. Raises a BatcherError where nothing ran,
    or where the run stopped early; then its ``summary`` attribute holds the summary, if any.
    Cancelling the awaiting task stops at once; what was paid for is in the ledger all the same.
    """
    host = Host(observer=options.get("observer", Silence()))
    dask = options.get("dask")
    if dask is None:
        return await app.run(_options(manifest, options), host)
    from batcher import cluster

    return await cluster.run(_options(manifest, options), dask, host)


async def plan(manifest: str | PathLike[str], **options: Unpack[RunOptions]) -> Plan:
    """What :func:`run` would do; spends nothing, writes nothing. Raises like it."""
    return (await app.plan(_options(manifest, options), Host())).prepared.plan


def status(run_dir: str | PathLike[str]) -> Status:
    """What the ledger of ``run_dir`` says, live or at rest. Raises LedgerError."""
    snapshot = read_snapshot(Path(run_dir), LocalDisk())
    return status_of(Path(run_dir), snapshot, beside=True)


def raise_if_incomplete(summary: Summary) -> None:
    """Raise IncompleteError where some selected job is not done."""
    if summary.exit_code:
        raise IncompleteError(f"{summary.total - summary.done} of {summary.total} jobs are not done")


def _options(manifest: str | PathLike[str], given: RunOptions) -> Options:
    output, state_dir = given.get("output"), given.get("state_dir")
    bucket_url = output if isinstance(output, str) and is_bucket_url(output) else None
    run_dir = output if bucket_url is None else state_dir
    sandbox = given.get("sandbox", False)
    only = given.get("only")
    return Options(
        manifest=Path(manifest),
        output=Path(run_dir) if run_dir is not None else None,
        bucket_url=bucket_url,
        overrides=Overrides(model=given.get("model"), set=dict(given.get("set", {}))),
        skip_invalid=given.get("skip_invalid", False),
        selection=Selection(
            given.get("limit"),
            only if only is None or isinstance(only, str) else frozenset(only),
            Shard(shard[1], shard[0]) if (shard := given.get("shard")) is not None else None,
        ),
        policy=Policy(
            given.get("retry_failed", False),
            given.get("retry_unknown", False),
            given.get("redo", False),
            given.get("max_attempts", DEFAULT_MAX_ATTEMPTS),
        ),
        pace=_pace(given),
        money=_money(given),
        trust=Trust(
            tuple(given.get("allow_hosts", ())), given.get("max_file_bytes", DEFAULT_MAX_FILE_BYTES)
        ),
        sandbox=SandboxOptions() if sandbox is True else sandbox or None,
    )


def _money(given: RunOptions) -> Money:
    percent = given.get("max_failures_percent")
    canary_percent = given.get("canary_failures_percent")
    return Money(
        max_cost_usd=given.get("max_cost_usd"),
        assume_price_usd=given.get("assume_price_usd"),
        max_failures=given.get("max_failures") if percent is None else percent,
        max_failures_percent=percent is not None,
        canary=given.get("canary"),
        canary_failures=DEFAULT_CANARY_FAILURES
        if canary_percent is None
        else Share(canary_percent, percent=True),
        assume_yes=given.get("yes", False),
    )


def _pace(given: RunOptions) -> Pace:
    concurrency = given.get("concurrency", DEFAULT_CONCURRENCY)
    return Pace(
        concurrency=AUTO_START if concurrency == "auto" else concurrency,
        adapts=concurrency == "auto",
        downloads=given.get("downloads", DEFAULT_DOWNLOADS),
        rate_per_s=given.get("rate_per_s"),
        poll_interval_s=given.get("poll_interval_s"),
        job_timeout_s=given.get("job_timeout_s", DEFAULT_JOB_TIMEOUT_S),
        outage_timeout_s=given.get("outage_timeout_s", DEFAULT_OUTAGE_S),
    )
