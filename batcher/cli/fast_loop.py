"""The event loop of the extra ``speed``, where it is installed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any


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
