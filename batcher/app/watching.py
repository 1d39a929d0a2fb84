"""What a run reports during its course: its spending, and each job that has ended."""

from __future__ import annotations

from collections.abc import Callable

from batcher.app.prepare import Prepared
from batcher.engine.budget import Budget
from batcher.engine.view import Spending
from batcher.ledger.ledger import Ledger
from batcher.ledger.summary import ListedJob, listed_job


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
