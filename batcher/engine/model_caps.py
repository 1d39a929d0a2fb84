"""``-c 'kling/*=4'``: caps on unfinished requests of some models, and queues of jobs that wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from batcher.jobs.job import Job
from batcher.planning.plan import Decision

QUEUED_MAX: Final = 1024
"""So many jobs wait for a cap before the jobs after them wait too."""
Patterns = tuple[str, ...]


class ModelCaps:
    """Counts unfinished requests by pattern. A model needs room in each cap whose pattern it matches."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.limits = limits
        self._held: Counter[str] = Counter()
        self._stranded: Counter[str] = Counter()
        self._known: dict[str | None, Patterns] = {}

    def patterns(self, model: str | None) -> Patterns:
        """The patterns that ``model`` matches."""
        found = self._known.get(model)
        if found is None:
            found = tuple(one for one in self.limits if fnmatchcase(model or "", one))
            self._known[model] = found
        return found

    def hold(self, model: str | None) -> None:
        """Count a request, even without room."""
        self._held.update(self.patterns(model))

    def free(self, model: str | None) -> None:
        """A request has ended."""
        self._held.subtract(self.patterns(model))

    def strand(self, model: str | None) -> None:
        """A request that is no longer polled counts until the run ends."""
        self.hold(model)
        self._stranded.update(self.patterns(model))

    def has_room(self, model: str | None) -> bool:
        """Whether one more request may be unfinished."""
        return all(self._held[one] < self.limits[one] for one in self.patterns(model))

    def stuck(self, model: str | None) -> str | None:
        """The cap that leaves no room until the run ends, as it is typed; None if there is none."""
        full = (one for one in self.patterns(model) if self._stranded[one] >= self.limits[one])
        return next((self._shown(one) for one in full), None)

    def full(self) -> Iterator[str]:
        """The caps without room now, as they are typed."""
        return (self._shown(one) for one in self.limits if self._held[one] >= self.limits[one])

    def _shown(self, pattern: str) -> str:
        return f"-c {pattern}={self.limits[pattern]}"


class CapQueues:
    """A queue for each set of caps: jobs that wait for a cap don't hold up jobs of other models.

    ``start`` waits for room and starts a job; ``spawn`` runs a queue beside the others.
    """

    def __init__(
        self,
        caps: ModelCaps,
        start: Callable[[Job, Decision], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._caps = caps
        self._start = start
        self._spawn = spawn
        self._queues: dict[Patterns, asyncio.Queue[tuple[Job, Decision] | None]] = {}

    async def put(self, job: Job, decision: Decision) -> None:
        """Start a job, or queue it if its model is capped."""
        patterns = self._caps.patterns(job.model)
        if not patterns:
            await self._start(job, decision)
            return
        if patterns not in self._queues:
            self._queues[patterns] = asyncio.Queue(QUEUED_MAX)
            self._spawn(self._work(self._queues[patterns]))
        await self._queues[patterns].put((job, decision))

    async def close(self) -> None:
        """No more jobs come."""
        for queue in self._queues.values():
            await queue.put(None)

    def waits(self) -> Iterator[str]:
        """How many jobs wait for which caps, in words."""
        waiting = sum(queue.qsize() for queue in self._queues.values())
        if waiting and (full := ", ".join(self._caps.full())):
            yield f"{waiting} or more jobs wait for room in {full}"

    async def _work(self, queue: asyncio.Queue[tuple[Job, Decision] | None]) -> None:
        while (entry := await queue.get()) is not None:
            await self._start(*entry)
