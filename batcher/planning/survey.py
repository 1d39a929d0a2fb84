"""What a plan learns of the jobs that it would buy: their price, with its parts, and their variety."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from batcher.jobs.identity import settings_of
from batcher.jobs.job import Job
from batcher.planning.media_urls import UrlWatch
from batcher.schema.spec import ModelSpec, Quote
from batcher.terminal import visible

GROUPS_MAX = 10_000

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
    surplus_usd: float = 0.0
    """The sum by which their expected costs exceed their prices."""


@dataclass(slots=True)
class Estimate:
    """Prices the jobs that a plan would buy, each once, and keeps the parts of the sum.

    A price is computed once for each model and each set of values that it depends on. If reported
    costs were higher than prices, ``expected_usd`` is what a job of a price may cost by them.
    """

    specs: Mapping[str, ModelSpec]
    assume_price_usd: float | None = None
    expected_usd: Callable[[Job, float], float] | None = None
    _alike: dict[tuple[str, Hashable], _Alike] = field(init=False, default_factory=dict)

    def price_usd(self, job: Job) -> float | None:
        """The price of one attempt of ``job`` in USD, if it is known."""
        (alike,) = self._alike_to([job])
        return alike.usd

    def add(self, jobs: Sequence[Job]) -> list[float | None]:
        """The same for each of ``jobs``, which are of one model; and count them."""
        found = self._alike_to(jobs)
        for alike in found:
            alike.jobs += 1
        if self.expected_usd is not None:
            for job, alike in zip(jobs, found, strict=True):
                if alike.usd is not None:
                    alike.surplus_usd += self.expected_usd(job, alike.usd) - alike.usd
        return [alike.usd for alike in found]

    @property
    def lines(self) -> Counter[PriceLine]:
        """The number of added jobs by price line."""
        counts: Counter[PriceLine] = Counter()
        for alike in self._alike.values():
            counts[alike.line] += alike.jobs
        return +counts

    @property
    def surplus_usd(self) -> float:
        """The sum by which the expected costs of the added jobs exceed their prices."""
        return sum(alike.surplus_usd for alike in self._alike.values())

    def cost_usd(self, is_counted: Callable[[str], bool]) -> float | None:
        """The expected cost of the added jobs of some models; None if the price of any is unknown."""
        counted = [one for one in self._alike.values() if one.jobs and is_counted(one.line.model)]
        if any(one.usd is None for one in counted):
            return None
        return sum(one.usd * one.jobs + one.surplus_usd for one in counted if one.usd is not None)

    def jobs_by_model(self) -> Counter[str]:
        """The number of added jobs by model."""
        counts: Counter[str] = Counter()
        for line, count in self.lines.items():
            counts[line.model] += count
        return counts

    def _alike_to(self, jobs: Sequence[Job]) -> list[_Alike]:
        """For each of ``jobs``, all of one model: the jobs with the same price."""
        model = jobs[0].model
        spec = self.specs.get(model)
        values = [()] * len(jobs) if spec is None else spec.price.values_in([job.input for job in jobs])
        found = []
        for job, own in zip(jobs, values, strict=True):
            alike = self._alike.get((model, own))
            if alike is None:
                line = self._line(job, spec)
                alike = self._alike[model, own] = _Alike(line, line.usd)
            found.append(alike)
        return found

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


@dataclass(slots=True)
class CanaryChoice:
    """Chooses jobs that cover the manifest's variety: first of models, then of parameters."""

    jobs: int
    _groups: dict[str, dict[Any, list[str]]] = field(init=False, default_factory=dict)

    def add(self, job: Job) -> None:
        """Add one job that would be submitted."""
        groups = self._groups.setdefault(job.model, {})
        key = settings_of(job.input)
        if key not in groups and len(groups) >= GROUPS_MAX:
            return
        ids = groups.setdefault(key, [])
        if len(ids) < self.jobs:
            ids.append(job.id)

    def ids(self) -> frozenset[str]:
        """The ids of up to ``jobs`` jobs: from each model and each combination, as far as possible."""
        by_model = [_in_turn(list(groups.values()), self.jobs) for groups in self._groups.values()]
        return frozenset(_round_robin(by_model)[: self.jobs])


def _in_turn(groups: list[list[str]], count: int) -> list[str]:
    """Ids of one model. If there are more combinations than ``count``, spread evenly over them."""
    if len(groups) <= count:
        return _round_robin(groups)
    return [groups[index * len(groups) // count][0] for index in range(count)]


def _round_robin(lists: list[list[str]]) -> list[str]:
    """The first of each list, then the second of each, and so on."""
    longest = max(map(len, lists), default=0)
    return [items[turn] for turn in range(longest) for items in lists if turn < len(items)]


@dataclass(frozen=True, slots=True)
class Survey:
    """Facts about the jobs that a plan would buy, collected when it asks for each price."""

    estimate: Estimate
    urls: UrlWatch
    canary: CanaryChoice | None = None

    def prices_usd(self, jobs: Sequence[Job]) -> list[float | None]:
        """Add jobs that would be submitted; returns their prices in USD, None for unknown ones."""
        prices_usd: list[float | None] = []
        for model, group in groupby(jobs, attrgetter("model")):
            of_model = [*group]
            self.urls.look_at(of_model, self.estimate.specs.get(model))
            if self.canary is not None:
                for job in of_model:
                    self.canary.add(job)
            prices_usd += self.estimate.add(of_model)
        return prices_usd
