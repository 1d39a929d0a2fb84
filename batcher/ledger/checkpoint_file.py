"""The checkpoint of a ledger in one file: its path, and when to write a new one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from batcher.disk import Disk
from batcher.layout import CHECKPOINT_NAME, HIDDEN_NAME, LEDGER_NAME
from batcher.ledger.checkpoint import encode_checkpoint, restore_checkpoint
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot

CHECKPOINT_STEP_BYTES = 32 << 20
"""Folding this many bytes of ledger takes about a second."""


def restored_bytes(snapshot: Snapshot, run_dir: Path, disk: Disk) -> int:
    """Fill ``snapshot`` from the checkpoint, if there is one; returns how many bytes it covers."""
    path = run_dir / HIDDEN_NAME / CHECKPOINT_NAME
    if not snapshot.may_restore or snapshot.spent_by_shard_usd or disk.size(path) is None:
        return 0
    try:
        with disk.open_read(path) as file:
            return restore_checkpoint(snapshot, file, lambda: disk.open_read(run_dir / LEDGER_NAME))
    except OSError:
        return 0


def keep_checkpoint(snapshot: Snapshot, run_dir: Path, disk: Disk, size_bytes: int) -> None:
    """Save ``snapshot``, the fold of a ledger of ``size_bytes`` that is all on disk.

    Optional: if it can't be written, nothing happens.
    """
    if segments_in(run_dir, disk) != [LEDGER_NAME]:
        return
    with suppress(OSError), disk.open_read(run_dir / LEDGER_NAME) as ledger:
        pieces = encode_checkpoint(snapshot, ledger, size_bytes)
        disk.write_whole(run_dir / HIDDEN_NAME / CHECKPOINT_NAME, pieces)
