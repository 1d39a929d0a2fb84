"""The protocols that the engine depends on: which calls may be repeated, and what they raise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from batcher.jobs.job import Job
from batcher.jobs.lifecycle import Event, EventName
from batcher.ledger.summary import ListedJob

ENDS: Final = frozenset({EventName.DONE, EventName.FAILED, EventName.CANCELLED, EventName.UNANSWERED})
"""After these a run does nothing more for a job, unless it retries it."""


class Phase(StrEnum):
    """The meaning of a request's status word. The engine decides by this, never by the word itself."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNRECOGNISED = "unrecognised"
    """An undocumented word: not terminal and not an error."""

    @property
    def terminal(self) -> bool:
        """Whether the request can't change any more."""
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


class Result(msgspec.Struct, frozen=True):
    """An answer about a request. ``word`` is the API's own status word.

    ``urls`` are the outputs in the order of the answer, not yet checked. ``message`` and ``error_code``
    describe a failure; ``cost_usd`` is None if none was reported, ``model`` if the answer doesn't name
    one.
    """

    phase: Phase
    word: str
    urls: tuple[str, ...] = ()
    cost_usd: float | None = None
    cost_is_odd: bool = False
    """The reported cost is not a valid amount of money."""
    queue_position: int | None = None
    message: str | None = None
    error_code: int | str | None = None
    model: str | None = None
    texts: tuple[str, ...] = ()
    """Outputs inside the answer itself: texts, and ``data:`` URIs. They follow the URLs."""
    output: Any = None
    """All of the answer's ``output`` for the record: without signatures, and of bounded size."""
    may_cost: bool = False
    """It was cancelled while it ran, and that time may be charged."""
    removed: bool = False
    """It succeeded, and the provider has deleted its outputs: paid and lost. ``message`` says so."""

    @property
    def output_count(self) -> int:
        """How many output files the result has."""
        return len(self.urls) + len(self.texts)


class CancelOutcome(StrEnum):
    """The outcome of a request to cancel."""

    CANCELLED = "cancelled"
    REQUESTED = "cancellation_requested"
    """Accepted, but not yet final: the result will tell the outcome."""
    NOT_CANCELLABLE = "not_cancellable"


class Handle(msgspec.Struct, frozen=True):
    """A request at a provider. ``id`` is safe in a path; ``model`` names the provider too.

    ``urls`` are the URLs that the provider gave for it, by "status", "result" and "cancel"; None if
    they follow from the id.
    """

    model: str
    id: str
    urls: dict[str, str] | None = None


class Tracing(StrEnum):
    """Whether a request whose answer was lost can be found again."""

    NONE = "none"
    BY_LIST = "by_list"
    """The provider lists requests with their inputs."""


class CostSource(StrEnum):
    """Where the cost of a request comes from."""

    RESULT = "result"
    """The result contains it, perhaps a little later than the outputs."""
    BILLING = "billing"
    """The provider's billing reports it some time after the end: ``result`` asks there too."""
    NONE = "none"
    """The provider never reports it."""


class Traits(msgspec.Struct, frozen=True):
    """The properties of a provider that the engine depends on."""

    output_domains: tuple[str, ...]
    """Outputs are on hosts below these domains, or on the API's own host."""
    results_kept_s: float
    """For how many seconds after its end a result can be fetched."""
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
    """The finding about a lost attempt: the request that it created, or None if it created none."""

    request: Handle | None


