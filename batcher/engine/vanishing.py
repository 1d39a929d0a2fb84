"""Orders requests of earlier runs: first those with results that are deleted soonest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from batcher.clock import Clock, iso
from batcher.engine.gateway import Lines
from batcher.ledger.snapshot import Snapshot
from batcher.pacing.timings import seconds_between
from batcher.terminal import counted


@dataclass(frozen=True, slots=True)
class Vanishing:
    """Knows how long the results of earlier requests are still kept, at least."""

    lines: Lines
    snapshot: Snapshot
    clock: Clock

    def soonest_first(self, jobs: Iterable[str]) -> list[str]:
        """Jobs with a request, in the order in which their results may be deleted."""
        now = iso(self.clock.now())
        return sorted(jobs, key=lambda job_id: self._left_s(job_id, now))

    def warnings(self, jobs: Iterable[str]) -> Iterator[str]:
        """What may be lost already, by provider: this run began too late for it."""
        now = iso(self.clock.now())
        late = Counter(self._provider(job) for job in jobs if self._left_s(job, now) < 0)
        for (name, kept_s), count in late.items():
            kept = timedelta(seconds=kept_s)
            jobs_were = counted(count, "job was", "jobs were")
            yield (
                f"{jobs_were} submitted longer ago than {name} keeps results ({kept}): what is "
                "gone was paid for, and fails at download with the code expired"
            )

    def _left_s(self, job_id: str, now: str) -> float:
        """Seconds for which a result is surely kept: a request can't end before it is submitted."""
        record = self.snapshot.records[job_id]
        age_s = seconds_between(record.submitting_at or "", now)
        return self._provider(job_id)[1] - (age_s or 0.0)

    def _provider(self, job_id: str) -> tuple[str, float]:
        """The name of a job's provider, and the seconds for which that keeps results."""
        provider = self.lines.of(self.snapshot.records[job_id].model).provider
        return provider.name, provider.traits.results_kept_s
