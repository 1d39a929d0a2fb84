"""Requests that no task polls but that may be unfinished at the API: they keep their slots.

A POST that was never answered may have created a request. It counts against ``-c`` for as long as such
a request may take: twice the longest generation of its model in the ledger, or, if there is none, the
smaller of ``--job-timeout`` and 15 minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from batcher.clock import Clock, iso
from batcher.engine.slots import Slots
from batcher.jobs.lifecycle import Record, State
from batcher.ledger.snapshot import Snapshot
from batcher.pacing.timings import seconds_between
from batcher.terminal import counted

LEAST_HOLD_S = 60.0
UNTIMED_HOLD_S = 900.0
LONGEST_TIMES = 2.0
LOOK_S = 5.0


class _Lingering(NamedTuple):
    """A request that nothing polls, and the reading of the clock when it was submitted."""

    job_id: str
    model: str | None
    since_s: float


@dataclass(slots=True)
class Unwatched:
    """Holds a slot for each such request, and frees it once the request must have finished."""

    slots: Slots
    snapshot: Snapshot
    clock: Clock
    job_timeout_s: float | None
    on_free: Callable[[str], None] | None = None
    """Called with the id of a job whose request must have finished."""
    _held: list[_Lingering] = field(init=False, default_factory=list)
    _told: bool = field(init=False, default=False)

    def take_over(self, watched: Container[str], is_ours: Callable[[str], bool]) -> None:
        """Hold slots for requests of earlier runs, except those that this run polls itself.

        ``is_ours`` selects the ids of this run's shard: other shards hold their own slots.
        """
        for job_id, record in self.snapshot.unfinished():
            lingers = record.state is State.UNKNOWN or record.state is State.SUBMITTED
            if lingers and job_id not in watched and is_ours(job_id):
                old_s = age_s(record, self.clock)
                if old_s < self._may_take_s(record.model):
                    self.hold(job_id, record.model, old_s)

    def hold(self, job_id: str, model: str | None, old_s: float = 0.0) -> None:
        """Hold a slot for a job's request of ``model`` that is ``old_s`` seconds old."""
        self._held.append(_Lingering(job_id, model, self.clock.monotonic() - old_s))
        self.slots.hold(model)

    async def free_in_time(self) -> None:
        """Free each slot when its time has passed. Runs until it is cancelled."""
        while True:
            await self.clock.sleep(LOOK_S)
            if self._held:
                self._free_due()

    def tell(self, warn: Callable[[str], None]) -> None:
        """Warn, once, if such requests alone prevent all submissions."""
        if not self._told and self._fill_all:
            self._told = True
            warn(str(self))

    def waits(self) -> Iterator[str]:
        """The same, in words for the messages during long waits: it may have begun since."""
        if self._fill_all:
            yield str(self)

    @property
    def _fill_all(self) -> bool:
        return 0 < self.slots.limit <= self.slots.held == len(self._held)

    def __str__(self) -> str:
        now_s = self.clock.monotonic()
        left_s = min(one.since_s + self._may_take_s(one.model) - now_s for one in self._held)
        wait_s = max(round(left_s), 1)
        held = counted(len(self._held), "request", "requests")
        return (
            f"{held} that nothing watches may be unfinished at the API and fill -c "
            f"{self.slots.limit}: waiting for up to {wait_s} s before more is submitted "
            "(`batcher resolve` frees their slots)"
        )

    def _free_due(self) -> None:
        now_s = self.clock.monotonic()
        limits_s = {one.model: self._may_take_s(one.model) for one in self._held}
        due = [one for one in self._held if now_s - one.since_s >= limits_s[one.model]]
        for one in due:
            self._held.remove(one)
            self.slots.free(one.model)
            if self.on_free is not None:
                self.on_free(one.job_id)

    def _may_take_s(self, model: str | None) -> float:
        return may_take_s(self.snapshot, model, self.job_timeout_s)


def may_take_s(snapshot: Snapshot, model: str | None, job_timeout_s: float | None = None) -> float:
    """Seconds after which a request of ``model`` that nothing watches counts as finished."""
    seen_s = snapshot.timings.longest_s(model)
    if seen_s is None:
        return min(job_timeout_s or UNTIMED_HOLD_S, UNTIMED_HOLD_S)
    return max(LONGEST_TIMES * seen_s, LEAST_HOLD_S)


def age_s(record: Record, clock: Clock) -> float:
    """Seconds since the intent, by the wall clock, across runs; 0 if the clock was set back."""
    if record.submitting_at is None:
        return 0.0
    return max(seconds_between(record.submitting_at, iso(clock.now())) or 0.0, 0.0)