class Provider(Protocol):
    """One API. Each call is one exchange; none is retried here. Errors are CallErrors.

    A token is only sent to the origin that it belongs to.
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
        """POST one job. The POST is sent at once.

        Never repeat it after OutcomeUnknown: a second POST is a second charge.
        Raises NotSent, TurnedAway, Rejected, NotFound, AuthRefused, BalanceExhausted,
        OutcomeUnknown.
        """
        ...

    async def result(self, request: Handle) -> Result:
        """Ask for a request's result; before it is terminal, its status. May be repeated.

        Only the request's own status word says that it failed: every error, including a 200 with an
        ``error_code``, is an error of this call.
        Raises NotSent, TurnedAway, Unavailable, Rejected, NotFound, AuthRefused, BalanceExhausted.
        """
        ...

    async def cancel(self, request: Handle) -> CancelOutcome:
        """Ask to cancel a request. May be repeated. Raises like ``result``."""
        ...

    async def trace(self, lost: Sequence[Lost], known: Callable[[str], bool]) -> dict[str, Trace]:
        """The findings about lost attempts, by job id; undecided ones are left out.

        A wrong finding is worse than none. ``known`` says whether a request id belongs to another
        attempt already. May be repeated. Raises like ``result``.
        """
        ...


class EndedCall(msgspec.Struct, frozen=True):
    """One call that has ended. ``kind`` is "submit", "result", "cancel", "trace" or "download".

    ``what`` names a model, a request, a provider or a host; ``outcome`` describes the result; ``phase``
    is that of a request's result, if there is one. None contains a token, an input or a signed URL.
    """

    kind: str
    what: str
    outcome: str
    took_s: float
    phase: Phase | None = None


class Spending(NamedTuple):
    """USD of a run directory, earlier runs included: spent, the cap (``--max-cost``), and the expected
    total when the plan is done; None if there is none, or it isn't known."""

    spent_usd: float = 0.0
    cap_usd: float | None = None
    estimate_usd: float | None = None


@dataclass(slots=True)
class RunView:
    """Counts of a run in progress. ``selected`` jobs become ``done`` or keep another state."""

    run: str | None = None
    """The run's id in the ledger."""
    selected: int = 0
    done: int = 0
    failed: int = 0
    unknown: int = 0
    queued: int = 0
    """Requests that are queued or running at the API."""
    downloading: int = 0
    submitted_now: int = 0
    cancelled_now: int = 0
    cancelled_running: int = 0
    """Those of ``cancelled_now`` that ran already: they may be charged."""
    not_cancellable: int = 0
    """Requests that ``--on-interrupt cancel`` did not cancel: they run, or have ended."""
    timed_out: list[str] = field(default_factory=list)
    stopped: str | None = None
    """Why the run ended early, once it has."""
    money: Callable[[], Spending] = field(default=Spending, repr=False, compare=False)
    """The current spending."""
    waits: Callable[[], Iterable[str]] = field(default=tuple, repr=False, compare=False)
    """What the run is waiting for now, and until when, in words."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A line about a job that is on disk. ``describe`` tells what is known of the job now."""

    line: Event
    describe: Callable[[], ListedJob]

    @property
    def ends_job(self) -> bool:
        """Whether the run does nothing more for the job, unless it retries it."""
        return self.line.event in ENDS


class Observer(Protocol):
    """Follows a run. Called on the event loop: must neither block nor raise.

    A caller's own one may raise: ``Guarded`` in ``app/observers.py`` is around it.

    Progress, logs, metrics, notifications and streams are observers; the engine knows only this
    protocol. A class that inherits from :class:`Silence` implements what it needs.
    """

    def started(self, view: RunView) -> None:
        """The run begins; its counts are in ``view``."""
        ...

    def changed(self, view: RunView) -> None:
        """The counts have changed."""
        ...

    def event(self, event: JobEvent) -> None:
        """A line about a job is on disk."""
        ...

    def call(self, call: EndedCall) -> None:
        """A call to a provider, or a download, has ended."""
        ...

    def warn(self, message: str) -> None:
        """Something that a user should know."""
        ...

    def finished(self, view: RunView) -> None:
        """The run has ended."""
        ...


class Silence:
    """An observer that ignores everything: the base of others."""

    def started(self, view: RunView) -> None: ...
    def changed(self, view: RunView) -> None: ...
    def event(self, event: JobEvent) -> None: ...
    def call(self, call: EndedCall) -> None: ...
    def warn(self, message: str) -> None: ...
    def finished(self, view: RunView) -> None: ...


def listens(observer: object, method: str) -> bool:
    """Whether ``observer`` does not just ignore ``method``: else nothing is prepared for it."""
    found = getattr(observer, method, None)
    return found is not None and getattr(found, "__func__", found) is not getattr(Silence, method)
