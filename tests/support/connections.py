"""A server of a test's own on loopback, whose end closes every connection that it has accepted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Connections:
    """Runs ``serve`` as a task for each connection, from ``listen`` to ``close``.

    ``asyncio.start_server`` loses a connection that it has accepted if it is closed in the next two turns
    of the loop, and cancelled in the third its handler never reaches a ``finally``.
    """

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    async def listen(self, port: int = 0) -> int:
        """Begin (again), and return the port."""
        self._listener = listener = socket.create_server(("127.0.0.1", port), backlog=128)
        listener.setblocking(False)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)
        return int(listener.getsockname()[1])

    async def close(self) -> None:
        """Accept no more connections, and break off those that there are."""
        if self._listener is None:
            return
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        self._listener = None
        await asyncio.sleep(0)  # every task takes its first step, and so will close what it holds
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports close in a turn of their own

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.setblocking(False)
        task = asyncio.ensure_future(self._run(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            await self._serve(reader, writer)
        finally:
            writer.close()
