"""The partial file: bytes are collected, then hashed and written in large pieces in a thread."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiofiles.threadpool import wrap

from batcher.disk import cannot_write
from batcher.download.writers import HashingFile
from batcher.errors import RunDirError
from batcher.media.file_types import HEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from batcher.download.writers import Writers

PIECE_BYTES: Final = 1 << 20
"""Bytes collected before a write: at 64 KiB, thread switches halve the throughput."""

T = TypeVar("T")


class PartialFile:
    """The received part of one download.

    ``size_bytes`` counts all of it, written or still in memory; ``head`` holds its first bytes. A file
    that fits one piece is written once, on :meth:`finish`. For a larger file, a piece is written
    while the next arrives. Every method raises RunDirError if a write fails.
    """

    def __init__(self, path: Path, writers: Writers) -> None:
        self.path = path
        self.size_bytes = 0
        self.head = b""
        self._writers = writers
        self._pieces: list[bytes] = []
        self._gathered_bytes = 0
        self._raw: HashingFile | None = None
        self._file: Any = None
        self._writing: asyncio.Task[None] | None = None

    async def add(self, chunk: bytes) -> None:
        """Append ``chunk``."""
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
        self.size_bytes += len(chunk)
        self._pieces.append(chunk)
        self._gathered_bytes += len(chunk)
        if self._gathered_bytes >= PIECE_BYTES:
            await self._write_piece()

    async def restart(self) -> None:
        """Drop everything: the next byte is the file's first."""
        self.size_bytes, self.head = 0, b""
        self._take_pieces()
        await self._written()
        if self._raw is not None:
            await self._settled(self._writers.run(self._raw.empty))

    async def finish(self) -> str:
        """Make the file durable and close it; returns its SHA-256 in hex."""
        if self._raw is None:
            return await self._settled(self._writers.store(self.path, self._take_pieces()))
        await self._write_piece()
        await self._written()
        sha256 = await self._settled(self._writers.run(self._raw.seal))
        self._raw = self._file = None
        return sha256

    async def look(self, into: Callable[[Path], T]) -> T:
        """Call ``into`` with the finished file, in a thread; returns its result."""
        return await self._settled(self._writers.run(partial(into, self.path)))

    async def abandon(self) -> None:
        """Close the file and remove it. Raises nothing; harmless if nothing was written."""
        try:
            with contextlib.suppress(RunDirError):
                await self._written()
        finally:
            try:
                with contextlib.suppress(RunDirError):
                    await self._close()
            finally:
                with contextlib.suppress(OSError):
                    self.path.unlink(missing_ok=True)

    def _take_pieces(self) -> list[bytes]:
        pieces, self._pieces, self._gathered_bytes = self._pieces, [], 0
        return pieces

    async def _write_piece(self) -> None:
        """Start writing the collected bytes; waits only for the previous piece."""
        await self._written()
        if self._raw is None:
            await self._settled(self._open())
        self._writing = asyncio.ensure_future(self._file.writelines(self._take_pieces()))

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await self._settled(writing)

    async def _open(self) -> None:
        self._raw = await self._writers.run(partial(HashingFile, self.path))
        self._file = wrap(self._raw, executor=self._writers.threads)

    async def _close(self) -> None:
        file, self._raw, self._file = self._file, None, None
        if file is not None:
            await self._settled(file.close())

    async def _settled(self, work: Awaitable[T]) -> T:
        """The outcome of ``work``; a cancelled caller still waits for it.

        A thread can't be cancelled: if the file were closed while it writes, its bytes could go to
        the file that is opened next. So a cancelled caller waits for the current piece.
        """
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            while not task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
            task.exception()  # retrieved, so that asyncio doesn't warn: the file is deleted anyway
            raise
        except OSError as error:
            raise cannot_write(self.path, error) from error
