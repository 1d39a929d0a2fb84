"""Cancels a request and learns its outcome: only a request that surely ended is abandoned."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from batcher.clock import Clock
from batcher.errors import CallError, NotFound, TurnedAway
from batcher.pacing.gate import single_pause_s
from batcher.ports import CancelOutcome, Handle, Phase, Provider, Result

Call = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Makes one HTTP exchange, through a gate or :func:`patiently`."""

T = TypeVar("T")
TRIES = 3


async def patiently(clock: Clock, exchange: Callable[[], Awaitable[T]]) -> T:
    """Make an exchange, again if it is turned away. When it returns or raises, calls may go out."""
    for _ in range(TRIES - 1):
        try:
            return await exchange()
        except TurnedAway as error:
            await clock.sleep(single_pause_s(error.retry_after_s))
    try:
        return await exchange()
    except TurnedAway as error:
        await clock.sleep(error.retry_after_s or 0.0)
        raise


class CancelEnd(NamedTuple):
    """What became of a request that was asked to be cancelled, and whether it may be charged if so."""

    outcome: CancelOutcome
    may_cost: bool = False


async def cancel_request(provider: Provider, request: Handle, call: Call) -> CancelEnd:
    """Ask to cancel a request, then once for its result. Raises like ``Provider.cancel``.

    CANCELLED: it ended without a result. REQUESTED: it may still give one. NOT_CANCELLABLE: it is
    running or has finished. In these two cases it stays ``submitted``; the next run fetches its result.
    """
    outcome: CancelOutcome = await call(lambda: provider.cancel(request))
    if outcome is CancelOutcome.NOT_CANCELLABLE:
        return CancelEnd(outcome)
    try:
        result: Result = await call(lambda: provider.result(request))
    except NotFound:
        return CancelEnd(outcome, provider.traits.cancels_running)
    except CallError:
        return CancelEnd(CancelOutcome.REQUESTED)
    return CancelEnd(_became(outcome, result.phase), result.may_cost)


def _became(outcome: CancelOutcome, phase: Phase) -> CancelOutcome:
    match phase:
        case Phase.CANCELLED:
            return CancelOutcome.CANCELLED
        case Phase.SUCCEEDED | Phase.FAILED:
            return CancelOutcome.NOT_CANCELLABLE
        case Phase.QUEUED:
            return outcome
        case _:
            return CancelOutcome.REQUESTED
