"""What a halt does: it ends tasks and, with ``--on-interrupt cancel``, requests at the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from batcher.clock import Clock
from batcher.engine.cancel import cancel_request
from batcher.engine.gateway import Lines
from batcher.engine.poll import handle_of
from batcher.engine.stop import Control
from batcher.errors import BatcherError, InterruptedRunError
from batcher.jobs.lifecycle import EventName, State
from batcher.ledger.ledger import Ledger
from batcher.ports import CancelOutcome, RunView

T = TypeVar("T")
CANCELLED_ON_INTERRUPT = "cancelled at the API on interrupt"


async def obey_halt(
    control: Control,
    live: Mapping[asyncio.Task[None], None],
    posting: Collection[asyncio.Task[Any]],
    clock: Clock,
    grace_s: float,
) -> None:
    """When the run is halted, cancel polls and downloads at once, and POSTs after ``grace_s`` seconds.

    ``live`` are all tasks of the run, ``posting`` those inside a POST; both change during the wait.
    """
    await control.halting.wait()
    for task in [task for task in live if task not in posting]:
        task.cancel()
    grace = asyncio.create_task(clock.sleep(grace_s))
    abort = asyncio.create_task(control.aborting.wait())
    try:
        await asyncio.wait([grace, abort], return_when=asyncio.FIRST_COMPLETED)
    finally:
        grace.cancel()
        abort.cancel()
    for task in list(live):
        task.cancel()


async def until_halted(control: Control, begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the coroutine that ``begin`` creates; a halt cancels it. Raises what it raises."""

    async def work() -> None:
        await begin()

    working = asyncio.create_task(work())
    halted = asyncio.create_task(control.halting.wait())
    try:
        await asyncio.wait([working, halted], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, halted):
            task.cancel()
        ends = await asyncio.gather(working, halted, return_exceptions=True)
    if isinstance(ends[0], Exception):
        raise ends[0]


async def unless_cancelled(work: Coroutine[Any, Any, None], control: Control) -> None:
    """Run ``work``, which obeys ``control``, to its end. Raises what it raises.

    Cancelling the caller is a first signal to the run, which then waits for the answers to POSTs in
    flight; cancelling it again is a second signal. CancelledError is raised after the run has ended.
    """
    await _to_the_end(work, [control.halt, control.abort])


async def even_if_cancelled(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``, which frees what others wait for, to its end. Raises what it raises.

    If the caller is cancelled meanwhile, CancelledError is raised afterwards.
    """
    await _to_the_end(work, [lambda _: None])


@asynccontextmanager
async def surely_closed(opened: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """``opened``, which is closed to the end even if the caller is cancelled meanwhile."""
    async with AsyncExitStack() as stack:
        value = await stack.enter_async_context(opened)
        held = stack.pop_all()
    try:
        yield value
    finally:
        await even_if_cancelled(held.aclose())


async def _to_the_end(
    work: Coroutine[Any, Any, None], heed: Sequence[Callable[[BatcherError], None]]
) -> None:
    """``heed`` has what the first cancel calls, and the next ones; the last one is for all further."""
    working = asyncio.create_task(work)
    cancelled: list[asyncio.CancelledError] = []
    while not working.done():
        try:
            await asyncio.wait([working])
        except asyncio.CancelledError as error:
            heed[min(len(cancelled), len(heed) - 1)](InterruptedRunError("the run was cancelled"))
            cancelled.append(error)
    if cancelled:
        raise cancelled[0] from (None if working.cancelled() else working.exception())
    working.result()


class Cancels:
    """Cancels requests of the jobs in ``watched``: the selected ones that this run polls."""

    def __init__(self, lines: Lines, ledger: Ledger, view: RunView) -> None:
        self.watched: dict[str, None] = {}
        self._lines = lines
        self._ledger = ledger
        self._view = view

    async def cancel_queued(self, timeout_s: float) -> None:
        """Ask to cancel each, within ``timeout_s`` seconds; cancelled jobs are pending again.

        Each cancel is on disk before it is sent: if this process dies, the next run knows.
        """
        queued = [job_id for job_id in self.watched if self._is_submitted(job_id)]
        try:
            for intended in [self._ledger.append(EventName.CANCELLING, job_id) for job_id in queued]:
                await intended
        except BatcherError:
            return
        pending = [asyncio.create_task(self._cancel(job_id)) for job_id in queued]
        if pending:
            _, late = await asyncio.wait(pending, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def note_cancelled(self, job_id: str, *, may_cost: bool) -> bool:
        """Record that a request was found cancelled; returns whether its job stays cancelled.

        A cancel that an interrupted run asked for makes its job pending again.
        """
        stays = not self._ledger.snapshot.records[job_id].cancelling
        if stays:
            await self._ledger.record(EventName.CANCELLED, job_id, may_cost=may_cost)
        else:
            await self._defer(job_id, may_cost=may_cost)
        return stays

    async def _defer(self, job_id: str, *, may_cost: bool) -> None:
        await self._ledger.record(
            EventName.DEFERRED, job_id, reason=CANCELLED_ON_INTERRUPT, may_cost=may_cost
        )

    def _is_submitted(self, job_id: str) -> bool:
        record = self._ledger.snapshot.get(job_id)
        return record is not None and record.state is State.SUBMITTED

    async def _cancel(self, job_id: str) -> None:
        request = handle_of(self._ledger.snapshot.records[job_id])
        line = self._lines.of(request.model)
        ended = await cancel_request(line.provider, request, line.call)
        if ended.outcome is not CancelOutcome.CANCELLED:
            self._view.not_cancellable += 1
            return
        await self._defer(job_id, may_cost=ended.may_cost)
        self._view.cancelled_now += 1
        self._view.cancelled_running += ended.may_cost
