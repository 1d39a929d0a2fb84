"""The polling lane: asks for a request's result until the API's answer is final.

:class:`LateCosts` asks again for costs that the API reports only after the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from batcher.clock import Clock, iso
from batcher.engine.gateway import Lines, Silent, Traffic
from batcher.errors import AuthRefused, CallError, CredentialsError, NotFound
from batcher.jobs.lifecycle import EventName, State
from batcher.ledger.finished import JobRecord
from batcher.ledger.ledger import Ledger
from batcher.ledger.snapshot import Snapshot
from batcher.pacing.gate import full_jitter_s
from batcher.pacing.polling import LearnedPolls, Polls, Watch
from batcher.pacing.timings import seconds_between, timing_key
from batcher.ports import CostSource, Handle, Phase, Result

NOT_FOUND_POLLS = 5
NOT_FOUND_S = 10.0
NOT_FOUND_STEP_S = 2.5
NO_OUTPUT_ANSWERS = 5
NO_OUTPUT_S = 20.0
ODD_COST_ANSWERS = 3
DOUBT_STEP_MAX_S = 8.0
RETRY_BASE_S = 1.0
RETRY_CAP_S = 30.0
STEP_MIN_S = 0.05
GIVEN_UP_TOLD = 3
COSTS_LOOK_S = 1.0
COST_WAITS_S = (2.0, 5.0, 15.0, 60.0)
"""Seconds from the job's end to the first request for its cost, then between requests."""
COST_ASK_S = 30.0
COST_RECENT_S = 86_400.0
"""Seconds. Older jobs are not asked about: results, with their costs, expire."""
SILENT_JOBS = 3
"""After this many jobs without a cost, and none with one, assume that the API reports no costs."""
_ENDED = (State.COMPLETED, State.DONE, State.FAILED)


@dataclass(slots=True)
class Absence:
    """Counts consecutive 404s: only at least 5 of them over at least 10 s mean "gone"."""

    polls: int = 0
    since_s: float = 0.0

    def note(self, now_s: float) -> bool:
        """Count one more 404; returns whether the request now counts as gone."""
        if not self.polls:
            self.since_s = now_s
        self.polls += 1
        return self.polls >= NOT_FOUND_POLLS and now_s - self.since_s >= NOT_FOUND_S


@dataclass(slots=True)
class Doubt:
    """Counts consecutive implausible results: finished without an output, or with an odd cost.

    A result may appear a little after its status. The request is asked again after 1, 2, 4 and more
    seconds: a missing output is believed after at least 5 answers over 20 s, an odd cost after 3.
    """

    answers: int = 0
    since_s: float = 0.0

    def note(self, result: Result, now_s: float) -> float | None:
        """Count an answer; returns seconds until the next, or None to believe this one."""
        is_whole = result.removed or (result.output_count and not result.cost_is_odd)
        if result.phase is not Phase.SUCCEEDED or is_whole:
            return None
        if not self.answers:
            self.since_s = now_s
        self.answers += 1
        convinced = self.answers >= NO_OUTPUT_ANSWERS and now_s - self.since_s >= NO_OUTPUT_S
        if convinced or (result.output_count and self.answers >= ODD_COST_ANSWERS):
            return None
        return float(min(2 ** (self.answers - 1), DOUBT_STEP_MAX_S))


class Gone(CallError):
    """The API no longer knows the request, and said so often enough to be believed."""


