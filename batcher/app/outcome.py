"""What became of a run: its summary, and the exit code in it."""

from __future__ import annotations

from batcher.app.prepare import Prepared
from batcher.engine.view import RunView
from batcher.errors import BatcherError
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.summary import Summary, status_of
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
