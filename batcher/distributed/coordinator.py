"""The caller's side of a run on a cluster: divide, start the shards, wait, add up the results."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from batcher.dataset.metadata import gather
from batcher.disk import writing
from batcher.distributed.divide import Division, divide
from batcher.distributed.fleet import SLACK_S, Fleet
from batcher.distributed.messages import Sight, Task
from batcher.distributed.outcome import End, accepted_since, sizes_of, verdict
from batcher.distributed.worker import RunShard, look, manifest_sha256
from batcher.engine.host import Host
from batcher.engine.stop import Control
from batcher.errors import RunDirError, UnreachableError
from batcher.jobs.shard import Shard
from batcher.layout import HIDDEN_NAME
from batcher.ledger.segments import segments_in
from batcher.options.run import Options
from batcher.store.bucket import open_run_dir


async def run_division(client: Any, division: Division, run_shard: RunShard, host: Host) -> End:
    """Run each shard of ``division`` with ``run_shard`` on a worker of ``client``'s cluster.

    Raises RunDirError if a worker does not see the run directory, UnreachableError if it can't be asked,
    and what the shards raised if none of them ran anything.
    """
    options, run_dir = division.options, division.run_dir
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
        tasks = [Task(mark.name, part, sight) for part in divide(division, count)]
        fleet = Fleet(client, mark.name, tasks, run_shard, host)
        fleet.view.selected = division.selected
        host.observer.started(fleet.view)
        lost: UnreachableError | None = None
        try:
            with host.signals(control):
                await fleet.run(control, options.pace.grace_s - SLACK_S)
        except UnreachableError as error:
            lost = error  # what was bought until then is in the ledger, and in the summary
        finally:
            if reason := control.error or lost:
                fleet.view.stopped = str(reason)
            host.observer.finished(fleet.view)
    end = verdict(fleet, control.error or lost, options)
    if segments_in(run_dir, host.disk):
        # Shards that ended at the same time, or died, may each have relied on another one to do this.
        gather(run_dir, Shard(count, 1), host.disk)
    end.view.submitted_now = accepted_since(run_dir, before, host.disk)
    return end


async def _reach(options: Options, run_dir: Path, host: Host) -> dict[str, int]:
    """The size in bytes of each segment of the ledger, here or in the bucket if that has more.

    What the shards fetch from the bucket was bought by an earlier run. Raises what the bucket raises.
    """
    sizes = sizes_of(run_dir, host.disk)
    store = open_run_dir(run_dir, host.disk, bucket_url=options.bucket_url)
    for name, size_bytes in (await store.segments_elsewhere()).items():
        sizes[name] = max(sizes.get(name, 0), size_bytes)
    return sizes


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
