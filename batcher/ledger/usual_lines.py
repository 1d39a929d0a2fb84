"""The four lines of a job that is done at its first attempt, each as a type of its own.

Most lines of a ledger are these. A type with only the fields that its lines usually have is decoded in
two thirds of the time of :class:`Event`. A line with any other field, or with a value of another type,
is not accepted here: it is read as any other line, and so everything wrong with it is found there.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import EventName
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


UsualLine = SubmittingLine | SubmittedLine | CompletedLine | DoneLine
decode_usual = msgspec.json.Decoder(UsualLine).decode
"""Raises if the line is not a usual one. Accepts no control characters, but any bytes for text."""
