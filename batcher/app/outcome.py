"""What a run reports: its spending and each ended job while it runs, its summary at the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from batcher.app.prepare import Prepared
from batcher.engine.budget import Budget
from batcher.errors import BatcherError, StoppedError
from batcher.jobs.lifecycle import Event
from batcher.ledger.ledger import Ledger
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.summary import ListedJob, Summary, listed_job, status_of
from batcher.planning.plan import PlanGroup
from batcher.ports import JobEvent, Observer, RunView, Spending, listens

_OLD_FAILURES = (PlanGroup.FAILED, PlanGroup.REFUSED, PlanGroup.CANCELLED, PlanGroup.EXHAUSTED)


def why_stopped(all_done: bool, *reasons: BatcherError | None) -> BatcherError | None:
    """The first of the ``reasons`` to stop, unless nothing was left to stop."""
    first = next(filter(None, reasons), None)
    return None if all_done and isinstance(first, StoppedError) else first


def summarise(
    prepared: Prepared, snapshot: Snapshot, view: RunView, error: BatcherError | None, elapsed_s: float
) -> Summary:
    """What became of a plan: ``view`` as its run left it, ``error`` why that stopped early, if so."""
    present = status_of(prepared.run_dir, snapshot)
    made = prepared.plan
    fields = {name: getattr(present, name) for name in present.__struct_fields__}
    # A shard doesn't orphan rows that left the manifest: its ledger may list more than is planned.
    total = max(made.total, sum(snapshot.counts.values()))
    fields |= {"total": total, "duplicates": made.duplicates}
    fields["pending"] += total - present.total
    return Summary(
        **fields,
        selected=made.selected,
        elapsed_s=round(elapsed_s, 3),
        submitted_now=view.submitted_now,
        invalid=made.invalid,
        cancelled_now=view.cancelled_now,
        cancelled_running=view.cancelled_running,
        not_cancellable=view.not_cancellable,
        not_redone=_not_redone(prepared),
        stopped=str(error) if error is not None else None,
        exit_code=error.exit_code if error is not None else _exit_code(prepared, view),
    )


def _exit_code(prepared: Prepared, view: RunView) -> int:
    made = prepared.plan
    excused = 0
    if prepared.options.ignore_old_failures:
        excused = sum(map(made.count, _OLD_FAILURES))
    left = view.done + excused < made.selected
    return int(left or made.invalid > 0 or _not_redone(prepared) > 0)


def _not_redone(prepared: Prepared) -> int:
    """How many jobs ``--redo`` was to buy again that have no attempt left."""
    return prepared.plan.count(PlanGroup.EXHAUSTED) if prepared.options.policy.redo else 0


def report_events(ledger: Ledger, observer: Observer) -> None:
    """Report each line about a job to ``observer`` once it is on disk, if that wants to know."""
    if not listens(observer, "event"):
        return

    def describe(job_id: str) -> ListedJob:
        record = ledger.snapshot.get(job_id)
        assert record is not None
        return listed_job(job_id, record, ledger.snapshot)

    def report(line: Event) -> None:
        observer.event(JobEvent(line, partial(describe, line.job)))

    ledger.on_durable = report


def spending_of(prepared: Prepared, ledger: Ledger, budget: Budget) -> Callable[[], Spending]:
    """USD spent so far, with the cap and the plan's total."""
    foreseen_usd = prepared.plan.estimated_cost_usd
    if foreseen_usd is not None:
        foreseen_usd += ledger.snapshot.spent_usd
    return lambda: Spending(ledger.snapshot.spent_usd, budget.max_cost_usd, foreseen_usd)
