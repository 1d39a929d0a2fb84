"""Detects a lost or replaced ledger: outputs on disk that no ledger line mentions.

The ledger is the only state, so if it was emptied, lost or replaced by an older copy, every job looks
new, and a run would buy all of them again. But the results beside it name their jobs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from batcher.disk import Disk
from batcher.errors import LedgerError
from batcher.jobs.job import owners_of
from batcher.jobs.lifecycle import Stage, State
from batcher.jobs.shard import Shard
from batcher.layout import LEDGER_NAME, MEDIA_NAME, METADATA_NAME, SUPERSEDED_NAME
from batcher.ledger.finished import JobRecord
from batcher.ledger.lines import lines_of
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot
from batcher.store.local import RunDir
from batcher.terminal import counted, visible

NAMES_SHOWN = 5
_SUPERSEDED = re.compile(r"(.+)\.attempt-([0-9]+)(\.[^.]*)?")


class _Row(msgspec.Struct):
    job: str


_decode_row = msgspec.json.Decoder(_Row).decode


def check_nothing_lost(run_dir: Path, snapshot: Snapshot, disk: Disk, shard: Shard | None) -> None:
    """Raises LedgerError if ``run_dir`` holds results of jobs that the ledger doesn't mention.

    Other shards may have added results since the ledger was read: ``shard`` checks only its own.
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


async def unexplained(store: RunDir, snapshot: Snapshot) -> dict[str, str]:
    """Outputs that the ledger can't explain: job ids with the paths of outputs that may be theirs.

    A file whose name is not that of an output of ours belongs to the user and is ignored.
    """
    found: dict[str, str] = {}
    async for path in store.outputs():
        folder, _, name = path.partition("/")
        attempt = 0
        if folder == SUPERSEDED_NAME:
            match = _SUPERSEDED.fullmatch(name)
            if match is None:
                continue
            name, attempt = f"{match[1]}{match[3]}", int(match[2])
        owners = owners_of(name)
        records = [snapshot.get(owner) for owner in owners]
        if not any(record is not None and _explains(record, path, attempt) for record in records):
            found.update(dict.fromkeys(owners, path))
    return found


def _explains(record: JobRecord, path: str, superseded: int) -> bool:
    """Whether a job with this record can have the output, or one of attempt ``superseded`` if not 0.

    A job that is done has the files that its line lists, and no others: ``1.0.mp4`` may be the only
    output of a job ``1.0`` or the first one of ``1``.
    """
    if superseded:
        return record.attempt > superseded
    if record.attempt > 1 or record.replaced is not None:
        return True  # left by an earlier attempt
    if record.state is State.DONE:
        return any(artifact.path == path for artifact in record.files)
    if record.state is State.FAILED:
        return record.stage is Stage.DOWNLOAD
    return record.state in (State.SUBMITTED, State.COMPLETED)


def check_buys_nothing_twice(run_dir: Path, bought: Iterable[str], outputs: dict[str, str]) -> None:
    """Raises LedgerError if jobs to be submitted already have outputs; see ``unexplained``."""
    paths = sorted({outputs[job_id] for job_id in bought if job_id in outputs})
    if paths:
        shown = ", ".join(paths[:NAMES_SHOWN]) + (" ..." if len(paths) > NAMES_SHOWN else "")
        held = counted(len(paths), "output", "outputs")
        raise LedgerError(
            f"{run_dir}: holds {held} of jobs that, by {LEDGER_NAME}, were never bought "
            f"({visible(shown)}): an older ledger was put back, or lines were lost, and a run would buy "
            "them again. Put the newest ledger back from a backup. If buying again is meant, move these "
            "files out of the directory, or choose another one with -o"
        )


def _stranger(run_dir: Path, snapshot: Snapshot, disk: Disk, shard: Shard | None) -> str | None:
    """Describes a result whose job is not in the ledger.

    A file name identifies its job only roughly, so media count only if the ledger has no jobs.
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
                continue  # torn, or not ours: the file is written again
            if job not in snapshot.records and (shard is None or shard.has(job)):
                return f"{METADATA_NAME} names the job {job!r}"
    return None
