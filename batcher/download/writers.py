"""The threads that write: small files whole and in groups, large ones piece by piece.

An fsync costs less right after others. So small files are collected while the threads are busy, as
ledger lines are: a group is written, the system starts writing it to disk, then each file is fsynced.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from batcher.thread_batches import Groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

GROUPS_AT_ONCE: Final = 2
GROUP_FILES: Final = 32
PIECES_PER_WRITE: Final = 512
"""At most IOV_MAX, which is 1,024 on Linux and macOS, and at least 16 (POSIX)."""
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

    def store(self, path: Path, pieces: Sequence[bytes]) -> asyncio.Future[str]:
        """Write a whole file and make it durable; the future has its SHA-256 in hex.

        The future fails with an OSError if a write fails. A cancelled caller must still await the
        future: the thread is still writing.
        """
        return self._small.add(Small(path, pieces))


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
