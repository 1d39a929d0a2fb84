"""``batcher`` from Python: the same engine, no signal handlers, no questions, progress off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, Unpack

from batcher.app import run as app
from batcher.app.asked import asked_of, options_from
from batcher.app.host import Host
from batcher.disk import LocalDisk
from batcher.engine.view import Observer, Silence
from batcher.errors import IncompleteError, UsageError
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.summary import Status, Summary, status_of
from batcher.options.facts import Options
from batcher.options.sources import nearest
from batcher.options.table import BY_KEY
from batcher.planning.plan import Plan

COMMAND_LINE_ONLY: Final = frozenset({"dry_run", "json", "quiet", "verbose", "log_format"})


Manifests = str | PathLike[str] | Iterable[str | PathLike[str]]
"""A manifest, or several whose jobs are one batch."""


class RunOptions(TypedDict, total=False):
    """What :func:`run` and :func:`plan` take besides the manifest: the options of the command line.

    Their names have ``_`` for ``-``; their values are those of the command line (``"15m"``, ``"2GiB"``,
    ``"5/s"``, ``"20%"``) or plain numbers: seconds, bytes, USD. None stands for an option that was not
    given. ``observer`` is told how the run goes.
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
    retry_unknown: bool
    redo: bool
    max_attempts: int
    concurrency: int | Literal["auto"]
    rate: str | None
    downloads: int
    poll: float | str
    job_timeout: float | str
    outage_timeout: float | str
    dask: str | None
    max_cost: float | None
    assume_price: float | None
    canary: int | None
    canary_failures: int | str
    max_failures: int | str | None
    yes: bool
    on_interrupt: Literal["detach", "cancel"]
    grace: float | str
    allow_host: str | Iterable[str]
    max_file_size: int | str
    sandbox: bool
    sandbox_speed: float
    sandbox_faults: float
    sandbox_seed: int
    ignore_old_failures: bool
    observer: Observer


async def run(manifest: Manifests, **options: Unpack[RunOptions]) -> Summary:
    """Run ``manifest`` to its end; resumes whatever the run directory already holds.

    Returns the summary where the run came to its end, also if some jobs failed: see its
    ``exit_code`` (0 or 1) and :func:`raise_if_incomplete`. Raises a BatcherError where nothing ran,
    or where the run stopped early; then its ``summary`` attribute holds the summary, if any.
    Cancelling the awaiting task stops at once; what was paid for is in the ledger all the same.
    """
    chosen, host = _options(manifest, options)
    if chosen.dask is None:
        return await app.run(chosen, host)
    from batcher.distributed.coordinator import run as run_distributed

    return await run_distributed(chosen, chosen.dask, host)


async def plan(manifest: Manifests, **options: Unpack[RunOptions]) -> Plan:
    """What :func:`run` would do; spends nothing, writes nothing. Raises like it."""
    chosen, host = _options(manifest, options)
    return (await app.plan(chosen, host)).prepared.plan


def status(run_dir: str | PathLike[str]) -> Status:
    """What the ledger of ``run_dir`` says, live or at rest. Raises LedgerError."""
    snapshot = read_snapshot(Path(run_dir), LocalDisk())
    return status_of(Path(run_dir), snapshot, beside=LocalDisk())


def raise_if_incomplete(summary: Summary) -> None:
    """Raise IncompleteError where some selected job is not done."""
    if summary.exit_code:
        raise IncompleteError(f"{summary.total - summary.done} of {summary.total} jobs are not done")


def _options(manifest: Manifests, given: Mapping[str, Any]) -> tuple[Options, Host]:
    """Raises TypeError for names that are no options, UsageError for values that are none."""
    said = {name: value for name, value in given.items() if value is not None}
    observer = said.pop("observer", Silence())
    for name in given.keys() - {"observer"}:
        if name not in BY_KEY or name in COMMAND_LINE_ONLY:
            raise TypeError(f"{name} is no option of batcher.run(){_hint(name)}")
    values = {name: _value(name, value) for name, value in said.items()}
    host = Host(observer=observer)
    return options_from(asked_of(_paths(manifest), values, host.env)), host


def _paths(manifest: Manifests) -> list[str]:
    """The manifests as they would be typed. Raises UsageError for none."""
    paths = [manifest] if isinstance(manifest, str | PathLike) else [*manifest]
    if not paths:
        raise UsageError("no manifest is named")
    return [str(path) for path in paths]


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
