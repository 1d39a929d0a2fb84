"""The history of a batch as numbers for plots, reduced to what a screen can show."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from statistics import quantiles
from typing import Any

from batcher.jobs.lifecycle import State
from batcher.report.history import TimedSnapshot

POINTS = 240
BINS = 48
IDLE_SHARE = 0.2
IDLE_MIN_MS = 60_000
HISTOGRAM_BINS = 24
NO_ANSWER = "no answer"
_KINDS = ("turned away", NO_ANSWER, "another attempt")


def series_of(history: TimedSnapshot, total: int) -> dict[str, Any]:
    """All data of the plots. Times are milliseconds since 1970, money is USD."""
    moves = sorted(history.moves)
    if not moves:
        return {}
    return {
        "gaps": _gaps([move.at_ms for move in moves]),
        "states": _states(history, total),
        "incidents": _incidents(history, moves[0].at_ms, moves[-1].at_ms),
        "generation": [_distribution(model, s) for model, s in sorted(history.generation_s.items())],
    }


def _gaps(times_ms: list[int]) -> list[tuple[int, int]]:
    """Long periods without events, mostly between runs. A plot may skip them."""
    steps = [(b - a, a, b) for a, b in pairwise(times_ms) if b - a >= IDLE_MIN_MS]
    gaps: list[tuple[int, int]] = []
    busy_ms = times_ms[-1] - times_ms[0]
    for length, start, end in sorted(steps, reverse=True):
        if length < IDLE_SHARE * busy_ms:
            break
        busy_ms -= length
        gaps.append((start, end))
    return sorted(gaps)


def _states(history: TimedSnapshot, total: int) -> dict[str, list[Any]]:
    """The number of jobs in each state, and their cost, at up to POINTS times."""
    moves = history.moves
    counts = Counter({State.PENDING: total})
    every = max(1, -(-len(moves) // POINTS))
    columns: dict[str, list[Any]] = {"at": [moves[0].at_ms], "spent_usd": [0.0]}
    columns |= {state.value: [counts[state]] for state in State}
    for number, move in enumerate(moves, 1):
        counts[move.before] -= 1
        counts[move.after] += 1
        if number % every == 0 or number == len(moves):
            columns["at"].append(max(move.at_ms, columns["at"][-1]))
            columns["spent_usd"].append(round(move.spent_usd, 4))
            for state in State:
                columns[state.value].append(max(0, counts[state]))
    if not _has_unknown(history):
        # A job is unknown between its POST and the answer: too briefly to be shown.
        moments = zip(columns[State.SUBMITTED], columns[State.UNKNOWN], strict=True)
        columns[State.SUBMITTED] = [submitted + unknown for submitted, unknown in moments]
        columns[State.UNKNOWN] = [0] * len(columns["at"])
    return columns


def _has_unknown(history: TimedSnapshot) -> bool:
    return any(incident.kind == NO_ANSWER for incident in history.incidents) or any(
        record.state is State.UNKNOWN for _, record in history.unfinished()
    )


def _incidents(history: TimedSnapshot, start_ms: int, end_ms: int) -> dict[str, Any]:
    """Incidents per bin of time, by kind."""
    width_ms = max(1000, -(-(end_ms - start_ms + 1) // BINS))
    bins = (end_ms - start_ms) // width_ms + 1
    counts = {kind: [0] * bins for kind in _KINDS}
    for at_ms, kind in history.incidents:
        counts[kind][min(max(0, (at_ms - start_ms) // width_ms), bins - 1)] += 1
    return {"start_ms": start_ms, "width_ms": width_ms, "kinds": counts}


def _distribution(model: str, seconds: list[float]) -> dict[str, Any]:
    """A model's times from POST to completion, in seconds: histogram and quartiles."""
    low, high = min(seconds), max(seconds)
    width = (high - low) / HISTOGRAM_BINS or 1.0
    bins = [0] * HISTOGRAM_BINS
    for value in seconds:
        bins[min(int((value - low) / width), HISTOGRAM_BINS - 1)] += 1
    quarter, median, three_quarters = quantiles(seconds, n=4) if len(seconds) > 1 else [low] * 3
    return {
        "model": model,
        "count": len(seconds),
        "low_s": round(low, 3),
        "width_s": width,
        "bins": bins,
        "quartiles_s": [round(max(low, min(high, q)), 3) for q in (quarter, median, three_quarters)],
        "high_s": round(high, 3),
    }
