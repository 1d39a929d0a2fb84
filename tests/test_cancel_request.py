"""A cancel and what became of the request: only one that surely ended is given up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from engine import answer

from batcher.engine.cancel import cancel_request
from batcher.errors import NotFound, Unavailable
from batcher.ports import CancelOutcome, Phase

CANCELLED, REQUESTED = CancelOutcome.CANCELLED, CancelOutcome.REQUESTED
NOT_CANCELLABLE = CancelOutcome.NOT_CANCELLABLE


@dataclass
class Api:
    outcome: CancelOutcome
    word: Any
    asked: int = 0

    async def cancel(self, request_id: str) -> CancelOutcome:
        return self.outcome

    async def result(self, request_id: str) -> Any:
        self.asked += 1
        if isinstance(self.word, Exception):
            raise self.word
        return self.word


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
    assert asyncio.run(cancel_request(api, "r1")) is became
    assert api.asked == (outcome is not NOT_CANCELLABLE)
