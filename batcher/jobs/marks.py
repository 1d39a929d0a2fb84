"""The user's marks on outputs, one word each, and ``@marks:WORD``, which selects the marked jobs."""

from __future__ import annotations

from typing import Literal

import msgspec

from batcher.errors import UsageError

MARKS = ("keep", "reject", "star")
MARKS_PREFIX = "@marks:"
NOTE_MAX_CHARS = 4000


class JobMark(msgspec.Struct, frozen=True, omit_defaults=True):
    """The mark on one job's outputs; ``at`` is UTC in ISO 8601, empty if unknown."""

    job: str
    mark: Literal["keep", "reject", "star"] | None
    note: str | None = None
    at: str = ""


def marks_named(text: str, option: str) -> frozenset[str] | None:
    """The marks that ``@marks:MARK[,MARK]`` names; None for other text. Raises UsageError."""
    if not text.startswith(MARKS_PREFIX):
        return None
    return marks_in(text.removeprefix(MARKS_PREFIX), f"{option} {text}")


def marks_in(text: str, option: str) -> frozenset[str]:
    """The marks in a comma-separated list. Raises UsageError for a word that is not a mark."""
    names = frozenset(name.strip() for name in text.split(","))
    for name in sorted(names - set(MARKS)):
        raise UsageError(f"{option}: {name!r} is not a mark; the marks are {', '.join(MARKS)}")
    return names
