"""The requests of a sandbox and their queue.

There are no timers. The state of a request is computed when it is needed, from the times at which
requests were created and cancelled: so they keep "running" while the process is dead, and a replay of
the state file gives the same history.
"""

from __future__ import annotations

import heapq
from collections import Counter
from contextlib import contextmanager
from enum import Enum, auto
from typing import TYPE_CHECKING

import msgspec

from batcher.errors import InputError
from batcher.sandbox.journal import Cancellation, JobCreated, Journal, Spurned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batcher.sandbox.journal import Entry
    from batcher.sandbox.settings import SandboxSettings, SandboxStats


SHARED = ""
"""The pool of all models without instances of their own."""
KEEPS_WARM_S = 60.0


class RequestPhase(Enum):
    """The state of a request."""

    IN_QUEUE = auto()
    IN_PROGRESS = auto()
    FINISHED = auto()
    CANCELLED = auto()

    @property
    def terminal(self) -> bool:
        return self in (RequestPhase.FINISHED, RequestPhase.CANCELLED)


class Request(msgspec.Struct):
    """An order and its current state. Times are seconds since the epoch."""

    order: JobCreated
    started_s: float | None = None
    cancelled_s: float | None = None

    @property
    def ended_s(self) -> float | None:
        """When it ended, or will end; None while that depends on the queue."""
        if self.cancelled_s is not None:
            return self.cancelled_s
        return None if self.started_s is None else self.started_s + self.order.run_s

    def phase(self, now_s: float) -> RequestPhase:
        if self.cancelled_s is not None:
            return RequestPhase.CANCELLED
        if self.started_s is None:
            return RequestPhase.IN_QUEUE
        return (
            RequestPhase.FINISHED
            if self.started_s + self.order.run_s <= now_s
            else RequestPhase.IN_PROGRESS
        )


class Pool:
    """A queue and its workers: first come, first served. Some sleep if they are idle for a minute."""

    def __init__(self, workers: int) -> None:
        self.queue: dict[str, Request] = {}
        self.free_at_s = [0.0] * workers
        self.moved_up_s = 0.0

    def advance(self, now_s: float) -> None:
        """Start what would have started by ``now_s``: the queue's head takes the next slot."""
        while self.queue:
            head = next(iter(self.queue.values()))
            start_s = self._start_s(head.order)
            if start_s > now_s:
                return
            del self.queue[head.order.id]
            head.started_s = start_s
            heapq.heapreplace(self.free_at_s, start_s + head.order.run_s)

    def _start_s(self, order: JobCreated) -> float:
        free_s = self.free_at_s[0]
        start_s = max(order.at + order.queue_s, free_s, self.moved_up_s)
        return start_s + (order.wake_s if start_s - free_s > KEEPS_WARM_S else 0.0)

    def drop(self, request: Request, at_s: float) -> None:
        """Cancel a request that waits or runs."""
        # With a different number of workers than in the earlier process, it may be in no queue.
        busy_until_s = request.ended_s
        request.cancelled_s = at_s
        if self.queue.pop(request.order.id, None) is not None:
            self.moved_up_s = at_s
        elif busy_until_s in self.free_at_s:
            self.free_at_s[self.free_at_s.index(busy_until_s)] = at_s
            heapq.heapify(self.free_at_s)

    def unfinished(self, now_s: float) -> int:
        """How many wait or run."""
        return len(self.queue) + sum(free_s > now_s for free_s in self.free_at_s)


