"""The API, with every answer of its tables. Unlike the real one it can be asked what truly happened."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, Protocol

import msgspec

from batcher import ports
from batcher.errors import (
    AuthRefused,
    BalanceExhausted,
    CallError,
    NotFound,
    NotSent,
    OutcomeUnknown,
    Rejected,
    TurnedAway,
    Unavailable,
)
from batcher.jobs.job import Job
from batcher.ports import CancelOutcome, Lost, Phase, Result, Trace, Tracing
from batcher.providers.matching import ListedRequest, match
from batcher.providers.runcomfy.provider import RunComfy

from .world import EPOCH, World

PRICE_USD = 1.0
SETTLED_S = 60.0
"""Whatever a POST created is listed by then."""
FOREVER_S = float("inf")
URL_LIFE_S = 600.0
FATES = ("failed", "error_code", "no_output", "cancelled", "expires", "hides", "strange")


@dataclass(frozen=True)
class Climate:
    """How likely each kind of trouble is at each call; with ``kinds``, only these are drawn."""

    post: float = 0.0
    poll: float = 0.0
    fate: float = 0.0
    slow: float = 0.0
    fetch: float = 0.0
    kinds: frozenset[str] = frozenset()

    def pick(self, kinds: Iterable[str], rng: Random) -> str:
        """One of ``kinds``, or of those among them that are allowed."""
        return rng.choice([kind for kind in sorted(kinds) if not self.kinds or kind in self.kinds])


@dataclass
class Request:
    """What the server knows of one request it created. Times in seconds of the world."""

    id: str
    job: str
    created_s: float
    starts_s: float
    ends_s: float
    fate: str
    outputs: int
    price_usd: float
    tells_cost_s: float
    """From when on its cost is told."""
    gone_s: tuple[float, float] = (FOREVER_S, FOREVER_S)
    input: dict[str, Any] = field(default_factory=dict)
    cancelled: bool = False
    cancel_told: bool = False

    def unfinished(self, now_s: float) -> bool:
        return not self.cancelled and now_s < self.ends_s

    def is_gone(self, now_s: float) -> bool:
        return self.gone_s[0] <= now_s < self.gone_s[1]

    def final_no(self, now_s: float) -> bool:
        """Whether nothing will come of it, or at least nothing can be had at present."""
        hopeless = self.fate in ("failed", "error_code", "no_output", "cancelled")
        return self.cancelled or self.is_gone(now_s) or (hopeless and now_s >= self.ends_s)

    def charged_usd(self, now_s: float) -> float:
        refunded = self.fate in ("error_code", "cancelled") and now_s >= self.ends_s
        return 0.0 if self.cancelled or refunded else self.price_usd

    def content(self, index: int) -> bytes:
        return f"media of {self.id}, output {index}".encode() * 3


@dataclass
class Posting:
    """One POST that left the client, and what the client was told of it."""

    job: str
    input: dict[str, Any]
    attempt: int
    run: int
    request: Request | None = None
    told: str = "flying"
    told_s: float = 0.0

    @property
    def may_have_created(self) -> bool:
        """By all that the client can know."""
        return self.told in ("flying", "acked", "unknown")


class Watch(Protocol):
    """The checks that see each call as it leaves and each creation."""

    def post_leaves(self, job_id: str) -> int:
        """Returns the attempt's number."""
        ...

    def call_leaves(self) -> None: ...
    def poll_leaves(self, request_id: str) -> None: ...
    def created(self) -> None: ...


