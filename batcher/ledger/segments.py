"""The files that make up a ledger: one for runs of everything, one for each shard of a divided run.

Segments of one division (1-of-3, 2-of-3, 3-of-3) never mention the same job, and one division at a time
holds a run directory. So the order is known if each stretch of a segment says what it follows: a run
that finds segments of other divisions begins by recording their sizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from batcher.disk import Disk, reading
from batcher.jobs.shard import Shard
from batcher.layout import HIDDEN_NAME, LEDGER_NAME

SEGMENT_SHIFT = 44
"""A line's *place*: its byte offset in the lower 44 bits, the number of its segment above them."""
_SEGMENT = re.compile(r"ledger\.([1-9][0-9]{0,8})-of-([1-9][0-9]{0,8})\.jsonl")


def segment_name(shard: Shard | None) -> str:
    """The file that a run of ``shard``, or of everything, writes to."""
    return f"ledger.{shard}.jsonl" if shard is not None else LEDGER_NAME


def shard_of_segment(name: str) -> Shard | None:
    """The shard of a segment; None for the segment of runs of everything."""
    match = _SEGMENT.fullmatch(name)
    return Shard(int(match[2]), int(match[1])) if match else None


def is_strangers(name: str, job_id: str) -> bool:
    """Whether segment ``name`` belongs to a shard that does not contain the job.

    Version 0.1 cancelled requests of all shards on an interrupt: lines in a segment about other shards'
    jobs that contradict their own segments are ignored.
    """
    shard = shard_of_segment(name)
    return bool(job_id) and shard is not None and not shard.has(job_id)


def is_segment(name: str) -> bool:
    """Whether a file of this name is part of a ledger."""
    return name == LEDGER_NAME or shard_of_segment(name) is not None


def begun_mark(run_dir: Path, name: str) -> Path:
    """The file that records that segment ``name`` once had a durable line."""
    return run_dir / HIDDEN_NAME / f"begun.{name.removesuffix('.jsonl')}"


def division(name: str) -> int:
    """The number of shards in the division that wrote a segment."""
    shard = shard_of_segment(name)
    return shard.count if shard is not None else 0


def segments_in(run_dir: Path, disk: Disk) -> list[str]:
    """The existing segments, always in the same order. Raises RunDirError without permission to list."""
    with reading(run_dir):
        is_whole = disk.size(run_dir / LEDGER_NAME) is not None
        names = disk.list_dir(run_dir)
    shards = (shard for name in names if (shard := shard_of_segment(name)) is not None)
    divided = [segment_name(shard) for shard in sorted(shards)]
    return [LEDGER_NAME, *divided] if is_whole else divided


def others(name: str, names: list[str]) -> Iterator[str]:
    """Those of ``names`` that belong to another division than segment ``name``."""
    return (other for other in names if division(other) != division(name))
