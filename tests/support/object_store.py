"""A real S3 on loopback (moto's server, in a process of its own) and a proxy in front of it that misbehaves.

::

    with moto_server() as url:
        async with FaultyProxy(url) as proxy:
            proxy.plan(Fault("reset", "PUT", part=2, after_bytes=100_000))
            ...                                   # talk to proxy.url
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import parse_qs, urlsplit

from batcher.store.objects.interface import StoreRetries
from tests.support.connections import Connections

SECRET = "SECRETSECRETSECRET"
QUICK = StoreRetries(
    retries=3,
    retry_s=60.0,
    backoff_s=0.01,
    max_backoff_s=0.05,
    connect_s=1.0,
    request_s=30.0,
    cancel_s=1.0,
)
STARTED = "listening on "
CHUNK_BYTES = 64 * 1024
DRIPPED_BYTES = 200
PAGE_KEYS = 10
"""Keys that moto lists in one answer: S3 gives 1000."""
ERROR = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>{}</Message></Error>"
# Werkzeug logs each request to stderr; nobody here wants to read that.
SERVER = f"""
import logging, threading
logging.getLogger("werkzeug").setLevel(logging.ERROR)
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
print(f"{STARTED}http://{{host}}:{{port}}", flush=True)
threading.Event().wait()
"""


@contextmanager
def moto_server() -> Iterator[str]:
    """A server of its own, ended with the block; yields its URL."""
    environment = os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE_KEYS)}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        line = next((line for line in process.stdout if line.startswith(STARTED)), "")
        assert line, "moto's server did not start"
        yield line.removeprefix(STARTED).strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@dataclass
class Request:
    """The head of one request as it came past."""

    method: str
    target: str
    head: bytes

    @property
    def part(self) -> int | None:
        number = parse_qs(urlsplit(self.target).query).get("partNumber")
        return int(number[0]) if number else None

    @property
    def length_bytes(self) -> int:
        return int(self.header("content-length") or 0)

    def header(self, name: str) -> str:
        for line in self.head.decode().split("\r\n"):
            if line.lower().startswith(f"{name}:"):
                return line.partition(":")[2].strip()
        return ""


@dataclass
class Fault:
    """What happens to the first ``times`` requests that match; ``after_bytes`` of a body have gone by.

    ``reset``: the connection breaks in the request's body. ``hold``: nothing moves any more. ``corrupt``: a
    bit of the body flips. ``slow_down``, ``refuse``: an answer of the proxy's own. ``swallow``: it says
    that all is well, but the store gets nothing. ``drop_answer``,
    ``cut_answer``, ``drip``: the store did it, but its answer does not arrive, not whole, or in bytes.
    """

    kind: Literal[
        "reset", "hold", "corrupt", "slow_down", "refuse", "drop_answer", "cut_answer", "drip", "swallow"
    ]
    on: str
    part: int | None = None
    query: str = ""
    times: int = 1
    after_bytes: int = 0
    code: str = "AccessDenied"
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def takes(self, request: Request) -> bool:
        return (
            self.times > 0
            and request.method == self.on
            and self.query in urlsplit(request.target).query
            and (self.part is None or self.part == request.part)
        )


class Broken(Exception):
    """The connection to the client is to break, now."""


class FaultyProxy:
    """Passes each request on, over a connection of its own, except where a fault says otherwise.

    It also does what S3 does and moto does not: a body that is not the one whose hash was signed is refused.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._faults: list[Fault] = []
        self._connections = Connections(self._serve)
        self.requests: list[Request] = []

    async def __aenter__(self) -> Self:
        self.url = f"http://127.0.0.1:{await self._connections.listen()}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def die(self) -> None:
        """From now on nobody answers, and what was under way breaks off."""
        await self._connections.close()

    async def resume(self) -> None:
        """Answer again, at the same port."""
        await self._connections.listen(urlsplit(self.url).port or 0)

    def plan(self, *faults: Fault) -> None:
        self._faults = list(faults)

    def seen(self, method: str, query: str = "") -> list[Request]:
        return [
            request
            for request in self.requests
            if request.method == method and query in urlsplit(request.target).query
        ]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
                writer.close()
                await writer.wait_closed()
        except Broken:
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        request = Request(method, target, head)
        self.requests.append(request)
        fault = next((fault for fault in self._faults if fault.takes(request)), None)
        if fault is not None:
            fault.times -= 1
            fault.reached.set()
        if request.header("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self._body(request, fault, reader)
        refusal = _refusal(request, body, fault)
        answer = refusal or await self._passed_on(request, body)
        await _send(answer, fault, writer)

    async def _body(self, request: Request, fault: Fault | None, reader: asyncio.StreamReader) -> bytes:
        body = bytearray()
        while len(body) < request.length_bytes or (fault is not None and fault.kind == "hold"):
            if fault is not None and len(body) >= fault.after_bytes:
                if fault.kind == "reset":
                    raise Broken
                if fault.kind == "hold":
                    await asyncio.Event().wait()
            data = await reader.read(min(request.length_bytes - len(body), CHUNK_BYTES))
            if not data:
                raise Broken
            body += data
        if fault is not None and fault.kind == "corrupt":
            body[len(body) // 2] ^= 1
        return bytes(body)

    async def _passed_on(self, request: Request, body: bytes) -> bytes:
        assert self._upstream.hostname is not None
        reader, writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        try:
            writer.write(request.head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + body)
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()


def _refusal(request: Request, body: bytes, fault: Fault | None) -> bytes:
    signed = request.header("x-amz-content-sha256")
    if len(signed) == 64 and hashlib.sha256(body).hexdigest() != signed:
        return _error("400 Bad Request", "XAmzContentSHA256Mismatch")
    if fault is not None and fault.kind == "slow_down":
        return _error("503 Slow Down", "SlowDown")
    if fault is not None and fault.kind == "refuse":
        return _error("403 Forbidden", fault.code)
    if fault is not None and fault.kind == "swallow":
        return b'HTTP/1.1 200 OK\r\nETag: "0"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n'
    return b""


def _error(status: str, code: str) -> bytes:
    """As S3 words it: a refused signature is answered with the key and what was signed."""
    body = ERROR.format(code, "AWSAccessKeyId AKIATESTKEY StringToSign").encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _send(answer: bytes, fault: Fault | None, writer: asyncio.StreamWriter) -> None:
    if fault is not None and fault.kind == "drop_answer":
        raise Broken
    if fault is not None and fault.kind == "cut_answer":
        writer.write(answer[: len(answer) // 2])
        await writer.drain()
        raise Broken
    if fault is not None and fault.kind == "drip":
        for sign in answer[:DRIPPED_BYTES]:
            writer.write(bytes([sign]))
            await writer.drain()
            await asyncio.sleep(0)
        answer = answer[DRIPPED_BYTES:]
    writer.write(answer)
    await writer.drain()
