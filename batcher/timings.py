"""How long generations took: the last few per model and length, taken from the ledger's events as they pass.

A request is seen finished by a poll, so all that is known is that it finished between two polls. What is
kept is bounded by the number of requests under way, never by the length of the ledger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

SPANS_PER_KEY = 256
KEYS_MAX = 256
UNTOLD_STEP = 1.3
"""Where a ledger doesn't tell when a request was last seen unfinished: by what factor polls were apart."""
LENGTH_FIELDS = ("duration", "seconds", "num_frames", "video_length")


class Span(NamedTuple):
    """A request was unfinished at age ``after_s`` and finished at ``by_s`` (seconds since accepted)."""

    after_s: float
    by_s: float


class _Accepted(NamedTuple):
    key: str
    at: str | None = None


def timing_key(model: str | None, inputs: Mapping[str, Any]) -> str:
    """What the time of a generation depends on most: its model and how long an output was asked for."""
    for name in LENGTH_FIELDS:
        if isinstance(value := inputs.get(name), int | float | str):
            return f"{model} {name}={value}"
    return f"{model}"


class Timings:
    """The last :data:`SPANS_PER_KEY` spans of each key, over all runs that a ledger tells of."""

    def __init__(self) -> None:
        self._spans: dict[str, deque[Span]] = {}
        self._under_way: dict[str, _Accepted] = {}

    def spans(self, key: str) -> Sequence[Span]:
        """What was seen of ``key``, the oldest first."""
        return self._spans.get(key, ())

    def key_of(self, job_id: str) -> str | None:
        """The key of a request under way; None where it isn't known."""
        accepted = self._under_way.get(job_id)
        return accepted.key if accepted is not None else None

    def run_began(self) -> None:
        """Requests that outlive their run tell when somebody looked again, not how long they took."""
        for job_id, accepted in self._under_way.items():
            self._under_way[job_id] = _Accepted(accepted.key)

    def submitting(self, job_id: str, model: str | None, inputs: Mapping[str, Any] | None) -> None:
        """A POST is about to leave; ``inputs`` is None where they are not told again."""
        self._under_way.pop(job_id, None)
        if inputs is not None:
            self._under_way[job_id] = _Accepted(timing_key(model, inputs))

    def accepted(self, job_id: str, at: str) -> None:
        """The API took the request at ``at`` (ISO 8601)."""
        if (before := self._under_way.get(job_id)) is not None:
            self._under_way[job_id] = _Accepted(before.key, at)

    def completed(self, job_id: str, at: str, unfinished_s: float | None) -> None:
        """The request was seen finished at ``at``, and last seen unfinished at age ``unfinished_s``."""
        accepted = self._under_way.pop(job_id, None)
        if accepted is None or accepted.at is None:
            return
        by_s = _seconds_between(accepted.at, at)
        if by_s is None or by_s <= 0.0:
            return
        after_s = by_s / UNTOLD_STEP if unfinished_s is None else unfinished_s
        self._add(accepted.key, Span(min(max(after_s, 0.0), by_s), by_s))

    def ended(self, job_id: str) -> None:
        """The request ended without telling anything."""
        self._under_way.pop(job_id, None)

    def _add(self, key: str, span: Span) -> None:
        spans = self._spans.get(key)
        if spans is None:
            if len(self._spans) >= KEYS_MAX:
                del self._spans[next(iter(self._spans))]
            spans = self._spans[key] = deque(maxlen=SPANS_PER_KEY)
        spans.append(span)


def _seconds_between(earlier: str, later: str) -> float | None:
    try:
        between = datetime.fromisoformat(later) - datetime.fromisoformat(earlier)
    except (ValueError, TypeError):
        return None
    return between.total_seconds()
