"""What the engine asks of what it is given: protocols with what may be repeated and what they raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import msgspec

from batcher.jobs.job import Job


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
    error_code: int | str | None = None
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


class Handle(msgspec.Struct, frozen=True):
    """A request at a provider. ``id`` is safe in a path; ``model`` names the provider too.

    ``urls`` are the addresses at which the provider said to ask about it, by "status", "result" and
    "cancel"; None if they follow from the id.
    """

    model: str
    id: str
    urls: dict[str, str] | None = None


class Tracing(StrEnum):
    """Whether a request whose answer was lost can be found again."""

    NONE = "none"
    BY_LIST = "by_list"
    """The provider lists requests with their inputs."""
    BY_EXTERNAL_ID = "by_external_id"
    """The provider finds a request by the id that we gave it."""


class CostSource(StrEnum):
    """Where the cost of a request comes from."""

    RESULT = "result"
    """The result names it, perhaps a little later than the outputs."""
    NONE = "none"
    """The provider never names it."""


class Traits(msgspec.Struct, frozen=True):
    """The facts of a provider by which the engine decides."""

    output_domains: tuple[str, ...]
    """Outputs are on hosts below these domains, or on the API's own."""
    results_kept_s: float
    """Seconds from its end for which a result can be fetched."""
    cancels_running: bool = False
    """Whether a request that already runs can be cancelled."""
    traces: Tracing = Tracing.NONE
    cost: CostSource = CostSource.RESULT


class Lost(msgspec.Struct, frozen=True):
    """An attempt to submit a job whose answer is not known."""

    job_id: str
    model: str
    input: dict[str, Any]
    """As recorded: local media as ``sha256:`` and their hash."""
    sent_at: datetime


class Trace(msgspec.Struct, frozen=True):
    """What is known of a lost attempt: the request that it created, or None if it created nothing."""

    request: Handle | None


class Provider(Protocol):
    """One API that makes requests. Each call is one exchange; none is repeated. Errors are CallErrors.

    A token never leaves the origin that it belongs to.
    """

    name: str
    traits: Traits

    async def prepare(self, job: Job) -> bytes:
        """The body of a job's POST. May be slow and may upload media; may be repeated.

        Called before the intent is recorded, so that nothing slow is between the intent and the POST.
        Raises OSError or ValueError if a local file is gone or differs from the planned one, and
        CallErrors if it could not be uploaded.
        """
        ...

    async def submit(self, model: str, body: bytes) -> Handle:
        """POST one job. The POST leaves at once.

        Never repeat it after OutcomeUnknown: a second POST is a second charge.
        Raises NotSent, TurnedAway, Rejected, NotFound, AuthRefused, BalanceExhausted,
        OutcomeUnknown.
        """
        ...

    async def result(self, request: Handle) -> Result:
        """Ask for a request's result; before it is terminal, its status. May be repeated.

        Only the request's own status word says that it failed: every error, a 200 with an
        ``error_code`` included, is about the asking.
        Raises NotSent, TurnedAway, Unavailable, Rejected, NotFound, AuthRefused, BalanceExhausted.
        """
        ...

    async def cancel(self, request: Handle) -> CancelOutcome:
        """Ask to cancel a request. May be repeated. Raises like ``result``."""
        ...

    async def trace(self, lost: Sequence[Lost], known: Callable[[str], bool]) -> dict[str, Trace]:
        """What became of lost attempts, by job id; those that can't be told yet are left out.

        A wrong finding is worse than none. ``known`` says whether a request id belongs to another
        attempt already. May be repeated. Raises like ``result``.
        """
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
