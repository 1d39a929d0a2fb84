"""Batches small work items for a thread: items that arrive while the threads are busy go together.

A switch to a thread and back costs more than the work itself. Nothing waits for a batch to fill: if a
thread is free, the items of one event-loop iteration start at its end.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor, Future

T = TypeVar("T")
R = TypeVar("R")
F = TypeVar("F", bound="asyncio.Future[Any]")


class Threads(ThreadPoolExecutor):
    """A thread pool that works with fewer threads: containers and ``ulimit -u`` limit how many start.

    If no thread can start, the caller does the work itself.
    """

    def submit(self, fn: Callable[..., R], /, *args: object, **kwargs: object) -> Future[R]:
        future = super().submit(fn, *args, **kwargs)
        while not self._threads and not self._work_queue.empty():
            self._work_queue.get_nowait().run()
        return future

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            return  # "can't start new thread"


class Unstoppable(asyncio.Future[R]):
    """A result of a thread, which nothing can stop: a cancelled task still waits for it.

    The task is cancelled when the result is there.
    """

    def cancel(self, msg: object = None) -> bool:
        """Refuse: asyncio then cancels the waiting task at its next step."""
        del msg
        return False


class Groups(Generic[T, R]):
    """Calls ``work`` with items in their order, ``most`` in a call, in ``at_once`` threads.

    ``work`` gives a result or an error for each item. ``threads`` None means the event loop's own.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R | Exception]],
        threads: Executor | None = None,
        *,
        at_once: int,
        most: int,
    ) -> None:
        self._work = work
        self._threads = threads
        self._free = at_once
        self._most = most
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []

    def add(self, item: T) -> asyncio.Future[R]:
        """The future result of ``item``. Cancelling it doesn't stop the work."""
        return self._add(item, asyncio.get_running_loop().create_future())

    def add_unstoppable(self, item: T) -> Unstoppable[R]:
        """The future result of ``item``, which can't be cancelled."""
        return self._add(item, Unstoppable())

    def _add(self, item: T, future: F) -> F:
        self._waiting.append((item, future))
        if self._free:
            self._free -= 1
            future.get_loop().call_soon(self._begin)
        return future

    def _begin(self) -> None:
        group, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        if not group:
            self._free += 1
            return

        def ended(done: asyncio.Future[Sequence[R | Exception]]) -> None:
            self._begin()
            broken = done.exception()
            outcomes = done.result() if broken is None else [broken] * len(group)
            for (_, future), outcome in zip(group, outcomes, strict=True):
                _tell(future, outcome)

        items = [item for item, _ in group]
        running = asyncio.get_running_loop().run_in_executor(self._threads, self._work, items)
        running.add_done_callback(ended)


def _tell(future: asyncio.Future[R], outcome: R | BaseException) -> None:
    if future.done():  # cancelled by its caller
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