class Server:
    """Everything that outlives the client's processes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.requests: dict[str, Request] = {}
        self.postings: dict[str, list[Posting]] = defaultdict(list)
        self.balance_usd = 1e9
        self.token_dies_s = FOREVER_S
        self.closed_until_s = 0.0
        self.climate = Climate()
        self.in_flight: list[tuple[Posting, str]] = []
        self.rng = world.rng("server")
        prices = world.rng("prices")
        self.price_usd = PRICE_USD * prices.choice([1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 10.0])
        """What a request really costs."""
        self.tells_late = prices.random() < 0.3
        habits = world.rng("habits")
        self.traits = msgspec.structs.replace(
            RunComfy.traits, traces=habits.choice([Tracing.NONE, Tracing.BY_LIST])
        )
        self.told_nothing: dict[str, int] = {}
        """By job, the last run that was told that its lost POST created nothing."""
        self.lists_after_s = habits.choice([0.0, 0.0, 30.0])
        """How long after its creation a request is listed, if they are."""

    def charged_usd(self) -> float:
        now_s = self.world.now_s()
        return sum(request.charged_usd(now_s) for request in self.requests.values())

    def create(self, posting: Posting) -> Request:
        """A job is created and charged."""
        now_s, rng, climate = self.world.now_s(), self.rng, self.climate
        starts_s = now_s + rng.uniform(0.0, 20.0)
        slow = rng.random() < climate.slow
        ends_s = starts_s + (rng.uniform(300.0, 3000.0) if slow else rng.uniform(1.0, 60.0))
        request = Request(
            id=f"r{len(self.requests) + 1}",
            job=posting.job,
            created_s=now_s,
            starts_s=starts_s,
            ends_s=ends_s,
            fate="fine",
            outputs=rng.choice([1, 1, 1, 2, 3]),
            price_usd=self.price_usd,
            input=posting.input,
            tells_cost_s=self._tells_cost_s(ends_s),
        )
        if rng.random() < climate.fate:
            self._spoil(request)
        self.requests[request.id] = posting.request = request
        self.balance_usd -= self.price_usd
        self.world.note(f"created {request.id} for {posting.job}: {request.fate}")
        return request

    def _tells_cost_s(self, ends_s: float) -> float:
        if self.rng.random() < 0.2:
            return FOREVER_S
        return ends_s + (self.rng.uniform(0.0, 40.0) if self.tells_late else 0.0)

    def _spoil(self, request: Request) -> None:
        request.fate = self.climate.pick(FATES, self.rng)
        self.world.seen[f"fate: {request.fate}"] += 1
        if request.fate == "expires":
            request.gone_s = (request.created_s + self.rng.uniform(5.0, 200.0), FOREVER_S)
        if request.fate == "hides":
            begins_s = request.created_s + self.rng.uniform(0.0, 100.0)
            request.gone_s = (begins_s, begins_s + self.rng.uniform(3.0, 100.0))

    def client_died(self) -> None:
        """What was on the wire arrives, or not."""
        for posting, what in self.in_flight:
            if what == "arriving" and self.rng.random() < 0.5:
                self.create(posting)
        self.in_flight.clear()
        self.closed_until_s = 0.0


class SimService:
    """See :class:`batcher.ports.Provider`. One for each process."""

    name = RunComfy.name

    def __init__(self, server: Server, run: int, watch: Watch) -> None:
        self._server = server
        self._world = server.world
        self.traits = server.traits
        self._rng: Random = server.rng
        self._run = run
        self._watch = watch

    @property
    def balance_usd(self) -> float:
        return self._server.balance_usd

    async def prepare(self, job: Job) -> bytes:
        return json.dumps({"job": job.id, "input": job.input}).encode()

    async def trace(self, lost: Sequence[Lost], known: Callable[[str], bool]) -> dict[str, Trace]:
        await self._ask("list")
        now_s, model = self._world.now_s(), lost[0].model
        listed = [
            ListedRequest(
                ports.Handle(model, one.id), one.input, EPOCH + timedelta(seconds=one.created_s)
            )
            for one in self._server.requests.values()
            if one.created_s + self._server.lists_after_s <= now_s
        ]

        def is_settled(one: Lost) -> bool:
            return now_s - (one.sent_at - EPOCH).total_seconds() > SETTLED_S

        traces = match(lost, listed, known, is_settled)
        for one in lost:
            self._check_verdict(one, traces.get(one.job_id), known)
        return traces

    def _check_verdict(self, lost: Lost, trace: Trace | None, known: Callable[[str], bool]) -> None:
        """A wrong verdict is worse than none."""
        postings = self._server.postings[lost.job_id]
        last = postings[-1] if postings else None
        verdict = "undecided" if trace is None else "found" if trace.request else "not created"
        self._world.seen[f"traced: {verdict}"] += 1
        self._world.note(f"traced {lost.job_id}: {verdict}")
        if verdict == "found" and self._server.requests[trace.request.id].job != lost.job_id:
            self._world.violate(f"{lost.job_id} was given {trace.request.id} of another job")
        if last is not None and last.told == "flying" and last.run == self._run:
            return  # asked about beside another: nothing is done about it
        if verdict == "not created":
            self._server.told_nothing[lost.job_id] = self._run
        if verdict == "not created" and last is not None:
            if last.request is not None and not known(last.request.id):
                self._world.violate(f"{lost.job_id} created {last.request.id}, and was told nothing")
            last.told = "no"

    async def submit(self, model: str, body: bytes) -> ports.Handle:
        sent = json.loads(body)
        job_id = sent["job"]
        self._world.step(f"POST {job_id} leaves")
        self._watch.call_leaves()
        posting = Posting(job_id, sent["input"], self._watch.post_leaves(job_id), self._run)
        self._server.postings[job_id].append(posting)
        flight = (posting, "arriving")
        self._server.in_flight.append(flight)
        try:
            await self._travel()
            request_id = self._arrive(posting, flight)
            await self._travel()
        except CallError as error:
            await self._travel()
            self._tell(posting, error)
            raise
        except asyncio.CancelledError:
            self._abandoned(posting, flight)
            raise
        self._world.step(f"POST {job_id} answered {request_id}")
        posting.told, posting.told_s = "acked", self._world.now_s()
        return ports.Handle(model, request_id)

    async def result(self, asked: ports.Handle) -> Result:
        request_id = asked.id
        self._watch.poll_leaves(request_id)
        await self._ask(f"poll {request_id}")
        return self._word_on(self._known(request_id))

    async def cancel(self, asked: ports.Handle) -> CancelOutcome:
        request_id = asked.id
        await self._ask(f"cancel {request_id}")
        request, now_s = self._known(request_id), self._world.now_s()
        if request.cancelled or now_s < request.starts_s:
            request.cancelled = True
            self._world.note(f"cancelled {request_id}")
            await self._travel()
            self._world.step(f"cancel {request_id} confirmed")
            request.cancel_told = True
            return CancelOutcome.CANCELLED
        return CancelOutcome.NOT_CANCELLABLE

    async def _travel(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.001, 0.3))
        if self._world.dead:
            raise asyncio.CancelledError

    def _arrive(self, posting: Posting, flight: tuple[Posting, str]) -> str:
        """The server's part of a POST, all at once. Raises what the client will see."""
        server, rng = self._server, self._rng
        if flight in server.in_flight:
            server.in_flight.remove(flight)
        if self._world.now_s() >= server.token_dies_s:
            raise AuthRefused("token revoked", http_status=rng.choice([401, 403]))
        if server.balance_usd < server.price_usd:
            raise BalanceExhausted("no balance", http_status=402)
        climate = server.climate
        trouble = climate.pick(_POST_TROUBLE, rng) if rng.random() < climate.post else ""
        if trouble:
            self._world.seen[f"post: {trouble}"] += 1
            self._world.note(f"POST {posting.job}: {trouble}")
        error = _POST_TROUBLE[trouble](rng) if trouble else None
        if error is None or trouble.endswith("created"):
            server.create(posting)
            self._watch.created()
        if error is not None:
            raise error
        assert posting.request is not None
        return posting.request.id

    def _tell(self, posting: Posting, error: CallError) -> None:
        self._world.step(f"POST {posting.job} answered {type(error).__name__}")
        posting.told = "unknown" if isinstance(error, OutcomeUnknown) else "no"
        posting.told_s = self._world.now_s()
        self._note_wait(error)

    def _note_wait(self, error: CallError) -> None:
        """From now on the client knows that it has to wait."""
        if isinstance(error, TurnedAway) and error.retry_after_s is not None:
            until_s = self._world.now_s() + error.retry_after_s
            self._server.closed_until_s = max(self._server.closed_until_s, until_s)

    def _abandoned(self, posting: Posting, flight: tuple[Posting, str]) -> None:
        """The client let go of a POST on the wire: it may arrive all the same."""
        if flight in self._server.in_flight and not self._world.dead:
            self._server.in_flight.remove(flight)
            if self._rng.random() < 0.5 and self._server.balance_usd >= self._server.price_usd:
                self._server.create(posting)

    async def _ask(self, what: str) -> None:
        """A call that may be repeated: on its way to the server, with the trouble it may meet."""
        self._world.step(what)
        self._watch.call_leaves()
        await self._travel()
        try:
            if self._world.now_s() >= self._server.token_dies_s:
                raise AuthRefused("token revoked", http_status=401)
            if self._rng.random() < self._server.climate.poll:
                raise _ask_trouble(self._rng)
        except CallError as error:
            self._world.step(f"{what} answered {type(error).__name__}")
            self._note_wait(error)
            raise

    def _known(self, request_id: str) -> Request:
        request = self._server.requests.get(request_id)
        if request is None or request.is_gone(self._world.now_s()):
            self._world.step(f"{request_id} not found")
            raise NotFound("no such request", http_status=404)
        return request

    def _word_on(self, request: Request) -> Result:
        now_s = self._world.now_s()
        result = self._result(request, now_s)
        self._world.step(f"{request.id} is {result.word}")
        return result

    def _result(self, request: Request, now_s: float) -> Result:
        cost_usd = request.charged_usd(now_s) if now_s >= request.tells_cost_s else None
        if request.cancelled:
            return Result(Phase.CANCELLED, "cancelled", cost_usd=cost_usd)
        if now_s < request.starts_s:
            return Result(Phase.QUEUED, "in_queue")
        if now_s < request.ends_s:
            strange = request.fate == "strange" and self._rng.random() < 0.5
            return Result(Phase.UNRECOGNISED, "polishing") if strange else Result(Phase.RUNNING, "busy")
        match request.fate:
            case "failed":
                return Result(Phase.FAILED, "failed", cost_usd=cost_usd, message="could not")
            case "error_code":
                return Result(Phase.FAILED, "failed", cost_usd=0.0, error_code=500001)
            case "cancelled":
                return Result(Phase.CANCELLED, "canceled")
            case "no_output":
                return Result(Phase.SUCCEEDED, "completed", cost_usd=cost_usd)
        until_s = now_s + URL_LIFE_S
        urls = tuple(f"{request.id}/{index}/{until_s}" for index in range(request.outputs))
        return Result(Phase.SUCCEEDED, "completed", urls, cost_usd)


