"""A media server on loopback that does what it is told, and a clock that jumps.

::

    async with MediaServer(Reply(503), RangedFile(PNG)) as server:
        ...                                         # fetch server.url
        assert server.requests[1].headers["range"] == "bytes=10-"

Replies answer the requests in order of arrival; the last one answers all that follow. A reply is a
:class:`Reply`, or a function from a request to one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from tests.support.connections import Connections

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
MP4 = b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 8


class JumpingClock:
    """Time that passes only by sleeping, and then at once."""

    pauses = 0

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self.sleeps_s: list[float] = []

    def now(self) -> datetime:
        return datetime(2026, 1, 31, tzinfo=UTC) + timedelta(seconds=self.elapsed_s)

    def monotonic(self) -> float:
        return self.elapsed_s

    async def sleep(self, delay_s: float) -> None:
        self.sleeps_s.append(delay_s)
        self.elapsed_s += delay_s
        await asyncio.sleep(0)


@dataclass(frozen=True)
class Request:
    """One request as it arrived; header names are lower-case, ``port`` is the client's."""

    method: str
    target: str
    headers: dict[str, str]
    port: int


@dataclass(frozen=True)
class Reply:
    """What to answer.

    ``cut`` closes the connection after so many bytes of the body. ``length`` is the Content-Length to
    claim: the body's own by default, none if negative (the body then ends with the connection).
    ``chunks`` sends the body in chunks of so many bytes; ``endless`` sends it over and over;
    ``hang`` sends no end.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    length: int | None = None
    chunks: int = 0
    endless: bool = False
    hang: bool = False

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Told So"]
        if self.chunks:
            lines.append("Transfer-Encoding: chunked")
        elif self.length is None or self.length >= 0:
            lines.append(f"Content-Length: {len(self.body) if self.length is None else self.length}")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def ends_connection(self) -> bool:
        return self.cut is not None or self.length is not None


class RangedFile:
    """A file served by the book (RFC 9110 sections 13.1.5, 14), cut off at each of ``cuts`` in turn.

    ``cuts`` are bytes of each answer's body. ``validators`` are the headers that go with the file.
    """

    def __init__(
        self, body: bytes, *, cuts: Iterable[int] = (), validators: dict[str, str] | None = None
    ) -> None:
        self.body = body
        self._cuts = list(cuts)
        self._validators = {"ETag": '"v1"'} if validators is None else validators

    def __call__(self, request: Request) -> Reply:
        cut = self._cuts.pop(0) if self._cuts else None
        wanted = request.headers.get("range")
        if wanted is None or request.headers.get("if-range") not in self._validators.values():
            return Reply(200, self.body, self._validators, cut=cut)
        first = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if first >= len(self.body):
            return Reply(416, headers={"Content-Range": f"bytes */{len(self.body)}"})
        extent = f"bytes {first}-{len(self.body) - 1}/{len(self.body)}"
        return Reply(206, self.body[first:], {**self._validators, "Content-Range": extent}, cut=cut)


Step = Reply | Callable[[Request], Reply]


class MediaServer:
    """See the module. ``most_at_once`` is the largest number of requests that were being answered."""

    def __init__(self, *replies: Step, cut_pause_s: float = 0.01) -> None:
        self._replies = list(replies)
        self._cut_pause_s = cut_pause_s
        self.requests: list[Request] = []
        self.at_once = self.most_at_once = 0
        self._connections = Connections(self._connected)

    async def __aenter__(self) -> Self:
        self.port = await self._connections.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def end(self) -> None:
        """Answer nobody from now on."""
        await self._connections.close()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/cat.png"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._serve(reader, writer):
                pass

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await _read(reader, writer)
        self.requests.append(request)
        step = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            reply = step if isinstance(step, Reply) else step(request)
            await self._answer(reply, writer)
        finally:
            self.at_once -= 1
        if reply.ends_connection():
            await asyncio.sleep(self._cut_pause_s)
            return False
        return True

    async def _answer(self, reply: Reply, writer: asyncio.StreamWriter) -> None:
        writer.write(reply.head())
        body = reply.body[: reply.cut]
        while reply.endless:
            writer.write(body)
            await writer.drain()
        if reply.chunks:
            pieces = [body[i : i + reply.chunks] for i in range(0, len(body), reply.chunks)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            body += b"" if reply.cut is not None else b"0\r\n\r\n"
        writer.write(body)
        await writer.drain()
        if reply.hang:
            await asyncio.Event().wait()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Request(method, target, headers, writer.get_extra_info("peername")[1])
