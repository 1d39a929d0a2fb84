"""The submitting lane: intent before effect, one POST at a time for each job, its answer recorded.

:class:`Healer` finds out during the run what became of a POST without an answer, if the provider can
tell. Later may be too late: some providers forget inputs, or all of a request, within an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from batcher.clock import Clock
from batcher.engine.account import Account
from batcher.engine.budget import Budget
from batcher.engine.gateway import ApiLine, Lines, Silent
from batcher.engine.stop import Control
from batcher.engine.systemic import NoAnswers, SameAnswer, no_upload, whole_run
from batcher.errors import (
    AuthRefused,
    BalanceExhausted,
    BatcherError,
    CallError,
    ModelCapReached,
    OutcomeUnknown,
    RetryKind,
    RunDirError,
)
from batcher.jobs.identity import price_key
from batcher.jobs.job import Job, recorded
from batcher.jobs.lifecycle import EventName, Stage
from batcher.ledger.book import Crowded
from batcher.ledger.finished import JobRecord
from batcher.ledger.ledger import Ledger
from batcher.options.command import as_path, command
from batcher.pacing.rate import RateLimit
from batcher.planning.plan import next_attempt, next_retry
from batcher.ports import Handle, Lost, Trace, Tracing

LOCAL_MEDIA = "local_media"
UPLOAD_RETRY_S = 2.0
ASK_AT_S: Final = (5.0, 25.0, 95.0, 200.0, 320.0)
"""Seconds from the intent at which to ask. A request is listed soon; its absence is certain later."""
NOT_CREATED: Final = "not created: the provider has no such request"


class Outcome(Enum):
    """The outcome of an attempt to submit a job."""

    ACCEPTED = auto()
    FAILED = auto()
    UNKNOWN = auto()
    PUT_OFF = auto()
    """Not accepted for a temporary reason: the job may be tried again."""
    LEFT = auto()
    """The run is stopping, or the budget has no room: the job stays pending."""


class Healing(Enum):
    """What became of a lost submission."""

    CREATED = auto()
    """Its request was found: the job is submitted."""
    NOTHING = auto()
    """It created nothing: the job is pending."""
    UNTOLD = auto()


HEALED = {
    Healing.CREATED: Outcome.ACCEPTED,
    Healing.NOTHING: Outcome.PUT_OFF,
    Healing.UNTOLD: Outcome.UNKNOWN,
}
"""The outcome of a POST without an answer, by what was found out about it."""


@dataclass(frozen=True, slots=True)
class UnreadableMedia:
    """Replaces the body of a job whose local media can't be sent."""

    reason: str


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms jobs are submitted."""

    budget: Budget
    rate: RateLimit
    clock: Clock
    slots: int
    """How many requests may be unfinished at once."""
    account: Account | None = None


class Submitter:
    """POSTs jobs. Records the intent before each POST, and the answer right after it."""

    def __init__(self, lines: Lines, ledger: Ledger, control: Control, terms: Terms) -> None:
        self._lines = lines
        self._ledger = ledger
        self._control = control
        self._terms = terms
        self._same_answer = SameAnswer()
        self._no_answers = NoAnswers(terms.slots)
        self._healer = Healer(lines, ledger, terms.clock)
        self.waits = self._healer.waits
        self.posting: set[asyncio.Task[Any]] = set()

    async def submit(self, job: Job) -> Outcome:
        """Submit ``job`` until it is answered; retries each refusal that surely created no request."""
        terms, line, priced_as = self._terms, self._lines.of(job.model), price_key(job)
        while True:
            if terms.account is not None:
                with line.standing_by(job.model):
                    await terms.account.room(lambda: self._control.draining)
            await line.ready(job.model)
            if wait_s := terms.rate.reserve_s(terms.clock.monotonic()):
                await terms.clock.sleep(wait_s)
            if self._is_over(line) or not terms.budget.admits(job):
                return Outcome.LEFT
            body = await self._body(job, line)
            # While local media were read, the run may have stopped or the budget been spent.
            if self._is_over(line) or not terms.budget.admits(job):
                return Outcome.LEFT
            if (refused := await self._reserve(job, priced_as)) is Outcome.LEFT:
                return Outcome.LEFT
            if refused is Outcome.PUT_OFF:
                continue
            with self._critical():
                outcome = await self._attempt(job, body, line, self._intend(job, priced_as))
            if outcome is Outcome.UNKNOWN:
                outcome = HEALED[await self._healer.heal(job, line)]
            self._healer.ended(job)
            if outcome is not Outcome.PUT_OFF:
                return outcome

    def _is_over(self, line: ApiLine) -> bool:
        """Whether nothing more is submitted: by the run, or to this provider."""
        return self._control.draining or line.closed is not None

    async def _reserve(self, job: Job, priced_as: str) -> Outcome | None:
        """Reserve in the account's book; the outcome if that can't be, or if the run stops meanwhile."""
        if (account := self._terms.account) is None:
            return None
        budget = self._terms.budget
        attempt = next_attempt(self._ledger.snapshot.get(job.id))
        refused = await account.reserve(job, attempt, budget.price_usd(job, priced_as))
        if isinstance(refused, Crowded):
            return Outcome.PUT_OFF
        if isinstance(refused, ModelCapReached):
            self._control.note(refused)
            return Outcome.LEFT
        if refused is not None:
            self._control.drain(refused)
            return Outcome.LEFT
        # While it was written, other jobs may have spent what is left.
        if self._control.draining or not budget.admits(job):
            account.give_back(job.id, attempt)
            return Outcome.LEFT
        return None

    async def _body(self, job: Job, line: ApiLine) -> bytes | UnreadableMedia:
        """The body of the POST, made before the intent: there must be no delay between the two.

        Preparing it may upload media; calls that fail for a while are repeated when the gate opens.
        """
        while not self._is_over(line):
            try:
                return await line.prepare(job)
            except (OSError, ValueError) as error:
                return UnreadableMedia(str(error))
            except CallError as error:
                if error.kind is not RetryKind.TRANSIENT:
                    if (reason := no_upload(error, job.model)) is not None:
                        self._stop(line, error, reason)
                    return UnreadableMedia(error.message)
                await self._terms.clock.sleep(UPLOAD_RETRY_S)
                await line.ready(job.model)
        return UnreadableMedia("the run is stopping")

    @contextmanager
    def _critical(self) -> Iterator[None]:
        """Code that a halt waits for: from the intent to the record of its answer."""
        task = asyncio.current_task()
        assert task is not None
        self.posting.add(task)
        try:
            yield
        finally:
            self.posting.discard(task)

    async def _attempt(
        self, job: Job, body: bytes | UnreadableMedia, line: ApiLine, intended: asyncio.Future[None]
    ) -> Outcome:
        """Intent, POST, answer. Once the intent is durable, the POST leaves at once or not at all."""
        self._healer.posts(job, line)
        if isinstance(body, UnreadableMedia):
            return await self._failed(job, LOCAL_MEDIA, body.reason)
        await intended
        await line.turn()
        if self._ledger.full:
            self._control.halt(RunDirError(f"{self._ledger.path}: no space left on the disk"))
        if self._control.halted or not line.is_open:
            # Between intent and POST the run was stopped, or the API asked to wait: nothing was sent.
            return await self._put_off(
                job, "not sent: the run was stopping, or the API asked for a pause"
            )
        try:
            request = await line.exchange(lambda: line.provider.submit(job.model, body), job.model)
        except CallError as error:
            return await self._answer(job, line, error)
        self._same_answer.accepted()
        if self._ledger.snapshot.is_given(request.id):
            return await self._answer(job, line, _given_twice(request.id))
        self._no_answers.accepted()
        await self._keep(job, request)
        return Outcome.ACCEPTED

    def _intend(self, job: Job, priced_as: str) -> asyncio.Future[None]:
        record = self._ledger.snapshot.get(job.id)
        fields: dict[str, Any] = {"model": job.model, "source": str(job.source), "digest": job.digest}
        fields["price_usd"] = self._terms.budget.price_usd(job, priced_as)
        fields["priced_as"] = priced_as
        if not _on_record(job, record):
            fields["input"] = recorded(job.input)
            fields["meta"] = recorded(job.meta)
            if job.vars:
                fields["vars"] = recorded(job.vars)
        attempt, fields["retry"] = next_attempt(record), next_retry(record)
        covered = self._ledger.append(EventName.SUBMITTING, job.id, attempt=attempt, **fields)
        self._ledger.snapshot.records[job.id].listed = True
        return covered

    async def _keep(self, job: Job, request: Handle) -> None:
        """Record the paid request. If that fails, at least the error contains its id."""
        try:
            await self._ledger.record(
                EventName.SUBMITTED, job.id, request_id=request.id, urls=request.urls
            )
        except RunDirError as error:
            raise RunDirError(
                f"{error}\njob {job.id} was accepted as request {request.id}, which could not be "
                f"recorded; resolve it later: {self._resolve_command(job, request.id)}"
            ) from error

    def _resolve_command(self, job: Job, request_id: str) -> str:
        run_dir = as_path(self._ledger.path.parent)
        return command("resolve", run_dir, job.id, "--request-id", request_id)

    def _stop(self, line: ApiLine, error: CallError, reason: BatcherError) -> None:
        """Submit nothing more: to this provider if it refused the token or the balance, else at all."""
        if isinstance(error, AuthRefused | BalanceExhausted):
            self._lines.close(line, reason)
        else:
            self._control.drain(reason)

    async def _answer(self, job: Job, line: ApiLine, error: CallError) -> Outcome:
        if error.kind is RetryKind.TRANSIENT:
            return await self._put_off(job, error.message)
        if isinstance(error, OutcomeUnknown):
            if (silence := self._no_answers.missed(error)) is not None:
                self._control.drain(silence)
            await self._ledger.record(
                EventName.UNANSWERED, job.id, code=error.code, message=error.message
            )
            return Outcome.UNKNOWN
        if (reason := whole_run(error, job.model)) is not None:
            self._stop(line, error, reason)
            await self._put_off(job, error.message)
            return Outcome.LEFT
        if (reason := self._same_answer.refused(error)) is not None:
            self._control.drain(reason)
        return await self._failed(job, error.code, error.message)

    async def _put_off(self, job: Job, reason: str) -> Outcome:
        await self._ledger.record(EventName.DEFERRED, job.id, reason=reason)
        return Outcome.LEFT if self._control.halted else Outcome.PUT_OFF

    async def _failed(self, job: Job, code: int | str | None, message: str) -> Outcome:
        await self._ledger.record(
            EventName.FAILED, job.id, stage=Stage.SUBMIT, code=code, message=message
        )
        return Outcome.FAILED


def _given_twice(request_id: str) -> OutcomeUnknown:
    """Two jobs with one request id would share an output; which request this POST made is unknown."""
    return OutcomeUnknown(f"answered with request id {request_id}, which an earlier POST was given")


def _on_record(job: Job, record: JobRecord | None) -> bool:
    """Whether the ledger already holds these inputs for this job."""
    return record is not None and record.input_offset >= 0 and record.digest == job.digest


class _Posted(NamedTuple):
    """A POST under way or without an answer, and the reading of the clock at its intent."""

    lost: Lost
    at_s: float


async def record_trace(ledger: Ledger, job_id: str, found: Trace) -> Healing:
    """Record what a provider found about a lost submission. A request of another attempt is ignored."""
    request = found.request
    if request is None:
        await ledger.record(EventName.DEFERRED, job_id, reason=NOT_CREATED)
        return Healing.NOTHING
    if ledger.snapshot.is_given(request.id):
        return Healing.UNTOLD
    await ledger.record(EventName.SUBMITTED, job_id, request_id=request.id, urls=request.urls)
    return Healing.CREATED


class Healer:
    """Asks providers about POSTs without an answer, and records what is certain."""

    def __init__(self, lines: Lines, ledger: Ledger, clock: Clock) -> None:
        self._lines = lines
        self._ledger = ledger
        self._clock = clock
        self._open: dict[str, _Posted] = {}
        self._healing: dict[str, str] = {}

    def waits(self) -> Iterator[str]:
        """What the run is waiting for, in words."""
        for name in dict.fromkeys(self._healing.values()):
            yield f"{name} is asked what became of submissions without an answer"

    def posts(self, job: Job, line: ApiLine) -> None:
        """A job's POST is about to leave."""
        if line.provider.traits.traces is Tracing.NONE:
            return
        lost = Lost(job.id, job.model, recorded(job.input), self._clock.now())
        self._open[job.id] = _Posted(lost, self._clock.monotonic())

    def ended(self, job: Job) -> None:
        """A job's POST was answered, or given up."""
        self._open.pop(job.id, None)

    async def heal(self, job: Job, line: ApiLine) -> Healing:
        """Ask what became of a job's lost POST until that is certain, or can't be told any more."""
        if line.provider.traits.traces is Tracing.NONE:
            return Healing.UNTOLD
        began_s = self._open[job.id].at_s
        self._healing[job.id] = line.provider.name
        try:
            for ask_at_s in ASK_AT_S:
                await self._clock.sleep(ask_at_s - (self._clock.monotonic() - began_s))
                if (found := await self._traced(job, line)) is not None:
                    return await record_trace(self._ledger, job.id, found)
        except Silent:
            return Healing.UNTOLD
        finally:
            del self._healing[job.id]
        return Healing.UNTOLD

    async def _traced(self, job: Job, line: ApiLine) -> Trace | None:
        """What is certain about a job's POST.

        POSTs under way are asked about too: one of an equal job may have created what is found.
        """
        provider, is_given = line.provider, self._ledger.snapshot.is_given
        lost = [one.lost for one in self._open.values() if self._lines.of(one.lost.model) is line]
        try:
            return (await line.call(lambda: provider.trace(lost, is_given))).get(job.id)
        except CallError:
            return None
