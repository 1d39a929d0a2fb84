"""A server with a limit that nobody was told, and a client that adapts to it: in no time."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any, Protocol

from batcher.pacing.adaptive import Adaptive
from batcher.pacing.gate import Gate
from batcher.pacing.polling import LearnedPolls, Watch
from batcher.pacing.timings import Span
from benchmarks.simulated_polls import KEY, Remembered

MODEL = KEY[0]
LATENCY_S = 0.05
LOOK_AGAIN_S = 0.5


@dataclass
class Server:
    """Takes at most ``limit`` unfinished requests or, with ``by_rate``, calls a second (a token bucket
    that holds a second's worth). ``changes`` are pairs of a time and the limit from then on.
    """

    limit: float
    by_rate: bool = False
    changes: list[tuple[float, float]] = field(default_factory=list)
    unfinished: int = 0
    calls: list[tuple[float, bool]] = field(default_factory=list)
    """When each call came, and whether it was let in."""
    _tokens: float = math.inf
    _refilled_at_s: float = 0.0

    def admits(self, now_s: float, is_post: bool) -> bool:
        while self.changes and now_s >= self.changes[0][0]:
            self.limit = self.changes.pop(0)[1]
        admitted = self._take(now_s) if self.by_rate else not is_post or self.unfinished < self.limit
        self.calls.append((now_s, admitted))
        return admitted

    def _take(self, now_s: float) -> bool:
        refilled = self._tokens + (now_s - self._refilled_at_s) * self.limit
        self._tokens, self._refilled_at_s = min(refilled, max(self.limit, 1.0)), now_s
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


@dataclass
class Request:
    """One job on its way; ``accepted_at_s`` is negative until then."""

    takes_s: float
    accepted_at_s: float = -1.0
    watch: Watch | None = None

    @property
    def is_post(self) -> bool:
        return self.accepted_at_s < 0.0


@dataclass(frozen=True)
class Jobs:
    """How long jobs take: lognormal."""

    median_s: float
    sigma: float = 0.2


class Client:
    """Submits and polls for ever, as the engine does with ``-c auto``."""

    def __init__(
        self, server: Server, jobs: Jobs, retry_after_s: float | None = None, seed: int = 1
    ) -> None:
        self.server, self.jobs = server, jobs
        self.adaptive = Adaptive()
        self.in_use: list[tuple[float, int]] = []
        """How many requests were unfinished at the server, from when on."""
        self._retry_after_s = retry_after_s
        self._rng = Random(seed)
        self._gate = Gate(self._rng)
        self._history = Remembered()
        self._polls = LearnedPolls(self._history, self._rng)
        self._polls.worth = self.adaptive.polls
        self._events: list[Any] = []
        self._order = itertools.count()
        self._accepted = 0
        self._posting = self._waiting = 0
        """POSTs that hold a slot, and those of them that wait for their turn."""

    def run(self, until_s: float) -> None:
        for step in range(int(until_s / LOOK_AGAIN_S)):
            self._later(step * LOOK_AGAIN_S, self._admit)
        now_s = 0.0
        while self._events and now_s < until_s:
            now_s, _, act, arguments = heapq.heappop(self._events)
            act(now_s, *arguments)
            self.in_use.append((now_s, self.server.unfinished))

    def _later(self, at_s: float, act: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), act, arguments))

    def _admit(self, now_s: float) -> None:
        while self._has_room(self._accepted + self._posting, now_s):
            self._posting += 1
            self._waiting += 1
            takes_s = self.jobs.median_s * math.exp(self.jobs.sigma * self._rng.gauss(0.0, 1.0))
            self._ready(now_s, Request(takes_s))

    def _has_room(self, unfinished: int, now_s: float) -> bool:
        if not self.adaptive.serves(MODEL, unfinished):
            return False
        return self.adaptive.window(MODEL).has_room(unfinished, now_s, waiting=self._waiting > 0)

    def _ready(self, now_s: float, request: Request) -> None:
        """As ``ApiLine.ready``: the gate, then the turns of ``AutoSlots``."""
        if delay_s := self._gate.delay_s(now_s):
            self._later(now_s + delay_s, self._ready, request)
        elif not request.is_post:
            self._line_up(now_s, request)
        elif self._has_room(self._accepted + self._posting - self._waiting, now_s):
            self._later(now_s + self.adaptive.spacing_s(MODEL, now_s), self._line_up, request)
        else:
            self._later(now_s + LOOK_AGAIN_S, self._ready, request)

    def _line_up(self, now_s: float, request: Request) -> None:
        wait_s = self.adaptive.rate.reserve_s(now_s)
        self._later(now_s + wait_s, self._go, request, self.adaptive.rate.line)

    def _go(self, now_s: float, request: Request, line: int) -> None:
        if line != self.adaptive.rate.line:
            self._line_up(now_s, request)
            return
        if self._gate.delay_s(now_s):
            self._ready(now_s, request)
            return
        self._waiting -= request.is_post
        arrives_s = now_s + LATENCY_S / 2
        admitted = self.server.admits(arrives_s, request.is_post)
        if admitted and request.is_post:
            self.server.unfinished += 1
            self._later(arrives_s + request.takes_s, self._finish)
        self._later(now_s + LATENCY_S, self._answer, request, admitted)

    def _finish(self, now_s: float) -> None:
        self.server.unfinished -= 1

    def _answer(self, now_s: float, request: Request, admitted: bool) -> None:
        is_post = request.is_post
        if not admitted:
            self._refused(now_s, request, is_post)
        else:
            self._gate.answered()
            window = self.adaptive.window(MODEL)
            if self.adaptive.answered(LATENCY_S, now_s):
                window.slow_down(self._accepted, now_s)
            if is_post:
                self._begin_watch(now_s, request)
            else:
                self._polled(now_s, request)
        self._admit(now_s)

    def _refused(self, now_s: float, request: Request, is_post: bool) -> None:
        pause_s = self._gate.turned_away(now_s, self._retry_after_s)
        if is_post:
            self.adaptive.refused_post(MODEL, self._accepted, now_s, pause_s)
        else:
            self.adaptive.refused_poll(now_s, pause_s)
        self._waiting += is_post
        self._ready(now_s, request)

    def _begin_watch(self, now_s: float, request: Request) -> None:
        request.accepted_at_s = now_s
        self.adaptive.accepted(MODEL, self._accepted, now_s)
        self._accepted += 1
        self._posting -= 1
        request.watch = self._polls.watch(KEY, now_s)
        self._later(now_s + request.watch.first_s(), self._ready, request)
        if (outlook := self._polls.outlook(request.watch)) is not None:
            self.adaptive.expects(MODEL, outlook.polls, outlook.takes_s)

    def _polled(self, now_s: float, request: Request) -> None:
        age_s, watch = now_s - request.accepted_at_s, request.watch
        assert watch is not None
        if age_s < request.takes_s:
            self._later(now_s + watch.next_s(age_s), self._ready, request)
            return
        self._history.add(Span(watch.unfinished_s, age_s))
        watch.close()
        self._accepted -= 1
        self.adaptive.window(MODEL).finished(age_s)


@dataclass(frozen=True)
class Outcome:
    """Shares (0..1) of the server's capacity that was used, and of calls that were turned away."""

    used: float
    refused: float
    calls: int


class Seen(Protocol):
    """A server, and how many requests it had unfinished from when on."""

    server: Server
    in_use: list[tuple[float, int]]


def outcome(client: Seen, limit: float, from_s: float, until_s: float) -> Outcome:
    """How a stretch of time went, in which the server's limit was ``limit``."""
    calls = [admitted for at_s, admitted in client.server.calls if from_s <= at_s < until_s]
    refused = calls.count(False)
    if client.server.by_rate:
        used = (len(calls) - refused) / ((until_s - from_s) * limit)
    else:
        used = _mean_in_use(client.in_use, from_s, until_s) / limit
    return Outcome(used, refused / max(len(calls), 1), len(calls))


def _mean_in_use(in_use: Sequence[tuple[float, int]], from_s: float, until_s: float) -> float:
    areas = (
        unfinished * (min(later_s, until_s) - at_s)
        for (at_s, unfinished), (later_s, _) in pairwise(in_use)
        if from_s <= at_s < until_s
    )
    return sum(areas) / (until_s - from_s)
