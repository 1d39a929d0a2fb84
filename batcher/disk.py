"""The interface to the file system: all durable writes go through it.

Two classes, both small enough for a simulated disk to replace them. Blocking calls are plain functions;
the engine runs them off the event loop through :meth:`Disk.run`.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import stat
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar

from batcher.errors import LockedError, RunDirError
from batcher.thread_batches import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
_NO_SUCH_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of a directory's fsync if the file system doesn't support it (SMB, some FUSE). Harmless."""


class AppendFile(Protocol):
    """A file that only grows."""

    def write(self, data: bytes) -> None:
        """Append all of ``data``. After an OSError a part of it may be written: see ``truncate``."""
        ...

    def sync(self) -> None:
        """Make everything written so far durable."""
        ...

    def truncate(self, size_bytes: int) -> None:
        """Drop everything after the first ``size_bytes`` bytes."""
        ...

    def size_at_path(self) -> int | None:
        """Size in bytes of the file now at the *path*; None if that is no longer this file."""
        ...

    def moved_to(self) -> tuple[str, int] | None:
        """Where this file is, if its path no longer names it, and its size in bytes.

        None if it is still at its path, or has no name any more.
        """
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """The file system operations that the ledger and the run directory need."""

    async def run(self, function: Callable[[], T]) -> T:
        """Call ``function`` off the event loop, in the one thread reserved for durable writes."""
        ...

    def lock(self, path: Path, patience_s: float = 0.0) -> Callable[[], None]:
        """Take the lock at ``path``, within ``patience_s`` seconds, or raise LockedError.

        Returns a function that releases it.
        """
        ...

    def is_locked(self, path: Path, guard: Path) -> bool | None:
        """Whether a process holds the lock at ``path``; None if unknown.

        Writes nothing. Runs hold the lock at ``guard`` while they take this one: they aren't disturbed.
        """
        ...

    def open_append(self, path: Path) -> AppendFile: ...
    def open_read(self, path: Path) -> BinaryIO: ...
    def make_dirs(self, path: Path) -> None:
        """Make a directory and those above it; each new name is durable on return."""
        ...

    def size(self, path: Path) -> int | None:
        """Size in bytes, or None if there is no such file."""
        ...

    def device_and_inode(self, path: Path) -> tuple[int, int] | None:
        """The identity of a directory, which its copies don't share; None if it doesn't exist."""
        ...

    def write_whole(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
        """Write a file atomically and durably: temporary file, fsync, rename, directory fsync."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Rename within one file system, making ``target``'s folder if it is missing.

        Durable once both folders are synced.
        """
        ...

    def rename_obstacle(self, source: Path, target: Path) -> str | None:
        """Why files can't be moved atomically from one folder into another; None if they can.

        The folders may be on different file systems, or one may be a symbolic link.
        """
        ...

    def sync_dir(self, path: Path) -> bool:
        """Make the names in a directory durable; False if its file system doesn't support it."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file; one that is already gone is fine."""
        ...

    def list_dir(self, path: Path) -> list[str]:
        """Names in a directory, sorted; none if there is no such directory."""
        ...


class LocalAppendFile:
    """An append-only file descriptor on a local or shared file system."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link, and nothing is written through one")
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o666)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def sync(self) -> None:
        os.fsync(self._fd)

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._fd, size_bytes)

    def size_at_path(self) -> int | None:
        try:
            there, ours = self._path.stat(), os.fstat(self._fd)
        except FileNotFoundError:
            return None
        same = (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
        return there.st_size if same else None

    def moved_to(self) -> tuple[str, int] | None:
        ours = os.fstat(self._fd)
        if self.size_at_path() is not None or not ours.st_nlink:
            return None
        return _path_of(self._fd) or "another place", ours.st_size

    def close(self) -> None:
        os.close(self._fd)


class LocalDisk:
    """The real file system."""

    def __init__(self) -> None:
        self._thread = Threads(max_workers=1, thread_name_prefix="batcher-disk")

    async def run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def lock(self, path: Path, patience_s: float = 0.0) -> Callable[[], None]:
        from filelock import FileLock, Timeout

        held = FileLock(path, fallback_to_soft=False, thread_local=False)
        try:
            held.acquire(timeout=patience_s)
        except Timeout:
            raise LockedError(_held_by(path)) from None
        except OSError as error:
            raise cannot_write(path, error) from error
        _sign(path)
        return held.release

    def is_locked(self, path: Path, guard: Path) -> bool | None:
        try:
            with guard.open("rb") as beginning, path.open("rb") as lock:
                for file in (beginning, lock):
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        except OSError:
            return None
        return False

    def open_append(self, path: Path) -> AppendFile:
        return LocalAppendFile(path)

    def open_read(self, path: Path) -> BinaryIO:
        return open(path, "rb", opener=_open_regular)

    def make_dirs(self, path: Path) -> None:
        if path.is_dir():
            return
        self.make_dirs(path.parent)
        path.mkdir(exist_ok=True)
        self.sync_dir(path.parent)

    def size(self, path: Path) -> int | None:
        try:
            return path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def device_and_inode(self, path: Path) -> tuple[int, int] | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def write_whole(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self.sync_dir(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        try:
            source.replace(target)
        except FileNotFoundError:
            self.make_dirs(target.parent)
            source.replace(target)

    def rename_obstacle(self, source: Path, target: Path) -> str | None:
        for folder in (source.parent, source, target):
            if folder.is_symlink():
                return f"{folder} is a symbolic link, and nothing is written through one"
        here, there = (folder / f".{os.getpid()}.probe" for folder in (source, target))
        try:
            here.touch()
            here.replace(there)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return f"{target} is on another file system than {source}"
        finally:
            here.unlink(missing_ok=True)
            there.unlink(missing_ok=True)
        return None

    def sync_dir(self, path: Path) -> bool:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in _NO_SUCH_SYNC:
                raise
            return False
        finally:
            os.close(fd)
        return True

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def list_dir(self, path: Path) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []


def _sign(lock: Path) -> None:
    """Write the holder into the lock's file. Only for people to read, so a full disk is ignored."""
    with suppress(OSError):
        lock.write_text(f"{os.getpid()} {socket.gethostname()}\n")


def _held_by(lock: Path) -> str:
    """The holder of the run directory by its lock's file, and since when."""
    folder = lock.parent.parent if lock.parent.name == ".batcher" else lock.parent
    who = ""
    with suppress(OSError, ValueError):
        pid, host = lock.read_text().split()
        since = datetime.fromtimestamp(lock.stat().st_mtime, UTC)
        who = f" (pid {int(pid)} on {host:.255}, since {since:%Y-%m-%d %H:%M:%S} UTC)"
    return f"{folder}: another run holds this run directory{who}; run again when it has ended"


def _path_of(fd: int) -> str | None:
    """The present path of an open file; None if the system can't tell."""
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return None


def _open_regular(path: str, flags: int) -> int:
    """Opens a regular file only: opening or reading a pipe or a device may block for ever."""
    fd = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a file", path)
    return fd


def is_full(error: OSError) -> bool:
    """Whether ``error`` means that no space is left (disk, quota, or the file-size limit)."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translates each OSError of a block that writes at ``path`` to a RunDirError."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translates each OSError of a block that reads ``path`` to a RunDirError."""
    try:
        yield
    except OSError as error:
        raise RunDirError(f"{path}: can't read: {error.strerror or error}") from error


def cannot_write(path: Path, error: OSError) -> RunDirError:
    """``error`` as a RunDirError with a message for the user."""
    return RunDirError(f"{path}: can't write: {error.strerror or error}")
