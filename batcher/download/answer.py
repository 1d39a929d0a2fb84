"""A media server's answer: its status and headers, parsed and checked once."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from batcher.http.headers import http_date, retry_after_s

if TYPE_CHECKING:
    from collections.abc import Mapping

# RFC 9110 section 14.4; a total of "*" is not accepted: a range of an unknown total can't be checked.
_CONTENT_RANGE = re.compile(r"bytes[ =]+(\d{1,19})-(\d{1,19})/(\d{1,19})", re.IGNORECASE)
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')
_DIGITS = re.compile(r"[0-9]{1,19}")
_CLOCK_STEP: Final = timedelta(seconds=1)


class ContentRange(msgspec.Struct, frozen=True):
    """``Content-Range: bytes first-last/total`` (RFC 9110 section 14.4), positions from 0."""

    first: int
    last: int
    total: int


class MediaAnswer(msgspec.Struct, frozen=True):
    """The head of an answer.

    ``length`` is the body's size in bytes if it was announced; ``validator`` is what ``If-Range``
    may carry, None if a later request might get the rest of another file.
    """

    status: int
    media_type: str
    encoding: str
    length: int | None
    range: ContentRange | None
    validator: str | None
    retry_after_s: float
    location: str | None


def read_answer(status: int, headers: Mapping[str, str], now: datetime) -> MediaAnswer:
    """The facts of an answer received at ``now`` (UTC). ``headers`` ignores the case of names."""
    return MediaAnswer(
        status=status,
        media_type=headers.get("Content-Type", ""),
        encoding=headers.get("Content-Encoding", "").strip().lower() or "identity",
        length=whole_number(headers.get("Content-Length", "")),
        range=content_range(headers.get("Content-Range", "")),
        validator=validator(headers),
        retry_after_s=retry_after_s(headers.get("Retry-After", ""), now) or 0.0,
        location=headers.get("Location"),
    )


def content_range(text: str) -> ContentRange | None:
    """A valid ``Content-Range``, or None."""
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        return None
    first, last, total = map(int, match.groups())
    return ContentRange(first, last, total) if first <= last < total else None


def validator(headers: Mapping[str, str]) -> str | None:
    """The strong validator of an answer, for ``If-Range`` (RFC 9110 section 13.1.5).

    A strong entity tag; without any tag, a ``Last-Modified`` that is at least a second older than the
    answer's ``Date`` (section 8.8.2.2). A weak tag means that the bytes may differ.
    """
    tag = headers.get("ETag")
    if tag is not None:
        return tag if _STRONG_ETAG.fullmatch(tag) else None
    modified = headers.get("Last-Modified", "")
    if not modified:
        return None
    modified_at, answered_at = http_date(modified), http_date(headers.get("Date", ""))
    if modified_at is None or answered_at is None:
        return None
    return modified if answered_at - modified_at >= _CLOCK_STEP else None


def whole_number(text: str) -> int | None:
    """The number in ``text`` if it is one of up to 19 digits, else None.

    Converts exactly what it matched: ``str.strip`` removes more characters than ``int`` ignores.
    """
    digits = _DIGITS.fullmatch(text.strip())
    return int(digits[0]) if digits is not None else None
