"""How long generations took: the last few per model and length, collected from events.

A poll sees that a request has finished, so we know only that it finished between two polls. Memory is
limited by the number of requests under way, not by the length of the ledger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

SPANS_PER_KEY = 256
KEYS_MAX = 256
UNTOLD_STEP = 1.3
"""Assumed ratio of the ages of the last two polls, if the ledger does not record the earlier one."""
TimingKey = tuple[str | None, str | float | None]
Lasted = tuple[str, str, float | None]
"""When a request was accepted, when it was seen finished (both ISO 8601), and at which age in seconds it
was last seen unfinished."""


class Span(NamedTuple):
    """A request was unfinished at age ``after_s`` and finished at ``by_s`` (seconds since accepted)."""

    after_s: float
    by_s: float


_LENGTHS = (str, int, float)


class Lengths(msgspec.Struct, gc=False):
    """The inputs of a job that may give the requested length of its output."""

    duration: Any = None
    seconds: Any = None
    num_frames: Any = None
    video_length: Any = None


def timing_key(model: str | None, inputs: Mapping[str, Any] | Lengths) -> TimingKey:
    """What a generation's time depends on most: its model and the requested length of its output."""
    if not isinstance(inputs, Lengths):
        inputs = Lengths(*map(inputs.get, Lengths.__struct_fields__))
    length = inputs.duration
    if length is None:
        others = (inputs.seconds, inputs.num_frames, inputs.video_length)
        length = next((value for value in others if value is not None), None)
    return model, length if isinstance(length, _LENGTHS) else None


class SavedTimings(msgspec.Struct, array_like=True):
    """Timings as saved in a file: observations by key, and requests under way by job."""

    seen: list[tuple[str | None, str | int | float | None, list[Lasted]]]
    under_way: dict[str, tuple[str | None, str | int | float | None, str | None, int]]


class Timings:
    """The last :data:`SPANS_PER_KEY` spans of each key, over all runs in a ledger."""

    def __init__(self) -> None:
        # As in the ledger: only the few that are needed are parsed.
        self._seen: dict[TimingKey, deque[Lasted]] = {}
        self._under_way: dict[str, tuple[TimingKey, str | None, int]] = {}

    def spans(self, key: TimingKey) -> list[Span]:
        """The spans of ``key``, the oldest first."""
        return [span for seen in self._seen.get(key, ()) if (span := _span(*seen)) is not None]

    def by_model(self) -> dict[str, list[float]]:
        """Seconds of the generations that a single run saw from start to end, by model."""
        seen_s: dict[str, list[float]] = {}
        for key in self._seen:
            if key[0] is not None:
                seen_s.setdefault(key[0], []).extend(span.by_s for span in self.spans(key))
        return seen_s

    def longest_s(self, model: str | None) -> float | None:
        """Seconds of the longest known generation of ``model``; None without any."""
        keys = [key for key in self._seen if key[0] == model]
        return max((span.by_s for key in keys for span in self.spans(key)), default=None)

    def count(self, key: TimingKey) -> int:
        """The number of spans of ``key``."""
        return len(self._seen.get(key, ()))

    def key_of(self, job_id: str) -> TimingKey | None:
        """The key of a request under way; None if it isn't known."""
        under_way = self._under_way.get(job_id)
        return under_way[0] if under_way is not None else None

    def submitting(
        self, job_id: str, model: str | None, inputs: Mapping[str, Any] | Lengths | None
    ) -> None:
        """A POST is about to be sent; ``inputs`` is None if they are unchanged."""
        if inputs is not None:
            self._under_way[job_id] = (timing_key(model, inputs), None, 0)

    def accepted(self, job_id: str, at: str, run: int = 0) -> None:
        """The API accepted the request at ``at`` (ISO 8601), in run number ``run``."""
        if (under_way := self._under_way.get(job_id)) is not None:
            self._under_way[job_id] = (under_way[0], at, run)

    def completed(self, job_id: str, at: str, unfinished_s: float | None, run: int = 0) -> None:
        """The request was seen finished at ``at``, and last seen unfinished at age ``unfinished_s``.

        A request that outlived its run shows when it was polled again, not how long it took.
        """
        key, accepted_at, accepted_in = self._under_way.pop(job_id, (None, None, run))
        if key is not None and accepted_at is not None and accepted_in == run:
            self.learn(key, (accepted_at, at, unfinished_s))

    def learn(self, key: TimingKey, lasted: Lasted) -> None:
        """One run saw a request of ``key`` from its acceptance to its end."""
        seen = self._seen.get(key)
        if seen is None:
            if len(self._seen) >= KEYS_MAX:
                del self._seen[next(iter(self._seen))]
            seen = self._seen[key] = deque(maxlen=SPANS_PER_KEY)
        seen.append(lasted)

    def saved(self) -> SavedTimings:
        """All of it."""
        seen = [(*key, list(spans)) for key, spans in self._seen.items()]
        return SavedTimings(
            seen, {job: (*key, at, run) for job, (key, at, run) in self._under_way.items()}
        )

    def restore(self, saved: SavedTimings) -> None:
        """Restore the state in ``saved``."""
        self._seen = {
            (model, length): deque(spans, maxlen=SPANS_PER_KEY) for model, length, spans in saved.seen
        }
        self._under_way = {
            job: ((model, length), at, run) for job, (model, length, at, run) in saved.under_way.items()
        }

    def ended(self, job_id: str) -> None:
        """The request ended without a usable duration."""
        self._under_way.pop(job_id, None)


def seconds_between(earlier: str, later: str) -> float | None:
    """Seconds from one ISO 8601 time to another; None if either is invalid."""
    try:
        between = datetime.fromisoformat(later) - datetime.fromisoformat(earlier)
    except (ValueError, TypeError):
        return None
    return between.total_seconds()


def _span(accepted_at: str, at: str, unfinished_s: float | None) -> Span | None:
    by_s = seconds_between(accepted_at, at)
    if by_s is None or by_s <= 0.0:
        return None
    after_s = by_s / UNTOLD_STEP if unfinished_s is None else unfinished_s
    return Span(min(max(after_s, 0.0), by_s), by_s)
