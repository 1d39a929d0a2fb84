"""The requests of a sandbox and the queue they stand in.

No timer moves anything. What became of a request is worked out when somebody asks, from the times
at which requests were created and cancelled: so they go on "running" while the process is dead,
and a replay of the state file gives the same history.
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


class RequestPhase(Enum):
    """Where a request stands."""

    IN_QUEUE = auto()
    IN_PROGRESS = auto()
    FINISHED = auto()
    CANCELLED = auto()

    @property
    def terminal(self) -> bool:
        return self in (RequestPhase.FINISHED, RequestPhase.CANCELLED)


class Request(msgspec.Struct):
    """An order and what became of it so far. Times are seconds since the epoch."""

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


class Store:
    """All requests by id. First come, first served, by as many workers as the settings name."""

    def __init__(self, settings: SandboxSettings, stats: SandboxStats) -> None:
        """Open the state file and replay it. Raises RunDirError, InputError."""
        self._settings = settings
        self._stats = stats
        self._requests: dict[str, Request] = {}
        self._queue: dict[str, Request] = {}
        self._free_at_s = [0.0] * settings.workers
        self._moved_up_s = 0.0
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
        """Keep other processes with the same state file from changing anything meanwhile.

        All that they have done is known inside. Raises InputError if a line of theirs can't be read.
        """
        with self._journal.alone() as news:
            self._take_in(news)
            yield

    def get(self, request_id: str) -> Request | None:
        """The request as of now; None where there is none, or its result was not kept so long."""
        self._take_in(self._journal.news())
        now_s = self.now_s()
        self._advance(now_s)
        request = self._requests.get(request_id)
        if request is None or request.ended_s is None:
            return request
        return request if now_s < request.ended_s + self._settings.retention_s else None

    def all(self) -> list[Request]:
        """Every request as of now, in the order in which they were made."""
        self._take_in(self._journal.news())
        self._advance(self.now_s())
        return [*self._requests.values()]

    def queue_position(self, request_id: str) -> int:
        """How many stand before this queued request."""
        return next(place for place, queued in enumerate(self._queue) if queued == request_id)

    def posts_for(self, key: str) -> int:
        """How many POSTs for ``key`` were served or went wrong, in all processes: see :meth:`alone`."""
        return self._posts_by_key[key]

    def affords(self, price_usd: float) -> bool:
        """Whether the balance covers ``price_usd``."""
        balance_usd = self._settings.balance_usd
        return balance_usd is None or self._stats.spent_usd + price_usd <= balance_usd + 1e-9

    def create(self, order: JobCreated) -> None:
        """Record, charge and enqueue, inside :meth:`alone`. Raises RunDirError: nothing was created."""
        self._record(order)

    def cancel(self, request: Request, *, charged: bool = False) -> None:
        """End a request that is queued or running, inside :meth:`alone`. Raises RunDirError.

        It is refunded unless ``charged``; whether a running one may be cancelled, and at what cost, is
        the API's to say.
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
        """Let an entry of a state file have happened."""
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
        self._requests[order.id] = self._queue[order.id] = request
        self._posts_by_key[order.key] += 1
        stats = self._stats
        stats.jobs_created += 1
        stats.charged_usd += order.price_usd
        stats.max_unfinished = max(stats.max_unfinished, self._unfinished(order.at))

    def _dequeue(self, cancellation: Cancellation) -> None:
        # With other workers than the state file was written by, it may be in no queue: so be it.
        request = self._requests[cancellation.id]
        busy_until_s = request.ended_s
        request.cancelled_s = cancellation.at
        if self._queue.pop(cancellation.id, None) is not None:
            self._moved_up_s = cancellation.at
        elif busy_until_s in self._free_at_s:
            self._free_at_s[self._free_at_s.index(busy_until_s)] = cancellation.at
            heapq.heapify(self._free_at_s)
        self._stats.jobs_cancelled += 1
        self._stats.refunded_usd += 0.0 if cancellation.charged else request.order.price_usd

    def _unfinished(self, now_s: float) -> int:
        return len(self._queue) + sum(free_s > now_s for free_s in self._free_at_s)

    def _advance(self, now_s: float) -> None:
        """Start what would have started by ``now_s``: the head of the queue takes the next slot."""
        while self._queue:
            head = next(iter(self._queue.values()))
            start_s = max(head.order.at + head.order.queue_s, self._free_at_s[0], self._moved_up_s)
            if start_s > now_s:
                return
            del self._queue[head.order.id]
            head.started_s = start_s
            heapq.heapreplace(self._free_at_s, start_s + head.order.run_s)
