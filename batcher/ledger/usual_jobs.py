"""Folds jobs that have only usual lines, without a record for each.

Most jobs have four lines (``usual_lines.py``), in one order. The sums take in each line when it comes,
but a job gets a record only if it has another line, or if the stretch ends before it is packed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from msgspec import UNSET

from batcher.jobs.lifecycle import Event, Record, RunEvent, State
from batcher.ledger.finished import FinishedJobs, digest_bytes, flags_of
from batcher.ledger.lines import Line
from batcher.ledger.packed import hash_of
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.usual_lines import CompletedLine, DoneLine, SubmittedLine, SubmittingLine, UsualLine
from batcher.pacing.timings import TimingKey, timing_key

Takers = dict[type, Callable[[Any, int], bool]]
_RESERVED = Record()
"""Stands in for the record of each usual job, so that jobs stay in the order of their first lines."""
# constants, because enum member lookup is slow
_UNKNOWN, _SUBMITTED, _COMPLETED, _DONE = State.UNKNOWN, State.SUBMITTED, State.COMPLETED, State.DONE


class _UsualJob:
    """The lines of a job so far, and the places of those that are read again."""

    __slots__ = (
        *("intent", "intent_at", "key", "model", "timing_key", "state"),
        *("price_usd", "charge_usd", "reported_usd", "answer", "answer_at", "done", "done_at"),
    )
    key: int
    """The hash of its id."""
    timing_key: TimingKey
    answer: SubmittedLine
    answer_at: int
    done: DoneLine
    done_at: int

    def __init__(self, intent: SubmittingLine, intent_at: int, price_usd: float | None) -> None:
        self.intent = intent
        self.intent_at = intent_at
        self.model = intent.model or None
        self.state = _UNKNOWN
        self.price_usd = self.charge_usd = price_usd
        self.reported_usd: float | None = None

    def record(self) -> Record:
        """The record that its lines amount to."""
        intent, state = self.intent, self.state
        record = Record(
            state=state,
            attempt=intent.attempt,
            model=self.model,
            digest=intent.digest or None,
            price_usd=self.price_usd,
            charge_usd=self.charge_usd,
            reported_usd=self.reported_usd,
            priced_as=intent.priced_as,
            submitting_at=intent.at,
            submitting_offset=self.intent_at,
            input_offset=self.intent_at,
            retry=intent.retry,
        )
        if state is not _UNKNOWN:
            record.request_id, record.urls = self.answer.request_id, self.answer.urls
            record.answer_offset = self.answer_at
        if state is _DONE:
            record.files, record.quality = self.done.files or (), self.done.quality
            record.done_offset, record.retry = self.done_at, 0
        return record


class UsualJobs:
    """A sink that folds into ``snapshot``, which is whole again only after ``finish``.

    ``takers`` fold lines, by their types. They return False, and change nothing, if a line is not the
    next one of a job with only usual lines: then it is for ``apply``.
    """

    def __init__(self, snapshot: Snapshot, finished: FinishedJobs) -> None:
        self._snapshot = snapshot
        self._finished = finished
        self._open = snapshot.records.open
        self._jobs: dict[str, _UsualJob] = {}
        self.takers = no_takers()
        self.takers[SubmittingLine] = self._submitting
        self.takers[SubmittedLine] = self._submitted
        self.takers[CompletedLine] = self._completed
        self.takers[DoneLine] = self._done

    def _submitting(self, line: SubmittingLine, place: int) -> bool:
        job_id = line.job
        if job_id in self._open or line.input is None or not job_id:
            return False
        key = hash_of(job_id)
        if self._finished.has(key):
            return False
        price_usd = line.price_usd
        if price_usd is UNSET:
            price_usd = None
        if price_usd != 0.0:
            self._snapshot.charge(job_id, 0.0, price_usd)
        job = self._jobs[job_id] = _UsualJob(line, place, price_usd)
        job.key, job.timing_key = key, timing_key(job.model, line.input)
        self._open[job_id] = _RESERVED
        return True

    def _submitted(self, line: SubmittedLine, place: int) -> bool:
        job = self._jobs.get(line.job)
        if job is None or job.state is not _UNKNOWN or not line.request_id:
            return False
        job.state, job.answer, job.answer_at = _SUBMITTED, line, place
        if self._snapshot.requests is not None:
            self._snapshot.requests.add(line.request_id)
        return True

    def _completed(self, line: CompletedLine, place: int) -> bool:
        job = self._jobs.get(line.job)
        if job is None or job.state is not _SUBMITTED:
            return False
        job.state = _COMPLETED
        if (usd := line.cost_usd) is not None:
            self._report(line.job, job, usd)
        self._snapshot.timings.learn(job.timing_key, (job.answer.at, line.at, line.unfinished_s))
        return True

    def _report(self, job_id: str, job: _UsualJob, usd: float) -> None:
        snapshot, price_usd = self._snapshot, job.price_usd
        if usd != price_usd:
            snapshot.charge(job_id, price_usd, usd)
        snapshot.reported_price_usd += price_usd or 0.0
        snapshot.reported_usd += usd
        snapshot.costs.learn(job.intent.priced_as, job.model, price_usd, usd)
        job.charge_usd = job.reported_usd = usd

    def _done(self, line: DoneLine, place: int) -> bool:
        job = self._jobs.get(line.job)
        if job is None or job.state is not _COMPLETED:
            return False
        job.state, job.done, job.done_at = _DONE, line, place
        snapshot = self._snapshot
        if line.files is not None:
            for file in line.files:
                snapshot.bytes += file.bytes
            snapshot.own(line.files, job.intent_at)
        snapshot.note_done(line.job)
        return True

    def apply(self, event: Event | UsualLine, place: int = -1) -> None:
        """Fold any line."""
        job = self._jobs.pop(event.job, None)
        if job is not None:
            self._open_record(event.job, job)
        self._snapshot.take(event, place)

    def apply_run(self, event: RunEvent, place: int = -1) -> None:
        """Fold a line about a run; requests under way belong to the run before it."""
        self.finish()
        self._snapshot.apply_run(event, place)

    def pack(self) -> None:
        """Pack done jobs, as the snapshot does."""
        for job_id in self._snapshot.ripe():
            job = self._jobs.pop(job_id, None)
            if job is None:
                self._snapshot.records.pack(job_id)
            elif self._is_packed(job):
                del self._open[job_id]
            else:
                self._open_record(job_id, job)

    def finish(self) -> None:
        """Make the records of all jobs that are not packed."""
        for job_id, job in self._jobs.items():
            self._open_record(job_id, job)
        self._jobs.clear()

    def _is_packed(self, job: _UsualJob) -> bool:
        """Pack a done job; False if it is not like others."""
        intent, done_at = job.intent, job.done_at
        digest = digest_bytes(intent.digest)
        if digest is None:
            return False
        cells = (
            done_at,
            done_at - job.intent_at,
            done_at - job.answer_at,
            digest,
            job.charge_usd or 0.0,
            intent.attempt,
            self._finished.model_number(job.model),
        )
        flags = flags_of(job.charge_usd, job.reported_usd, job.done.quality)
        return self._finished.add(job.key, cells, flags)

    def _open_record(self, job_id: str, job: _UsualJob) -> None:
        snapshot, state = self._snapshot, job.state
        record = self._open[job_id] = job.record()
        if state is not _DONE and job.reported_usd is None:
            snapshot.costs.submitting(job_id, record)
        if state is _UNKNOWN or state is _SUBMITTED:
            snapshot.timings.submitting(job_id, record.model, job.intent.input)
        if state is _SUBMITTED:
            snapshot.timings.accepted(job_id, job.answer.at, snapshot.run_number(job.answer_at))


def no_takers() -> Takers:
    """Takes no line of any type."""
    return dict.fromkeys((Line, *get_args(UsualLine)), _not_taken)


def _not_taken(line: object, place: int) -> bool:
    return False


def usual_jobs(sink: object) -> UsualJobs | None:
    """A sink that folds into ``sink``; None if that keeps more than a snapshot, or packs nothing."""
    if not isinstance(sink, Snapshot) or not sink.may_restore or sink.records.finished is None:
        return None
    return UsualJobs(sink, sink.records.finished)
