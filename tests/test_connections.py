"""The end of a test's server closes each of its connections, at whatever moment it comes."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest

from tests.support.connections import Connections


@pytest.mark.parametrize("turns", range(8))
def test_no_connection_outlives_its_server(turns: int, recwarn: pytest.WarningsRecorder) -> None:
    """In these turns of the loop a connection is accepted, made, given a task, and served."""
    clients = [socket.socket() for _ in range(3)]

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        server = Connections(hold)
        port = await server.listen()
        for client in clients:
            client.connect(("127.0.0.1", port))
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.close()

    asyncio.run(scenario())
    gc.collect()
    for client in clients:
        client.settimeout(10)
        assert not _received(client)
        client.close()
    assert [str(one.message) for one in recwarn] == []


def _received(client: socket.socket) -> bytes:
    try:
        return client.recv(1)
    except ConnectionResetError:
        return b""
