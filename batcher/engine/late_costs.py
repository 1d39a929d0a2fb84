"""Costs that the API reports only after the result: asked for again, so that budgets include them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from batcher.clock import Clock, iso
from batcher.engine.poll import Gone, Watcher, handle_of
from batcher.jobs.lifecycle import EventName, State
from batcher.ledger.ledger import Ledger
from batcher.pacing.timings import seconds_between

LOOK_S = 1.0
WAITS_S = (2.0, 5.0, 15.0, 60.0)
"""Seconds from the job's end to the first request for its cost, then between requests."""
ASK_S = 30.0
RECENT_S = 86_400.0
"""Seconds. Older jobs are not asked about: results, with their costs, expire."""
SILENT_JOBS = 3
"""After this many jobs without a cost, and none with one, assume that the API reports no costs."""
_ENDED = (State.COMPLETED, State.DONE, State.FAILED)


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
            if age_s is not None and 0 <= age_s < RECENT_S and is_ours(job_id):
                self.note(job_id)
        if self.wanted:
            await self.ask()

    async def keep_asking(self) -> None:
        """Ask for each cost when its time has come. Runs until it is cancelled."""
        while True:
            await self._some.wait()
            await self.clock.sleep(LOOK_S)
            now_s = self.clock.monotonic()
            await self._ask_each([job for job, (_, at_s) in self._due.items() if at_s <= now_s])

    async def ask(self) -> None:
        """Ask once for each cost that is still missing."""
        await self._ask_each(list(self._due))

    async def _ask_each(self, jobs: list[str]) -> None:
        await asyncio.gather(*map(self._ask, jobs))

    def _put(self, job_id: str, asked: int) -> None:
        self._due[job_id] = asked, self.clock.monotonic() + WAITS_S[asked]
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
            result = await self.watcher.ask(request, ASK_S)
        except Gone:
            return
        record = self.ledger.snapshot.records[job_id]
        if record.request_id != request.id or not self._is_missing(job_id):
            return  # the cost arrived meanwhile, or the job changed state
        cost_usd = result.cost_usd if result is not None else None
        if cost_usd is not None and cost_usd != record.reported_usd:
            await self.ledger.record(EventName.COST, job_id, cost_usd=cost_usd)
        elif asked + 1 < len(WAITS_S):
            self._put(job_id, asked + 1)
        else:
            self._silent += 1
