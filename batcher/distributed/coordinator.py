"""A run on a cluster from beginning to end: plan, confirm, run the shards, add up the results."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from batcher.app import run as app
from batcher.app.host import Host
from batcher.app.outcome import summarise
from batcher.app.prepare import Prepared, confirm
from batcher.dataset.metadata import gather
from batcher.disk import writing
from batcher.distributed.cluster import check_installed, connected, place_of
from batcher.distributed.divide import check_divisible, divide
from batcher.distributed.fleet import SLACK_S, Fleet
from batcher.distributed.messages import Sight, Task
from batcher.distributed.outcome import accepted_since, sizes_of, verdict
from batcher.distributed.worker import look, manifest_sha256
from batcher.engine.stop import Control
from batcher.errors import RunDirError, UnreachableError
from batcher.jobs.shard import Shard
from batcher.layout import HIDDEN_NAME
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.run_dir_lock import check_free
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.summary import Summary
from batcher.options.run import Options
from batcher.store.bucket import open_run_dir


async def run(options: Options, where: str, host: Host) -> Summary:
    """Like ``app.run``, on the workers of the Dask cluster that ``where`` names.

    Raises UsageError for options that a cluster can't honour, UnreachableError if there is no cluster,
    and whatever ``app.run`` raises.
    """
    place = place_of(where)
    check_divisible(options)
    check_installed()
    prepared = (await app.plan(options, host)).prepared
    confirm(prepared, host)
    run_dir = prepared.run_dir.absolute()
    _check_free(run_dir, host)
    async with connected(place) as client:
        return await _share_out(client, prepared, run_dir, host)


async def _share_out(client: Any, prepared: Prepared, run_dir: Path, host: Host) -> Summary:
    began_s = host.clock.monotonic()
    options = prepared.options
    threads = sum((await client.nthreads()).values())
    count = min(threads, options.pace.concurrency)
    before = await _reach(options, run_dir, host)
    control = Control()
    with _mark(run_dir, host) as mark:
        sight = Sight(
            mark,
            options.manifest.absolute(),
            manifest_sha256(options.manifest) or "",
            version("runcomfy-batcher"),
        )
        await _check_sights(client, sight)
        tasks = [Task(mark.name, part, sight) for part in divide(prepared, run_dir, count)]
        fleet = Fleet(client, mark.name, tasks, host)
        fleet.view.selected = prepared.plan.selected
        host.observer.started(fleet.view)
        lost: UnreachableError | None = None
        try:
            with host.signals(control):
                await fleet.run(control, options.pace.grace_s - SLACK_S)
        except UnreachableError as error:
            lost = error  # what was bought until then is in the ledger, and in the summary
        finally:
            host.observer.finished(fleet.view)
    end = verdict(fleet, control.error or lost, options)
    if segments_in(run_dir, host.disk):
        # Shards that ended at the same time, or died, may each have relied on another one to do this.
        gather(run_dir, Shard(count, 1), host.disk)
    end.view.submitted_now = accepted_since(run_dir, before, host.disk)
    elapsed_s = host.clock.monotonic() - began_s
    return summarise(prepared, _snapshot(run_dir, host), end.view, end.error, elapsed_s)


async def _reach(options: Options, run_dir: Path, host: Host) -> dict[str, int]:
    """The size in bytes of each segment of the ledger, here or in the bucket if that has more.

    What the shards fetch from the bucket was bought by an earlier run. Raises what the bucket raises.
    """
    sizes = sizes_of(run_dir, host.disk)
    store = open_run_dir(run_dir, host.disk, bucket_url=options.bucket_url)
    for name, size_bytes in (await store.segments_elsewhere()).items():
        sizes[name] = max(sizes.get(name, 0), size_bytes)
    return sizes


def _snapshot(run_dir: Path, host: Host) -> Snapshot:
    return read_snapshot(run_dir, host.disk) if segments_in(run_dir, host.disk) else Snapshot()


def _check_free(run_dir: Path, host: Host) -> None:
    """Raises LockedError if another run is active, before any worker is started in vain."""
    if segments_in(run_dir, host.disk):
        check_free(run_dir / HIDDEN_NAME, host.disk)


@contextmanager
def _mark(run_dir: Path, host: Host) -> Iterator[Path]:
    """A file that lets workers check that they see the run directory. Raises RunDirError."""
    hidden = run_dir / HIDDEN_NAME
    mark = hidden / f"dask-{uuid.uuid4().hex[:12]}"
    with writing(hidden):
        host.disk.make_dirs(hidden)
        host.disk.write_whole(mark, [b""])
    try:
        yield mark
    finally:
        with writing(hidden):
            host.disk.remove(mark)


async def _check_sights(client: Any, sight: Sight) -> None:
    """Raises RunDirError if a worker does not see the run directory or the manifest."""
    try:
        problems = await client.run(look, sight)
    except Exception as error:
        raise UnreachableError(
            f"a worker can't be asked; is batcher installed there? {type(error).__name__}: {error}"
        ) from error
    found = {worker: problem for worker, problem in problems.items() if problem is not None}
    for worker, problem in found.items():
        more = f" ({len(found) - 1} more workers have problems)" if len(found) > 1 else ""
        raise RunDirError(f"worker {worker}: {problem}{more}")
