"""The file under way: bytes are gathered, hashed and written in large pieces, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiofiles

from batcher.disk import cannot_write
from batcher.download.media import HEAD_BYTES
from batcher.errors import RunDirError

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from concurrent.futures import Executor
    from pathlib import Path

PIECE_BYTES: Final = 1 << 20
"""Bytes gathered before a write: at 64 KiB the hops between threads halve the throughput."""

T = TypeVar("T")


class PartialFile:
    """What has arrived of one download.

    ``size_bytes`` counts all of it, written or still in memory; ``head`` holds its first bytes. A file
    that fits one piece touches the disk once, on :meth:`finish`: open, write, fsync and close in a
    single hop. Every method raises RunDirError where the disk refuses.
    """

    def __init__(self, path: Path, threads: Executor) -> None:
        self.path = path
        self.size_bytes = 0
        self.head = b""
        self._threads = threads
        self._piece = bytearray()
        self._hash = hashlib.sha256()
        self._file: Any = None

    async def add(self, chunk: bytes) -> None:
        """Append ``chunk``."""
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
        self.size_bytes += len(chunk)
        self._piece += chunk
        if len(self._piece) >= PIECE_BYTES:
            await self._write_piece()

    async def restart(self) -> None:
        """Forget everything: the next byte is the file's first."""
        self.size_bytes, self.head = 0, b""
        self._piece = bytearray()
        self._hash = hashlib.sha256()
        if self._file is not None:
            await self._settled(self._truncate())

    async def finish(self) -> str:
        """Make the file durable and close it; returns its SHA-256 in hex."""
        if self._file is None:
            await self._settled(self._off_loop(self._write_whole))
        else:
            await self._write_piece()
            await self._settled(self._file.flush())
            await self._settled(self._off_loop(os.fsync, self._file.fileno()))
            await self._close()
        return self._hash.hexdigest()

    async def abandon(self) -> None:
        """Close the file and remove it. Raises nothing; harmless where nothing was written."""
        try:
            with contextlib.suppress(RunDirError):
                await self._close()
        finally:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    async def _write_piece(self) -> None:
        piece, self._piece = self._piece, bytearray()
        if self._file is None:
            await self._settled(self._open())
        # Both release the GIL, so hash and disk work side by side.
        hashing = self._off_loop(self._hash.update, piece)
        await self._settled(asyncio.gather(self._file.write(piece), hashing))

    async def _open(self) -> None:
        self._file = await aiofiles.open(self.path, "wb", executor=self._threads)

    async def _truncate(self) -> None:
        await self._file.seek(0)
        await self._file.truncate()

    async def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            await self._settled(file.close())

    def _write_whole(self) -> None:
        self._hash.update(self._piece)
        with self.path.open("wb", buffering=0) as file:
            view = memoryview(self._piece)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())

    def _off_loop(self, function: Any, *args: Any) -> Awaitable[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def _settled(self, work: Awaitable[T]) -> T:
        """The outcome of ``work``, which a cancellation can't leave running behind our back.

        A thread can't be cancelled: closing the file beneath it could send its bytes into whatever
        file is opened next. So a cancelled caller waits for the piece at hand, then goes.
        """
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            while not task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
            task.exception()  # looked at, so that asyncio doesn't complain: the file goes anyway
            raise
        except OSError as error:
            raise cannot_write(self.path, error) from error
