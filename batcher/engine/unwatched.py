"""Requests that no task polls but that may be unfinished at the API: they keep their slots.

A POST that was never answered may have created a request. It counts against ``-c`` for as long as such
a request may take: twice the longest generation of its model in the ledger, or, if there is none, the
smaller of ``--job-timeout`` and 15 minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field

from batcher.clock import Clock, iso
from batcher.engine.stop import Slots
from batcher.jobs.lifecycle import Record, State
from batcher.ledger.snapshot import Snapshot
from batcher.pacing.timings import seconds_between

LEAST_HOLD_S = 60.0
UNTIMED_HOLD_S = 900.0
LONGEST_TIMES = 2.0
LOOK_S = 5.0


@dataclass(slots=True)
class Unwatched:
    """Holds a slot for each such request, and frees it once the request must have finished."""

    slots: Slots
    snapshot: Snapshot
    clock: Clock
    job_timeout_s: float | None
    _held: list[tuple[str | None, float]] = field(init=False, default_factory=list)
    _told: bool = field(init=False, default=False)

    def take_over(self, watched: Container[str], is_ours: Callable[[str], bool]) -> None:
        """Hold slots for requests of earlier runs, except those that this run polls itself.

        ``is_ours`` selects the ids of this run's shard: other shards hold their own slots.
        """
        for job_id, record in self.snapshot.unfinished():
            lingers = record.state is State.UNKNOWN or record.state is State.SUBMITTED
            if lingers and job_id not in watched and is_ours(job_id):
                age_s = self._age_s(record)
                if age_s < self._may_take_s(record.model):
                    self.hold(record.model, age_s)

    def hold(self, model: str | None, age_s: float = 0.0) -> None:
        """Hold a slot for a request of ``model`` that is ``age_s`` old."""
        self._held.append((model, self.clock.monotonic() - age_s))
        self.slots.hold(model)

    async def free_in_time(self) -> None:
        """Free each slot when its time has passed. Runs until it is cancelled."""
        while True:
            await self.clock.sleep(LOOK_S)
            if self._held:
                self._free_due()

    def tell(self, warn: Callable[[str], None]) -> None:
        """Warn, once, if such requests alone prevent all submissions."""
        if not self._told and 0 < self.slots.limit <= self.slots.held == len(self._held):
            self._told = True
            warn(str(self))

    def __str__(self) -> str:
        now_s = self.clock.monotonic()
        left_s = min(since_s + self._may_take_s(model) - now_s for model, since_s in self._held)
        return (
            f"{len(self._held)} requests that nothing watches may be unfinished at the API and fill -c "
            f"{self.slots.limit}: waiting for up to {max(left_s, 0.0):.0f} s before more is submitted "
            "(`batcher resolve` frees their slots)"
        )

    def _free_due(self) -> None:
        now_s = self.clock.monotonic()
        may_take_s = {model: self._may_take_s(model) for model, _ in self._held}
        due = [one for one in self._held if now_s - one[1] >= may_take_s[one[0]]]
        for one in due:
            self._held.remove(one)
            self.slots.free(one[0])

    def _may_take_s(self, model: str | None) -> float:
        seen_s = self.snapshot.timings.longest_s(model)
        if seen_s is None:
            return min(self.job_timeout_s or UNTIMED_HOLD_S, UNTIMED_HOLD_S)
        return max(LONGEST_TIMES * seen_s, LEAST_HOLD_S)

    def _age_s(self, record: Record) -> float:
        """Measured by the wall clock, across runs; never negative if the clock was set back."""
        if record.submitting_at is None:
            return 0.0
        return max(seconds_between(record.submitting_at, iso(self.clock.now())) or 0.0, 0.0)
