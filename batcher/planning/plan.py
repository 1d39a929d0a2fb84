"""Decides what to do with each job, with a reason and a price: pure, and before any spending."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import reduce
from operator import add
from typing import NamedTuple

from batcher.jobs.job import Job, Source
from batcher.jobs.lifecycle import EXPIRED, NO_OUTPUT, Stage, State
from batcher.jobs.refusals import is_refusal
from batcher.ledger.finished import JobRecord
from batcher.ledger.snapshot import Snapshot
from batcher.options.facts import Policy, Selection
from batcher.terminal import counted

EXAMPLES_SHOWN = 3
JOBS_PER_STEP = 64
NOT_SUBMITTED = "not submitted yet"
PricesOf = Callable[[Sequence[Job]], Sequence[float | None]]


class Action(StrEnum):
    """What a run does with a job."""

    SUBMIT = "submit"
    ASK = "ask"
    """Ask for the old request's result again; submit again only if that is finally refused."""
    WATCH = "watch"
    COLLECT = "collect"
    CHECK = "check"
    LEAVE = "leave"


class PlanGroup(StrEnum):
    """A job's group in the plan."""

    __hash__ = str.__hash__  # in C: called for every job

    NEW = "new"
    EDITED = "edited"
    RETRY = "retry"
    REDO = "redo"
    RESUME = "resume"
    COLLECT = "collect"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to one job, and why. ``problem`` stops the plan: the row is ambiguous."""

    bucket: PlanGroup
    action: Action
    reason: str
    problem: bool = False

    @property
    def buys(self) -> bool:
        """Whether this may end in a POST."""
        return self.action is Action.SUBMIT or self.action is Action.ASK


_NEW = Decision(PlanGroup.NEW, Action.SUBMIT, NOT_SUBMITTED)


def decide(job: Job, record: JobRecord | None, policy: Policy) -> Decision:
    """What a run does with ``job``, given its record in the ledger."""
    if record is None or record.attempt == 0:
        return _NEW
    wanted = _redo(record) if policy.redo else _edited(job, record) or _by_state(record, policy)
    spent = record.attempt >= policy.max_attempts and record.state is not State.PENDING
    return _exhausted(record, policy) if wanted.buys and spent else wanted


def _exhausted(record: JobRecord, policy: Policy) -> Decision:
    """No attempt is left to submit the job again: what a run still does with it, if anything.

    A job that should be submitted again counts as exhausted in any state.
    """
    unasked = _by_state(record, Policy())
    over = policy.redo or (unasked.action is Action.LEAVE and record.state is not State.UNKNOWN)
    after = counted(record.attempt, "attempt", "attempts")
    reason = f"{record.state} after {after} (--max-attempts)"
    return Decision(PlanGroup.EXHAUSTED if over else unasked.bucket, unasked.action, reason)


def _redo(record: JobRecord) -> Decision:
    return Decision(PlanGroup.REDO, Action.SUBMIT, f"{record.state}, bought again (--redo)")


def _edited(job: Job, record: JobRecord) -> Decision | None:
    """For an explicit id whose inputs differ from its last attempt."""
    if not job.explicit or record.digest is None or record.digest == job.digest:
        return None
    over = record.state in (State.PENDING, State.CANCELLED) or (
        record.state is State.FAILED and record.stage is not Stage.DOWNLOAD
    )
    if over:
        return Decision(PlanGroup.EDITED, Action.SUBMIT, "its inputs were edited")
    return Decision(
        PlanGroup.EDITED,
        Action.LEAVE,
        f"the inputs of {job.id!r} changed, but the ledger holds an attempt with the old ones that "
        f"is {record.state}; give the edited row another id, or buy it again with "
        f"--only {job.id} --redo",
        problem=True,
    )


def _by_state(record: JobRecord, policy: Policy) -> Decision:
    """The resume table of the README."""
    match record.state:
        case State.PENDING:
            return Decision(PlanGroup.NEW, Action.SUBMIT, record.message or "put off earlier")
        case State.UNKNOWN if policy.retry_unknown:
            return Decision(PlanGroup.RETRY, Action.SUBMIT, "unknown, tried again (--retry-unknown)")
        case State.UNKNOWN:
            return Decision(
                PlanGroup.UNKNOWN, Action.LEAVE, record.message or "its POST was never answered"
            )
        case State.SUBMITTED:
            return Decision(PlanGroup.RESUME, Action.WATCH, "running at the API")
        case State.COMPLETED:
            return Decision(PlanGroup.COLLECT, Action.COLLECT, "generated, not yet downloaded")
        case State.DONE:
            return Decision(PlanGroup.DONE, Action.CHECK, "done")
        case State.CANCELLED if policy.retry_failed:
            return _again_after_cancel(record)
        case State.CANCELLED:
            return Decision(PlanGroup.CANCELLED, Action.LEAVE, "cancelled")
        case State.FAILED:
            return _failed(record, policy)


def _again_after_cancel(record: JobRecord) -> Decision:
    """A cancel that came too late leaves a paid result."""
    if record.request_id is None:
        return Decision(PlanGroup.RETRY, Action.SUBMIT, "cancelled, tried again (--retry-failed)")
    return Decision(PlanGroup.RETRY, Action.ASK, "cancelled, asked once more, then bought again")


def _failed(record: JobRecord, policy: Policy) -> Decision:
    why = record.message or str(record.code or "failed")
    if record.stage is Stage.DOWNLOAD:
        if policy.retry_failed and record.code in (EXPIRED, NO_OUTPUT):
            return Decision(PlanGroup.RETRY, Action.ASK, f"{record.code}, asked once more, then bought")
        return Decision(PlanGroup.COLLECT, Action.COLLECT, f"download failed: {why}")
    flag = _retried_by(record, policy)
    if flag is None:
        group = PlanGroup.REFUSED if record.is_refused else PlanGroup.FAILED
        return Decision(group, Action.LEAVE, f"failed at {record.stage}: {why}")
    if record.stage is Stage.GENERATE:
        return Decision(PlanGroup.RETRY, Action.ASK, f"asked once more, then bought again: {why}")
    return Decision(PlanGroup.RETRY, Action.SUBMIT, f"tried again ({flag}): {why}")


def _retried_by(record: JobRecord, policy: Policy) -> str | None:
    """The option by which a job that failed at submit or generate is submitted again, if any.

    A refused submission cost nothing, so ``--retry-failed`` submits it too; a refused generation may
    have been charged, and would be again.
    """
    if policy.retry_refused and record.is_refused:
        return "--retry-refused"
    if policy.retry_failed and not (record.is_refused and record.stage is Stage.GENERATE):
        return "--retry-failed"
    if record.retry_due and record.retry < policy.retries:
        return "--retries"
    return None


def may_retry(record: JobRecord, code: int | str | None, message: str, policy: Policy) -> bool:
    """Whether ``--retries`` gives a job another attempt whose generation failed with this answer."""
    left = record.attempt < policy.max_attempts and record.retry < policy.retries
    return left and not is_refusal(code, message)


def next_retry(record: JobRecord | None) -> int:
    """Which retry (``--retries``) of the job a POST now would be; 0: none."""
    if record is None:
        return 0
    if record.state is State.PENDING:  # a deferred attempt keeps its number
        return record.retry
    return record.retry + 1 if record.retry_due else 0


def next_attempt(record: JobRecord | None) -> int:
    """The attempt number of a POST now: a deferred attempt keeps its number if it cost nothing."""
    if record is None or record.attempt == 0:
        return 1
    return record.attempt + (record.state is not State.PENDING or record.charge_usd != 0.0)


@dataclass(slots=True)
class BucketTotal:
    """The number of jobs in a bucket, their possible cost, and a few examples with reasons."""

    count: int = 0
    buys: int = 0
    price_usd: float = 0.0
    unpriced: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, job_id: str, decision: Decision, price_usd: float | None) -> None:
        """Count one job; a price counts only if the job may be bought."""
        self._count(job_id, decision.reason)
        if decision.buys:
            self.buys += 1
            self._price(price_usd)

    def add_new(self, jobs: Sequence[Job], prices_usd: Sequence[float | None]) -> None:
        """Count jobs that are not in the ledger."""
        room = max(EXAMPLES_SHOWN - len(self.examples), 0)
        self.examples += [(job.id, _NEW.reason) for job in jobs[:room]]
        self.count += len(jobs)
        self.buys += len(jobs)
        known_usd = [usd for usd in prices_usd if usd is not None]
        self.unpriced += len(jobs) - len(known_usd)
        self.price_usd = reduce(add, known_usd, self.price_usd)

    def add_gone(self, job_id: str, record: JobRecord) -> None:
        """Count a job that is no longer in the manifest, at the possible cost of its last attempt."""
        self._count(job_id, f"was {record.state}")
        self._price(record.charge_usd)

    def _count(self, job_id: str, reason: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES_SHOWN:
            self.examples.append((job_id, reason))

    def _price(self, usd: float | None) -> None:
        self.price_usd += usd or 0.0
        self.unpriced += usd is None


class EditedRow(NamedTuple):
    """A row of the manifest, and what is wrong with its id."""

    source: Source
    problem: str


@dataclass(slots=True)
class Plan:
    """What ``run`` would do: counts, examples and money, never a list of a million entries."""

    total: int = 0
    selected: int = 0
    duplicates: int = 0
    invalid: int = 0
    buckets: dict[PlanGroup, BucketTotal] = field(default_factory=dict)
    resumed: list[str] = field(default_factory=list)
    collected: list[str] = field(default_factory=list)
    """Jobs with a paid result that is still to be downloaded."""
    owed: list[str] = field(default_factory=list)
    """Jobs that left the manifest, or were edited, with a paid result that was never fetched."""
    edited: dict[str, EditedRow] = field(default_factory=dict)
    """Rows whose explicit id has other inputs than an attempt that was paid for. None is a job."""
    orphans: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    gone: BucketTotal = field(default_factory=BucketTotal)
    """Every job of the ledger that is not in the manifest, with the cost of its last attempt."""
    left_paid: int = 0
    """Paid jobs that have left the manifest since the last run."""

    @property
    def to_buy(self) -> int:
        """The number of jobs that may be bought."""
        return sum(b.buys for b in self.buckets.values())

    @property
    def fetches(self) -> bool:
        """Whether outputs will surely be written, apart from missing ones."""
        return bool(self.to_buy or self.resumed or self.owed or self.count(PlanGroup.COLLECT))

    @property
    def estimated_cost_usd(self) -> float | None:
        """Their possible cost in USD; None if a price is not known."""
        if any(b.unpriced for b in self.buckets.values()):
            return None
        return sum(b.price_usd for b in self.buckets.values())

    def bucket(self, group: PlanGroup) -> BucketTotal:
        """The total of the jobs in ``group``."""
        total = self.buckets.get(group)
        if total is None:
            total = self.buckets[group] = BucketTotal()
        return total

    def count(self, bucket: PlanGroup) -> int:
        """The number of jobs in ``bucket``."""
        total = self.buckets.get(bucket)
        return total.count if total is not None else 0


def make_plan(
    blocks: Iterable[Sequence[Job]],
    snapshot: Snapshot,
    selection: Selection,
    policy: Policy,
    prices_of: PricesOf,
) -> Generator[None, None, Plan]:
    """One pass over the manifest, given as blocks of jobs: count, decide, price; marks in ``snapshot``
    which jobs are listed.

    Stops at the end of a block after 64 jobs or more, so that an event loop can do other work.
    """
    plan = Plan()
    stop_at = JOBS_PER_STEP
    for block, selected in selection.select(blocks):
        records = snapshot.known(job.id for job in block)
        for record in records.values():
            record.listed = True
        plan.total += len(block)
        plan.selected += len(selected)
        if records:
            for job in selected:
                _take(plan, job, records.get(job.id), policy, prices_of)
        elif selected:
            plan.bucket(PlanGroup.NEW).add_new(selected, prices_of(selected))
        if plan.total >= stop_at:
            stop_at = plan.total + JOBS_PER_STEP
            yield
    _leavers(plan, snapshot, selection)
    return plan


def _take(plan: Plan, job: Job, record: JobRecord | None, policy: Policy, prices_of: PricesOf) -> None:
    decision = decide(job, record, policy)
    if decision.problem and record is not None:
        plan.edited[job.id] = EditedRow(job.source, decision.reason)
        _finish(plan, job.id, record)
        return
    if decision.action is Action.WATCH:
        plan.resumed.append(job.id)
    elif decision.action is Action.COLLECT:
        plan.collected.append(job.id)
    (price_usd,) = prices_of((job,)) if decision.buys else (None,)
    plan.bucket(decision.bucket).add(job.id, decision, price_usd)


def _leavers(plan: Plan, snapshot: Snapshot, selection: Selection) -> None:
    """Count jobs that left the manifest or came back; adds their unfetched paid results."""
    for job_id, record in snapshot.records.astray():
        ours = selection.shard is None or selection.shard.has(job_id)
        if record.listed:
            if ours:
                plan.returned.append(job_id)
            continue
        plan.gone.add_gone(job_id, record)
        if ours and not record.orphaned:
            plan.orphans.append(job_id)
            plan.left_paid += _may_have_cost(record)
        if not selection.covers(job_id):
            continue
        _finish(plan, job_id, record)


def _finish(plan: Plan, job_id: str, record: JobRecord) -> None:
    """Poll or download what was paid for, even if the job's row has changed or left."""
    if record.state is State.SUBMITTED:
        plan.resumed.append(job_id)
    elif _by_state(record, Policy()).action is Action.COLLECT:
        plan.owed.append(job_id)


def _may_have_cost(record: JobRecord) -> bool:
    """Whether the last attempt may have been charged: a cancel was not, unless it came while it ran."""
    if record.state is State.CANCELLED:
        return record.charge_usd != 0.0
    return record.request_id is not None or record.state is State.UNKNOWN
