"""A job's life as data: states, events, one table, and the fold of events into a snapshot.

The README's diagram and the tests are made from :data:`TRANSITIONS`. An event that the table does not
know in a state raises: a ledger is never written, or read, into a state that nobody decided on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from batcher.errors import BatcherError
from batcher.jobs import Artifact
from batcher.timings import Timings

FORMAT_VERSION = 1


class State(StrEnum):
    """Where a job stands. A job that the ledger doesn't mention is ``pending``."""

    PENDING = "pending"
    UNKNOWN = "unknown"
    SUBMITTED = "submitted"
    COMPLETED = "completed"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EventName(StrEnum):
    """What a ledger line says."""

    RUN = "run"
    ORPHANED = "orphaned"
    RELISTED = "relisted"
    SUBMITTING = "submitting"
    DEFERRED = "deferred"
    UNANSWERED = "unanswered"
    SUBMITTED = "submitted"
    COMPLETED = "completed"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Stage(StrEnum):
    """Where a job failed."""

    SUBMIT = "submit"
    GENERATE = "generate"
    DOWNLOAD = "download"


EXPIRED = "expired"
NO_OUTPUT = "no_output"
NOT_FOUND = "not_found"

_S, _E = State, EventName
TRANSITIONS: Mapping[tuple[State, EventName], State] = {
    # A POST is about to leave. From pending of itself; from the others only by the user's word
    # (--retry-failed, --retry-unknown, --redo, or the new inputs of an edited job).
    **{(state, _E.SUBMITTING): _S.UNKNOWN for state in State},
    # Its answer.
    (_S.UNKNOWN, _E.SUBMITTED): _S.SUBMITTED,
    (_S.UNKNOWN, _E.DEFERRED): _S.PENDING,
    (_S.UNKNOWN, _E.UNANSWERED): _S.UNKNOWN,
    (_S.UNKNOWN, _E.FAILED): _S.FAILED,
    # What the API says of the request.
    (_S.SUBMITTED, _E.COMPLETED): _S.COMPLETED,
    (_S.SUBMITTED, _E.FAILED): _S.FAILED,
    (_S.SUBMITTED, _E.CANCELLED): _S.CANCELLED,
    (_S.SUBMITTED, _E.DEFERRED): _S.PENDING,
    # Its files.
    (_S.COMPLETED, _E.DONE): _S.DONE,
    (_S.COMPLETED, _E.FAILED): _S.FAILED,
    # Asked again: a failed request may turn out complete, a failed download may get its file, and a
    # file that went missing is fetched once more.
    (_S.FAILED, _E.COMPLETED): _S.COMPLETED,
    (_S.FAILED, _E.SUBMITTED): _S.SUBMITTED,
    (_S.FAILED, _E.FAILED): _S.FAILED,
    (_S.DONE, _E.COMPLETED): _S.COMPLETED,
}


class IllegalTransition(BatcherError):
    """An event that the table does not know in that state."""

    exit_code = 65


def next_state(state: State, event: EventName) -> State:
    """The state after ``event``; raises IllegalTransition where the table has no such move."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"a job that is {state} can't become {event}") from None


class Event(msgspec.Struct, omit_defaults=True, gc=False):
    """One ledger line about a job. ``at`` is UTC in ISO 8601; money is in USD."""

    event: EventName
    at: str
    job: str
    attempt: int = 0
    model: str | None = None
    input: dict[str, Any] | None = None
    meta: dict[str, Any] | None = None
    source: str | None = None
    digest: str | None = None
    price_usd: float | UnsetType | None = UNSET
    request_id: str | None = None
    reason: str | None = None
    cost_usd: float | None = None
    unfinished_s: float | None = None
    """The request's age in seconds when it was last seen unfinished, by the run that saw it finished."""
    files: tuple[Artifact, ...] | None = None
    quality: str | None = None
    stage: Stage | None = None
    code: int | str | None = None
    message: str | None = None


