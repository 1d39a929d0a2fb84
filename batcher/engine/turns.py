"""Who wakes together need not start together: so many calls begin in one turn of the event loop.

An fsync that covers a thousand intents wakes a thousand tasks at once. If all of them began their calls
in that turn, nobody else would be heard for a third of a second: no answer, no signal, no progress.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

CALLS_PER_TURN: Final = 6


class Turns:
    """Lets so many through in each turn of the event loop, in their order."""

    def __init__(self, per_turn: int = CALLS_PER_TURN) -> None:
        self._per_turn = per_turn
        self._left = per_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_due = False

    async def take(self) -> None:
        """Return in a turn that has room: this one, where nobody came before."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        if self._left and not self._waiting:
            self._left -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        await place

    def _next_turn(self) -> None:
        self._left = self._per_turn
        while self._waiting and self._left:
            place = self._waiting.popleft()
            if not place.done():  # not cancelled
                place.set_result(None)
                self._left -= 1
        self._is_due = bool(self._waiting) or self._left < self._per_turn
        if self._is_due:
            asyncio.get_running_loop().call_soon(self._next_turn)
