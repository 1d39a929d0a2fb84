"""What the engine asks of what it is given: protocols with what may be repeated and what they raise."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import msgspec


class Phase(StrEnum):
    """What a request's status word means. The engine decides by this, never by the word."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNRECOGNISED = "unrecognised"
    """A word that nobody documented: not terminal and not an error."""

    @property
    def terminal(self) -> bool:
        """Whether nothing will change any more."""
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


class Result(msgspec.Struct, frozen=True):
    """An answer about a request. ``word`` is the API's own status word.

    ``urls`` are the outputs in the order of the answer, unchecked: they are the server's word.
    ``message`` and ``error_code`` tell of a failure; ``cost_usd`` is None if none was reported,
    ``model`` if the answer doesn't name one.
    """

    phase: Phase
    word: str
    urls: tuple[str, ...] = ()
    cost_usd: float | None = None
    cost_is_odd: bool = False
    """A cost was reported that is no amount of money."""
    queue_position: int | None = None
    message: str | None = None
    error_code: int | None = None
    model: str | None = None
    texts: tuple[str, ...] = ()
    """Outputs that came with the answer itself: texts, and ``data:`` URIs. They follow the URLs."""
    output: Any = None
    """All of the answer's ``output`` for the record: without signatures, and of bounded size."""

    @property
    def output_count(self) -> int:
        """How many files the result makes."""
        return len(self.urls) + len(self.texts)


class CancelOutcome(StrEnum):
    """What became of a request to cancel."""

    CANCELLED = "cancelled"
    REQUESTED = "cancellation_requested"
    """Accepted, and not yet an end: the result tells what became of it."""
    NOT_CANCELLABLE = "not_cancellable"


class Service(Protocol):
    """The Model API. Each call is one HTTP exchange; none retries. Errors are CallErrors."""

    async def submit(self, model: str, body: bytes) -> str:
        """POST one job and return its request id, checked to be safe in a path.

        Never repeat it after OutcomeUnknown: a second POST is a second charge.
        Raises NotSent, TurnedAway, Rejected, NotFound, AuthRefused, BalanceExhausted,
        OutcomeUnknown.
        """
        ...

    async def result(self, request_id: str) -> Result:
        """Ask for a request's result; before it is terminal, its status. May be repeated.

        Only the request's own status word says that it failed: every error, a 200 with an
        ``error_code`` included, is about the asking.
        Raises NotSent, TurnedAway, Unavailable, Rejected, NotFound, AuthRefused, BalanceExhausted.
        """
        ...

    async def cancel(self, request_id: str) -> CancelOutcome:
        """Ask to cancel a request that is still queued. May be repeated. Raises like ``result``."""
        ...


class EndedCall(msgspec.Struct, frozen=True):
    """One call that has ended. ``kind`` is "submit", "result", "cancel" or "download".

    ``what`` names a model, a request or a host; ``outcome`` says in words what came of it. Neither
    holds a token, an input or a signed URL.
    """

    kind: str
    what: str
    outcome: str
    took_s: float


@runtime_checkable
class CallObserver(Protocol):
    """An observer that is told of each call. Called on the event loop: must not block or raise."""

    def call(self, call: EndedCall) -> None: ...
