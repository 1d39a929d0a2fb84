"""What a run reports: its spending and each ended job while it runs, its summary at the end."""

from __future__ import annotations

from collections.abc import Callable

from batcher.app.prepare import Prepared
from batcher.engine.budget import Budget
from batcher.engine.view import RunView, Spending
from batcher.errors import BatcherError
from batcher.ledger.ledger import Ledger
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.summary import ListedJob, Summary, listed_job, status_of
from batcher.planning.plan import PlanGroup

_OLD_FAILURES = (PlanGroup.FAILED, PlanGroup.REFUSED, PlanGroup.CANCELLED, PlanGroup.EXHAUSTED)


def summarise(
    prepared: Prepared, snapshot: Snapshot, view: RunView, error: BatcherError | None, elapsed_s: float
) -> Summary:
    """What became of a plan: ``view`` as its run left it, ``error`` why that stopped early, if so."""
    present = status_of(prepared.run_dir, snapshot)
    made = prepared.plan
    fields = {name: getattr(present, name) for name in present.__struct_fields__}
    fields |= {"total": made.total, "duplicates": made.duplicates}
    fields["pending"] += made.total - present.total
    return Summary(
        **fields,
        selected=made.selected,
        elapsed_s=round(elapsed_s, 3),
        submitted_now=view.submitted_now,
        invalid=made.invalid,
        cancelled_now=view.cancelled_now,
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


def job_reporter(ledger: Ledger, tell: Callable[[ListedJob], None]) -> Callable[[str], None]:
    """Returns a function that reports a job by its id, once its lines are durable."""

    def tell_of(job_id: str) -> None:
        record = ledger.snapshot.get(job_id)
        assert record is not None
        tell(listed_job(job_id, record, ledger.snapshot))

    return tell_of


def spending_of(prepared: Prepared, ledger: Ledger, budget: Budget) -> Callable[[], Spending]:
    """USD spent so far, with the cap and the plan's total."""
    foreseen_usd = prepared.plan.estimated_cost_usd
    if foreseen_usd is not None:
        foreseen_usd += ledger.snapshot.spent_usd
    return lambda: Spending(ledger.snapshot.spent_usd, budget.max_cost_usd, foreseen_usd)
