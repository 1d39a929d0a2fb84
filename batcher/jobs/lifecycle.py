"""A job's life as data: states, events, and one table of what may follow what.

The README's diagram and the tests are made from :data:`TRANSITIONS`. An event that the table does not
know in a state raises: a ledger is never written, or read, into a state that nobody decided on.
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
    """Where a job stands. A job that the ledger doesn't mention is ``pending``."""

    PENDING = "pending"
    UNKNOWN = "unknown"
    SUBMITTED = "submitted"
    COMPLETED = "completed"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    __hash__ = str.__hash__  # of a word in C: an enum's own is called for every line of a ledger


class EventName(StrEnum):
    """What a ledger line says."""

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
    """Where a job failed."""

    SUBMIT = "submit"
    GENERATE = "generate"
    DOWNLOAD = "download"


EXPIRED = "expired"
NO_OUTPUT = "no_output"
NOT_FOUND = "not_found"

_S, _E = State, EventName
TRANSITIONS: Mapping[tuple[State, EventName], State] = {
    # A POST is about to leave. From pending of itself; from the others only by the user's word
    # (--retry-failed, --retry-unknown, --redo, or the new inputs of an edited job).
    **{(state, _E.SUBMITTING): _S.UNKNOWN for state in State},
    # Its answer.
    (_S.UNKNOWN, _E.SUBMITTED): _S.SUBMITTED,
    (_S.UNKNOWN, _E.DEFERRED): _S.PENDING,
    (_S.UNKNOWN, _E.UNANSWERED): _S.UNKNOWN,
    (_S.UNKNOWN, _E.FAILED): _S.FAILED,
    # What the API says of the request.
    (_S.SUBMITTED, _E.COMPLETED): _S.COMPLETED,
    (_S.SUBMITTED, _E.FAILED): _S.FAILED,
    (_S.SUBMITTED, _E.CANCELLED): _S.CANCELLED,
    # An interrupted run asks the API to cancel: once the request is cancelled, the job is pending.
    (_S.SUBMITTED, _E.CANCELLING): _S.SUBMITTED,
    (_S.SUBMITTED, _E.DEFERRED): _S.PENDING,
    # Its files.
    (_S.COMPLETED, _E.DONE): _S.DONE,
    (_S.COMPLETED, _E.FAILED): _S.FAILED,
    # Asked again: a failed or cancelled request may turn out complete, a failed download may get its
    # file, and a file that went missing is fetched once more.
    (_S.FAILED, _E.COMPLETED): _S.COMPLETED,
    (_S.FAILED, _E.SUBMITTED): _S.SUBMITTED,
    (_S.CANCELLED, _E.SUBMITTED): _S.SUBMITTED,
    (_S.FAILED, _E.FAILED): _S.FAILED,
    (_S.DONE, _E.COMPLETED): _S.COMPLETED,
    # What it cost, said later than its end.
    **{(state, _E.COST): state for state in (_S.COMPLETED, _S.DONE, _S.FAILED)},
}


class IllegalTransition(BatcherError):
    """An event that the table does not know in that state."""

    exit_code = 65


_MOVES = {name: {s: after for (s, e), after in TRANSITIONS.items() if e is name} for name in EventName}


def next_state(state: State, event: EventName) -> State:
    """The state after ``event``; raises IllegalTransition where the table has no such move."""
    try:
        return _MOVES[event][state]
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
    """Stands for the model and the parameters: what costs the same as far as anybody can tell."""
    request_id: str | None = None
    urls: dict[str, str] | None = None
    """With ``submitted``: where the provider said to ask about the request, if it named addresses."""
    reason: str | None = None
    cost_usd: float | None = None
    output: Any = None
    """With ``completed``: what the API called the output, without signatures and of bounded size."""
    unfinished_s: float | None = None
    """The request's age in seconds when it was last seen unfinished, by the run that saw it finished."""
    files: tuple[Probed, ...] | None = None
    quality: str | None = None
    stage: Stage | None = None
    code: int | str | None = None
    message: str | None = None
    retry: int = 0
    """With ``submitting``: the N-th retry (``--retries``) of the job, 0 for any other attempt."""
    retry_due: bool = False
    """With ``failed``: its run would buy the job again, within its caps."""


class Asked(msgspec.Struct, frozen=True):
    """The command of a run: its manifests, relative to the run directory, and those of its options that
    shape jobs or money, each with its values as they would be typed."""

    manifests: list[str]
    options: dict[str, list[str]]


SANDBOX_API = "sandbox"
"""What a run in the sandbox says of its API."""


class RunEvent(msgspec.Struct, omit_defaults=True, tag_field="event", tag="run"):
    """The ledger line that opens a run or, with ``ended``, closes it."""

    run: str
    at: str
    manifest: str | None = None
    asked: Asked | None = None
    api: str | None = None
    version: int | str | None = None
    identity: int = 1
    """The rule by which ids are made; version 0.1 named none. That of a ledger's first line stands."""
    host: str | None = None
    device: int | None = None
    inode: int | None = None
    """Of the run directory: a copy has another one."""
    pid: int | None = None
    total: int | None = None
    selected: int | None = None
    duplicates: int | None = None
    invalid: int | None = None
    ended: bool = False
    exit_code: int | None = None
    counts: dict[str, int] | None = None


class Replaced(msgspec.Struct, frozen=True, gc=False):
    """The files of an attempt that was bought again; they may still lie in the dataset."""

    attempt: int
    files: tuple[Artifact, ...]


class Record(msgspec.Struct, gc=False):
    """What the fold knows of one job.

    ``charge_usd`` is what the current attempt may cost: 0 where it surely cost nothing, None where
    it counts but nobody named a price. ``reported_usd`` is what the API said it cost, if it did.
    Offsets are places of lines in the ledger that hold what is not kept in memory: the last
    ``submitting``, the last one that carried ``input``, the last answer that named a request, the last
    ``done``; -1 where there is none. ``quality`` is what is wrong with a done job's outputs, if
    anything. ``cancelling``: an interrupted run asked for a cancel of the request. ``retry`` counts the
    retries (``--retries``) up to the current attempt; with ``retry_due`` there is to be another.
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
