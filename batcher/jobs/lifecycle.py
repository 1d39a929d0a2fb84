"""A job's lifecycle as data: states, events, and one table of the allowed transitions.

The README's diagram and the tests are made from :data:`TRANSITIONS`. An event that the table does not
allow in a state raises an error, both when a ledger is written and when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from batcher.errors import BatcherError
from batcher.jobs.job import Artifact, Probed
from batcher.jobs.refusals import is_refusal

FORMAT_VERSION = 1


class State(StrEnum):
    """The state of a job. A job that the ledger doesn't mention is ``pending``."""

    PENDING = "pending"
    UNKNOWN = "unknown"
    SUBMITTED = "submitted"
    COMPLETED = "completed"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    __hash__ = (
        str.__hash__
    )  # str's hash is in C: the enum's own is slow, and called for every line of a ledger


class EventName(StrEnum):
    """The kind of a ledger line."""

    RUN = "run"
    ORPHANED = "orphaned"
    RELISTED = "relisted"
    SUBMITTING = "submitting"
    DEFERRED = "deferred"
    UNANSWERED = "unanswered"
    SUBMITTED = "submitted"
    COMPLETED = "completed"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CANCELLING = "cancelling"
    COST = "cost"

    __hash__ = str.__hash__


class Stage(StrEnum):
    """The stage at which a job failed."""

    SUBMIT = "submit"
    GENERATE = "generate"
    DOWNLOAD = "download"


EXPIRED = "expired"
NO_OUTPUT = "no_output"
NOT_FOUND = "not_found"

_S, _E = State, EventName
TRANSITIONS: Mapping[tuple[State, EventName], State] = {
    # A POST is about to be sent. From pending always; from the others only if the user asks for it
    # (--retry-failed, --retry-unknown, --redo, or the new inputs of an edited job).
    **{(state, _E.SUBMITTING): _S.UNKNOWN for state in State},
    # The answer to the POST.
    (_S.UNKNOWN, _E.SUBMITTED): _S.SUBMITTED,
    (_S.UNKNOWN, _E.DEFERRED): _S.PENDING,
    (_S.UNKNOWN, _E.UNANSWERED): _S.UNKNOWN,
    (_S.UNKNOWN, _E.FAILED): _S.FAILED,
    # The API's word on the request.
    (_S.SUBMITTED, _E.COMPLETED): _S.COMPLETED,
    (_S.SUBMITTED, _E.FAILED): _S.FAILED,
    (_S.SUBMITTED, _E.CANCELLED): _S.CANCELLED,
    # An interrupted run asks the API to cancel: once the request is cancelled, the job is pending.
    (_S.SUBMITTED, _E.CANCELLING): _S.SUBMITTED,
    (_S.SUBMITTED, _E.DEFERRED): _S.PENDING,
    # The files of the job.
    (_S.COMPLETED, _E.DONE): _S.DONE,
    (_S.COMPLETED, _E.FAILED): _S.FAILED,
    # Polled or downloaded again: a failed or cancelled request may turn out complete, a failed download
    # may succeed, and a missing file is fetched again.
    (_S.FAILED, _E.COMPLETED): _S.COMPLETED,
    (_S.FAILED, _E.SUBMITTED): _S.SUBMITTED,
    (_S.CANCELLED, _E.SUBMITTED): _S.SUBMITTED,
    (_S.FAILED, _E.FAILED): _S.FAILED,
    (_S.DONE, _E.COMPLETED): _S.COMPLETED,
    # The cost, if it became known after the job's end.
    **{(state, _E.COST): state for state in (_S.COMPLETED, _S.DONE, _S.FAILED)},
}


class IllegalTransition(BatcherError):
    """An event that the table does not allow in that state."""

    exit_code = 65


MOVES: Mapping[EventName, Mapping[State, State]] = {
    name: {s: after for (s, e), after in TRANSITIONS.items() if e is name} for name in EventName
}
"""The same by event: the next state by state."""


def next_state(state: State, event: EventName) -> State:
    """The state after ``event``; raises IllegalTransition if the table has no such transition."""
    try:
        return MOVES[event][state]
    except KeyError:
        raise IllegalTransition(f"a job that is {state} can't become {event}") from None


