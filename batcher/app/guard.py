"""Checks besides the ledger before any spending: existing outputs, and the directory itself."""

from __future__ import annotations

from batcher.app.prepare import Prepared
from batcher.disk import Disk
from batcher.ledger.snapshot import Snapshot
from batcher.store.local import RunDir
from batcher.store.lost_ledger import check_buys_nothing_twice, unexplained
from batcher.terminal import visible


async def check_outputs(prepared: Prepared, store: RunDir, snapshot: Snapshot) -> None:
    """Raises LedgerError if jobs to be submitted already have outputs."""
    if prepared.plan.to_buy and (outputs := await unexplained(store, snapshot)):
        bought = (job.id for job, decision in prepared.work(snapshot) if decision.buys)
        check_buys_nothing_twice(prepared.run_dir, bought, outputs)


def moved_since(snapshot: Snapshot, store: RunDir, disk: Disk) -> str | None:
    """A warning if the run directory is not the one that its last run wrote.

    A copy has another inode. The device number may change on a reboot, and a container's host name
    with every run, so they don't count. A bucket has its own claim.
    """
    last = snapshot.last_run
    if last is None or last.inode is None or not store.may_be_a_copy:
        return None
    there = disk.device_and_inode(store.root)
    if there is None or there[1] == last.inode:
        return None
    return (
        f"{store.root}: is not the directory that its last run wrote (on {visible(last.host or '?')}), "
        "but a copy of it, restored, or moved from another disk. If the other one is still in use, both "
        "would buy the same jobs: go on in one of them only"
    )
