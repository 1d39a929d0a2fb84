"""The engine: takes each job of a plan through its lifecycle.

Three lanes with separate limits: submitting (a cap on unfinished requests, a rate), polling,
downloading. A request holds its slot from before its POST to the API's final answer, not for a download.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any

from batcher.clock import time_of_day
from batcher.engine.canary import Canary, no_canary
from batcher.engine.gateway import Silent
from batcher.engine.interrupt import obey_halt, until_halted
from batcher.engine.lanes import Deps, Lanes
from batcher.engine.max_runtime import end_in_time
from batcher.engine.poll import Gone, handle_of, is_final_no
from batcher.engine.retries import Retries
from batcher.engine.slots import CapQueues
from batcher.engine.stop import Breaker
from batcher.engine.submit import Outcome
from batcher.engine.vanishing import Vanishing
from batcher.errors import BatcherError, IncompleteError, InputError, RunDirError
from batcher.jobs.job import Job
from batcher.jobs.lifecycle import NOT_FOUND, EventName, Stage, State
from batcher.ledger.finished import JobRecord
from batcher.options.facts import Pace
from batcher.planning.plan import Action, Decision, Plan, PlanGroup
from batcher.ports import Phase, Result

CHECKS_PER_BREATH = 256
GRACE_FOR_POSTS = 0.7
GRACE_FOR_CANCELS = 0.2


class Runner:
    """One run. ``control`` lets the caller drain or halt it."""

    def __init__(
        self, deps: Deps, pace: Pace, lanes: Lanes, breaker: Breaker, canary: Canary | None = None
    ) -> None:
        self.view = lanes.view
        self.control = lanes.control
        self._deps = deps
        self._pace = pace
        self._lanes = lanes
        self._ledger = deps.ledger
        self._breaker = breaker
        self._canary = canary or no_canary(deps.ledger.snapshot, deps.clock)
        self.view.waits = self._waits
        self._watched_since_s: dict[str, float] = {}
        self._queues = CapQueues(lanes.slots.caps, self._start, self._spawn)
        self._stuck: BatcherError | None = None
        self._retries = Retries(deps, lanes, self._canary)
        # Insertion-ordered, so that cancellation order is deterministic.
        self._live: dict[asyncio.Task[None], None] = {}

    async def run(self, plan: Plan, work: Iterable[tuple[Job, Decision]]) -> None:
        """Carry out ``plan``: first requests of earlier runs, then ``work`` in its order.

        Returns when every job is as far as it can get, and that is on disk; ``control.error`` says
        why some did not finish.
        """
        self.view.selected = plan.selected
        self._ledger.call_if_moved(self.control.halt)
        self._deps.observer.started(self.view)
        grace_s = self._pace.grace_s * GRACE_FOR_POSTS
        companions = (
            obey_halt(
                self.control, self._live, self._lanes.submitter.posting, self._deps.clock, grace_s
            ),
            self._lanes.unwatched.free_in_time(),
            end_in_time(self._pace, self.control, self._deps.clock, self._longest_s),
            self._guarded(self._lanes.late_costs.keep_asking()),
        )
        beside = [asyncio.create_task(work) for work in companions]
        try:
            await self._guarded(self._tidy())
            costs, is_ours = self._lanes.late_costs, self._deps.run_dir.is_ours
            await until_halted(self.control, lambda: self._guarded(costs.take_over(is_ours)))
            async with asyncio.TaskGroup() as self._tasks:
                self._take_over(plan)
                self._spawn(self._admit(plan, work))
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            if self.view.done < self.view.selected and (error := self.control.error or self.shortfall()):
                self.view.stopped = str(error)
            self._deps.observer.finished(self.view)
        await until_halted(self.control, lambda: self._guarded(costs.ask()))
        if self._pace.cancel_on_interrupt and self.control.interrupted:
            await self._lanes.cancels.cancel_queued(self._pace.grace_s * GRACE_FOR_CANCELS)
        await self._ledger.settled()

    def _longest_s(self) -> float | None:
        """The longest generation seen of any model, in seconds."""
        seen_s = self._ledger.snapshot.timings.by_model().values()
        return max((max(spans, default=0.0) for spans in seen_s), default=None)

    def _waits(self) -> Iterator[str]:
        """What the run is waiting for, for the messages during long waits."""
        lanes = self._lanes
        for waiting in (lanes.lines, self._queues, lanes.submitter, lanes.unwatched):
            yield from waiting.waits()
        if (account := self._deps.account) is not None and account.crowded is not None:
            yield account.crowded.reason
        clock = self._deps.clock
        if (since_s := next(iter(self._watched_since_s.values()), None)) is not None:
            watched_s, limit_s = clock.monotonic() - since_s, self._pace.job_timeout_s
            ends = (
                f", until {time_of_day(clock, limit_s - watched_s)} (--job-timeout)" if limit_s else ""
            )
            yield f"the oldest request is watched for {watched_s:.0f} s{ends}"
        if self.view.downloading:
            yield "a download is given up 2 minutes after its last byte"

    def shortfall(self) -> BatcherError | None:
        """The reason to stop that is known only at the end: jobs that fit no budget or no cap."""
        return self._lanes.budget.shortfall() or self._stuck

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self.control.halted:  # what a halt cancels has been cancelled already
            work.close()
            return
        task = self._tasks.create_task(self._guarded(work))
        self._live[task] = None

        def ended(task: asyncio.Task[None]) -> None:
            self._live.pop(task, None)
            work.close()  # if cancelled before its start

        task.add_done_callback(ended)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """An error in a lane drains the run instead of crashing it."""
        try:
            await work
        except Silent:
            pass  # the provider's line has said why
        except BatcherError as error:
            self.control.halt(error)
        except OSError as error:
            self.control.halt(RunDirError(f"{self._deps.run_dir.root}: {error.strerror or error}"))
        self._deps.observer.changed(self.view)

    def _take_over(self, plan: Plan) -> None:
        """Requests of earlier runs take their slots first, even if they exceed the limit.

        What their providers delete soonest is asked for first.
        """
        earlier = Vanishing(self._lanes.lines, self._ledger.snapshot, self._deps.clock)
        for warning in earlier.warnings([*plan.resumed, *plan.owed, *plan.collected]):
            self._deps.observer.warn(warning)
        self._spawn(self._collect_each(earlier.soonest_first([*plan.owed, *plan.collected])))
        resumed = earlier.soonest_first(plan.resumed)
        for place, job_id in enumerate(resumed):
            record = self._ledger.snapshot.records[job_id]
            self._lanes.slots.hold(record.model)
            if record.listed:
                self._lanes.cancels.watched[job_id] = None
            self._spawn(self._resume(job_id, (place + 1) / len(resumed)))
        self._lanes.unwatched.take_over(frozenset(plan.resumed), self._deps.run_dir.is_ours)

    async def _collect_each(self, jobs: list[str]) -> None:
        for job_id in jobs:
            await self._backlog_shrinks()
            self._spawn(self._collect(job_id, None))

    async def _admit(self, plan: Plan, work: Iterable[tuple[Job, Decision]]) -> None:
        resumed, collected = frozenset(plan.resumed), frozenset(plan.collected)
        try:
            for number, (job, decision) in enumerate(work, 1):
                if number % CHECKS_PER_BREATH == 0:
                    await self._deps.clock.sleep(0)
                if job.id in collected:
                    continue
                if job.id not in resumed:
                    await self._begin(job, decision)
                elif self._retries.met(job):
                    self._spawn(self._collect_or_retry(job, None))
            await self._queues.close()
        except InputError as error:  # a job that was planned but can't be read any more stays pending
            self._deps.observer.warn(f"the manifest changed while the run was under way:\n{error}")
        if self._deps.policy.retries and (reason := await self._canary.holds_back("")) is not None:
            self.control.drain(reason)  # no job was left to be held back, but retries may be

    async def _begin(self, job: Job, decision: Decision) -> None:
        match decision.action:
            case Action.SUBMIT | Action.ASK if not self.control.draining:
                if (reason := await self._canary.holds_back(job.id)) is not None:
                    self.control.drain(reason)
                    return
                await self._queues.put(job, decision)
            case Action.CHECK:
                self._check(job.id)
            case Action.LEAVE:
                self.view.failed += decision.bucket is not PlanGroup.UNKNOWN
                self.view.unknown += decision.bucket is PlanGroup.UNKNOWN
            case _:
                pass

    async def _start(self, job: Job, decision: Decision) -> None:
        """Wait for a slot, then start to buy the job beside the others."""
        await self._backlog_shrinks()
        slots = self._lanes.slots
        self._lanes.unwatched.tell(self._deps.observer.warn)
        if await slots.acquire(job.model):
            await self._lanes.starts.space_out()
            self._spawn(self._buy(job, ask_first=decision.action is Action.ASK))
            return
        self._canary.leave_out(job.id)
        if (cap := slots.caps.stuck(job.model)) is not None:
            self._stuck = IncompleteError(f"requests that outlasted --job-timeout fill {cap}")
        else:
            self.control.drain(
                IncompleteError("requests that outlasted --job-timeout hold every slot (-c)")
            )

    def _check(self, job_id: str) -> None:
        if self._deps.run_dir.missing(self._ledger.snapshot.records[job_id]):
            self._spawn(self._collect(job_id, None))
        else:
            self.view.done += 1
            self._deps.observer.changed(self.view)

    async def _backlog_shrinks(self) -> None:
        """Pause submitting while downloads lag far behind: results expire."""
        await self._lanes.backlog.acquire()
        self._lanes.backlog.free()

    async def _buy(self, job: Job, *, ask_first: bool) -> None:
        """Submit a job, poll it, fetch its outputs; also its retries. The caller holds its slot."""
        attempt = self._retries.last_attempt(job.id)
        with self._canary.watching(job.id):
            result = await self._generate(job, ask_first=ask_first)
            if not self._retries.is_left(job.id, attempt):
                await self._collect_or_retry(job, result)

    async def _generate(self, job: Job, *, ask_first: bool) -> Result | None:
        """One attempt of a job, to its result; frees its slot."""
        try:
            if ask_first and not await self._old_request_failed(job):
                return await self._watch_to_end(job.id, 0.0)
            if await self._submit(job):
                return await self._watch_to_end(job.id)
            return None
        finally:
            self._lanes.slots.free(job.model)

    async def _collect_or_retry(self, job: Job, result: Result | None) -> None:
        """Fetch the outputs; without a result, buy the job again while ``--retries`` allows it."""
        while result is None and (attempt := await self._retries.next_after(job.id)):
            self.view.failed -= 1
            result = await self._generate(job, ask_first=True)
            if self._retries.is_left(job.id, attempt):
                return
        if result is not None:
            await self._collect(job.id, result)

    async def _old_request_failed(self, job: Job) -> bool:
        """Ask for the old result once more; True only for a final no."""
        record = self._ledger.snapshot.records[job.id]
        if record.request_id is None:
            return True
        try:
            result = await self._lanes.watcher.ask(handle_of(record), self._pace.outage.later_s)
        except Gone:
            return True
        self.view.failed += result is None
        if result is not None and not is_final_no(result):
            await self._ledger.record(
                EventName.SUBMITTED, job.id, request_id=record.request_id, urls=record.urls
            )
            self._lanes.cancels.watched[job.id] = None
        return result is not None and is_final_no(result)

    async def _submit(self, job: Job) -> bool:
        self._lanes.cancels.watched[job.id] = None
        outcome = await self._lanes.submitter.submit(job)
        if outcome is not Outcome.ACCEPTED:
            self._lanes.cancels.watched.pop(job.id, None)
        self._note_submit(outcome, job)
        await self._set_aside(self._ledger.snapshot.get(job.id))
        # A halt waits for the answer to a POST, not for the request's result.
        return outcome is Outcome.ACCEPTED and not self.control.halted

    async def _tidy(self) -> None:
        """Finish ``_set_aside`` for a run that died between an intent and its end."""
        for job_id, record in list(self._ledger.snapshot.records.open.items()):
            if self._deps.run_dir.is_ours(job_id):
                await self._set_aside(record)

    async def _set_aside(self, record: JobRecord | None) -> None:
        """Move the files of a superseded attempt away before new ones take their names."""
        if record is not None and record.replaced is not None:
            self._deps.metadata.mark_stale()
            await self._deps.run_dir.set_aside(record.replaced)

    def _note_submit(self, outcome: Outcome, job: Job) -> None:
        self.view.submitted_now += outcome is Outcome.ACCEPTED
        if outcome is Outcome.UNKNOWN:
            self.view.unknown += 1
            self._lanes.unwatched.hold(job.id, job.model)
        self.view.failed += outcome is Outcome.FAILED
        self.view.failed += outcome is Outcome.LEFT and self._retries.stays_bad(job.id)
        if outcome is Outcome.FAILED or outcome is Outcome.UNKNOWN:
            self._count_end(failed=True)
        if (warning := self._lanes.budget.warning()) is not None:
            self._deps.observer.warn(warning)
        self._deps.observer.changed(self.view)

    async def _resume(self, job_id: str, due_s: float) -> None:
        try:
            result = await self._watch_to_end(job_id, due_s)
        finally:
            self._lanes.slots.free(self._ledger.snapshot.records[job_id].model)
        if (job := self._retries.taken_over(job_id)) is not None:
            await self._collect_or_retry(job, result)
        elif result is not None:
            await self._collect(job_id, result)

    async def _watch_to_end(self, job_id: str, due_s: float | None = None) -> Result | None:
        """Poll a submitted job; its result once it has completed, else None with the reason recorded.

        One of an earlier run is asked about in ``due_s`` seconds.
        """
        record = self._ledger.snapshot.records[job_id]
        if record.state is not State.SUBMITTED or record.request_id is None:
            return None
        self.view.queued += 1
        self._watched_since_s[job_id] = self._deps.clock.monotonic()
        self._deps.observer.changed(self.view)
        try:
            with self._lanes.polling.watching(job_id, taken_over=due_s is not None) as schedule:
                first_s = schedule.first_s() if due_s is None else due_s
                result = await self._lanes.watcher.watch(
                    handle_of(record), schedule, self._pace.job_timeout_s, first_s
                )
        except Gone as error:
            await self._failed(job_id, code=NOT_FOUND, message=str(error))
            return None
        finally:
            self.view.queued -= 1
            del self._watched_since_s[job_id]
        if result is not None and result.phase.terminal:
            self._lanes.cancels.watched.pop(job_id, None)
        else:
            self.view.timed_out.append(job_id)
            self._lanes.slots.strand(record.model)
            return None
        return await self._record_end(job_id, result, round(schedule.unfinished_s, 3))

    async def _record_end(self, job_id: str, result: Result, unfinished_s: float) -> Result | None:
        if result.phase is Phase.SUCCEEDED:
            seen = {"cost_usd": result.cost_usd, "output": result.output}
            # No need to await this line: ``done`` awaits its own, which comes after it.
            self._ledger.append(EventName.COMPLETED, job_id, unfinished_s=unfinished_s, **seen)
            self._count(failed=False)
            return result
        if result.phase is Phase.CANCELLED:
            self.view.failed += await self._lanes.cancels.note_cancelled(
                job_id, may_cost=result.may_cost
            )
            return None
        await self._failed(job_id, **self._retries.failure(job_id, result))
        return None

    async def _failed(self, job_id: str, **said: Any) -> None:
        await self._ledger.record(EventName.FAILED, job_id, stage=Stage.GENERATE, **said)
        self._lanes.late_costs.note(job_id)
        self._count(failed=True)

    def _count(self, *, failed: bool) -> None:
        self.view.failed += failed
        self._count_end(failed=failed)

    def _count_end(self, *, failed: bool) -> None:
        if reason := self._breaker.note(failed):
            self.control.drain(reason)

    async def _collect(self, job_id: str, result: Result | None) -> None:
        self._lanes.backlog.hold()
        self.view.downloading += 1
        try:
            done = await self._lanes.collector.collect(job_id, result)
        finally:
            self.view.downloading -= 1
            self._lanes.backlog.free()
        self._note_collected(job_id, done)

    def _note_collected(self, job_id: str, done: bool) -> None:
        self._lanes.late_costs.note(job_id)
        record = self._ledger.snapshot.records[job_id]
        if record.listed:
            self.view.done += done
            self.view.failed += not done
        self._deps.observer.changed(self.view)
