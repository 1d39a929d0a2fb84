"""``--max-cost``: what may still be spent, counting every attempt in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from batcher.errors import StoppedError
from batcher.jobs.identity import price_key
from batcher.jobs.job import Job
from batcher.jobs.shard import Shard
from batcher.ledger.costs import DUST_USD
from batcher.ledger.ledger import Ledger
from batcher.terminal import counted, money

NEARLY_SPENT = 0.8
PriceOf = Callable[[Job], float | None]


class Caps(NamedTuple):
    """The run directory's cost cap, and the cost assumed for an attempt without a known price."""

    max_cost_usd: float | None = None
    assume_price_usd: float | None = None


NO_CAPS = Caps()


class Budget:
    """Checked before each POST. Each of several shards has its part of what is left."""

    def __init__(
        self, ledger: Ledger, price_of: PriceOf, caps: Caps = NO_CAPS, shard: Shard | None = None
    ) -> None:
        self.max_cost_usd = caps.max_cost_usd
        self.left_out = 0
        self._assume_price_usd = caps.assume_price_usd or 0.0
        self._snapshot = ledger.snapshot
        self._price_of = price_of
        self._shard = shard
        self._warned = False
        if caps.max_cost_usd is not None and shard is not None:
            self.max_cost_usd = even_level_usd(self._spent_by_shard_usd(), caps.max_cost_usd)

    @property
    def is_bounded(self) -> bool:
        """Whether there is a cap."""
        return self.max_cost_usd is not None

    def price_usd(self, job: Job, priced_as: str) -> float | None:
        """What one attempt of ``job`` may cost in USD, by its price and by what others like it cost.

        ``priced_as`` is the job's price key. None if no price is known.
        """
        price_usd = self._price_of(job)
        return self._snapshot.costs.expected_usd(priced_as, job.model, price_usd)

    def admits(self, job: Job) -> bool:
        """Whether the job fits now. Ask in the same step in which ``submitting`` is appended."""
        if self.max_cost_usd is None:
            return True
        price_usd = self.price_usd(job, price_key(job))
        after_usd = self.spent_usd() + self._snapshot.costs.missing_usd() + (price_usd or 0.0)
        fits = price_usd is not None and after_usd <= self.max_cost_usd + DUST_USD
        self.left_out += not fits
        return fits

    def shortfall(self) -> StoppedError | None:
        """The reason to stop if some jobs did not fit."""
        if not self.left_out:
            return None
        return StoppedError(
            f"{counted(self.left_out, 'job', 'jobs')} did not fit into --max-cost "
            f"{money(self.max_cost_usd)}: pending until that is higher"
        )

    def spent_usd(self) -> float:
        """USD counted so far, for this shard if there are several; never less than was surely spent."""
        if self._shard is None:
            return self._snapshot.counted_usd(self._assume_price_usd)
        return self._spent_by_shard_usd()[self._shard.number - 1]

    def warning(self) -> str | None:
        """A warning, once, that most of ``--max-cost`` is spent."""
        if self._warned or not self.max_cost_usd:
            return None
        spent_usd = self.spent_usd()
        if spent_usd < NEARLY_SPENT * self.max_cost_usd:
            return None
        self._warned = True
        share = 100.0 * spent_usd / self.max_cost_usd
        return f"{money(spent_usd)} of --max-cost {money(self.max_cost_usd)} is spent ({share:.0f} %)"

    def _spent_by_shard_usd(self) -> list[float]:
        snapshot = self._snapshot
        pairs = zip(snapshot.spent_by_shard_usd, snapshot.unpriced_by_shard, strict=True)
        return [spent_usd + unpriced * self._assume_price_usd for spent_usd, unpriced in pairs]


def even_level_usd(spent_usd: Sequence[float], max_cost_usd: float) -> float:
    """The amount each shard may spend so that all together stay within ``max_cost_usd``.

    The level to which all shards below it can be filled. Filling them does not change the level, so
    shards that start at different times, and know only what the others had spent by then, compute
    the same level.
    """
    left_usd = max_cost_usd
    level_usd = 0.0
    for position, spent in enumerate(sorted(spent_usd, reverse=True)):
        level_usd = left_usd / (len(spent_usd) - position)
        if spent <= level_usd:
            return level_usd
        left_usd -= spent
    return min(level_usd, 0.0)