class Event(msgspec.Struct, omit_defaults=True, gc=False):
    """One ledger line about a job. ``at`` is UTC in ISO 8601; money is in USD."""

    event: EventName
    at: str
    job: str
    attempt: int = 0
    model: str | None = None
    input: dict[str, Any] | None = None
    meta: dict[str, Any] | None = None
    vars: dict[str, Any] | None = None
    source: str | None = None
    digest: str | None = None
    price_usd: float | UnsetType | None = UNSET
    priced_as: str | None = None
    """Key of the model and the parameters: jobs with the same key are expected to cost the same."""
    request_id: str | None = None
    urls: dict[str, str] | None = None
    """With ``submitted``: the URLs for status and result, if the provider's answer gave any."""
    reason: str | None = None
    cost_usd: float | None = None
    output: Any = None
    """With ``completed``: the API's ``output``, without signatures and of bounded size."""
    unfinished_s: float | None = None
    """The request's age in seconds when the run that saw it finished last saw it unfinished."""
    files: tuple[Probed, ...] | None = None
    quality: str | None = None
    stage: Stage | None = None
    code: int | str | None = None
    message: str | None = None
    retry: int = 0
    """With ``submitting``: which retry (``--retries``) of the job this is; 0 for any other attempt."""
    retry_due: bool = False
    """With ``failed``: the run is to retry the job (``--retries``), within its caps."""
    may_cost: bool = False
    """With ``cancelled``, ``deferred``: the request ran until it was cancelled, and may be charged."""


class Asked(msgspec.Struct, frozen=True):
    """The command of a run: its manifests, relative to the run directory, and its options that affect
    jobs or money, each with its values as they would be typed."""

    manifests: list[str]
    options: dict[str, list[str]]


SANDBOX_API = "sandbox"
"""The ``api`` of a run in the sandbox."""


class RunEvent(msgspec.Struct, omit_defaults=True, tag_field="event", tag="run"):
    """The ledger line that opens a run or, with ``ended``, closes it."""

    run: str
    at: str
    manifest: str | None = None
    asked: Asked | None = None
    api: str | None = None
    other_apis: dict[str, str] | None = None
    """The base URLs of the other providers that runs of this directory used, by their names."""
    version: int | str | None = None
    identity: int = 1
    """The rule by which ids are made; version 0.1 named none. The ledger's first line decides."""
    host: str | None = None
    device: int | None = None
    inode: int | None = None
    """Of the run directory: a copy has a different one."""
    pid: int | None = None
    total: int | None = None
    selected: int | None = None
    duplicates: int | None = None
    invalid: int | None = None
    ended: bool = False
    exit_code: int | None = None
    counts: dict[str, int] | None = None


class Replaced(msgspec.Struct, frozen=True, gc=False):
    """The files of an attempt that was bought again; they may still be in the dataset."""

    attempt: int
    files: tuple[Artifact, ...]


class Record(msgspec.Struct, gc=False):
    """The state of one job, folded from its ledger lines.

    ``charge_usd`` is what the current attempt may cost: 0 if it surely cost nothing, None if it counts
    but has no known price. ``reported_usd`` is the cost that the API reported, if it did. The offsets
    are positions of ledger lines whose content is not kept in memory: the last ``submitting``, the last
    one with ``input``, the last answer with a request id, the last ``done``; -1 if there is none.
    ``quality`` describes the fault of a done job's outputs, if any. ``cancelling``: an interrupted run
    asked the API to cancel the request. ``retry`` counts the retries (``--retries``) up to the current
    attempt; ``retry_due`` is set if another is due.
    """

    state: State = State.PENDING
    attempt: int = 0
    request_id: str | None = None
    urls: dict[str, str] | None = None
    model: str | None = None
    digest: str | None = None
    stage: Stage | None = None
    code: int | str | None = None
    message: str | None = None
    price_usd: float | None = None
    charge_usd: float | None = 0.0
    reported_usd: float | None = None
    files: tuple[Artifact, ...] = ()
    replaced: Replaced | None = None
    quality: str | None = None
    cancelling: bool = False
    orphaned: bool = False
    listed: bool = False
    submitting_at: str | None = None
    submitting_offset: int = -1
    input_offset: int = -1
    answer_offset: int = -1
    done_offset: int = -1
    priced_as: str | None = None
    retry: int = 0
    retry_due: bool = False

    @property
    def is_refused(self) -> bool:
        """Whether the job failed because the API refused its inputs."""
        if self.state is not State.FAILED or self.stage is Stage.DOWNLOAD:
            return False
        return is_refusal(self.code, self.message)
