"""A scripted HTTP server on loopback: each answer is bytes as they go over the wire, or a coroutine.

::

    async with ScriptedServer(json_answer({"request_id": "r1"})) as server:
        ...                                   # talk to server.url
        assert server.requests[0].method == "POST"

Steps answer the requests in the order in which they arrive; the last one answers all that follow.
A step is the raw answer, or ``async (request, peer) -> None`` for everything that misbehaves: see
``hang``, ``drop``, ``reset``, ``broken_off``.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from tests.support.connections import Connections


@dataclass(frozen=True)
class Request:
    """One request as it arrived. Header names are lower-case; ``connection`` counts from 0."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Peer:
    """The server's end of one connection, for steps that misbehave."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    connection: int

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with suppress(ConnectionError):
            await self.writer.drain()

    def close(self) -> None:
        """An orderly end (FIN)."""
        self.writer.close()

    def reset(self) -> None:
        """A disorderly end (RST)."""
        linger_0_s = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_0_s)
        self.writer.transport.abort()


Step = bytes | Callable[[Request, Peer], Awaitable[None]]
Welcome = Callable[[Peer], Awaitable[bool]]


def answer(status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """A whole, well-formed answer."""
    lines = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    named = {"Content-Type": "application/json", **(headers or {})}
    return answer(status, json.dumps(value).encode(), named)


async def hang(request: Request, peer: Peer) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def drop(request: Request, peer: Peer) -> None:
    """Close without a word."""
    peer.close()


async def reset(request: Request, peer: Peer) -> None:
    """Reset the connection without a word."""
    peer.reset()


def broken_off(beginning: bytes) -> Step:
    """Send ``beginning`` and close."""

    async def step(request: Request, peer: Peer) -> None:
        await peer.send(beginning)
        peer.close()

    return step


def stalled(beginning: bytes) -> Step:
    """Send ``beginning`` and then nothing more, with the connection left open."""

    async def step(request: Request, peer: Peer) -> None:
        await peer.send(beginning)
        await asyncio.Event().wait()

    return step


class ScriptedServer:
    """The server. ``welcome`` is called for each new connection; False ends it before any request."""

    def __init__(self, *steps: Step, welcome: Welcome | None = None) -> None:
        self.steps: list[Step] = list(steps)
        self.welcome = welcome
        self.requests: list[Request] = []
        self.connections = 0
        self.port = 0
        self._connections = Connections(self._serve)

    async def __aenter__(self) -> Self:
        self.port = await self._connections.listen(self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connections.close()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The base URL for the API."""
        return f"{self.origin}/v1"

    @property
    def posts(self) -> list[Request]:
        return [request for request in self.requests if request.method == "POST"]

    def then(self, *steps: Step) -> None:
        """Forget the script and go on with this one."""
        self.steps = list(steps)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, self.connections)
        self.connections += 1
        try:
            if self.welcome is not None and not await self.welcome(peer):
                return
            while not peer.writer.is_closing():
                request = await _read(peer)
                self.requests.append(request)
                await self._answer(request, peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            peer.writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await peer.writer.wait_closed()

    async def _answer(self, request: Request, peer: Peer) -> None:
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if not isinstance(step, bytes):
            await step(request, peer)
            return
        await peer.send(step)
        if b"connection: close" in step.partition(b"\r\n\r\n")[0].lower():
            peer.close()


async def _read(peer: Peer) -> Request:
    head = (await peer.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    chunked = headers.get("transfer-encoding", "").lower() == "chunked"
    size_bytes = int(headers.get("content-length", 0))
    body = await _chunks(peer) if chunked else await peer.reader.readexactly(size_bytes)
    return Request(method, target, headers, body, peer.connection)


async def _chunks(peer: Peer) -> bytes:
    body = b""
    while size_bytes := int(await peer.reader.readuntil(b"\r\n"), 16):
        body += (await peer.reader.readexactly(size_bytes + 2))[:-2]
    await peer.reader.readuntil(b"\r\n")
    return body
