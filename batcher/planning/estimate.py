"""The total price of a plan and its duration, with the sums that lead to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from batcher.jobs.job import Job
from batcher.schema.price import Quote
from batcher.schema.spec import ModelSpec
from batcher.terminal import visible

NO_PRICE = "no price is known"


class PriceLine(NamedTuple):
    """The common facts of jobs with the same price.

    ``quote`` is the catalogue's price, ``assumed_usd`` the user's if there is none; with neither,
    ``problem`` says why it is unknown.
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
class _Alike:
    """The number of ``jobs`` whose price depends on the same values."""

    line: PriceLine
    usd: float | None
    jobs: int = 0


@dataclass(slots=True)
class Estimate:
    """Prices the jobs that a plan would buy, each once, and keeps the parts of the sum.

    A price is computed once for each model and each set of values that it depends on.
    """

    specs: Mapping[str, ModelSpec]
    assume_price_usd: float | None = None
    _alike: dict[tuple[str, str], _Alike] = field(init=False, default_factory=dict)

    def price_usd(self, job: Job) -> float | None:
        """The price of one attempt of ``job`` in USD, if it is known."""
        return self._of(job).usd

    def add(self, job: Job) -> float | None:
        """The same, and count the job."""
        alike = self._of(job)
        alike.jobs += 1
        return alike.usd

    @property
    def lines(self) -> Counter[PriceLine]:
        """The number of added jobs by price line."""
        counts: Counter[PriceLine] = Counter()
        for alike in self._alike.values():
            counts[alike.line] += alike.jobs
        return +counts

    def jobs_by_model(self) -> Counter[str]:
        """The number of added jobs by model."""
        counts: Counter[str] = Counter()
        for line, count in self.lines.items():
            counts[line.model] += count
        return counts

    def _of(self, job: Job) -> _Alike:
        spec = self.specs.get(job.model)
        key = (job.model, "" if spec is None else spec.price.values_in(job.input))
        alike = self._alike.get(key)
        if alike is None:
            line = self._line(job, spec)
            alike = self._alike[key] = _Alike(line, line.usd)
        return alike

    def _line(self, job: Job, spec: ModelSpec | None) -> PriceLine:
        quote = spec.quote(job.input) if spec is not None else None
        if quote is not None:
            return PriceLine(job.model, quote, None, None)
        return PriceLine(job.model, None, self.assume_price_usd, _problem(spec))


def _problem(spec: ModelSpec | None) -> str:
    """Why a job of this model has no price."""
    if spec is None or spec.base_price_usd is None:
        note = spec.pricing_note if spec is not None else None
        return f"{NO_PRICE}: {visible(note)}" if note else NO_PRICE
    if not spec.base_price_usd:
        return "the catalogue says $0, which is no price"
    if not spec.price.is_understood:
        return f"${spec.base_price_usd:g} per {spec.price_unit or '?'}: that unit is not understood"
    return f"${spec.base_price_usd:g} per {spec.price_unit}: but how many is not known"