def _turned_away(rng: Random) -> CallError:
    wait_s = rng.choice([None, 0.0, rng.uniform(0.1, 5.0), rng.uniform(5.0, 90.0)])
    return TurnedAway("too many", retry_after_s=wait_s, http_status=429)


_POST_TROUBLE: dict[str, Callable[[Random], CallError]] = {
    "could not connect": lambda rng: NotSent("refused"),
    "turned away 429": _turned_away,
    "turned away 503": lambda rng: TurnedAway("busy", retry_after_s=2.0, http_status=503),
    "rejected 422": lambda rng: Rejected("bad input", http_status=422),
    "rejected by error_code": lambda rng: Rejected("bad value", http_status=200, error_code=400007),
    "rejected 404": lambda rng: NotFound("no such model", http_status=404),
    "lost before arriving": lambda rng: OutcomeUnknown("connection lost"),
    "lost, yet created": lambda rng: OutcomeUnknown("connection lost"),
    "5xx": lambda rng: OutcomeUnknown("oops", http_status=500),
    "5xx, yet created": lambda rng: OutcomeUnknown("bad gateway", http_status=502),
    "garbage, yet created": lambda rng: OutcomeUnknown("unusable answer", http_status=200),
    "garbage": lambda rng: OutcomeUnknown("unusable answer", http_status=200),
}


def _ask_trouble(rng: Random) -> CallError:
    return rng.choice(
        [
            lambda: NotSent("refused"),
            lambda: Unavailable("oops", http_status=500),
            lambda: Unavailable("no answer in time"),
            lambda: _turned_away(rng),
            lambda: NotFound("not yet", http_status=404),
            lambda: Rejected("a redirect", http_status=307),
        ]
    )()
