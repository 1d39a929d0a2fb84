"""Which run directory a run takes, and what is checked about it before anything is bought."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from batcher.app.prepare import Prepared
from batcher.clock import Clock
from batcher.disk import Disk
from batcher.errors import BatcherError, InputError, LockedError, RunDirError
from batcher.jobs.column_rules import Mapped
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot
from batcher.manifest.load import Manifest
from batcher.options.command import as_path, command
from batcher.options.given import is_stream
from batcher.options.record import given_of
from batcher.options.run import Options
from batcher.store.bucket_outputs import bucket_url_of
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
    beside = Path() if is_stream(str(options.manifest)) else options.manifest.parent
    places = [folder / one for folder in (beside, Path()) for one in names]
    return next((place for place in places if segments_in(place, disk)), places[0])


def check_is_manifest(options: Options, disk: Disk) -> None:
    """Raises InputError for a run directory instead of a manifest, with what can be done with it.

    Its outputs may be meant as inputs: then options say what to do with the columns of their metadata.
    """
    for path in (options.manifest, *options.also):
        if options.overrides.columns == Mapped() and _is_run_dir(path, disk):
            what = f"{path}: is a run directory, not a manifest"
            raise InputError("\n  ".join([what, *_uses(path, disk)]))


def _is_run_dir(path: Path, disk: Disk) -> bool:
    with suppress(RunDirError):
        return os.path.isdir(path) and bool(segments_in(path, disk))  # noqa: PTH112 (false for no path)
    return False


def _uses(run_dir: Path, disk: Disk) -> Iterator[str]:
    named = as_path(run_dir)
    yield f"to see its jobs: {command('status', named)}"
    with suppress(BatcherError):
        last = read_snapshot(run_dir, disk).last_run
        given = given_of(last.asked if last is not None else None, run_dir, bucket_url_of(run_dir))
        if given is not None:
            yield f"to run its manifest again: {given.resume_command()}"
    best = command("promote", named, "--marks", "star", "-o", "next.yaml")
    yield f"to make a manifest of its best outputs: {best}"
    inputs = command("plan", named, "--model", "MODEL", "--ignore", "input.prompt,*")
    yield f"to use its outputs as inputs: {inputs}"


def check_existing(options: Options, run_dir: Path, disk: Disk) -> None:
    """Raises RunDirError for a file, and if ``--existing`` finds no run directory."""
    if run_dir.is_file():
        raise RunDirError(f"{run_dir}: is a file, and -o names the directory of a run")
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
