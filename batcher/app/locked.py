"""A run directory that another run holds: wait for it, if that was asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from batcher.clock import Clock
from batcher.errors import LockedError

LOOK_EVERY_S = 5.0
T = TypeVar("T")


async def when_free(work: Callable[[], Awaitable[T]], wait_s: float, clock: Clock) -> T:
    """``work()``, tried again for ``wait_s`` seconds while another run holds its run directory.

    Raises LockedError if that run is still at work then. A lock is met before anything is bought, so
    that trying again repeats nothing that costs.
    """
    until_s = clock.monotonic() + wait_s
    while True:
        try:
            return await work()
        except LockedError:
            left_s = until_s - clock.monotonic()
            if left_s <= 0:
                raise
        await clock.sleep(min(LOOK_EVERY_S, left_s))
