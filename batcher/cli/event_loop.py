"""The event loop that commands run in: threads that nobody waits for, uvloop if ``speed`` is there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from batcher.thread_batches import Threads

DEFAULT_THREADS = 32
T = TypeVar("T")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes uvloop's event loop; None, the standard one, where there is none."""
    try:
        import uvloop
    except ImportError:
        return None

    class FastLoop(uvloop.Loop):  # type: ignore[misc, unused-ignore]
        """Looks names up in our own threads, which don't hold up the end of the process."""

        async def getaddrinfo(self, host: Any, port: Any, **hints: int) -> Any:
            def look_up() -> Any:
                return socket.getaddrinfo(host, port, **hints)

            return await self.run_in_executor(None, look_up)

    return FastLoop


class HastyThreads(Threads):
    """An event loop's helpers that nobody waits for: a name that is being looked up takes its time."""

    def __init__(self) -> None:
        super().__init__(DEFAULT_THREADS, thread_name_prefix="batcher-helper")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


def run_loop(work: Coroutine[Any, Any, T], loop: LoopFactory | None = None) -> T:
    """``asyncio.run``, also where threads can't be had: its own end starts one."""

    async def with_threads() -> T:
        asyncio.get_running_loop().set_default_executor(HastyThreads())
        return await work

    runner = asyncio.Runner(loop_factory=loop)
    try:
        return runner.run(with_threads())
    finally:
        with suppress(RuntimeError):
            runner.close()
