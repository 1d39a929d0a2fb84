"""A cancel and what became of the request: only one that surely ended is given up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from batcher.engine.cancel import CancelEnd, cancel_request, patiently
from batcher.errors import NotFound, TurnedAway, Unavailable
from batcher.ports import CancelOutcome, Handle, Phase, Traits
from batcher.providers.runcomfy.provider import RunComfy
from tests.support.engine import FakeClock, answer

CANCELLED, REQUESTED = CancelOutcome.CANCELLED, CancelOutcome.REQUESTED
NOT_CANCELLABLE = CancelOutcome.NOT_CANCELLABLE


@dataclass
class Api:
    outcome: CancelOutcome
    word: Any
    traits: Traits = RunComfy.traits
    asked: int = 0

    async def cancel(self, request_id: str) -> CancelOutcome:
        return self.outcome

    async def result(self, request_id: str) -> Any:
        self.asked += 1
        if isinstance(self.word, Exception):
            raise self.word
        return self.word


def cancelled(api: Any) -> CancelEnd:
    return asyncio.run(cancel_request(api, Handle("m", "r1"), partial(patiently, FakeClock())))


@pytest.mark.parametrize("may_cost", [False, True])
def test_what_ran_until_it_was_cancelled_may_be_charged(may_cost: bool) -> None:
    known = Api(CANCELLED, answer(Phase.CANCELLED, may_cost=may_cost))
    assert cancelled(known) == (CANCELLED, may_cost)
    forgotten = Api(CANCELLED, NotFound("gone"), Traits((), 1.0, cancels_running=may_cost))
    assert cancelled(forgotten) == (CANCELLED, may_cost)


@pytest.mark.parametrize(
    ("outcome", "word", "became"),
    [
        (CANCELLED, answer(Phase.CANCELLED), CANCELLED),
        (CANCELLED, answer(Phase.QUEUED), CANCELLED),
        (CANCELLED, answer(Phase.SUCCEEDED), NOT_CANCELLABLE),
        (CANCELLED, answer(Phase.FAILED), NOT_CANCELLABLE),
        (CANCELLED, answer(Phase.RUNNING), REQUESTED),
        (CANCELLED, answer(Phase.UNRECOGNISED), REQUESTED),
        (CANCELLED, NotFound("gone"), CANCELLED),
        (CANCELLED, Unavailable("502"), REQUESTED),
        (REQUESTED, answer(Phase.CANCELLED), CANCELLED),
        (REQUESTED, answer(Phase.QUEUED), REQUESTED),
        (REQUESTED, answer(Phase.SUCCEEDED), NOT_CANCELLABLE),
        (NOT_CANCELLABLE, answer(Phase.RUNNING), NOT_CANCELLABLE),
    ],
)
def test_after_an_accepted_cancel_the_result_is_asked_for_once(
    outcome: CancelOutcome, word: Any, became: CancelOutcome
) -> None:
    api: Any = Api(outcome, word)
    assert cancelled(api).outcome is became
    assert api.asked == (outcome is not NOT_CANCELLABLE)


@pytest.mark.parametrize(("refusals", "asked"), [(1, 2), (2, 3), (9, 3)])
def test_after_a_refusal_nothing_leaves_before_the_pause_is_over(refusals: int, asked: int) -> None:
    clock, left = FakeClock(), [0]

    async def exchange() -> str:
        left[0] += 1
        if left[0] <= refusals:
            raise TurnedAway("later", retry_after_s=30.0)
        return "fine"

    if refusals < asked:
        assert asyncio.run(patiently(clock, exchange)) == "fine"
    else:
        with pytest.raises(TurnedAway):
            asyncio.run(patiently(clock, exchange))
    assert clock.slept == [30.0] * min(refusals, asked)
    assert left == [asked]
