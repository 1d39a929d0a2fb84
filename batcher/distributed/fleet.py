"""The caller's side: starts each shard, restarts it if its worker dies, merges reports, sends orders."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from typing import Any

import msgspec

from batcher.distributed.messages import (
    BEAT_S,
    ORDERS,
    VIEWS,
    Directive,
    Ended,
    Report,
    Task,
    counts_of,
    packed,
    trouble_of,
    view_of,
)
from batcher.distributed.worker import RunShard, carry_out
from batcher.engine.host import Host
from batcher.engine.stop import Control
from batcher.errors import BatcherError, InterruptedRunError, UnreachableError
from batcher.ports import RunView

STARTS_ALLOWED = 10
"""How often a shard is started. For each start Dask itself tries several workers."""
SLACK_S = 1.0
NO_SLOT_LEFT = (
    "no slot (-c) is left for some shards: requests that outlasted --job-timeout, or that a failed "
    "shard left unfinished, may hold all of them; run again to resume"
)


class Fleet:
    """All shards of a run. ``ended`` holds the result of each, by its number."""

    def __init__(
        self, client: Any, run: str, tasks: list[Task], run_shard: RunShard, host: Host
    ) -> None:
        self.ended: dict[int, Ended] = {}
        self.view = RunView()
        self._client = client
        self._tasks = tasks
        self._run_on_worker = partial(carry_out, run_shard)
        self._observer = host.observer
        self._clock = host.clock
        self._run = run
        self._order = Directive(run)
        self._news = asyncio.Event()
        self._views: dict[int, RunView] = {}
        self._heard: set[int] = set()
        self._futures: dict[int, Any] = {}
        self._warned: set[str] = set()
        self._all_told = True
        self._free_slots = 0
        self._free_per_s = 0.0

    @property
    def shards(self) -> int:
        """How many shards have jobs."""
        return len(self._tasks)

    def counts(self) -> dict[int, dict[str, int]]:
        """The last reported counts of each shard."""
        return {number: counts_of(view) for number, view in self._views.items()}

    async def run(self, control: Control, grace_s: float) -> None:
        """Wait until all shards have ended or, once ``control`` halts, until the grace period is over.

        Raises UnreachableError if the connection to the cluster is lost.
        """
        self._client.subscribe_topic(VIEWS, self._received)
        beating = asyncio.create_task(self._send_orders())
        halting = asyncio.create_task(self._relay_signal(control, grace_s))
        shards = [asyncio.create_task(self._run_shard(task, control)) for task in self._tasks]
        try:
            await _first_of(asyncio.gather(*shards), halting, beating)
        finally:
            for one in (beating, halting, *shards):
                one.cancel()
            await asyncio.gather(beating, halting, *shards, return_exceptions=True)
            if len(self.ended) < len(self._tasks):
                self._direct(halt=self._order.halt or signal.SIGTERM, abort=True)
                await self._send_order()

    async def _run_shard(self, task: Task, control: Control) -> None:
        """Run one shard. It is started again if its worker died, or stopped it in order to leave."""
        for start in range(STARTS_ALLOWED):
            ended = await self._once(task, f"batcher-{self._run}-{task.number}-{start}")
            left = ended is None or _is_interrupted(ended)
            if ended is not None and (control.halted or not left):
                self._record_end(task, ended)
                return
        error = BatcherError(f"its workers died {STARTS_ALLOWED} times; run again to resume")
        self._record_end(task, Ended(task.number, trouble=trouble_of(error)))

    async def _once(self, task: Task, key: str) -> Ended | None:
        """The result of a shard; None if its workers died. Raises UnreachableError."""
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        future = self._client.submit(self._run_on_worker, task, key=key, pure=False)
        self._futures[task.number] = future
        try:
            return msgspec.convert(await future, Ended)
        except KilledWorker:
            return None
        except FutureCancelledError as error:
            if task.number not in self._futures:
                return Ended(task.number)
            raise UnreachableError(
                "lost the Dask scheduler: the shards stop by themselves; `batcher status` shows how far "
                "they got, run again to resume"
            ) from error
        except Exception as error:  # noqa: BLE001 - anything that kept a worker from starting
            return Ended(task.number, trouble=trouble_of(error))

    def _record_end(self, task: Task, ended: Ended) -> None:
        """A shard has ended: divide its slots and its rate evenly among those still running.

        Slots that it may have left occupied at the API are not passed on. After a shard whose held slots
        are unknown (it may still be running), nothing is passed on any more.
        """
        self.ended[task.number] = ended
        pace, order = task.options.pace, self._order
        self._all_told = self._all_told and ended.held is not None
        self._free_slots += pace.concurrency - (ended.held or 0)
        self._free_per_s += pace.rate_per_s or 0.0
        live = [one for one in self._tasks if one.number not in self.ended]
        if live and self._all_told:
            slots, per_s = self._free_slots // len(live), self._free_per_s / len(live)
            self._direct(
                more_slots=max(slots, order.more_slots), more_per_s=max(per_s, order.more_per_s)
            )
        stuck = sum(not one.options.pace.concurrency + self._order.more_slots for one in live)
        if stuck and (stuck == len(live) or not self._all_told) and self._order.drain is None:
            self._direct(drain=NO_SLOT_LEFT)

    def _received(self, event: tuple[float, Any]) -> None:
        """Handle a shard's report; reports of other runs are ignored."""
        try:
            report = msgspec.convert(event[1], Report)
        except msgspec.ValidationError:
            return
        if report.run != self._run:
            return
        self._heard.add(report.number)
        self._merge(report)
        for warning in report.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._observer.warn(warning)
        if report.stopped is not None and self._order.drain is None:
            self._direct(drain=report.stopped)

    def _merge(self, report: Report) -> None:
        """Add a report. ``done`` never falls, although a restarted shard counts from zero again."""
        view, before = view_of(report.counts), self._views.get(report.number)
        if before is not None:
            view.done = max(view.done, before.done)
        self._views[report.number] = view
        for name in report.counts.keys() - {"selected"}:
            setattr(self.view, name, sum(getattr(one, name) for one in self._views.values()))
        self._observer.changed(self.view)

    def _direct(self, **changes: Any) -> None:
        self._order = msgspec.structs.replace(self._order, **changes)
        self._news.set()

    async def _send_orders(self) -> None:
        """Send the order every ``BEAT_S`` seconds, and at once when it changes."""
        while True:
            self._news.clear()
            await self._send_order()
            moment = asyncio.create_task(self._clock.sleep(BEAT_S))
            await _first_of(moment, asyncio.create_task(self._news.wait()))

    async def _send_order(self) -> None:
        try:
            async with asyncio.timeout(BEAT_S):
                await self._client.log_event(ORDERS, packed(self._order))
        except (OSError, TimeoutError):
            return  # if the connection is lost for good, the shards' futures fail

    async def _relay_signal(self, control: Control, grace_s: float) -> None:
        """Wait for a signal; then stop the shards, and wait no longer than the grace period."""
        await control.halting.wait()
        number = control.error.exit_code - 128 if control.error is not None else signal.SIGTERM
        self._direct(halt=number)
        for shard in self._futures.keys() - self._heard - self.ended.keys():
            await self._futures.pop(shard).cancel()
        late = asyncio.create_task(self._clock.sleep(max(grace_s, SLACK_S)))
        await _first_of(late, asyncio.create_task(control.aborting.wait()))


async def _first_of(*awaited: Any) -> None:
    """Wait for the first of several; cancel the others. Raises what the first raised."""
    tasks = [asyncio.ensure_future(one) for one in awaited]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()


def _is_interrupted(ended: Ended) -> bool:
    return ended.trouble is not None and ended.trouble.kind == InterruptedRunError.__name__
