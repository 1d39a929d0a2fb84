"""``-c auto`` against servers with a limit that nobody was told: how much of it is used, at what cost.

By simulation in virtual time, and then for real: the engine against a server on loopback.
"""

from __future__ import annotations

import asyncio
import math
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean

from aiohttp import web
from simulated_limits import Client, Jobs, Outcome, Server, outcome

from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.engine.runner import Runner
from batcher.errors import StoppedError
from batcher.http.endpoint import Endpoint, Token
from batcher.http.exchange import Connection
from batcher.providers.runcomfy.provider import RunComfy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from tests.support.engine import Batch, some_jobs

REAL_RUN_S, REAL_WARM_UP_S = 60.0, 20.0
MINUTE_S = 60.0
SEEDS = 3


@dataclass(frozen=True)
class Case:
    """A server's limit and what it becomes after five minutes, with the jobs that it gets."""

    limit: float
    by_rate: bool
    jobs: Jobs
    later: float | None = None

    @property
    def name(self) -> str:
        kind = "calls/s" if self.by_rate else "unfinished"
        change = f" -> {self.later:g}" if self.later is not None else ""
        return f"{self.limit:g}{change} {kind}, jobs of {self.jobs.median_s:g} s"


CASES = [
    *(Case(limit, False, Jobs(s)) for limit, s in ((8, 60), (50, 60), (50, 5), (300, 20))),
    *(Case(limit, True, Jobs(s)) for limit, s in ((10, 10), (50, 10), (50, 5), (50, 60))),
    *(
        Case(a, by_rate, Jobs(s), b)
        for by_rate, s in ((False, 20), (True, 10))
        for a, b in ((50, 20), (20, 50))
    ),
]


def simulate(case: Case, retry_after_s: float | None) -> list[Outcome]:
    """The mean of :data:`SEEDS` seeds, before the change of the limit and after it."""
    seeds = zip(*(simulate_one(case, retry_after_s, seed) for seed in range(1, SEEDS + 1)), strict=True)
    return [
        Outcome(
            fmean(one.used for one in same),
            fmean(one.refused for one in same),
            sum(one.calls for one in same),
        )
        for same in seeds
    ]


def simulate_one(case: Case, retry_after_s: float | None, seed: int) -> list[Outcome]:
    changes = [(5 * MINUTE_S, case.later)] if case.later is not None else []
    client = Client(Server(case.limit, case.by_rate, changes), case.jobs, retry_after_s, seed)
    client.run(15 * MINUTE_S)
    if case.later is None:
        return [outcome(client, case.limit, MINUTE_S, 15 * MINUTE_S)]
    before = outcome(client, case.limit, MINUTE_S, 5 * MINUTE_S)
    return [before, outcome(client, case.later, 6 * MINUTE_S, 15 * MINUTE_S)]


def simulation_table() -> None:
    print("from the second minute on                    | Retry-After: 1         | pauses of our own")
    for case in CASES:
        told, untold = simulate(case, 1.0), simulate(case, None)
        for number, (one, other) in enumerate(zip(told, untold, strict=True)):
            name = case.name if number == 0 else "   a minute after the change"
            print(f"{name:44s} | {_shares(one)} | {_shares(other)}")


def _shares(one: Outcome) -> str:
    return f"{100 * one.used:5.1f} %, refused {100 * one.refused:4.2f} %"


class LimitedApi:
    """A Model API on loopback that lets in what a simulated server would. Requests end by themselves."""

    def __init__(self, server: Server, jobs: Jobs) -> None:
        self.server, self.jobs = server, jobs
        self.in_use: list[tuple[float, int]] = []
        self._rng = Random(3)
        self._ends_s: dict[str, float] = {}

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/models/{model:.+}", self._submit)
        app.router.add_get("/v1/requests/{id}/result", self._result)
        return app

    async def _submit(self, request: web.Request) -> web.Response:
        await request.read()
        if not self._admits(is_post=True):
            return TOO_MANY()
        number = f"r{len(self._ends_s)}"
        takes_s = self.jobs.median_s * math.exp(self.jobs.sigma * self._rng.gauss(0.0, 1.0))
        self._ends_s[number] = time.monotonic() + takes_s
        self._count(1)
        asyncio.get_running_loop().call_later(takes_s, self._count, -1)
        return web.json_response({"request_id": number})

    async def _result(self, request: web.Request) -> web.Response:
        if not self._admits(is_post=False):
            return TOO_MANY()
        if time.monotonic() < self._ends_s[request.match_info["id"]]:
            return web.json_response({"status": "in_progress"})
        return web.json_response({"status": "completed", "output": {"image": "https://x.example/a.png"}})

    def _admits(self, *, is_post: bool) -> bool:
        return self.server.admits(time.monotonic(), is_post)

    def _count(self, change: int) -> None:
        self.server.unfinished += change
        self.in_use.append((time.monotonic(), self.server.unfinished))


def TOO_MANY() -> web.Response:  # noqa: N802 - as constant as an aiohttp response can be
    return web.json_response({"message": "Too many requests"}, status=429, headers={"Retry-After": "1"})


async def for_real(limit: float, by_rate: bool) -> Outcome:
    """The engine with real sockets, files and clock; what is downloaded comes from memory."""
    api = LimitedApi(Server(limit, by_rate), Jobs(2.0))
    runner = web.AppRunner(api.app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", Token("t"))
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as path:
        async with Connection(endpoint, SystemClock()) as connection:
            service = RunComfy(connection, SystemClock())
            batch = Batch(Path(path), api=service, clock=SystemClock(), disk=LocalDisk())
            await batch.run(some_jobs(10_000), meanwhile=stop_after(REAL_RUN_S), adapts=True)
    await runner.cleanup()
    return outcome(api, limit, began_s + REAL_WARM_UP_S, began_s + REAL_RUN_S)


def stop_after(run_s: float) -> Callable[[Runner], Awaitable[None]]:
    async def stop(runner: Runner) -> None:
        await asyncio.sleep(run_s)
        runner.control.halt(StoppedError("enough was seen"))

    return stop


def real_table() -> None:
    print(f"\nfor real, {REAL_RUN_S:g} s without the first {REAL_WARM_UP_S:g} s, jobs of 2 s")
    for limit, by_rate in ((20, False), (40, True)):
        one = asyncio.run(for_real(limit, by_rate))
        kind = "calls/s" if by_rate else "unfinished"
        print(f"{limit} {kind:40s} | {_shares(one)}, {one.calls} calls")


if __name__ == "__main__":
    simulation_table()
    real_table()
