"""``--max-cost``, computed from the lines of a ledger alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .server import PRICE_USD


def overspent(lines: Sequence[dict[str, Any]], first: int, limit_usd: float) -> Iterator[str]:
    """Attempts from line ``first`` on that did not fit: costs reported before, a price for the rest.

    The next one is expected to cost as much as the dearest that was reported.
    """
    charges: dict[tuple[str, int], float] = {}
    highest_usd = PRICE_USD
    for number, line in enumerate(lines):
        if "job" not in line:
            continue
        attempt, cost_usd = (line["job"], line["attempt"]), line.get("cost_usd")
        if line["event"] == "submitting":
            after_usd = sum(charges.values()) + highest_usd
            if number >= first and after_usd > limit_usd + 1e-6:
                yield f"{attempt} was let in up to ${after_usd:.2f} of ${limit_usd:.2f}"
        charges[attempt] = _charge_usd(line, charges.get(attempt, 0.0))
        if cost_usd is not None:
            charges[attempt], highest_usd = cost_usd, max(highest_usd, cost_usd)


def _charge_usd(line: dict[str, Any], before_usd: float) -> float:
    match line["event"]:
        case "submitting":
            return PRICE_USD
        case "deferred" | "cancelled":
            return 0.0
        case "failed" if line.get("stage") == "submit":
            return 0.0
        case "submitted":
            return before_usd or PRICE_USD
    return before_usd
