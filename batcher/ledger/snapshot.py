"""The fold of the ledger's events: the state of every job, and the money."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from batcher.jobs.identity import FIRST_RULE, RULE
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import (
    MOVES,
    Event,
    EventName,
    IllegalTransition,
    Record,
    Replaced,
    RunEvent,
    Stage,
    State,
    next_state,
)
from batcher.jobs.shard import shard_number
from batcher.ledger.costs import Costs
from batcher.ledger.finished import JobRecord, LineAt
from batcher.ledger.packed import PackedMap, PackedSet
from batcher.ledger.records import Records
from batcher.ledger.saved_snapshot import LastRun, Saved, Sums
from batcher.ledger.segments import SEGMENT_SHIFT
from batcher.ledger.usual_lines import CompletedLine, DoneLine, SubmittedLine, SubmittingLine, UsualLine
from batcher.pacing.timings import Timings

KEPT_OPEN = 1024
"""The number of most recently done jobs that are not packed yet: they are still read."""
_DONE = State.DONE  # a constant, because enum member lookup is slow


class Snapshot:
    """The state of every job that the ledger mentions, and the money: a fold over its events.

    ``line_at`` reads the line at a place; if it is given, done jobs are packed.
    """

    may_restore = True
    """Whether it can be restored from a checkpoint, and folds usual lines as such: not if a subclass
    keeps more."""

    def __init__(self, line_at: LineAt | None = None, shards: int = 0) -> None:
        self._line_at = line_at
        self.spent_by_shard_usd = [0.0] * shards
        """The same sum as ``spent_usd`` for each shard of the jobs, if requested."""
        self.unpriced_by_shard = [0] * shards
        self.records = Records(line_at)
        self.runs: dict[int, LastRun] = {}
        """By the number of the segment."""
        self.last_run: RunEvent | None = None
        self.orphaned = 0
        self.spent_usd = 0.0
        self.reported_usd = 0.0
        self.reported_price_usd = 0.0
        self.unpriced_attempts = 0
        self.bytes = 0
        self.timings = Timings()
        self.costs = Costs()
        self.owners: PackedMap | None = None
        """By the SHA-256 of each output, the place of its job's ``submitting`` line, if requested."""
        self.requests: PackedSet | None = None
        """Every request id of any attempt, if requested."""
        self.dataset_changes = 0
        """The number of lines that changed the outputs or their metadata."""
        self.identity: int | None = None
        """The rule for making the ledger's ids: the oldest with which any segment began."""
        self.restored_bytes = 0
        """Bytes of ledger restored from a checkpoint instead of folded."""
        self._began = 0
        self._ripe: deque[str] = deque()

    def counted_usd(self, assume_price_usd: float | None) -> float:
        """USD that caps count: the known costs and prices, and ``assume_price_usd`` if there is none."""
        return self.spent_usd + self.unpriced_attempts * (assume_price_usd or 0.0)

    @property
    def rule(self) -> int:
        """The rule for making this run directory's ids; later versions keep it."""
        if self.identity is not None:
            return self.identity
        return FIRST_RULE if len(self.records) else RULE

    def get(self, job_id: str) -> JobRecord | None:
        """The job's record, or None if the ledger doesn't mention it."""
        return self.records.find(job_id)

    def known(self, job_ids: Iterable[str]) -> dict[str, JobRecord]:
        """The records of those of many jobs that the ledger mentions."""
        if not len(self.records):
            return {}
        found = ((job_id, self.records.find(job_id)) for job_id in job_ids)
        return {job_id: record for job_id, record in found if record is not None}

    def is_given(self, request_id: str) -> bool:
        """Whether any attempt has this request id."""
        assert self.requests is not None, "this snapshot keeps no request ids"
        return request_id in self.requests

    def line_at(self, place: int) -> Event:
        """The line at ``place``, which is not kept in memory."""
        assert self._line_at is not None, "this snapshot is of no ledger"
        return self._line_at(place)

    def items(self) -> Iterator[tuple[str, JobRecord]]:
        """Every job that the ledger mentions: done jobs in the order of completion, then the others."""
        return self.records.pairs()

    def unfinished(self) -> Iterator[tuple[str, Record]]:
        """Every job that is not done, in the order of their first lines."""
        return self.records.unfinished()

    @property
    def counts(self) -> dict[State, int]:
        """The number of the manifest's jobs in each state."""
        counts = dict.fromkeys(State, 0)
        for record in self.records.open.values():
            counts[record.state] += not record.orphaned
        counts[State.DONE] += self.records.packed_tally().listed
        return counts

    @property
    def poor(self) -> int:
        """How many done jobs of the manifest have a note on the quality of their outputs."""
        return self.records.packed_tally().poor + sum(map(is_poor, self.records.open.values()))

    @property
    def refused(self) -> int:
        """How many failed jobs of the manifest the API refused for their inputs."""
        records = self.records.open.values()
        return sum(record.is_refused and not record.orphaned for record in records)

    def apply_run(self, event: RunEvent, place: int = -1) -> None:
        """Fold a line about a run."""
        segment = place >> SEGMENT_SHIFT
        if not event.ended:
            self._began += 1
            self.last_run = event
            if segment not in self.runs:
                self.identity = min(self.identity or event.identity, event.identity)
            self.runs[segment] = LastRun(event, place, self._began)
        elif segment in self.runs:
            self.runs[segment].ended = True

    def apply(self, event: Event, place: int = -1) -> JobRecord:
        """Fold one job event, whose line is at ``place``.

        Raises IllegalTransition, and changes nothing, if the table has no such move.
        """
        return self.take(event, place)

    def take(self, event: Event | UsualLine, place: int) -> JobRecord:
        """The same for a line as the fold reads it."""
        rule = _APPLY.get(event.event)
        if rule is None:
            return self._relist(event)
        take_in, moves = rule
        job = event.job
        record = self.records.open.get(job)
        if record is None:
            record = self.records.reopen(job) or Record()
        before = record.state
        after = moves.get(before) or next_state(before, event.event)
        if record.attempt == 0:
            self.records.open[job] = record
        take_in(self, record, event, place)
        record.state = after
        if after is _DONE:
            self.note_done(job)
        elif before is _DONE:
            self.dataset_changes += 1
        return record

    def pack(self, durable: int | None = None) -> None:
        """Pack all done jobs but the last :data:`KEPT_OPEN`, if the ledger can be read back.

        ``durable``: lines of the segment being written can be read back before this place.
        """
        while len(self._ripe) > KEPT_OPEN:
            record = self.records.open.get(self._ripe[0])
            if record is not None and not _is_before(record.done_offset, durable):
                return
            self.records.pack(self._ripe.popleft())

    def ripe(self) -> Iterator[str]:
        """The jobs to be packed, if all lines can be read back; each is given once."""
        for _ in range(len(self._ripe) - KEPT_OPEN):
            yield self._ripe.popleft()

    def saved(self) -> Saved:
        """Everything as it is now, except the marks of this process; ``release_saved`` when written."""
        assert self.records.finished is not None, "this snapshot is of no ledger"
        sums = Sums(*(getattr(self, name) for name in Sums.__struct_fields__))
        unmarked = {job: replace(record, listed=False) for job, record in self.records.open.items()}
        finished, timings = self.records.finished.saved(), self.timings.saved()
        maps = ((self.owners or PackedMap()).saved(), (self.requests or PackedSet()).saved())
        state = (sums, self._began, self.last_run, self.runs, unmarked, finished, timings, *maps)
        return Saved(*state, self.costs.saved())

    def release_saved(self) -> None:
        """What was saved is written, or will not be."""
        assert self.records.finished is not None, "this snapshot is of no ledger"
        self.records.finished.release_saved()
        for words in (self.owners, self.requests):
            if words is not None:
                words.release()

    def restore(self, saved: Saved) -> None:
        """Restore the state in ``saved``; only for an empty snapshot."""
        assert self.records.finished is not None, "this snapshot is of no ledger"
        for name in Sums.__struct_fields__:
            setattr(self, name, getattr(saved.sums, name))
        self._began, self.last_run, self.runs = saved.began, saved.last_run, saved.runs
        self.records.open = saved.open
        self.records.finished.restore(saved.finished)
        self.timings.restore(saved.timings)
        self.costs.restore(saved.costs, saved.open)
        if self.owners is not None:
            self.owners.restore(saved.owners)
        if self.requests is not None:
            self.requests.restore(saved.requests)
        done = [pair for pair in saved.open.items() if pair[1].state is _DONE]
        self._ripe.extend(job for job, _ in sorted(done, key=lambda pair: pair[1].done_offset))

    def _relist(self, event: Event | UsualLine) -> JobRecord:
        orphaned = event.event is EventName.ORPHANED
        record = self.get(event.job)
        if record is None:
            raise IllegalTransition(f"a job that was never submitted can't be {event.event}")
        if record.orphaned != orphaned:
            record.orphaned = orphaned
            self.orphaned += 1 if orphaned else -1
            self.dataset_changes += record.state is State.DONE
        return record

    def run_number(self, place: int) -> int:
        """The number of the run that wrote the line at ``place``."""
        run = self.runs.get(place >> SEGMENT_SHIFT)
        return run.number if run is not None else 0

    def _charge(self, job: str, record: Record, usd: float | None) -> None:
        """Replace the amount that the current attempt of ``job`` counts with ``usd``."""
        if usd != record.charge_usd:
            self.charge(job, record.charge_usd, usd)
            record.charge_usd = usd

    def charge(self, job: str, before_usd: float | None, usd: float | None) -> None:
        """Count ``usd`` for an attempt of ``job`` instead of ``before_usd``."""
        more_usd = (usd or 0.0) - (before_usd or 0.0)
        self.spent_usd += more_usd
        unpriced = (usd is None) - (before_usd is None)
        self.unpriced_attempts += unpriced
        if self.spent_by_shard_usd:
            index = shard_number(job, len(self.spent_by_shard_usd)) - 1
            self.spent_by_shard_usd[index] += more_usd
            self.unpriced_by_shard[index] += unpriced

    def _report(self, job: str, record: Record, usd: float | None) -> None:
        """Record the current attempt's reported cost, if there is one, and its price."""
        if usd is None:
            return
        self._charge(job, record, usd)
        if record.reported_usd is None:
            self.reported_price_usd += record.price_usd or 0.0
        self.reported_usd += usd - (record.reported_usd or 0.0)
        record.reported_usd = usd
        self.costs.reported(job, record, usd)

    def note_done(self, job: str) -> None:
        """Count a job that became done, and pack it later."""
        self._ripe.append(job)
        self.dataset_changes += 1

    def own(self, files: tuple[Artifact, ...], place: int) -> None:
        """Note which job has an output, by the place of its intent."""
        if self.owners is not None:
            for file in files:
                self.owners.setdefault(file.sha256, place)

    def _set_files(self, record: Record, files: tuple[Artifact, ...]) -> None:
        for file in record.files:
            self.bytes -= file.bytes
        for file in files:
            self.bytes += file.bytes
        record.files = files

    def _submitting(self, record: Record, event: Event | SubmittingLine, place: int) -> None:
        if record.files:
            record.replaced = Replaced(record.attempt, record.files)
            self._set_files(record, ())
        record.attempt = event.attempt
        record.request_id = record.urls = record.stage = record.code = record.message = None
        record.model = event.model or record.model
        record.digest = event.digest or record.digest
        record.price_usd = event.price_usd if event.price_usd is not UNSET else None
        record.priced_as = event.priced_as
        record.submitting_at, record.submitting_offset = event.at, place
        if event.input is not None:
            record.input_offset = place
        record.quality, record.done_offset, record.answer_offset = None, -1, -1
        record.reported_usd, record.cancelling = None, False
        record.retry, record.retry_due = event.retry, False
        record.charge_usd = 0.0  # the cost of earlier attempts stays in the sum
        self._charge(event.job, record, record.price_usd)
        self.timings.submitting(event.job, record.model, event.input)
        self.costs.submitting(event.job, record)

    def _deferred(self, record: Record, event: Event, place: int) -> None:
        self.timings.ended(event.job)
        self.costs.ended(event.job)
        record.request_id = None
        record.message = event.reason
        if not event.may_cost:
            self._charge(event.job, record, 0.0)

    def _unanswered(self, record: Record, event: Event, place: int) -> None:
        record.message = event.message

    def _submitted(self, record: Record, event: Event | SubmittedLine, place: int) -> None:
        if event.request_id:
            record.request_id, record.answer_offset = event.request_id, place
            record.urls = event.urls
            if self.requests is not None:
                self.requests.add(event.request_id)
        record.stage = record.code = record.message = None
        record.retry_due = False
        if record.charge_usd == 0.0:
            self._charge(event.job, record, record.price_usd)
        self.timings.accepted(event.job, event.at, self.run_number(place))

    def _cancelling(self, record: Record, event: Event, place: int) -> None:
        record.cancelling = True

    def _completed(self, record: Record, event: Event | CompletedLine, place: int) -> None:
        record.stage = record.code = record.message = None
        record.retry_due = record.cancelling = False
        self._report(event.job, record, event.cost_usd)
        self.timings.completed(event.job, event.at, event.unfinished_s, self.run_number(place))

    def _done(self, record: Record, event: Event | DoneLine, place: int) -> None:
        self.costs.ended(event.job)
        record.quality, record.done_offset = event.quality, place
        record.retry = 0  # packed records have none
        self._set_files(record, event.files or ())
        record.replaced = None
        self.own(record.files, record.submitting_offset)

    def _failed(self, record: Record, event: Event, place: int) -> None:
        if event.files is not None:  # the complete ones
            self._set_files(record, event.files)
        record.stage, record.code, record.message = event.stage, event.code, event.message
        record.retry_due = event.retry_due
        self.timings.ended(event.job)
        self.costs.ended(event.job)
        if event.stage is Stage.SUBMIT:
            self._charge(event.job, record, 0.0)
        else:
            self._report(event.job, record, event.cost_usd)

    def _cancelled(self, record: Record, event: Event, place: int) -> None:
        self.timings.ended(event.job)
        self.costs.ended(event.job)
        if not event.may_cost:
            self._charge(event.job, record, 0.0)

    def _costed(self, record: Record, event: Event, place: int) -> None:
        self._report(event.job, record, event.cost_usd)


