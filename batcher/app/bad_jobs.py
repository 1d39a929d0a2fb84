"""Which jobs failed or became unknown in this run, and not in an earlier one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from batcher.jobs.lifecycle import State
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.summary import Summary

NAMED = 10
_BAD = frozenset({State.FAILED, State.CANCELLED, State.UNKNOWN})


@dataclass(frozen=True, slots=True)
class BadJobs:
    """Jobs that are failed, cancelled or unknown, and the attempt that made them so."""

    jobs: dict[str, tuple[State, int]]

    @classmethod
    def of(cls, snapshot: Snapshot) -> BadJobs:
        """Those in the ledger, except jobs that left the manifest."""
        return cls(
            {
                job_id: (record.state, record.attempt)
                for job_id, record in snapshot.unfinished()
                if record.state in _BAD and not record.orphaned
            }
        )

    def since(self, before: BadJobs) -> BadJobs:
        """What came since ``before``."""
        return BadJobs({job: how for job, how in self.jobs.items() if before.jobs.get(job) != how})

    def first(self) -> tuple[str, ...]:
        """The ids of the first few."""
        return tuple(islice(self.jobs, NAMED))

    def count(self, *states: State) -> int:
        """How many jobs are in one of ``states``."""
        return sum(state in states for state, _ in self.jobs.values())


def note_new(summary: Summary, snapshot: Snapshot, before: BadJobs) -> None:
    """Say in the summary what failed or became unknown since ``before``."""
    fresh = BadJobs.of(snapshot).since(before)
    summary.failed_now = fresh.count(State.FAILED, State.CANCELLED)
    summary.unknown_now, summary.newly = fresh.count(State.UNKNOWN), fresh.first()
