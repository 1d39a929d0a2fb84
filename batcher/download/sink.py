"""Writes downloads to partial files in threads: small files whole and in groups, large ones in pieces.

An fsync costs less right after others. So small files are collected while the threads are busy, as
ledger lines are: a group is written, the system starts writing it to disk, then each file is fsynced.
The bytes of a large file are collected, then hashed and written in large pieces in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from aiofiles.threadpool import wrap

from batcher.disk import cannot_write
from batcher.errors import RunDirError
from batcher.media.file_types import HEAD_BYTES
from batcher.thread_batches import Groups, Unstoppable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

GROUPS_AT_ONCE: Final = 2
GROUP_FILES: Final = 32
PIECES_PER_WRITE: Final = 512
"""At most IOV_MAX, which is 1,024 on Linux and macOS, and at least 16 (POSIX)."""
PIECE_BYTES: Final = 1 << 20
"""Bytes collected before a write: at 64 KiB, thread switches halve the throughput."""

T = TypeVar("T")


class HashingFile(io.FileIO):
    """A new file, and the SHA-256 of what was written to it by ``writelines``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w")
        self._hash = hashlib.sha256()

    def writelines(self, pieces: Iterable[Any]) -> None:
        """Append ``pieces`` in as few writes as possible, and hash them."""
        pieces = list(pieces)
        for piece in pieces:
            self._hash.update(piece)
        for first in range(0, len(pieces), PIECES_PER_WRITE):
            self._write_all(pieces[first : first + PIECES_PER_WRITE])

    def _write_all(self, pieces: list[Any]) -> None:
        written = os.writev(self.fileno(), pieces)
        if written < sum(map(len, pieces)):  # a full disk, or more than one write takes
            rest = memoryview(b"".join(pieces))[written:]
            while rest:
                rest = rest[os.write(self.fileno(), rest) :]

    def empty(self) -> None:
        """Discard the content."""
        self.seek(0)
        self.truncate()
        self._hash = hashlib.sha256()

    def begin_sync(self) -> None:
        """Ask the system to start writing to disk; does not wait."""
        with suppress(AttributeError, OSError):  # a hint: not every system supports it
            os.posix_fadvise(self.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def seal(self) -> str:
        """Make it durable and close it; returns the SHA-256 in hex."""
        os.fsync(self.fileno())
        self.close()
        return self._hash.hexdigest()


class Small(NamedTuple):
    """A file whose bytes have all arrived."""

    path: Path
    pieces: Sequence[bytes]


class Writers:
    """The threads of one downloader, and the small files waiting for them."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.threads = threads
        self._small = Groups(store_group, threads, at_once=GROUPS_AT_ONCE, most=GROUP_FILES)

    def run(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Call ``function`` in one of the threads."""
        return asyncio.get_running_loop().run_in_executor(self.threads, function)

    def store(self, path: Path, pieces: Sequence[bytes]) -> Unstoppable[str]:
        """Write a whole file and make it durable; the future has its SHA-256 in hex.

        The future fails with an OSError if a write fails. A cancelled caller still waits for it,
        because the thread is still writing.
        """
        return self._small.add_unstoppable(Small(path, pieces))


def store_group(group: Sequence[Small]) -> list[str | OSError]:
    """Write whole files; returns for each its SHA-256 in hex, or why the write failed."""
    written = [_written(small) for small in group]
    return [_sealed(file) if isinstance(file, HashingFile) else file for file in written]


def _written(small: Small) -> HashingFile | OSError:
    try:
        file = HashingFile(small.path)
    except OSError as error:
        return error
    try:
        file.writelines(small.pieces)
        file.begin_sync()
    except OSError as error:
        return _closed(file, error)
    return file


def _sealed(file: HashingFile) -> str | OSError:
    try:
        return file.seal()
    except OSError as error:
        return _closed(file, error)


def _closed(file: HashingFile, error: OSError) -> OSError:
    """Close a file after a failed write."""
    with suppress(OSError):
        file.close()
    return error


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

    @property
    def is_in_memory(self) -> bool:
        """Whether nothing is written yet: :meth:`finish` writes it with other small files."""
        return self._raw is None

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
            try:
                return await self._writers.store(self.path, self._take_pieces())
            except OSError as error:
                raise cannot_write(self.path, error) from error
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
