"""Which run directory a run takes, and what is checked about it before anything is bought."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from batcher.app.prepare import Prepared
from batcher.clock import Clock
from batcher.disk import Disk
from batcher.errors import LockedError, RunDirError
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot
from batcher.manifest.load import Manifest
from batcher.manifest.sources import is_stream
from batcher.options.run import Options
from batcher.store.local import RunDir
from batcher.store.lost_ledger import check_buys_nothing_twice, unexplained
from batcher.terminal import visible

OUTPUT_ROOT = Path("output")
_NO_PATTERNS = str.maketrans("[]{}*?", "()()__")
"""Loaders read these characters as patterns, so a directory named with them can't be loaded."""
LOOK_EVERY_S = 5.0
T = TypeVar("T")


def run_dir_of(options: Options, manifest: Manifest, disk: Disk) -> Path:
    """The run directory: as given, else ``output/<batch name>`` beside the manifest.

    An existing one is still used under its old name, or in the working directory. A manifest that is
    piped in has its directory in the latter.
    """
    if options.output is not None:
        return options.output
    name = f"{manifest.name}{'-sandbox' if options.sandbox is not None else ''}"
    names = (OUTPUT_ROOT / name.translate(_NO_PATTERNS), OUTPUT_ROOT / name)
    beside = Path() if is_stream(options.manifest) else options.manifest.parent
    places = [folder / one for folder in (beside, Path()) for one in names]
    return next((place for place in places if segments_in(place, disk)), places[0])


def check_existing(options: Options, run_dir: Path, disk: Disk) -> None:
    """Raises RunDirError if ``--existing`` finds no run directory."""
    if options.money.existing and not segments_in(run_dir, disk):
        raise RunDirError(f"{run_dir}: no run directory is there, and --existing begins none")


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
        "would buy the same jobs: continue in one of them only"
    )


async def when_free(work: Callable[[], Awaitable[T]], wait_s: float, clock: Clock) -> T:
    """``work()``, tried again for ``wait_s`` seconds while another run holds its run directory.

    Raises LockedError if that run is still active then. Locks are checked before anything is bought, so
    trying again costs nothing.
    """
    until_s = clock.monotonic() + wait_s
    while True:
        try:
            return await work()
        except LockedError:
            left_s = until_s - clock.monotonic()
            if left_s <= 0:
                raise
        await clock.sleep(min(LOOK_EVERY_S, left_s))
