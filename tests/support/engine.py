"""A run in virtual time: an API, a download server and a run directory, all within one process.

::

    @in_virtual_time
    async def test_a_day_passes_in_no_time(batch):
        batch.api.takes_s = 86400
        ended = await batch.run(some_jobs(3))
        assert ended.states == {"done": 3}

Scripts are lists of steps for one job, used up from the front; where none is left, all goes well. A step
is an answer, an error to raise, or a coroutine function to await first.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import looptime

from batcher import ports
from batcher.clock import iso
from batcher.dataset.metadata import Metadata
from batcher.dataset.metadata_rows import ColumnTypes
from batcher.disk import LocalAppendFile, LocalDisk
from batcher.download.transfer import Fetched
from batcher.engine.account import Account
from batcher.engine.budget import Budget, Caps
from batcher.engine.canary import Canary
from batcher.engine.lanes import Deps, lanes_of
from batcher.engine.runner import Runner
from batcher.engine.stop import Breaker
from batcher.errors import BatcherError
from batcher.jobs.identity import input_digest
from batcher.jobs.job import Job, Source
from batcher.jobs.lifecycle import EventName, Record, RunEvent, State
from batcher.layout import LEDGER_NAME
from batcher.ledger.ledger import Ledger
from batcher.options.facts import DEFAULT_CANARY_FAILURES, Pace, Policy, Selection
from batcher.planning.plan import Plan, decide, make_plan
from batcher.ports import CancelOutcome, Phase, Result, Silence, Traits
from batcher.providers.json_body import prepared_body
from batcher.providers.runcomfy.provider import RunComfy
from batcher.store.local import RunDir
from tests.support.steps import result_of

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "acme/paint"
PRICE_USD = 1.0
Step = Any


class InlineExecutor(ThreadPoolExecutor):
    """Runs everything at once, in the caller's thread: virtual time waits for no real thread."""

    def submit(self, function, /, *args, **kwargs):
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def virtual_loop() -> asyncio.AbstractEventLoop:
    loop = looptime.new_event_loop()
    loop.set_default_executor(InlineExecutor())
    return loop


def in_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Makes an async test a plain one, whose loop jumps from timer to timer."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=virtual_loop) as runner:
            runner.run(test(**fixtures))

    return run


class LoopClock:
    """The time of the running loop."""

    pauses = 0

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(max(delay_s, 0.0))


class FakeClock:
    """A clock that somebody sets; sleeping moves it on."""

    pauses = 0

    def __init__(self, at_s: float = 0.0) -> None:
        self.at_s = at_s
        self.slept: list[float] = []

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.at_s)

    def monotonic(self) -> float:
        return self.at_s

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.at_s += max(delay_s, 0.0)
        await asyncio.sleep(0)


class _UnsyncedFile(LocalAppendFile):
    def sync(self) -> None: ...


class QuickDisk(LocalDisk):
    """A real file system without the thread and without waiting for the platters."""

    async def run(self, function):
        await asyncio.sleep(0)
        return function()

    def open_append(self, path: Path) -> LocalAppendFile:
        return _UnsyncedFile(path)

    def sync_dir(self, path: Path) -> bool:
        return True


def job(
    name: str = "cat", *, model: str = MODEL, explicit: bool = True, meta: Any = None, **inputs: Any
) -> Job:
    inputs.setdefault("prompt", name)
    digest = input_digest(model, inputs)
    return Job(name, model, inputs, meta or {}, Source("m.yaml", 1), digest, explicit)


def some_jobs(count: int) -> list[Job]:
    return [job(f"job-{number:03d}") for number in range(count)]


def answer(phase: Phase = Phase.SUCCEEDED, **fields: Any) -> Result:
    fields.setdefault("word", phase.value)
    if phase is Phase.SUCCEEDED:
        fields.setdefault("urls", ("https://cdn/x.mp4",))
    return Result(phase, **fields)


async def _play(steps: list[Step] | None, otherwise: Any) -> Any:
    """The next step's answer; raises where the step is an error."""
    step = steps.pop(0) if steps else otherwise
    if callable(step):
        step = await step()
    if isinstance(step, BaseException):
        raise step
    return step


def after(delay_s: float, step: Step = None) -> Callable[[], Awaitable[Any]]:
    """A step that comes ``delay_s`` seconds later."""

    async def wait() -> Any:
        await asyncio.sleep(delay_s)
        return step

    return wait


def for_ever(step: Step) -> Iterator[Step]:
    """A script that never ends."""
    return _Endless([step])


class _Endless(list):
    def pop(self, index: int = -1) -> Step:
        return self[0]


@dataclass
class Request:
    """One request at the API."""

    prompt: str
    at_s: float
    ended: bool = False
    cancelled: bool = False


