"""The event loop of commands: threads that don't delay the exit, uvloop if ``speed`` is installed."""

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
    """The factory of uvloop's event loop; None (the standard loop) if it isn't installed."""
    try:
        import uvloop
    except ImportError:
        return None

    class FastLoop(uvloop.Loop):  # type: ignore[misc, unused-ignore]
        """Resolves host names in our own threads, which don't delay the end of the process."""

        async def getaddrinfo(self, host: Any, port: Any, **hints: int) -> Any:
            def look_up() -> Any:
                return socket.getaddrinfo(host, port, **hints)

            return await self.run_in_executor(None, look_up)

    return FastLoop


class HastyThreads(Threads):
    """An event loop's executor that is not waited for at exit, because a DNS lookup may be slow."""

    def __init__(self) -> None:
        super().__init__(DEFAULT_THREADS, thread_name_prefix="batcher-helper")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


def run_loop(work: Coroutine[Any, Any, T], loop: LoopFactory | None = None) -> T:
    """``asyncio.run``, even if no thread can start: its own shutdown would start one."""

    async def with_threads() -> T:
        asyncio.get_running_loop().set_default_executor(HastyThreads())
        return await work

    runner = asyncio.Runner(loop_factory=loop)
    try:
        return runner.run(with_threads())
    finally:
        with suppress(RuntimeError):
            runner.close()
