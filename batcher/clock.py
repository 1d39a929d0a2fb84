"""Time, as everything else here sees it: injected, so that a day of batch can be tested in a second."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the engine may know of time."""

    def now(self) -> datetime:
        """Wall-clock time in UTC. For records only: it may jump, so nothing is decided by it."""
        ...

    def monotonic(self) -> float:
        """Time in seconds from an arbitrary start, never going back."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait ``delay_s`` seconds (0 or less: let others run)."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(max(delay_s, 0.0))


def iso(moment: datetime) -> str:
    """``moment`` (UTC) as ISO 8601 with milliseconds: ``2026-01-31T09:30:00.125Z``."""
    return moment.isoformat(timespec="milliseconds")[:23] + "Z"