@dataclass
class Api:
    """A provider in memory. Scripts are by prompt; ``results`` may also go by request id.

    The n-th POST of ``cat`` makes the request ``rn-cat``.
    """

    takes_s: float = 10.0
    post_takes_s: float = 0.1
    posting: dict[str, list[Step]] = field(default_factory=dict)
    results: dict[str, list[Step]] = field(default_factory=dict)
    cancels: dict[str, list[Step]] = field(default_factory=dict)
    posts: list[tuple[float, str]] = field(default_factory=list)
    polls: list[tuple[float, str]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    requests: dict[str, Request] = field(default_factory=dict)
    name: str = "runcomfy"
    traits: Traits = RunComfy.traits
    peak: int = 0
    """The most requests that were unfinished at once, POSTs under way included."""
    _posting_now: int = 0

    @property
    def prompts(self) -> list[str]:
        """Of each POST in turn."""
        return [prompt for _, prompt in self.posts]

    @property
    def unfinished(self) -> int:
        return self._posting_now + sum(not request.ended for request in self.requests.values())

    def knows(self, *request_ids: str, age_s: float = 0.0) -> None:
        """Requests of earlier runs."""
        for request_id in request_ids:
            self.requests[request_id] = Request(request_id, -age_s)

    async def prepare(self, job: Job) -> bytes:
        return await prepared_body(job)

    async def trace(self, lost: Any, known: Any) -> dict[str, Any]:
        return {}

    async def submit(self, model: str, body: bytes) -> ports.Handle:
        now_s = asyncio.get_running_loop().time()
        prompt = json.loads(body)["prompt"]
        self.posts.append((now_s, prompt))
        attempt = self.prompts.count(prompt)
        self._posting_now += 1
        self.peak = max(self.peak, self.unfinished)
        try:
            await asyncio.sleep(self.post_takes_s)
            request_id = await _play(self.posting.get(prompt), f"r{attempt}-{prompt}")
        finally:
            self._posting_now -= 1
        self.requests[request_id] = Request(prompt, asyncio.get_running_loop().time())
        return ports.Handle(model, request_id)

    async def result(self, asked: ports.Handle) -> Result:
        request_id = asked.id
        now_s = asyncio.get_running_loop().time()
        self.polls.append((now_s, request_id))
        request = self.requests.get(request_id) or Request(request_id, now_s)
        if request.cancelled:
            return await _play(self.results.get(request_id), answer(Phase.CANCELLED))
        due = now_s - request.at_s >= self.takes_s
        usual = answer(urls=(f"https://cdn/{request_id}.mp4",)) if due else answer(Phase.RUNNING)
        script = self.results.get(request_id, self.results.get(request.prompt))
        result = await _play(script, usual)
        request.ended = result.phase.terminal
        return result

    async def cancel(self, asked: ports.Handle) -> CancelOutcome:
        request_id = asked.id
        self.cancelled.append(request_id)
        outcome = await _play(self.cancels.get(request_id), CancelOutcome.CANCELLED)
        request = self.requests[request_id]
        request.ended = request.cancelled = outcome is CancelOutcome.CANCELLED
        return outcome


@dataclass
class Files:
    """A Fetcher in memory. Scripts are by URL: a step may be the content."""

    takes_s: float = 0.0
    scripts: dict[str, list[Step]] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    refreshed: list[str] = field(default_factory=list)

    async def fetch(self, url: str, partial: Path, refresh: Callable[[], Awaitable[str]]) -> Fetched:
        self.fetched.append(url)
        await asyncio.sleep(self.takes_s)
        content = await _play(self.scripts.get(url), url.encode())
        if content == "refresh":
            self.refreshed.append(await refresh())
            content = self.refreshed[-1].encode()
        partial.write_bytes(content)
        return Fetched(len(content), hashlib.sha256(content).hexdigest(), Path(url).suffix, "video/mp4")


@dataclass(frozen=True)
class Ended:
    """How a run went."""

    runner: Runner
    plan: Plan
    records: dict[str, Record]
    spent_usd: float

    @property
    def states(self) -> dict[str, int]:
        return dict(Counter(record.state.value for record in self.records.values()))

    @property
    def error(self) -> BatcherError | None:
        return self.runner.control.error or self.runner.shortfall()

    def ids(self, state: State) -> list[str]:
        return [job_id for job_id, record in self.records.items() if record.state is state]


Meanwhile = Callable[[Runner], Awaitable[None]]


@dataclass
class Batch:
    """One run directory and the world around it, over any number of runs."""

    path: Path
    api: Api = field(default_factory=Api)
    files: Files = field(default_factory=Files)
    clock: LoopClock = field(default_factory=LoopClock)
    disk: LocalDisk = field(default_factory=QuickDisk)
    observer: Any = field(default_factory=Silence)
    price_of: Callable[[Job], float | None] = lambda job: PRICE_USD
    policy: Policy = field(default_factory=Policy)
    selection: Selection = field(default_factory=Selection)
    max_cost_usd: float | None = None
    assume_price_usd: float | None = None
    breaker: Breaker = field(default_factory=Breaker)
    canary: frozenset[str] = frozenset()
    account: Account | None = None
    others: dict[str, Api] = field(default_factory=dict)
    """More vendors, by what the names of their models begin with."""

    async def run(
        self, jobs: Iterable[Job], *, meanwhile: Meanwhile | None = None, **pace: Any
    ) -> Ended:
        """Plan and run ``jobs``; ``meanwhile`` goes on beside the run."""
        ledger = Ledger(self.path, self.disk, self.clock)
        try:
            return await self._run(list(jobs), ledger, meanwhile, Pace(**pace))
        finally:
            await ledger.close()

    async def _run(
        self, jobs: list[Job], ledger: Ledger, meanwhile: Meanwhile | None, pace: Pace
    ) -> Ended:
        run_dir, columns = RunDir(self.path, self.disk), ColumnTypes()
        metadata = Metadata(run_dir, ledger, self.disk)
        blocks = columns.watch([[job] for job in jobs])
        steps = make_plan(blocks, ledger.snapshot, self.selection, self.policy, self._prices_of)
        plan = result_of(steps)
        run_dir.prepare()
        ledger.announce(RunEvent(run="x", at=iso(self.clock.now()), manifest="m.yaml", total=plan.total))
        for job_id in plan.orphans:
            ledger.append(EventName.ORPHANED, job_id)
        for job_id in plan.returned:
            ledger.append(EventName.RELISTED, job_id)
        metadata.open(columns)
        deps = self._deps(ledger, run_dir, metadata)
        if self.account is not None:
            self.account.follow(ledger, run_dir.is_ours)
        runner = Runner(
            deps, pace, lanes_of(deps, pace, self._budget(ledger)), self.breaker, self._canary(ledger)
        )
        beside = asyncio.create_task(meanwhile(runner)) if meanwhile else None
        try:
            await runner.run(plan, self._work(jobs, ledger))
        finally:
            metadata.close()
            if beside is not None:
                beside.cancel()
                await asyncio.wait([beside])
        return Ended(runner, plan, dict(ledger.snapshot.items()), ledger.snapshot.spent_usd)

    def _work(self, jobs: list[Job], ledger: Ledger) -> Iterator[Any]:
        for _, selected in self.selection.select([jobs]):
            for one in selected:
                yield one, decide(one, ledger.snapshot.get(one.id), self.policy)

    def _prices_of(self, jobs: Sequence[Job]) -> list[float | None]:
        return [*map(self.price_of, jobs)]

    def _canary(self, ledger: Ledger) -> Canary:
        return Canary(self.canary, DEFAULT_CANARY_FAILURES, ledger.snapshot, self.clock)

    def _budget(self, ledger: Ledger) -> Budget:
        return Budget(ledger, self.price_of, Caps(self.max_cost_usd, self.assume_price_usd))

    def _deps(self, ledger: Ledger, run_dir: RunDir, metadata: Metadata) -> Deps:
        return Deps(
            providers=self._api_of,
            fetcher=self.files,
            ledger=ledger,
            run_dir=run_dir,
            metadata=metadata,
            clock=self.clock,
            rng=random.Random(7),
            observer=self.observer,
            policy=self.policy,
            account=self.account,
            vendors=1 + len(self.others),
        )

    def _api_of(self, model: str) -> Api:
        return self.others.get(model.partition(":")[0], self.api)

    async def hold(self, *events: tuple[Any, ...]) -> None:
        """Write a ledger beforehand: ``(event, job id, fields)`` each."""
        ledger = Ledger(self.path, self.disk, self.clock)
        for name, job_id, fields in events:
            ledger.append(name, job_id, **fields)
        await ledger.close()

    @property
    def ledger_bytes(self) -> bytes:
        return (self.path / LEDGER_NAME).read_bytes()

    def lines(self, *names: str) -> list[dict[str, Any]]:
        """What the ledger says, or only of ``names``."""
        lines = [json.loads(line) for line in self.ledger_bytes.splitlines()]
        return [line for line in lines if not names or line["event"] in names]

    def story(self, job_id: str) -> list[str]:
        """The events of one job."""
        return [line["event"] for line in self.lines() if line.get("job") == job_id]

    @property
    def rows(self) -> list[dict[str, Any]]:
        path = self.path / "metadata.jsonl"
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    @property
    def media(self) -> list[str]:
        return self.disk.list_dir(self.path / "media")

    @property
    def superseded(self) -> list[str]:
        return self.disk.list_dir(self.path / "superseded")


def observer_that(**methods: Any) -> Any:
    """An observer that does nothing but what ``methods`` say."""
    kind = type("Observer", (Silence,), {name: staticmethod(do) for name, do in methods.items()})
    return kind()


def bought(one: Job, request_id: str = "r1", attempt: int = 1) -> list[tuple[Any, ...]]:
    """The lines of a job that was submitted."""
    intent = {
        "attempt": attempt,
        "model": one.model,
        "input": one.input,
        "meta": one.meta,
        "vars": one.vars or None,
        "digest": one.digest,
        "source": str(one.source),
        "price_usd": PRICE_USD,
    }
    return [
        (EventName.SUBMITTING, one.id, intent),
        (EventName.SUBMITTED, one.id, {"request_id": request_id}),
    ]
