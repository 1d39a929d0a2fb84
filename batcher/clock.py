"""The clock, injected everywhere, so that tests can simulate a day of a batch in a second."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

T = TypeVar("T")
TICK_S: Final = 1.0
PAUSE_S: Final = 5.0
"""A longer gap between two ticks is a pause: SIGSTOP, a suspended machine, a closed laptop."""


class Clock(Protocol):
    """The engine's interface to time.

    ``pauses`` counts the detected suspensions of this process; calling ``monotonic`` updates it.
    """

    pauses: int

    def now(self) -> datetime:
        """Wall-clock time in UTC. For records only: it may jump, so no decision depends on it."""
        ...

    def monotonic(self) -> float:
        """Seconds for which this process ran, from an arbitrary start; never decreases."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait ``delay_s`` seconds (0 or less: let others run)."""
        ...


class SystemClock:
    """The machine's clocks, without the time for which this process was suspended.

    During a suspension answers arrive and timers expire. A periodic tick on the event loop detects the
    gap, and waits on this clock are extended by it, so that answers are read before timers fire.
    """

    def __init__(self, tick_s: float = TICK_S, pause_s: float = PAUSE_S) -> None:
        self.pauses = 0
        self._tick_s, self._pause_s = tick_s, pause_s
        self._paused_s = 0.0
        self._seen_s = self._seen_wall_s = 0.0
        # Readings before both are no pause. Without ticks, of a loop that was closed, they pass.
        self._fresh_until_s = self._fresh_until_wall_s = 0.0
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        now_s = time.monotonic()
        if now_s < self._fresh_until_s and time.time() < self._fresh_until_wall_s:
            return now_s - self._paused_s
        loop = asyncio._get_running_loop()
        if loop is not None:
            self._look(loop, now_s)
        return now_s - self._paused_s

    async def sleep(self, delay_s: float) -> None:
        delay_s = max(delay_s, 0.0)
        self.monotonic()
        before_s = self._paused_s
        await asyncio.sleep(delay_s)
        self.monotonic()
        if (missed_s := min(self._paused_s - before_s, delay_s)) > 0:
            await asyncio.sleep(missed_s)

    def _look(self, loop: asyncio.AbstractEventLoop, now_s: float) -> None:
        """Detect a pause since the last tick; start ticking if the event loop is a new one."""
        if self._loop is None or self._loop() is not loop:
            self._loop = weakref.ref(loop)
            self._note(now_s)
            loop.call_later(self._tick_s, self._tick, loop)
            return
        if now_s < self._fresh_until_s:
            if time.time() < self._fresh_until_wall_s:
                return
        else:
            self._paused_s += now_s - self._seen_s - self._tick_s
        self.pauses += 1
        self._note(now_s)

    def _note(self, now_s: float) -> None:
        self._seen_s, self._seen_wall_s = now_s, time.time()
        limit_s = self._tick_s + self._pause_s
        self._fresh_until_s, self._fresh_until_wall_s = now_s + limit_s, self._seen_wall_s + limit_s

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = time.monotonic()
        self._look(loop, now_s)
        self._note(now_s)
        loop.call_later(self._tick_s, self._tick, loop)


class Deadline(AbstractAsyncContextManager["Deadline"]):
    """Raises TimeoutError in its block ``limit_s`` seconds after its start.

    After a pause of the process the limit starts again, so that answers that arrived meanwhile are read.
    """

    def __init__(self, clock: Clock, limit_s: float) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._scope = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self._pauses = 0

    async def __aenter__(self) -> Self:
        self._clock.monotonic()
        await self._scope.__aenter__()
        self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._scope.__aexit__(kind, error, trace)

    def shorten(self, limit_s: float) -> None:
        """Move the end to ``limit_s`` seconds from now, if that is earlier."""
        if self._timer is not None and limit_s < self._timer.when() - asyncio.get_running_loop().time():
            self._timer.cancel()
            self._limit_s = limit_s
            self._begin()

    def _begin(self) -> None:
        self._pauses = self._clock.pauses
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._due)

    def _due(self) -> None:
        self._clock.monotonic()  # detects a pause
        if self._clock.pauses != self._pauses:
            self._begin()
        else:
            self._scope.reschedule(asyncio.get_running_loop().time())


async def in_steps(steps: Generator[None, None, T], clock: Clock) -> T:
    """The result of ``steps``, long work that stops now and then; other tasks run at each stop."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            result: T = ended.value
            return result
        await clock.sleep(0)


def time_of_day(clock: Clock, in_s: float) -> str:
    """The local time in ``in_s`` seconds: ``14:05:10``, with its date if that is not today."""
    now = clock.now().astimezone()
    then = now + timedelta(seconds=in_s)
    return then.strftime("%H:%M:%S" if then.date() == now.date() else "%Y-%m-%d %H:%M:%S")


def iso(moment: datetime) -> str:
    """``moment`` (UTC) as ISO 8601 with milliseconds: ``2026-01-31T09:30:00.125Z``."""
    return moment.isoformat(timespec="milliseconds")[:23] + "Z"
