"""A snapshot with times: folds the ledger, and keeps the times that a report shows."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import msgspec

from batcher.jobs.lifecycle import Event, EventName, RunEvent, State
from batcher.ledger.finished import JobRecord, LineAt
from batcher.ledger.snapshot import Snapshot


class Life(msgspec.Struct, gc=False):
    """When a job's current attempt reached each state, in milliseconds since 1970; None if never."""

    submitted_ms: int | None = None
    completed_ms: int | None = None
    finished_ms: int | None = None


class Move(NamedTuple):
    """One change of one job's state, and the cost of the batch at that time."""

    at_ms: int
    before: State
    after: State
    spent_usd: float


class Incident(NamedTuple):
    """Something that cost time: ``kind`` is "turned away", "no answer" or "another attempt"."""

    at_ms: int
    kind: str


class TimedSnapshot(Snapshot):
    """Folds like a Snapshot, and keeps the sequence of events besides the state."""

    may_restore = False

    def __init__(self, line_at: LineAt | None = None) -> None:
        super().__init__(line_at)
        self.lives: dict[str, Life] = {}
        self.moves: list[Move] = []
        self.incidents: list[Incident] = []
        self.course: list[tuple[int, RunEvent]] = []
        self.generation_s: dict[str, list[float]] = {}

    def apply_run(self, event: RunEvent, place: int = -1) -> None:
        """Apply a line about a run."""
        super().apply_run(event, place)
        self.course.append((milliseconds(event.at), event))

    def apply(self, event: Event, place: int = -1) -> JobRecord:
        """Apply one job event; see Snapshot."""
        known = self.records.get(event.job)
        before = known.state if known is not None else State.PENDING
        record = super().apply(event, place)
        at_ms = milliseconds(event.at)
        self._note_life(event, record, at_ms)
        self._note_incident(event, record, at_ms)
        if record.state is not before or event.cost_usd is not None:
            self.moves.append(Move(at_ms, before, record.state, self.spent_usd))
        return record

    def _note_life(self, event: Event, record: JobRecord, at_ms: int) -> None:
        life = self.lives.setdefault(event.job, Life())
        match event.event:
            case EventName.SUBMITTING:
                life.submitted_ms, life.completed_ms, life.finished_ms = at_ms, None, None
            case EventName.COMPLETED if life.completed_ms is None:
                life.completed_ms = at_ms
                if life.submitted_ms is not None:
                    seconds = (at_ms - life.submitted_ms) / 1000
                    self.generation_s.setdefault(record.model or "?", []).append(seconds)
            case EventName.DONE | EventName.FAILED | EventName.CANCELLED:
                life.finished_ms = at_ms

    def _note_incident(self, event: Event, record: JobRecord, at_ms: int) -> None:
        match event.event:
            case EventName.DEFERRED:
                self.incidents.append(Incident(at_ms, "turned away"))
            case EventName.UNANSWERED:
                self.incidents.append(Incident(at_ms, "no answer"))
            case EventName.SUBMITTING if record.attempt > 1:
                self.incidents.append(Incident(at_ms, "another attempt"))


@lru_cache(maxsize=1024)
def milliseconds(at: str) -> int:
    """An ISO 8601 time as milliseconds since 1970; 0 for any other text."""
    try:
        return round(datetime.fromisoformat(at).timestamp() * 1000)
    except ValueError:
        return 0
