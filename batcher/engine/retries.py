"""``--retries``: which failed generations are bought again in the same run, and when."""

from __future__ import annotations

from batcher.engine.canary import Canary
from batcher.engine.lanes import Deps, Lanes
from batcher.jobs.job import Job
from batcher.jobs.lifecycle import State
from batcher.pacing.gate import full_jitter_s
from batcher.planning.plan import may_retry
from batcher.ports import Result

RETRY_BASE_S = 5.0
RETRY_CAP_S = 30.0


class Retries:
    """Retries of failed jobs, as the ledger counts them: waits for each, and takes a slot for it."""

    def __init__(self, deps: Deps, lanes: Lanes, canary: Canary) -> None:
        self._deps = deps
        self._canary = canary
        self._lanes = lanes
        self._records = deps.ledger.snapshot.records
        self._taken_over: dict[str, Job] = {}

    def failure(self, job_id: str, result: Result) -> dict[str, object]:
        """The ``failed`` line of a job whose request the API ended as failed."""
        code, message = result.error_code or result.word, result.message or "the API gave no reason"
        due = may_retry(self._records[job_id], code, message, self._deps.policy)
        return {"code": code, "message": message, "cost_usd": result.cost_usd, "retry_due": due}

    def met(self, job: Job) -> bool:
        """The manifest has a job whose request an earlier run submitted: keep its inputs.

        Returns whether its retry is due: it failed before its row was read.
        """
        record = self._records[job.id]
        if record.state is State.SUBMITTED and self._deps.policy.retries:
            self._taken_over[job.id] = job
        return record.retry_due

    def taken_over(self, job_id: str) -> Job | None:
        """The job of a request of an earlier run, if it was met."""
        return self._taken_over.pop(job_id, None)

    def last_attempt(self, job_id: str) -> int:
        """The number of a job's last attempt; 0 if there was none."""
        record = self._records.find(job_id)
        return record.attempt if record is not None else 0

    def is_left(self, job_id: str, attempt: int) -> bool:
        """Whether a retry that began after ``attempt`` bought nothing: no room, or no answer."""
        record = self._records.find(job_id)
        return record is not None and record.retry_due and record.attempt == attempt

    def stays_bad(self, job_id: str) -> bool:
        """Whether a job that was to be bought again, and is not, counts as failed."""
        record = self._records.find(job_id)
        return record is not None and record.state in (State.FAILED, State.CANCELLED)

    async def next_after(self, job_id: str) -> int:
        """Wait until a failed job is to be bought again, and take a slot for it.

        Returns the number of its last attempt; 0 if it is not bought again in this run.
        """
        record, control = self._records.find(job_id), self._lanes.control
        if record is None or not record.retry_due or control.draining:
            return 0
        rng, number = self._deps.rng, record.retry
        await self._deps.clock.sleep(full_jitter_s(number, rng, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S))
        await self._canary.holds_retry(job_id)
        if control.draining or not await self._lanes.slots.acquire(record.model):
            return 0
        return record.attempt
