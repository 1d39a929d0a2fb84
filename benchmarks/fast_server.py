"""A Model API that costs next to nothing, in a process of its own: what is measured is the client.

It keeps nothing: any POST is accepted, any request has finished, and its output is made from its name.
Answers to ``POST /v1/models/...``, ``GET /v1/requests/ID/result`` and ``GET /media/BYTES/NAME.png``; all
else is an error, the catalogue's calls too: the model that is used is built in. On uvloop where that is installed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

REQUEST_MAX_BYTES = 1 << 20
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
SIDE = 8


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG_HEADER = PNG_MAGIC + chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0))
PIXELS = b"".join(b"\0" + bytes(range(row, row + 3 * SIDE)) for row in range(SIDE))
PNG_END = chunk(b"IDAT", zlib.compress(PIXELS)) + chunk(b"IEND", b"")
CHUNK_FRAME_BYTES = 12
NAME_BYTES = 32


class Pictures:
    """PNG files of any size, each with its own name in it; what they share is made once."""

    def __init__(self) -> None:
        self._fillings: dict[int, bytes] = {}

    def parts(self, name: bytes, size_bytes: int) -> tuple[bytes, bytes]:
        """A file of ``size_bytes`` bytes: a short head of its own, and the rest."""
        head = PNG_HEADER + chunk(b"tEXt", b"n\0" + name[:NAME_BYTES].ljust(NAME_BYTES))
        if size_bytes not in self._fillings:
            left = size_bytes - len(head) - len(PNG_END) - CHUNK_FRAME_BYTES
            self._fillings[size_bytes] = chunk(b"tEXt", b"f\0" + b"." * (left - 2)) + PNG_END
        return head, self._fillings[size_bytes]


class Answers(asyncio.Protocol):
    """One connection: requests one after another, each answered at once."""

    numbers = itertools.count(1)
    pictures = Pictures()
    base = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._out = cast("asyncio.Transport", transport)
        self._in = b""

    def data_received(self, data: bytes) -> None:
        self._in += data
        while (end := self._in.find(b"\r\n\r\n")) >= 0:
            head = self._in[:end].lower()
            _, found, length = head.partition(b"\r\ncontent-length:")
            size = int(length.partition(b"\r\n")[0]) if found else 0
            if len(self._in) < end + 4 + size:
                break
            line = self._in[: self._in.index(b"\r\n")]
            self._in = self._in[end + 4 + size :]
            self._answer(line)
        if len(self._in) > REQUEST_MAX_BYTES:
            self._out.abort()

    def _answer(self, line: bytes) -> None:
        method, target, _ = line.split(b" ", 2)
        parts = target.partition(b"?")[0].split(b"/")[1:]
        if method == b"POST":
            self._json(b'{"request_id":"r%x-%d"}' % (os.getpid(), next(self.numbers)))
        elif parts[:2] == [b"v1", b"requests"]:
            url = b"%s/media/%s/%s.png" % (self.base, self.size, parts[2])
            self._json(
                b'{"request_id":"%s","status":"completed","output":{"image":"%s"}}' % (parts[2], url)
            )
        elif parts[0] == b"media":
            head, rest = self.pictures.parts(parts[2], int(parts[1]))
            self._head(b"200 OK", b"image/png", len(head) + len(rest), head)
            self._out.write(rest)
        else:
            self._head(b"500 Nope", b"application/json", 2, b"{}")

    size = b"1024"

    def _json(self, body: bytes) -> None:
        self._head(b"200 OK", b"application/json", len(body), body)

    def _head(self, status: bytes, media_type: bytes, length: int, body: bytes) -> None:
        self._out.write(
            b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
            % (status, media_type, length, body)
        )


async def serve(size: int) -> None:
    """Serve on a free port of loopback until killed; says on stdout which."""
    Answers.size = b"%d" % size
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    Answers.base = b"http://127.0.0.1:%d" % port
    print(port, flush=True)
    async with server:
        await server.serve_forever()


@contextmanager
def served(size: int = 1024) -> Iterator[str]:
    """A server whose outputs have ``size`` bytes; gives its origin."""
    command = [sys.executable, str(Path(__file__).resolve()), str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def main() -> None:
    """Serve outputs of as many bytes as the first argument says."""
    run = asyncio.run
    try:
        import uvloop
    except ImportError:
        pass
    else:
        run = uvloop.run
    run(serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
