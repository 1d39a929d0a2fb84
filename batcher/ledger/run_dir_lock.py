"""Locks for writing in a run directory: one run of everything, or the shards of one division.

The locks are in ``.batcher/`` and end with their process: ``lock`` for a run of everything,
``lock.I-of-N`` for a shard, and ``start``, held while a run checks the others, so that two runs that
start at once see each other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from batcher.disk import Disk
from batcher.errors import LockedError
from batcher.jobs.shard import Shard
from batcher.layout import HIDDEN_NAME, LOCK_NAME, START_NAME
from batcher.ledger.segments import shard_of_segment

if TYPE_CHECKING:
    from collections.abc import Iterator

START_PATIENCE_S = 30.0


def take_hold(hidden: Path, shard: Shard | None, disk: Disk) -> Callable[[], None]:
    """Take the lock for a run of ``shard``, or of everything; returns a function that releases it.

    Raises LockedError if another run holds the directory, or shards of another division do.
    """
    with _starting(hidden, disk):
        locks = _locks(hidden, disk)
        if shard is not None:
            locks = [name for name in locks if not name.endswith(f"-of-{shard.count}")]
        _try(hidden, locks, disk)
        return disk.lock(hidden / _lock_name(shard))


def is_held(hidden: Path, disk: Disk) -> bool:
    """Whether a run is active in the directory."""
    try:
        check_free(hidden, disk)
    except LockedError:
        return True
    return False


def check_free(hidden: Path, disk: Disk) -> None:
    """Raises LockedError if a run is active in the directory."""
    with _starting(hidden, disk):
        _try(hidden, _locks(hidden, disk), disk)


def is_segment_held(run_dir: Path, name: str, disk: Disk) -> bool | None:
    """Whether a run holds segment ``name``; None if unknown. For readers: writes nothing."""
    hidden = run_dir / HIDDEN_NAME
    return disk.is_locked(hidden / _lock_name(shard_of_segment(name)), hidden / START_NAME)


def _lock_name(shard: Shard | None) -> str:
    return LOCK_NAME if shard is None else f"{LOCK_NAME}.{shard}"


def _locks(hidden: Path, disk: Disk) -> list[str]:
    return [name for name in disk.list_dir(hidden) if name.partition(".")[0] == LOCK_NAME]


def _try(hidden: Path, names: list[str], disk: Disk) -> None:
    """Raises LockedError if one of the locks is taken."""
    for name in names:
        disk.lock(hidden / name)()


@contextmanager
def _starting(hidden: Path, disk: Disk) -> Iterator[None]:
    release = disk.lock(hidden / START_NAME, START_PATIENCE_S)
    try:
        yield
    finally:
        release()
