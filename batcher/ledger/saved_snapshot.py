"""A snapshot as saved in a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from batcher.jobs.lifecycle import Record, RunEvent
from batcher.ledger.costs import SavedCosts
from batcher.ledger.finished import SavedJobs
from batcher.ledger.packed import PackedMap, PackedSet, SavedWords
from batcher.ledger.segments import SEGMENT_SHIFT
from batcher.pacing.timings import SavedTimings


@dataclass(slots=True)
class LastRun:
    """The last run in a segment of the ledger, and the place of its opening line."""

    opening: RunEvent
    place: int
    number: int
    ended: bool = False

    def wrote(self, place: int) -> bool:
        """Whether the line at ``place`` is of this run."""
        return place > self.place and place >> SEGMENT_SHIFT == self.place >> SEGMENT_SHIFT


class Sums(msgspec.Struct, array_like=True):
    """Sums over all jobs."""

    orphaned: int
    spent_usd: float
    reported_usd: float
    reported_price_usd: float
    unpriced_attempts: int
    bytes: int
    dataset_changes: int
    identity: int | None


class Saved(msgspec.Struct, array_like=True):
    """A snapshot as saved in a file."""

    sums: Sums
    began: int
    last_run: RunEvent | None
    runs: dict[int, LastRun]
    open: dict[str, Record]
    finished: SavedJobs
    timings: SavedTimings
    owners: SavedWords
    requests: SavedWords
    costs: SavedCosts

    @property
    def is_sound(self) -> bool:
        """Whether a snapshot can be restored from it."""
        maps = self.owners.is_sound(PackedMap.words_each)
        return self.finished.is_sound and maps and self.requests.is_sound(PackedSet.words_each)
