"""What the rest of a run directory says of its ledger.

The ledger is the only state, so one that was emptied, lost or replaced by an older copy makes every
job look new, and a run would buy it all again. But results lie beside it, and they name their jobs.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from batcher.disk import Disk
from batcher.errors import LedgerError
from batcher.jobs.shard import Shard
from batcher.ledger.lines import lines_of
from batcher.ledger.segments import LEDGER_NAME, segments_in
from batcher.ledger.snapshot import Snapshot
from batcher.store.local import MEDIA_NAME, METADATA_NAME


class _Row(msgspec.Struct):
    job: str


_decode_row = msgspec.json.Decoder(_Row).decode


def check_nothing_lost(run_dir: Path, snapshot: Snapshot, disk: Disk, shard: Shard | None) -> None:
    """Raises LedgerError where ``run_dir`` holds results of jobs that the ledger doesn't mention.

    Other shards may have brought results since the ledger was read: ``shard`` looks at its own.
    """
    try:
        stranger = _stranger(run_dir, snapshot, disk, shard)
    except OSError as error:
        raise LedgerError(f"{run_dir}: can't be read: {error.strerror or error}") from error
    if stranger is not None:
        raise LedgerError(
            f"{run_dir}: {stranger}, but {LEDGER_NAME} does not know it: the ledger was emptied, lost "
            "or replaced, and a run would buy again what was paid for. Put the ledger back from a "
            f"backup. If buying again is meant, choose another directory with -o, or move "
            f"{MEDIA_NAME}/ and {METADATA_NAME} out of this one"
        )


def _stranger(run_dir: Path, snapshot: Snapshot, disk: Disk, shard: Shard | None) -> str | None:
    """A result whose job is not in the ledger, in words.

    A file name says only roughly which job it is of, so media count where the ledger knows no job.
    """
    nothing_known = not snapshot.records and (shard is None or not segments_in(run_dir, disk))
    if nothing_known and (names := disk.list_dir(run_dir / MEDIA_NAME)):
        return f"{MEDIA_NAME}/{names[0]} is here"
    path = run_dir / METADATA_NAME
    if disk.size(path) is None:
        return None
    with disk.open_read(path) as file:
        for _, line in lines_of(file):
            try:
                job = _decode_row(line).job
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue  # torn, or not ours: the file is made anew
            if job not in snapshot.records and (shard is None or shard.has(job)):
                return f"{METADATA_NAME} names the job {job!r}"
    return None
