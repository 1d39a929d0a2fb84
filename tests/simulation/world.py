"""Time, chance, the trace of what happened, and death: what every simulated part shares."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import looptime

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
RUN_BOUND_S = 40 * 86_400.0
STEPS_BOUND = 60_000


class Dead(OSError):
    """Raised by every part of the world that a dead process still tries to touch."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the process is dead")


class World:
    """One seed's universe. A *step* is a contact of the engine with anything outside its memory."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.loop = looptime.new_event_loop(start=0.0, noop_cycles=0)
        self.loop.set_default_executor(InlineExecutor())
        self.loop.set_exception_handler(self._complaint)
        self.trace: list[str] = []
        self.broken: list[str] = []
        self.seen: Counter[str] = Counter()
        self.steps = 0
        self.crash_at = 0
        self.dead = False

    def rng(self, purpose: str) -> Random:
        """A stream of chance of its own: a new draw in one place changes nothing in another."""
        return Random(f"{self.seed}:{purpose}")

    def now_s(self) -> float:
        return self.loop.time()

    def violate(self, what: str) -> None:
        """An invariant does not hold."""
        self.broken.append(what)
        self.note(f"BROKEN {what}")

    def note(self, what: str) -> None:
        self.trace.append(f"{self.now_s():.6f} {what}")

    def step(self, what: str) -> None:
        """The engine touches the outside. This is where it may die: before ``what`` happens."""
        if self.dead:
            raise Dead
        self.steps += 1
        self.note(what)
        if self.steps == self.crash_at:
            self.die()
            raise Dead
        if self.steps > STEPS_BOUND:
            self.violate("a run does not end: too many steps")
            self.die()
            raise Dead

    def die(self) -> None:
        """From here on nothing that the process does reaches anything outside of it."""
        self.dead = True
        self.note("died")
        self.loop.stop()

    def live(self, process: Coroutine[Any, Any, None], crash_at: int | None) -> bool:
        """Run a process until it ends or dies; True where it died."""
        self.dead, self.steps, self.crash_at = False, 0, crash_at or 0
        main = self.loop.create_task(process)
        main.add_done_callback(self._over)
        watchdog = self.loop.call_later(RUN_BOUND_S, self._stuck)
        self.loop.run_forever()
        died = self.dead or not main.done()
        self._bury(main, died)
        watchdog.cancel()
        return died

    def pass_time(self, seconds: float) -> None:
        """Nothing happens for a while."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def close(self) -> None:
        self.loop.close()

    def _over(self, main: asyncio.Task[None]) -> None:
        if not self.dead:
            self.loop.stop()

    def _stuck(self) -> None:
        self.violate("a run does not end: nothing happens any more")
        self.die()

    def _bury(self, main: asyncio.Task[None], died: bool) -> None:
        """Let the dead process's tasks end; the dead world lets none of their effects out."""
        self.dead = True
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(main, *tasks, return_exceptions=True))
        if not died and not main.cancelled() and (error := main.exception()) is not None:
            raise error

    def _complaint(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        orphan = self.seen["crashes"] and "never retrieved" in str(context.get("message"))
        if not self.dead and not orphan:
            self.violate(f"{context.get('message')}: {context.get('exception')!r}")


class WorldClock:
    """The system's clock, on the loop's time."""

    pauses = 0

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._world.now_s())

    def monotonic(self) -> float:
        return self._world.now_s()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(max(delay_s, 0.0))
        if self._world.dead:
            raise asyncio.CancelledError


class InlineExecutor(ThreadPoolExecutor):
    """Stands in for the loop's threads: what is handed to them happens at once, in its turn."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(function(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done
