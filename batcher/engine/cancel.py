"""Cancels a request and learns its outcome: only a request that surely ended is abandoned."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from batcher.errors import CallError, NotFound
from batcher.ports import CancelOutcome, Handle, Phase, Provider, Result

Call = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Makes one HTTP exchange, through a gate or directly."""


async def directly(exchange: Callable[[], Awaitable[Any]]) -> Any:
    return await exchange()


async def cancel_request(provider: Provider, request: Handle, call: Call = directly) -> CancelOutcome:
    """Ask to cancel a request, then once for its result. Raises like ``Provider.cancel``.

    CANCELLED: it ended without a result. REQUESTED: it may still give one. NOT_CANCELLABLE: it is
    running or has finished. In these two cases it stays ``submitted``; the next run fetches its result.
    """
    outcome: CancelOutcome = await call(lambda: provider.cancel(request))
    if outcome is CancelOutcome.NOT_CANCELLABLE:
        return outcome
    try:
        result: Result = await call(lambda: provider.result(request))
    except NotFound:
        return outcome
    except CallError:
        return CancelOutcome.REQUESTED
    return _became(outcome, result.phase)


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
