"""Forecasts how long a plan's jobs may take, from earlier generations in the ledger."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long a plan's jobs may take. ``duration_s`` is None if a model is not in the ledger.

    ``seen`` counts the generations that the forecast is based on.
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
