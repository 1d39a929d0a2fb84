"""What generations really cost: the highest cost that the API reported, by model and parameters."""

from __future__ import annotations

import msgspec

from batcher.jobs.lifecycle import Record

KEYS_MAX = 4096
DUST_USD = 1e-9
"""Less than this is an error of rounding."""


class SavedCosts(msgspec.Struct, array_like=True):
    """Costs as saved in a file."""

    highest_usd: dict[str, float]
    factors: dict[str, float]


class Costs:
    """Corrects prices by the reported costs: a price may be a minimum, or wrong.

    ``under_way`` are the attempts that may have been charged but whose cost is not known yet.
    """

    def __init__(self) -> None:
        self.under_way: dict[str, Record] = {}
        self._highest_usd: dict[str, float] = {}
        self._factors: dict[str, float] = {}

    def submitting(self, job: str, record: Record) -> None:
        """A POST of ``job`` is about to be sent."""
        self.under_way[job] = record

    def ended(self, job: str) -> None:
        """No more will be known about the attempt."""
        self.under_way.pop(job, None)

    def reported(self, job: str, record: Record, usd: float) -> None:
        """The API said that the current attempt of ``job`` cost ``usd``."""
        self.under_way.pop(job, None)
        self.learn(record.priced_as, record.model, record.price_usd, usd)

    def learn(
        self, priced_as: str | None, model: str | None, price_usd: float | None, usd: float
    ) -> None:
        """An attempt priced at ``price_usd`` cost ``usd``."""
        if priced_as is not None:
            _raise(self._highest_usd, priced_as, usd)
        if price_usd and usd > price_usd + DUST_USD:
            _raise(self._factors, model or "", usd / price_usd)

    def expected_usd(self, key: str, model: str, price_usd: float | None) -> float | None:
        """What an attempt priced at ``price_usd`` is expected to cost at most.

        The highest cost reported for the same ``key``; without one, the price times the highest
        ratio of cost to price of this model. Never less than the price.
        """
        if price_usd is None:
            return None
        seen_usd = self._highest_usd.get(key)
        if seen_usd is None:
            return price_usd * self._factors.get(model, 1.0)
        return max(seen_usd, price_usd)

    @property
    def exceed_prices(self) -> bool:
        """Whether a reported cost was higher than its price."""
        return bool(self._factors)

    def missing_usd(self) -> float:
        """The amount by which the expected cost of the attempts under way exceeds what they count."""
        if not self._factors:
            return 0.0
        return sum(map(self._missing_usd, self.under_way.values()))

    def _missing_usd(self, record: Record) -> float:
        if not record.charge_usd or record.price_usd is None:
            return 0.0
        expected_usd = self.expected_usd(record.priced_as or "", record.model or "", record.price_usd)
        return max((expected_usd or 0.0) - record.charge_usd, 0.0)

    def saved(self) -> SavedCosts:
        """What was learned."""
        return SavedCosts(self._highest_usd, self._factors)

    def restore(self, saved: SavedCosts, records: dict[str, Record]) -> None:
        """Restore the state in ``saved``; ``records`` are the jobs that are not packed."""
        self._highest_usd, self._factors = saved.highest_usd, saved.factors
        self.under_way = {job: one for job, one in records.items() if _may_report(one)}


def _may_report(record: Record) -> bool:
    return bool(record.charge_usd) and record.reported_usd is None and not record.files


def _raise(highest: dict[str, float], key: str, value: float) -> None:
    if key not in highest and len(highest) >= KEYS_MAX:
        del highest[next(iter(highest))]
    highest[key] = max(value, highest.get(key, 0.0))
