"""Limits how many API calls start per event-loop iteration.

An fsync that covers 1,000 intents wakes 1,000 tasks at once. If all of them started their calls in one
iteration, answers, signals and progress would be delayed by a third of a second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

CALLS_PER_TURN: Final = 6


class Turns:
    """Lets a limited number through per event-loop iteration, first in, first out."""

    def __init__(self, per_turn: int = CALLS_PER_TURN) -> None:
        self._per_turn = per_turn
        self._left = per_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_due = False

    async def take(self) -> None:
        """Return in an iteration that has room: at once if no other task is waiting."""
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
