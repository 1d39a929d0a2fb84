"""Header values that several packages read: dates, and ``Retry-After``."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

RETRY_AFTER_MAX_S: Final = 86_400.0
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def http_date(text: str) -> datetime | None:
    """Parse an HTTP date (RFC 9110 section 5.6.7), as UTC if it names no zone; None if it is none."""
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def retry_after_s(text: str | None, now: datetime) -> float | None:
    """A ``Retry-After`` (RFC 9110 section 10.2.3) in seconds from ``now``, within 0 .. 1 day.

    None if there is none, or if it is neither a number of seconds nor a date.
    """
    text = (text or "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), RETRY_AFTER_MAX_S)
    moment = http_date(text)
    if moment is None:
        return None
    return min(max((moment - now).total_seconds(), 0.0), RETRY_AFTER_MAX_S)
