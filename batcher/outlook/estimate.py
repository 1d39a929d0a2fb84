"""How the total of a plan comes about, and how long it may take: sums that show their working."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from batcher.jobs import Job
from batcher.schema import ModelSpec, Quote

NO_PRICE = "no price is known"


class PriceLine(NamedTuple):
    """What jobs that are priced alike have in common.

    ``quote`` is the catalogue's price, ``assumed_usd`` the user's where there is none; with neither,
    ``problem`` says why nobody knows.
    """

    model: str
    quote: Quote | None
    assumed_usd: float | None
    problem: str | None

    @property
    def usd(self) -> float | None:
        """The price of one such job."""
        return self.quote.usd if self.quote is not None else self.assumed_usd


@dataclass(slots=True)
class Estimate:
    """Prices the jobs that a plan would buy, each asked about once, and keeps how that came about."""

    specs: Mapping[str, ModelSpec]
    assume_price_usd: float | None = None
    lines: Counter[PriceLine] = field(default_factory=Counter)

    def price_usd(self, job: Job) -> float | None:
        """What one attempt of ``job`` costs in USD, as far as anybody says."""
        return self._line(job).usd

    def add(self, job: Job) -> float | None:
        """The same, and the job counts."""
        line = self._line(job)
        self.lines[line] += 1
        return line.usd

    def jobs_by_model(self) -> Counter[str]:
        """How many jobs of each model were added."""
        counts: Counter[str] = Counter()
        for line, count in self.lines.items():
            counts[line.model] += count
        return counts

    def _line(self, job: Job) -> PriceLine:
        spec = self.specs.get(job.model)
        quote = spec.quote(job.input) if spec is not None else None
        if quote is not None:
            return PriceLine(job.model, quote, None, None)
        return PriceLine(job.model, None, self.assume_price_usd, _problem(spec))


def _problem(spec: ModelSpec | None) -> str:
    """Why a job of this model has no price."""
    if spec is None or spec.base_price_usd is None:
        return NO_PRICE
    if not spec.price.is_understood:
        return f"${spec.base_price_usd:g} per {spec.price_unit or '?'}: that unit is not understood"
    return f"${spec.base_price_usd:g} per {spec.price_unit}: but how many is not known"
