"""A hundred shards that know nothing of each other, and one API with a limit: in no time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from simulated_limits import LOOK_AGAIN_S, Client, Jobs, Outcome, Request, Server, outcome

from batcher.pacing.adaptive import Adaptive
from batcher.pacing.rate import RateLimit

MINUTE_S = 60.0
BEGIN_WITHIN_S = 10.0
"""A scheduler starts them one by one."""


class World:
    """One server, one clock, and the shards that share them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.in_use: list[tuple[float, int]] = []
        self._events: list[Any] = []
        self._order = itertools.count()

    def later(self, at_s: float, act: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), act, arguments))

    def run(self, until_s: float) -> None:
        unfinished = -1
        while self._events and self._events[0][0] < until_s:
            now_s, _, act, arguments = heapq.heappop(self._events)
            act(now_s, *arguments)
            if self.server.unfinished != unfinished:
                unfinished = self.server.unfinished
                self.in_use.append((now_s, unfinished))


class FixedWindow:
    """``-c``: so many unfinished requests, whatever the API says."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency

    def has_room(self, unfinished: int, now_s: float, *, waiting: bool = False) -> bool:
        return unfinished < self._concurrency

    def finished(self, age_s: float) -> None: ...
    def slow_down(self, unfinished: int, now_s: float) -> None: ...


class Unlimited(RateLimit):
    """Calls that wait for nothing but the gate."""

    line = 0


class Fixed(Adaptive):
    """A shard with a number for ``-c``: nothing is learned, and refusals only close its gate."""

    def __init__(self, concurrency: int) -> None:
        self._fixed = FixedWindow(concurrency)
        self.rate = Unlimited(None)  # type: ignore[assignment]

    def window(self, model: str) -> FixedWindow:  # type: ignore[override]
        return self._fixed

    def answered(self, took_s: float, now_s: float) -> bool:
        return False

    def serves(self, model: str, polled: int) -> bool:
        return True

    def polls(self, model: str | None, usual: float) -> float:
        return usual

    def spacing_s(self, model: str, now_s: float) -> float:
        return 0.0

    def expects(self, model: str, polls: float, takes_s: float) -> None: ...

    def accepted(self, model: str, unfinished: int, now_s: float) -> None: ...
    def refused_post(self, model: str, unfinished: int, now_s: float, pause_s: float) -> None: ...
    def refused_poll(self, now_s: float, pause_s: float) -> None: ...


class ShardClient(Client):
    """One shard: a client among others, on the clock that they share."""

    def __init__(
        self, world: World, jobs: Jobs, pace: Adaptive, retry_after_s: float | None, seed: int
    ) -> None:
        super().__init__(world.server, jobs, retry_after_s, seed)
        self.adaptive = pace
        self._polls.worth = pace.polls
        self.finished_at_s: list[float] = []
        self._world = world
        begins_s = Random(seed).uniform(0.0, BEGIN_WITHIN_S)
        self._later(begins_s, self._look)

    def _later(self, at_s: float, act: Callable[..., None], *arguments: Any) -> None:
        self._world.later(at_s, act, *arguments)

    def _look(self, now_s: float) -> None:
        self._admit(now_s)
        self._later(now_s + LOOK_AGAIN_S, self._look)

    def _polled(self, now_s: float, request: Request) -> None:
        before = self._accepted
        super()._polled(now_s, request)
        if self._accepted < before:
            self.finished_at_s.append(now_s)


@dataclass(frozen=True)
class Shared:
    """How a stretch of time went: ``fairness`` is the jobs of the slowest shard to the fastest's."""

    whole: Outcome
    jobs_per_min: float
    fairness: float


class Fleet:
    """``shards`` shards against one server; ``concurrency`` is each one's ``-c``, None for ``auto``."""

    def __init__(
        self,
        server: Server,
        jobs: Jobs,
        concurrency: int | None,
        *,
        shards: int,
        retry_after_s: float | None,
    ) -> None:
        self.world = World(server)
        self._limit = server.limit
        self.clients = [
            ShardClient(
                self.world,
                jobs,
                Adaptive() if concurrency is None else Fixed(concurrency),
                retry_after_s,
                seed,
            )
            for seed in range(shards)
        ]

    def run(self, until_s: float) -> None:
        self.world.run(until_s)

    def shared(self, from_s: float, until_s: float) -> Shared:
        done = [
            sum(from_s <= at_s < until_s for at_s in client.finished_at_s) for client in self.clients
        ]
        whole = outcome(self.world, self._limit, from_s, until_s)
        return Shared(whole, sum(done) * MINUTE_S / (until_s - from_s), min(done) / max(1, *done))
