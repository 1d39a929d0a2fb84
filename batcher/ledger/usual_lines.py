"""The usual lines of jobs, each kind as a type of its own.

Almost all lines of a ledger are these, most of them the four of a job that is done at its first attempt.
A type with only the fields that its lines usually have is decoded in two thirds of the time of
:class:`Event`. A line with any other field, or with a value of another type, is not accepted here: it is
read as any other line, and so everything wrong with it is found there.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import accumulate
from operator import itemgetter
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import EventName, Stage
from batcher.pacing.timings import Lengths


class Anything(msgspec.Struct, gc=False):
    """An object whose content is ignored."""


class _UsualLine(msgspec.Struct, tag_field="event", forbid_unknown_fields=True, gc=False):
    at: str
    job: str = ""
    attempt: int = 0
    group: int = -1


class SubmittingLine(_UsualLine, tag="submitting"):
    """A POST is about to be sent."""

    event: ClassVar[EventName] = EventName.SUBMITTING
    model: str | None = None
    input: Lengths | None = None
    meta: Anything | None = None
    vars: Anything | None = None
    source: str | None = None
    digest: str | None = None
    price_usd: float | UnsetType | None = UNSET
    priced_as: str | None = None
    retry: int = 0


class SubmittedLine(_UsualLine, tag="submitted"):
    """The API accepted the request."""

    event: ClassVar[EventName] = EventName.SUBMITTED
    request_id: str | None = None
    urls: dict[str, str] | None = None


class CompletedLine(_UsualLine, tag="completed"):
    """The result is there."""

    event: ClassVar[EventName] = EventName.COMPLETED
    cost_usd: float | None = None
    output: Any = None
    unfinished_s: float | None = None


class DoneLine(_UsualLine, tag="done"):
    """The files are on disk."""

    event: ClassVar[EventName] = EventName.DONE
    files: tuple[Artifact, ...] | None = None
    quality: str | None = None


class FailedLine(_UsualLine, tag="failed"):
    """The attempt failed."""

    event: ClassVar[EventName] = EventName.FAILED
    cost_usd: float | None = None
    files: tuple[Artifact, ...] | None = None
    stage: Stage | None = None
    code: int | str | None = None
    message: str | None = None
    retry_due: bool = False


class DeferredLine(_UsualLine, tag="deferred"):
    """The request was not accepted, or is cancelled: the job is pending again."""

    event: ClassVar[EventName] = EventName.DEFERRED
    reason: str | None = None
    may_cost: bool = False


class UnansweredLine(_UsualLine, tag="unanswered"):
    """The POST had no answer."""

    event: ClassVar[EventName] = EventName.UNANSWERED
    code: int | str | None = None
    message: str | None = None


class CostLine(_UsualLine, tag="cost"):
    """The cost became known late."""

    event: ClassVar[EventName] = EventName.COST
    cost_usd: float | None = None


class CancelledLine(_UsualLine, tag="cancelled"):
    """The request was cancelled."""

    event: ClassVar[EventName] = EventName.CANCELLED
    may_cost: bool = False


UsualLine = (
    SubmittingLine
    | SubmittedLine
    | CompletedLine
    | DoneLine
    | FailedLine
    | DeferredLine
    | UnansweredLine
    | CostLine
    | CancelledLine
)
_decoder = msgspec.json.Decoder(UsualLine)
decode_usual = _decoder.decode
"""Raises if the line is not a usual one. Accepts no control characters, but any bytes for text."""
_begin, _end = itemgetter(slice(1)), itemgetter(slice(-2, None))


def usual_lines(data: bytes, place: int) -> Iterator[tuple[UsualLine, int]] | None:
    """The lines in ``data`` with their places, from ``place`` on; None unless all are usual ones."""
    try:
        lines = _decoder.decode_lines(data)
    except (msgspec.MsgspecError, RecursionError):
        return None
    raw = BytesIO(data).readlines()
    # The decoder takes any white space between objects, not only newlines. But inside an object there is
    # no "}", newline, "{": if there is at each end of a line, each line is an object.
    if len(raw) != len(lines) or {*map(_begin, raw)} != {b"{"} or {*map(_end, raw)} != {b"}\n"}:
        return None
    return zip(lines, accumulate(map(len, raw), initial=place), strict=False)
