"""How long generations took, as the ledger of a run directory tells: what a forecast is made of."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from batcher.disk import Disk
from batcher.ledger import LEDGER_NAME, lines_of
from batcher.lifecycle import EventName, Snapshot

WINDOW_BYTES = 8 << 20
"""Only the ledger's end is read: what was seen last is the best guess, however long the ledger."""


class _Line(msgspec.Struct):
    event: str
    at: str = ""
    job: str = ""


_decode = msgspec.json.Decoder(_Line).decode


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long what a plan buys may take. ``duration_s`` is None where a model was never seen.

    ``seen`` counts the generations that it is judged by.
    """

    duration_s: float | None
    seen: int


def forecast(
    jobs_by_model: Mapping[str, int], seen_s: Mapping[str, list[float]], concurrency: int
) -> Forecast:
    """The median duration of each model's jobs, one after the other in ``concurrency`` rows."""
    seen = sum(len(seen_s.get(model, ())) for model in jobs_by_model)
    if not jobs_by_model or any(not seen_s.get(model) for model in jobs_by_model):
        return Forecast(None, seen)
    medians_s = {model: statistics.median(seen_s[model]) for model in jobs_by_model}
    in_a_row_s = sum(medians_s[model] * count for model, count in jobs_by_model.items())
    return Forecast(max(in_a_row_s / concurrency, *medians_s.values()), seen)


def seen_durations(run_dir: Path, snapshot: Snapshot, disk: Disk) -> dict[str, list[float]]:
    """From accepted to generated, in seconds, by model: of requests that one run saw through.

    A request that outlived its run tells when somebody looked again, not how long it took.
    """
    seen_s: dict[str, list[float]] = {}
    if disk.size(run_dir / LEDGER_NAME) is None:
        return seen_s
    with disk.open_read(run_dir / LEDGER_NAME) as file:
        for job_id, duration_s in _pairs(_tail(file)):
            record = snapshot.get(job_id)
            if record is not None and record.model is not None:
                seen_s.setdefault(record.model, []).append(duration_s)
    return seen_s


def _tail(file: BinaryIO) -> Iterator[_Line]:
    """The last whole lines of a ledger. What can't be read is passed over: replay judges it."""
    size_bytes = file.seek(0, 2)
    file.seek(max(0, size_bytes - WINDOW_BYTES))
    for _, raw in lines_of(file):
        try:
            yield _decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue


def _pairs(lines: Iterator[_Line]) -> Iterator[tuple[str, float]]:
    """Each job that was accepted and generated within one run, with the seconds in between."""
    accepted: dict[str, datetime] = {}
    for line in lines:
        if line.event == EventName.RUN:
            accepted.clear()
        elif line.event == EventName.SUBMITTED and (at := _moment(line.at)) is not None:
            accepted[line.job] = at
        elif line.event == EventName.COMPLETED and line.job in accepted:
            ended = _moment(line.at)
            began = accepted.pop(line.job)
            if ended is not None and ended > began:
                yield line.job, (ended - began).total_seconds()


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