def is_poor(record: JobRecord) -> bool:
    """Whether a job of the manifest is done and its outputs have a quality note."""
    return record.state is State.DONE and not record.orphaned and record.quality is not None


def _is_before(place: int, end: int | None) -> bool:
    """Whether ``place`` is before ``end``, if both are in one segment."""
    return end is None or place < end or place >> SEGMENT_SHIFT != end >> SEGMENT_SHIFT


_Rule = tuple[Callable[[Snapshot, Record, Any, int], None], Mapping[State, State]]
_APPLY: dict[EventName, _Rule] = {
    EventName.SUBMITTING: (Snapshot._submitting, MOVES[EventName.SUBMITTING]),
    EventName.DEFERRED: (Snapshot._deferred, MOVES[EventName.DEFERRED]),
    EventName.UNANSWERED: (Snapshot._unanswered, MOVES[EventName.UNANSWERED]),
    EventName.SUBMITTED: (Snapshot._submitted, MOVES[EventName.SUBMITTED]),
    EventName.COMPLETED: (Snapshot._completed, MOVES[EventName.COMPLETED]),
    EventName.DONE: (Snapshot._done, MOVES[EventName.DONE]),
    EventName.FAILED: (Snapshot._failed, MOVES[EventName.FAILED]),
    EventName.CANCELLED: (Snapshot._cancelled, MOVES[EventName.CANCELLED]),
    EventName.CANCELLING: (Snapshot._cancelling, MOVES[EventName.CANCELLING]),
    EventName.COST: (Snapshot._costed, MOVES[EventName.COST]),
}
