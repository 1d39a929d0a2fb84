"""``--dask``: a run on a cluster from beginning to end: plan, confirm, run the shards, summarise."""

from __future__ import annotations

from pathlib import Path

from batcher.app.bad_jobs import BadJobs, note_new
from batcher.app.outcome import summarise
from batcher.app.plan import plan
from batcher.app.prepare import Prepared, confirm
from batcher.distributed.cluster import check_installed, connected, place_of
from batcher.distributed.coordinator import run_division
from batcher.distributed.divide import Division, check_divisible
from batcher.distributed.worker import RunShard
from batcher.engine.host import Host
from batcher.layout import HIDDEN_NAME
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.run_dir_lock import check_free
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.summary import Summary
from batcher.options.run import Options


async def run_on_cluster(options: Options, address: str, run_shard: RunShard, host: Host) -> Summary:
    """Like ``run``, on the workers of the Dask cluster at ``address``; each runs ``run_shard``.

    Raises UsageError for options that a cluster can't honour, UnreachableError if there is no cluster,
    and what ``run`` raises.
    """
    place = place_of(address)
    check_divisible(options)
    check_installed()
    prepared = (await plan(options, host)).prepared
    confirm(prepared, host)
    division = _division_of(prepared)
    _check_free(division.run_dir, host)
    before = BadJobs.of(_snapshot(division.run_dir, host))
    async with connected(place) as client:
        began_s = host.clock.monotonic()
        end = await run_division(client, division, run_shard, host)
        elapsed_s = host.clock.monotonic() - began_s
        snapshot = _snapshot(division.run_dir, host)
        summary = summarise(prepared, snapshot, end.view, end.error, elapsed_s)
        note_new(summary, snapshot, before)
        return summary


def _division_of(prepared: Prepared) -> Division:
    return Division(
        options=prepared.options,
        run_dir=prepared.run_dir.absolute(),
        selected=prepared.plan.selected,
        resumed=tuple(prepared.plan.resumed),
        chosen=prepared.chosen(),
    )


def _snapshot(run_dir: Path, host: Host) -> Snapshot:
    return read_snapshot(run_dir, host.disk) if segments_in(run_dir, host.disk) else Snapshot()


def _check_free(run_dir: Path, host: Host) -> None:
    """Raises LockedError if another run is active, before any worker is started."""
    if segments_in(run_dir, host.disk):
        check_free(run_dir / HIDDEN_NAME, host.disk)