class RunEvent(msgspec.Struct, omit_defaults=True, tag_field="event", tag="run"):
    """The ledger line that opens a run or, with ``ended``, closes it."""

    run: str
    at: str
    manifest: str | None = None
    api: str | None = None
    version: int | str | None = None
    host: str | None = None
    pid: int | None = None
    total: int | None = None
    selected: int | None = None
    duplicates: int | None = None
    invalid: int | None = None
    ended: bool = False
    exit_code: int | None = None
    counts: dict[str, int] | None = None


class Replaced(msgspec.Struct, frozen=True, gc=False):
    """The files of an attempt that was bought again; they may still lie in the dataset."""

    attempt: int
    files: tuple[Artifact, ...]


class Record(msgspec.Struct, gc=False):
    """What the fold knows of one job.

    ``charge_usd`` is what the current attempt may cost: 0 where it surely cost nothing, None where
    it counts but nobody named a price. ``reported_usd`` is what the API said it cost, if it did.
    Offsets are byte positions of lines in the ledger that hold what is not kept in memory: the last
    ``submitting``, the last one that carried ``input``, the last ``done``. ``quality`` is what is
    wrong with a done job's outputs, if anything.
    """

    state: State = State.PENDING
    attempt: int = 0
    request_id: str | None = None
    model: str | None = None
    digest: str | None = None
    stage: Stage | None = None
    code: int | str | None = None
    message: str | None = None
    price_usd: float | None = None
    charge_usd: float | None = 0.0
    reported_usd: float | None = None
    files: tuple[Artifact, ...] = ()
    replaced: Replaced | None = None
    quality: str | None = None
    orphaned: bool = False
    listed: bool = False
    submitting_at: str | None = None
    submitting_offset: int = -1
    input_offset: int = -1
    done_offset: int = -1


