"""The checkpoint of a ledger in one file: where it lies, and when it is worth a new one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from batcher.disk import Disk
from batcher.layout import CHECKPOINT_NAME, HIDDEN_NAME, LEDGER_NAME
from batcher.ledger.checkpoint import encode_checkpoint, restore_checkpoint
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot

CHECKPOINT_STEP_BYTES = 32 << 20
"""So many bytes of ledger without one take a second to fold."""


def restored_bytes(snapshot: Snapshot, run_dir: Path, disk: Disk) -> int:
    """Let ``snapshot`` begin with the checkpoint, if there is one: how many bytes it stands for."""
    path = run_dir / HIDDEN_NAME / CHECKPOINT_NAME
    if not snapshot.may_restore or snapshot.spent_by_shard_usd or disk.size(path) is None:
        return 0
    try:
        with disk.open_read(path) as file:
            return restore_checkpoint(snapshot, file, lambda: disk.open_read(run_dir / LEDGER_NAME))
    except OSError:
        return 0


def keep_checkpoint(snapshot: Snapshot, run_dir: Path, disk: Disk, size_bytes: int) -> None:
    """Keep ``snapshot``, the fold of a ledger of ``size_bytes`` that is all on disk.

    A convenience: if it can't be written, it isn't.
    """
    if segments_in(run_dir, disk) != [LEDGER_NAME]:
        return
    with suppress(OSError), disk.open_read(run_dir / LEDGER_NAME) as ledger:
        pieces = encode_checkpoint(snapshot, ledger, size_bytes)
        disk.write_whole(run_dir / HIDDEN_NAME / CHECKPOINT_NAME, pieces)