class Watcher:
    """Polls requests. Errors of single polls never end the polling; only final answers do."""

    def __init__(self, lines: Lines, clock: Clock, rng: Random, warn: Callable[[str], None]) -> None:
        self._lines = lines
        self._clock = clock
        self._rng = rng
        self._warn = warn
        self._told = 0

    async def ask(self, request: Handle, timeout_s: float | None = None) -> Result | None:
        """The request's current result; retries transient errors and implausible answers.

        None if the token was refused, or only errors came for ``timeout_s`` seconds.
        Raises Gone if the API no longer knows the request, and Silent.
        """
        answer = await self._answer(request, timeout_s)
        return None if isinstance(answer, CallError) else answer

    async def _answer(self, request: Handle, timeout_s: float | None) -> Result | CallError | None:
        """As :meth:`ask`; the last error if only errors came."""
        absence, doubt, failures, began_s = Absence(), Doubt(), 0, self._clock.monotonic()
        line, last = self._lines.of(request.model), None
        while timeout_s is None or not failures or self._clock.monotonic() - began_s < timeout_s:
            try:
                result = await line.call(lambda: line.provider.result(request))
                if (wait_s := doubt.note(result, self._clock.monotonic())) is None:
                    return result
                await self._clock.sleep(wait_s)
            except NotFound as error:
                if absence.note(self._clock.monotonic()):
                    raise Gone(error.message, http_status=error.http_status) from error
                await self._clock.sleep(NOT_FOUND_STEP_S)
            except AuthRefused as error:
                self._lines.close(
                    line,
                    CredentialsError(
                        "the API refused the token while results were asked for: check it and run the "
                        f"same command again ({error.message})"
                    ),
                )
                return None
            except CallError as error:
                delay_s = full_jitter_s(failures, self._rng, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S)
                failures, last = failures + 1, error
                await self._sleep_within(delay_s, began_s, timeout_s)
        return last

    async def _sleep_within(self, delay_s: float, began_s: float, timeout_s: float | None) -> None:
        """Sleep, but not much longer than until ``timeout_s`` seconds after ``began_s``."""
        if timeout_s is not None:
            left_s = began_s + timeout_s - self._clock.monotonic()
            delay_s = min(delay_s, max(left_s, STEP_MIN_S))  # never so short that the clock stands still
        await self._clock.sleep(delay_s)

    def _tell(self, request: Handle, error: CallError) -> None:
        """Say why a request that may long be finished is left, for the first few of them."""
        self._told += 1
        if self._told <= GIVEN_UP_TOLD:
            self._warn(
                f"request {request.id} is not watched any longer (--job-timeout); the last answer about "
                f"it was an error: {error.message}"
            )

    def hears_costs(self, model: str | None) -> bool:
        """Whether the provider of ``model`` ever names a cost.

        False for one that this run is not connected to: all of its jobs are done and have left.
        """
        try:
            return self._lines.of(model).provider.traits.cost is not CostSource.NONE
        except KeyError:
            return False

    async def watch(
        self, request: Handle, schedule: Polls, timeout_s: float | None, first_s: float
    ) -> Result | None:
        """Poll until the request is finished, for the first time in ``first_s`` seconds.

        None if the job timed out or the token was refused: it continues at the API, and the
        next run polls it again. Raises Gone and Silent.
        """
        watched_s = self._clock.monotonic()
        await self._clock.sleep(first_s)
        began_s, left_s = self._clock.monotonic(), timeout_s
        while True:
            result = await self._answer(request, left_s)
            if isinstance(result, CallError):
                self._tell(request, result)
                return None
            if result is None or result.phase.terminal:
                return result
            now_s = self._clock.monotonic()
            if timeout_s is not None and now_s - began_s >= timeout_s:
                return None
            next_s = schedule.next_s(now_s - watched_s, result.queue_position)
            await self._sleep_within(next_s, began_s, timeout_s)
            if timeout_s is not None:
                left_s = timeout_s - (self._clock.monotonic() - began_s)


def handle_of(record: JobRecord) -> Handle:
    """The request of a job that has one."""
    assert record.request_id is not None
    return Handle(record.model or "", record.request_id, record.urls)


def is_final_no(result: Result) -> bool:
    """Whether the request can never give a result: only then may the job be submitted again."""
    return result.phase in (Phase.FAILED, Phase.CANCELLED) or (
        result.phase is Phase.SUCCEEDED and not result.output_count
    )