class Snapshot:
    """The state of every job that the ledger mentions, and the money: a fold over its events."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.last_run: RunEvent | None = None
        self.ended = False
        self.counts: dict[State, int] = dict.fromkeys(State, 0)
        self.orphaned = 0
        self.spent_usd = 0.0
        self.reported_usd = 0.0
        self.reported_price_usd = 0.0
        self.unpriced_attempts = 0
        self.bytes = 0
        self.timings = Timings()
        self.dataset_offset = -1
        """Byte position of the last line that changed the outputs, or what is said of them."""
        self.dataset_changes = 0
        """How many lines did."""

    def get(self, job_id: str) -> Record | None:
        """The job's record, or None where the ledger doesn't mention it."""
        return self.records.get(job_id)

    def items(self) -> Iterator[tuple[str, Record]]:
        """Every job that the ledger mentions, in the order of its first line."""
        return iter(self.records.items())

    def apply_run(self, event: RunEvent) -> None:
        """Take in a line about a run."""
        self.ended = event.ended
        if not event.ended:
            self.last_run = event
            self.timings.run_began()

    def apply(self, event: Event, offset: int = -1) -> Record:
        """Take in one job event that stands at byte ``offset`` of the ledger.

        Raises IllegalTransition, and changes nothing, where the table has no such move.
        """
        record = self.records.get(event.job)
        before = record.state if record is not None else State.PENDING
        if event.event in (EventName.ORPHANED, EventName.RELISTED):
            return self._relist(record, event, offset)
        after = next_state(before, event.event)
        if record is None:
            record = self.records[event.job] = Record()
            self.counts[State.PENDING] += 1
        _APPLY[event.event](self, record, event, offset)
        record.state = after
        if State.DONE in (before, after):
            self._change_dataset(offset)
        if not record.orphaned:
            self.counts[before] -= 1
            self.counts[after] += 1
        return record

    def _relist(self, record: Record | None, event: Event, offset: int) -> Record:
        orphaned = event.event is EventName.ORPHANED
        if record is None:
            raise IllegalTransition(f"a job that was never submitted can't be {event.event}")
        if record.orphaned != orphaned:
            sign = -1 if orphaned else 1
            record.orphaned = orphaned
            self.counts[record.state] += sign
            self.orphaned -= sign
            if record.state is State.DONE:
                self._change_dataset(offset)
        return record

    def _change_dataset(self, offset: int) -> None:
        self.dataset_offset = offset
        self.dataset_changes += 1

    def _charge(self, record: Record, usd: float | None) -> None:
        """Let the current attempt of ``record`` count with ``usd`` instead of what it did."""
        self.spent_usd += (usd or 0.0) - (record.charge_usd or 0.0)
        self.unpriced_attempts += (usd is None) - (record.charge_usd is None)
        record.charge_usd = usd

    def _report(self, record: Record, usd: float | None) -> None:
        """Take in what the API says the current attempt cost, if it does, and what it was priced at."""
        if usd is None:
            return
        self._charge(record, usd)
        if record.reported_usd is None:
            self.reported_price_usd += record.price_usd or 0.0
        self.reported_usd += usd - (record.reported_usd or 0.0)
        record.reported_usd = usd

    def _set_files(self, record: Record, files: tuple[Artifact, ...]) -> None:
        self.bytes += sum(f.bytes for f in files) - sum(f.bytes for f in record.files)
        record.files = files

    def _submitting(self, record: Record, event: Event, offset: int) -> None:
        if record.files:
            record.replaced = Replaced(record.attempt, record.files)
        record.attempt = event.attempt
        record.request_id = record.stage = record.code = record.message = None
        record.model = event.model or record.model
        record.digest = event.digest or record.digest
        record.price_usd = event.price_usd if event.price_usd is not UNSET else None
        record.submitting_at, record.submitting_offset = event.at, offset
        if event.input is not None:
            record.input_offset = offset
        self._set_files(record, ())
        record.quality, record.done_offset = None, -1
        record.reported_usd = None
        record.charge_usd = 0.0  # what earlier attempts cost stays in the sum
        self._charge(record, record.price_usd)
        self.timings.submitting(event.job, record.model, event.input)

    def _deferred(self, record: Record, event: Event, offset: int) -> None:
        self.timings.ended(event.job)
        record.request_id = None
        record.message = event.reason
        self._charge(record, 0.0)

    def _unanswered(self, record: Record, event: Event, offset: int) -> None:
        record.message = event.message

    def _submitted(self, record: Record, event: Event, offset: int) -> None:
        record.request_id = event.request_id or record.request_id
        record.stage = record.code = record.message = None
        if record.charge_usd == 0.0:
            self._charge(record, record.price_usd)
        self.timings.accepted(event.job, event.at)

    def _completed(self, record: Record, event: Event, offset: int) -> None:
        record.stage = record.code = record.message = None
        self._report(record, event.cost_usd)
        self.timings.completed(event.job, event.at, event.unfinished_s)

    def _done(self, record: Record, event: Event, offset: int) -> None:
        record.quality, record.done_offset = event.quality, offset
        self._set_files(record, event.files or ())
        record.replaced = None

    def _failed(self, record: Record, event: Event, offset: int) -> None:
        record.stage, record.code, record.message = event.stage, event.code, event.message
        self.timings.ended(event.job)
        if event.stage is Stage.SUBMIT:
            self._charge(record, 0.0)
        else:
            self._report(record, event.cost_usd)

    def _cancelled(self, record: Record, event: Event, offset: int) -> None:
        self.timings.ended(event.job)
        self._charge(record, 0.0)


_APPLY = {
    EventName.SUBMITTING: Snapshot._submitting,
    EventName.DEFERRED: Snapshot._deferred,
    EventName.UNANSWERED: Snapshot._unanswered,
    EventName.SUBMITTED: Snapshot._submitted,
    EventName.COMPLETED: Snapshot._completed,
    EventName.DONE: Snapshot._done,
    EventName.FAILED: Snapshot._failed,
    EventName.CANCELLED: Snapshot._cancelled,
}