class Store:
    """All requests by id. Those of models with instances of their own have a pool of their own."""

    def __init__(self, settings: SandboxSettings, stats: SandboxStats) -> None:
        """Open the state file and replay it. Raises RunDirError, InputError."""
        self._settings = settings
        self._stats = stats
        self._requests: dict[str, Request] = {}
        self._pools = {SHARED: Pool(settings.workers)}
        self._posts_by_key: Counter[str] = Counter()
        self._journal = Journal(settings.state)
        try:
            with self.alone():
                pass
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the state file. May be repeated."""
        self._journal.close()

    def now_s(self) -> float:
        """Wall-clock time in seconds since the epoch."""
        return self._settings.clock.now().timestamp()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock out other processes with the same state file.

        Their earlier changes are known inside. Raises InputError if one of their lines can't be read.
        """
        with self._journal.alone() as news:
            self._take_in(news)
            yield

    def get(self, request_id: str) -> Request | None:
        """The request as of now; None if there is none, or its result has expired."""
        self._take_in(self._journal.news())
        now_s = self.now_s()
        self._advance(now_s)
        request = self._requests.get(request_id)
        if request is None or request.ended_s is None:
            return request
        return request if now_s < request.ended_s + self._settings.retention_s else None

    def all(self) -> list[Request]:
        """Every request as of now, in the order of creation."""
        self._take_in(self._journal.news())
        self._advance(self.now_s())
        return [*self._requests.values()]

    def queue_position(self, request_id: str) -> int:
        """The number of requests before this queued one."""
        queue = self._pool(self._requests[request_id].order).queue
        return next(place for place, queued in enumerate(queue) if queued == request_id)

    def posts_for(self, key: str) -> int:
        """The number of POSTs for ``key``, failed ones included, in all processes: see :meth:`alone`."""
        return self._posts_by_key[key]

    def affords(self, price_usd: float) -> bool:
        """Whether the balance covers ``price_usd``."""
        balance_usd = self._settings.balance_usd
        return balance_usd is None or self._stats.spent_usd + price_usd <= balance_usd + 1e-9

    def create(self, order: JobCreated) -> None:
        """Record, charge and enqueue, inside :meth:`alone`. On RunDirError nothing is created."""
        self._record(order)

    def cancel(self, request: Request, *, charged: bool = False) -> None:
        """End a request that is queued or running, inside :meth:`alone`. Raises RunDirError.

        It is refunded unless ``charged``; the API decides whether a running one may be cancelled, and at
        what cost.
        """
        self._record(Cancellation(request.order.id, self.now_s(), charged))

    def spurn(self, key: str) -> None:
        """Record a POST for ``key`` that created nothing, inside :meth:`alone`. Raises RunDirError."""
        self._record(Spurned(key))

    def _take_in(self, entries: Iterable[Entry]) -> None:
        try:
            for entry in entries:
                self.apply(entry)
        except KeyError as error:
            state = self._settings.state
            raise InputError(f"{state}: cancels {error}, which it never created") from error

    def _record(self, entry: Entry) -> None:
        self._journal.append(entry)
        self.apply(entry)

    def apply(self, entry: Entry) -> None:
        """Apply an entry of a state file."""
        match entry:
            case JobCreated():
                self._advance(entry.at)
                self._enqueue(entry)
            case Cancellation():
                self._advance(entry.at)
                self._dequeue(entry)
            case Spurned():
                self._posts_by_key[entry.key] += 1

    def _enqueue(self, order: JobCreated) -> None:
        request = Request(order)
        self._requests[order.id] = self._pool(order).queue[order.id] = request
        self._posts_by_key[order.key] += 1
        stats = self._stats
        stats.jobs_created += 1
        stats.charged_usd += order.price_usd
        stats.max_unfinished = max(stats.max_unfinished, self._unfinished(order.at))

    def _dequeue(self, cancellation: Cancellation) -> None:
        request = self._requests[cancellation.id]
        self._pool(request.order).drop(request, cancellation.at)
        self._stats.jobs_cancelled += 1
        self._stats.refunded_usd += 0.0 if cancellation.charged else request.order.price_usd

    def _unfinished(self, now_s: float) -> int:
        return sum(pool.unfinished(now_s) for pool in self._pools.values())

    def _advance(self, now_s: float) -> None:
        for pool in self._pools.values():
            pool.advance(now_s)

    def _pool(self, order: JobCreated) -> Pool:
        if not order.instances:
            return self._pools[SHARED]
        return self._pools.setdefault(order.model, Pool(order.instances))
