"""``batcher`` from Python: the same engine, no signal handlers, no questions, progress off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, TypedDict, Unpack

from batcher.app import run as app
from batcher.app.asked import asked_of, options_from
from batcher.app.observers import Guarded, ObserverGroup, Reporter
from batcher.app.plan import plan as app_plan
from batcher.app.progress import progress_bar
from batcher.app.run_dir_checks import when_free
from batcher.disk import LocalDisk
from batcher.engine.host import Host
from batcher.errors import (
    BatcherError,
    CredentialsError,
    IncompleteError,
    InputError,
    LedgerError,
    ManifestError,
    RunDirError,
    StoppedError,
    UnreachableError,
    UsageError,
)
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.summary import ListedJob, Status, Summary, status_of
from batcher.manifest.from_python import ROWS_NAME, write_manifest
from batcher.options.run import Options
from batcher.options.sources import nearest
from batcher.options.table import BY_KEY
from batcher.planning.plan import Plan
from batcher.ports import JobEvent, Observer, Silence

COMMAND_LINE_ONLY: Final = frozenset(
    {"dry_run", "json", "quiet", "verbose", "log_format", "log_file", "log_level"}
    | {"metrics_file", "notify", "notify_on"}
)


Manifests = str | PathLike[str] | Iterable[str | PathLike[str]]
"""A manifest, or several whose jobs are one batch."""


class RunOptions(TypedDict, total=False):
    """The arguments of :func:`run` and :func:`plan` besides the manifest: the command line's options.

    Their names have ``_`` for ``-``; their values are those of the command line (``"15m"``, ``"2GiB"``,
    ``"5/s"``, ``"20%"``) or plain numbers: seconds, bytes, USD. None means that an option is not given.
    ``progress`` shows a bar, in a notebook too. Instead, an ``observer`` can follow the run
    (``started``, ``changed`` and ``finished`` with a RunView, ``warn``, and if it has them ``event`` and
    ``call``: see :class:`batcher.ports.Observer`). It is called on the event loop and must not block. If
    it raises, its ``warn`` is told, and the run goes on.
    ``on_lock="skip"`` raises LockedError, like ``"fail"``.
    """

    output: str | PathLike[str] | None
    state_dir: str | PathLike[str] | None
    model: str | None
    set: Mapping[str, object]
    format: str | None
    encoding: str | None
    delimiter: str | None
    rename: Mapping[str, str]
    vars: str | Iterable[str]
    meta: str | Iterable[str]
    ignore: str | Iterable[str]
    var: Mapping[str, object]
    extra: str | Iterable[str]
    per_row: bool
    skip_invalid: bool
    show: int | None
    check_urls: bool
    limit: int | None
    only: str | Iterable[str] | None
    shard: str | tuple[int, int] | None
    retry_failed: bool
    retry_refused: bool
    retry_unknown: bool
    redo: bool
    max_attempts: int
    concurrency: int | str | Mapping[str, int | Literal["auto"]]
    account_concurrency: int | None
    rate: str | None
    downloads: int
    poll: float | str
    job_timeout: float | str
    max_runtime: float | str
    outage_timeout: float | str
    dask: str | None
    max_cost: float | None
    max_cost_per: Mapping[str, float] | str
    existing: bool
    allow_removed: bool
    assume_price: float | None
    canary: int | None
    canary_failures: int | str
    retries: int
    max_failures: int | str | None
    yes: bool
    on_interrupt: Literal["detach", "cancel"]
    on_lock: str
    grace: float | str
    allow_host: str | Iterable[str]
    max_file_size: int | str
    sandbox: bool
    sandbox_speed: float
    sandbox_faults: float
    sandbox_seed: int
    ignore_old_failures: bool
    progress: bool
    observer: Observer


async def run(
    manifest: Manifests | None = None, *, jobs: Any = None, **options: Unpack[RunOptions]
) -> Summary:
    """Run ``manifest``, or ``jobs``, to the end; resumes whatever the run directory already holds.

    ``jobs`` are dictionaries of inputs (with ``id``, ``model``, ``meta``, ... as in a manifest) or
    prompts: a list, a data frame, any iterable, or a manifest's path. They need ``output``, the run
    directory. Options in files and environment variables apply as on the command line.

    Returns the summary if the run came to its end, even if some jobs are not done: see its
    ``exit_code`` (0 or 1) and :func:`raise_if_incomplete`. Also returns it if the run stopped early on
    purpose (budget, ``max_failures``, canary, balance): then ``exit_code`` is 3 and ``stopped`` gives
    the reason. Raises a BatcherError if nothing ran, TypeError for an unknown option. Cancelling the
    awaiting task (in a notebook: interrupting the cell) is what Ctrl-C is on the command line: the run
    waits for answers to submissions in flight, up to ``grace`` seconds, and unlocks the run directory;
    after a second cancel it doesn't wait. What was paid for is in the ledger: running again resumes it.
    """
    with _asked(manifest, jobs, options) as (chosen, host):
        return await when_free(lambda: app.run(chosen, host), chosen.lock_wait_s, host.clock)


class _EndedJobs(Reporter):
    """Passes each job whose end is on disk to ``put``."""

    def __init__(self, put: Callable[[ListedJob], None]) -> None:
        self._put = put

    def event(self, event: JobEvent) -> None:
        if event.ends_job:
            self._put(event.describe())


async def stream(
    manifest: Manifests | None = None, *, jobs: Any = None, **options: Unpack[RunOptions]
) -> AsyncGenerator[ListedJob]:
    """Like :func:`run`, but yields each job when its end is durably recorded: see its ``state``.

    ``done`` jobs have ``files``, relative to the run directory. Jobs that an earlier run finished are
    not repeated. Leaving the loop stops the run, as cancelling does. Raises like :func:`run`,
    and at the end what :func:`raise_if_incomplete` would if the run stopped early.
    """
    with _asked(manifest, jobs, options) as (chosen, host):
        if chosen.dask is not None:
            raise UsageError("stream() runs on this machine: leave out dask, or use run()")
        ended: asyncio.Queue[ListedJob | None] = asyncio.Queue()
        host.observer = ObserverGroup(host.observer, [_EndedJobs(ended.put_nowait)])
        task = asyncio.ensure_future(app.run(chosen, host))
        task.add_done_callback(lambda _: ended.put_nowait(None))
        try:
            while (job := await ended.get()) is not None:
                yield job
            summary = await task
        finally:
            task.cancel()
            await asyncio.wait([task])
    if summary.stopped is not None:
        raise _reason(summary)


async def plan(
    manifest: Manifests | None = None, *, jobs: Any = None, **options: Unpack[RunOptions]
) -> Plan:
    """What :func:`run` would do; spends nothing, writes nothing. Raises like it."""
    with _asked(manifest, jobs, options) as (chosen, host):
        return (await app_plan(chosen, host)).prepared.plan


def status(run_dir: str | PathLike[str]) -> Status:
    """The state in the ledger of ``run_dir``, during or after a run. Raises LedgerError."""
    snapshot = read_snapshot(Path(run_dir), LocalDisk())
    return status_of(Path(run_dir), snapshot, beside=LocalDisk())


def raise_if_incomplete(summary: Summary) -> None:
    """Raise the error that stopped the run early, or IncompleteError if any selected job is not done."""
    if summary.stopped is not None:
        raise _reason(summary)
    if summary.exit_code:
        raise IncompleteError(f"{summary.total - summary.done} of {summary.total} jobs are not done")


def _reason(summary: Summary) -> BatcherError:
    """The error whose exit code is that of a run that stopped early."""
    kinds = (CredentialsError, InputError, LedgerError, RunDirError, UnreachableError)
    by_code: dict[int, type[BatcherError]] = {kind.exit_code: kind for kind in kinds}
    return by_code.get(summary.exit_code, StoppedError)(summary.stopped)


@contextmanager
def _asked(
    manifest: Manifests | None, jobs: Any, given: Mapping[str, Any]
) -> Iterator[tuple[Options, Host]]:
    """The options of a call. Raises TypeError for unknown names, UsageError for invalid values."""
    if (manifest is None) == (jobs is None):
        raise TypeError("give either a manifest or jobs=...")
    values = {name: value for name, value in given.items() if value is not None}
    host = Host(observer=_observer(values))
    for name in given.keys() - {"observer", "progress"}:
        if name not in BY_KEY or name in COMMAND_LINE_ONLY:
            raise TypeError(f"{name} is no option of batcher.run(){_hint(name)}")
    values = {name: _value(name, value) for name, value in values.items()}
    if manifest is None and isinstance(jobs, str | PathLike):
        manifest, jobs = jobs, None
    if manifest is not None:
        yield options_from(asked_of(_paths(manifest), values, host.env)), host
        return
    asked = asked_of([], values, host.env)
    if asked.values.get("output") is None:
        raise UsageError("jobs need output=...: the run directory, which a later call resumes")
    with TemporaryDirectory(prefix="batcher-") as folder:
        name = Path(asked.values["output"].rstrip("/")).name
        path = write_manifest(jobs, Path(folder), name)
        try:
            yield options_from(replace(asked, manifests=(str(path),), is_passing=True)), host
        except ManifestError as error:
            raise _of_jobs(error, path.with_name(ROWS_NAME)) from None


def _of_jobs(error: ManifestError, rows: Path) -> ManifestError:
    """``error``, with the numbers of jobs for the lines of the file that they were written to."""
    problems = [problem.replace(f"{rows}:", "jobs, row ") for problem in error.problems]
    return ManifestError(problems, error.total)


def _paths(manifest: Manifests) -> list[str]:
    """The manifests as they would be typed. Raises UsageError for none."""
    paths = [manifest] if isinstance(manifest, str | PathLike) else [*manifest]
    if not paths:
        raise UsageError("no manifest is named")
    return [fspath(path) for path in paths]


def _observer(values: dict[str, Any]) -> Observer:
    observer, progress = values.pop("observer", None), values.pop("progress", False)
    if observer is not None:
        return Guarded(observer)
    return progress_bar() if progress else Silence()


def _value(name: str, given: Any) -> Any:
    if name == "only" and not isinstance(given, str):
        return frozenset(given)
    if name == "shard" and isinstance(given, tuple):
        given = f"{given[0]}/{given[1]}"
    try:
        return BY_KEY[name].value(given)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


def _hint(name: str) -> str:
    if name in COMMAND_LINE_ONLY:
        return ": it belongs to the command line"
    return nearest(name, BY_KEY.keys() - COMMAND_LINE_ONLY)