class Polling:
    """Gives each request its schedule: learned from similar requests, or a fixed interval."""

    def __init__(self, snapshot: Snapshot, clock: Clock, polls: LearnedPolls, traffic: Traffic) -> None:
        self._snapshot = snapshot
        self._clock = clock
        self._polls = polls
        self._traffic = traffic
        polls.on_queued, polls.worth = traffic.queued, traffic.polls

    @contextmanager
    def watching(self, job_id: str, *, taken_over: bool) -> Iterator[Watch]:
        """A schedule for the job's request, for as long as it is watched."""
        record = self._snapshot.records[job_id]
        key = self._snapshot.timings.key_of(job_id) or timing_key(record.model, {})
        age_s = self._age_s(record.submitting_at) if taken_over else 0.0
        watch = self._polls.watch(key, self._clock.monotonic(), age_s)
        if (outlook := self._polls.outlook(watch)) is not None:
            self._traffic.expects(record.model, outlook.polls, outlook.takes_s)
        try:
            yield watch
        finally:
            watch.close()
            self._traffic.finished(record.model, self._clock.monotonic() - watch.began_at_s + age_s)

    def _age_s(self, submitting_at: str | None) -> float:
        """Measured by the wall clock, across runs: only a hint."""
        if submitting_at is None:
            return 0.0
        return max(seconds_between(submitting_at, iso(self._clock.now())) or 0.0, 0.0)


@dataclass(slots=True)
class LateCosts:
    """Asks again for the costs of finished jobs. Never delays a job; delays the run's end only once.

    ``wanted`` says whether the costs are needed.
    """

    watcher: Watcher
    ledger: Ledger
    clock: Clock
    wanted: bool
    _due: dict[str, tuple[int, float]] = field(init=False, default_factory=dict)
    """For each job, how often it was asked about and when to ask next."""
    _some: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """Set while any is due."""
    _silent: int = field(init=False, default=0)

    def note(self, job_id: str) -> None:
        """The job has ended: its cost is asked for again if it isn't known."""
        if self._is_missing(job_id) and self._asks():
            self._put(job_id, 0)

    async def take_over(self, is_ours: Callable[[str], bool]) -> None:
        """Ask once for costs that earlier runs ended too soon to get; ``is_ours`` selects this shard."""
        now = iso(self.clock.now())
        for job_id, record in self.ledger.snapshot.records.open.items():
            age_s = seconds_between(record.submitting_at or "", now)
            if age_s is not None and 0 <= age_s < COST_RECENT_S and is_ours(job_id):
                self.note(job_id)
        if self.wanted:
            await self.ask()

    async def keep_asking(self) -> None:
        """Ask for each cost when its time has come. Runs until it is cancelled."""
        while True:
            await self._some.wait()
            await self.clock.sleep(COSTS_LOOK_S)
            now_s = self.clock.monotonic()
            await self._ask_each([job for job, (_, at_s) in self._due.items() if at_s <= now_s])

    async def ask(self) -> None:
        """Ask once for each cost that is still missing."""
        await self._ask_each(list(self._due))

    async def _ask_each(self, jobs: list[str]) -> None:
        await asyncio.gather(*map(self._ask, jobs))

    def _put(self, job_id: str, asked: int) -> None:
        self._due[job_id] = asked, self.clock.monotonic() + COST_WAITS_S[asked]
        self._some.set()

    def _asks(self) -> bool:
        knows_some = self.ledger.snapshot.reported_usd > 0
        return knows_some or (self.wanted and self._silent < SILENT_JOBS)

    def _is_missing(self, job_id: str) -> bool:
        """Also true for a cost of 0 with a price known: some models report 0 too early."""
        record = self.ledger.snapshot.get(job_id)
        if record is None or record.request_id is None or record.state not in _ENDED:
            return False
        if not self.watcher.hears_costs(record.model):
            return False
        return record.reported_usd is None or (record.reported_usd == 0 and bool(record.price_usd))

    async def _ask(self, job_id: str) -> None:
        asked, _ = self._due.pop(job_id)
        if not self._due:
            self._some.clear()
        if not self._is_missing(job_id):
            return
        request = handle_of(self.ledger.snapshot.records[job_id])
        try:
            result = await self.watcher.ask(request, COST_ASK_S)
        except (Gone, Silent):
            return
        record = self.ledger.snapshot.records[job_id]
        if record.request_id != request.id or not self._is_missing(job_id):
            return  # the cost arrived meanwhile, or the job changed state
        cost_usd = result.cost_usd if result is not None else None
        if cost_usd is not None and cost_usd != record.reported_usd:
            await self.ledger.record(EventName.COST, job_id, cost_usd=cost_usd)
        elif asked + 1 < len(COST_WAITS_S):
            self._put(job_id, asked + 1)
        else:
            self._silent += 1
