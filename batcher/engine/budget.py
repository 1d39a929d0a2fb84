"""``--max-cost``: what may still be bought, over every attempt that the ledger counts."""

from __future__ import annotations

from collections.abc import Sequence

from batcher.jobs.job import Job
from batcher.jobs.shard import Shard
from batcher.ledger.ledger import Ledger
from batcher.planning.plan import PriceOf

_CENT_FRACTION_USD = 1e-9


class Budget:
    """Holds before each POST. One shard of several has its part of what is left."""

    def __init__(
        self, ledger: Ledger, price_of: PriceOf, max_cost_usd: float | None, shard: Shard | None = None
    ) -> None:
        self.max_cost_usd = max_cost_usd
        self.left_out = 0
        self._snapshot = ledger.snapshot
        self._price_of = price_of
        self._shard = shard
        if max_cost_usd is not None and shard is not None:
            self.max_cost_usd = even_level_usd(self._snapshot.spent_by_shard_usd, max_cost_usd)

    def price_usd(self, job: Job) -> float | None:
        """What one attempt of ``job`` costs in USD; None where nobody named a price."""
        return self._price_of(job)

    def admits(self, job: Job) -> bool:
        """Whether the job fits now. Ask in the same step in which ``submitting`` is appended."""
        if self.max_cost_usd is None:
            return True
        price_usd = self._price_of(job)
        after_usd = self._spent_usd() + (price_usd or 0.0)
        fits = price_usd is not None and after_usd <= self.max_cost_usd + _CENT_FRACTION_USD
        self.left_out += not fits
        return fits

    def _spent_usd(self) -> float:
        if self._shard is None:
            return self._snapshot.spent_usd
        return self._snapshot.spent_by_shard_usd[self._shard.number - 1]


def even_level_usd(spent_usd: Sequence[float], max_cost_usd: float) -> float:
    """Up to what each shard may spend so that together they stay within ``max_cost_usd``.

    The level to which all shards that are below it can be filled up. As they are, it stays what it
    is: so shards that begin at different times, and know of each other only what was spent when they
    began, go by the same one.
    """
    left_usd = max_cost_usd
    level_usd = 0.0
    for position, spent in enumerate(sorted(spent_usd, reverse=True)):
        level_usd = left_usd / (len(spent_usd) - position)
        if spent <= level_usd:
            return level_usd
        left_usd -= spent
    return min(level_usd, 0.0)
