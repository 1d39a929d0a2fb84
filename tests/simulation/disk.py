"""A disk that keeps what was fsynced and, of the rest, only what a crash may leave.

Of a file: its content at the last fsync, and behind it any prefix of what followed, zeros or garbage. Of
a folder: its names at the last fsync or its names now, each folder for itself; but a file that is renamed
has one of its two names.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from random import Random
from typing import BinaryIO, Self, TypeVar, cast

from batcher.errors import LockedError

from .world import Dead, World

T = TypeVar("T")
SYNC_MAX_S = 0.02
SECTOR_BYTES = 16
"""Storage loses sectors, never single bytes; small ones here, so that several fit into a group."""
SPOILT = bytes(range(0x80, 0x100)) + b"\0" * 64


class Inode:
    """A file without its names: what reads see, and what is surely on the platter."""

    __slots__ = ("data", "durable")

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = b""


class LiveFile:
    """A file open for reading: it sees what is appended later on."""

    def __init__(self, inode: Inode) -> None:
        self._inode = inode
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        end = len(self._inode.data) if size < 0 else self._at + size
        data = bytes(self._inode.data[self._at : end])
        self._at += len(data)
        return data

    def readline(self) -> bytes:
        end = self._inode.data.find(b"\n", self._at) + 1
        return self.read((end or len(self._inode.data)) - self._at)

    def seek(self, offset: int) -> int:
        self._at = offset
        return offset

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class SimAppendFile:
    """See :class:`batcher.disk.AppendFile`."""

    def __init__(self, disk: SimDisk, path: Path, inode: Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode

    def write(self, data: bytes) -> None:
        self._disk.append(self._inode, data, f"write {self._path.name} {len(data)}")

    def sync(self) -> None:
        self._disk.sync(self._inode, f"fsync {self._path.name}")

    def truncate(self, size_bytes: int) -> None:
        self._disk.world.step(f"truncate {self._path.name} {size_bytes}")
        del self._inode.data[size_bytes:]

    def size_at_path(self) -> int | None:
        same = self._disk.names.get(self._path) is self._inode
        return len(self._inode.data) if same else None

    def moved_to(self) -> tuple[str, int] | None:
        return None

    def close(self) -> None:
        pass


class SimDisk:
    """See :class:`batcher.disk.Disk`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.names: dict[PurePath, Inode] = {}
        self.durable_names: dict[PurePath, Inode] = {}
        self.was: dict[PurePath, Inode] = {}
        self.unclaimed: set[str] = set()
        self.room_bytes: int | None = None
        self.fsyncs_until_error: int | None = None
        self.errors = 0
        self.tampered: set[str] = set()
        self.inode = 1
        """Of the run directory."""
        self._rng = world.rng("disk")
        self._locks: set[Path] = set()
        self._idle_at_s = 0.0

    async def run(self, function: Callable[[], T]) -> T:
        """One thread: what is asked for waits for what was asked before."""
        if self.world.dead:
            raise Dead
        self._idle_at_s = max(self._idle_at_s, self.world.now_s()) + self._rng.uniform(0.0, SYNC_MAX_S)
        await asyncio.sleep(self._idle_at_s - self.world.now_s())
        if self.world.dead:
            raise Dead
        return function()

    def lock(self, path: Path, patience_s: float = 0.0) -> Callable[[], None]:
        if path in self._locks:
            raise LockedError(str(path))
        self._locks.add(path)
        return lambda: self._locks.discard(path)

    def open_append(self, path: Path) -> SimAppendFile:
        return SimAppendFile(self, path, self._inode(path))

    def open_read(self, path: Path) -> BinaryIO:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return cast("BinaryIO", LiveFile(self.names[path]))

    def is_locked(self, path: Path, guard: Path) -> bool:
        return path in self._locks

    def device_and_inode(self, path: Path) -> tuple[int, int]:
        return 1, self.inode

    def make_dirs(self, path: Path) -> None:
        self.world.step(f"mkdir {path.name}")

    def size(self, path: Path) -> int | None:
        inode = self.names.get(path)
        return len(inode.data) if inode is not None else None

    def write_whole(self, path: Path, chunks: Iterable[bytes | memoryview]) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        inode = self._inode(temporary, fresh=True)
        try:
            for chunk in chunks:
                self.append(inode, chunk, f"write {path.name} whole")
            self.sync(inode, f"fsync {path.name} whole")
        except OSError:
            if not self.world.dead:
                self.names.pop(temporary, None)
            raise
        self.rename(temporary, path)
        self.sync_dir(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        self.world.step(f"rename {source.name} to {target.parent.name}/{target.name}")
        if source not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(source))
        self.names[target] = self.names.pop(source)

    def rename_obstacle(self, source: Path, target: Path) -> str | None:
        return None

    def sync_dir(self, path: Path) -> bool:
        self.world.step(f"fsync folder {path.name}")
        self._settle(path)
        return True

    def remove(self, path: Path) -> None:
        self.world.step(f"remove {path.name}")
        self.names.pop(path, None)

    def list_dir(self, path: Path) -> list[str]:
        return sorted(name.name for name in self.names if name.parent == path)

    def append(self, inode: Inode, data: bytes, what: str) -> None:
        """Add ``data``; who dies in the middle of it leaves a part."""
        try:
            self.world.step(what)
        except Dead:
            if self.world.steps == self.world.crash_at:
                inode.data += data[: self._rng.randint(0, len(data))]
            raise
        room = len(data) if self.room_bytes is None else max(0, self.room_bytes - self.used())
        inode.data += data[:room]
        if room < len(data):
            self._fail(errno.ENOSPC, "no space left")

    def sync(self, inode: Inode, what: str) -> None:
        self.world.step(what)
        if self.fsyncs_until_error is not None:
            self.fsyncs_until_error -= 1
            if self.fsyncs_until_error < 0:
                self.fsyncs_until_error = None
                self._fail(errno.EIO, "input/output error")
        inode.durable = bytes(inode.data)

    def put(self, path: Path, data: bytes) -> None:
        """Write and fsync a file as the downloader does: its name is not durable."""
        inode = self._inode(path, fresh=True)
        self.append(inode, data, f"write {path.name} whole")
        self.sync(inode, f"fsync {path.name}")

    def content(self, path: Path) -> bytes | None:
        inode = self.names.get(path)
        return bytes(inode.data) if inode is not None else None

    def durable_content(self, path: Path) -> bytes | None:
        inode = self.durable_names.get(path)
        return inode.durable if inode is not None else None

    def crash(self) -> None:
        """The power is gone: names and contents become what was surely, or by luck, written."""
        self._locks.clear()
        rng = self._rng
        if rng.random() < 0.4:
            return  # only the process died: what it wrote is in the system's hands
        lucky: dict[PurePath, bool] = {}
        luck = rng.choice([0.0, 0.5, 1.0])
        for path in sorted({*self.names, *self.durable_names}):
            kept = lucky.setdefault(path.parent, rng.random() < luck)
            self._choose(path, self.names if kept else self.durable_names)
        self._finish_renames()
        self.names = dict(self.durable_names)
        for inode in {id(inode): inode for inode in self.names.values()}.values():
            inode.data = bytearray(_left_of(inode, rng))
            inode.durable = bytes(inode.data)

    def replace(self, path: Path, content: bytes | None) -> None:
        """The user puts another file in the place of one, or (None) takes it away."""
        for names in (self.names, self.durable_names):
            names.pop(path, None)
        if content is not None:
            self.names[path] = self.durable_names[path] = Inode()
            self.names[path].data, self.names[path].durable = bytearray(content), content

    def tamper(self, path: Path, rng: Random) -> None:
        """The user deletes or shortens a file."""
        inode = self.names[path]
        self.tampered.add(hashlib.sha256(inode.data).hexdigest())
        if rng.random() < 0.7:
            del self.names[path]
            self.durable_names.pop(path, None)
        else:
            del inode.data[len(inode.data) // 2 :]
            inode.durable = bytes(inode.data)

    def _choose(self, path: PurePath, source: dict[PurePath, Inode]) -> None:
        if path in source:
            self.durable_names[path] = source[path]
        else:
            self.durable_names.pop(path, None)

    def _settle(self, folder: PurePath) -> None:
        for path in sorted(path for path in {*self.names, *self.durable_names} if path.parent == folder):
            self._choose(path, self.names)
        self._finish_renames()

    def _finish_renames(self) -> None:
        """A rename is one transaction: where the old name is gone for good, the new one is there."""
        gone = {id(self.was[path]): path for path in self.was if path not in self.durable_names}
        for path, inode in self.names.items():
            if id(inode) in gone and inode not in self.durable_names.values():
                self.durable_names[path] = inode
        self.was = dict(self.durable_names)

    def _inode(self, path: Path, *, fresh: bool = False) -> Inode:
        if self.world.dead:
            raise Dead
        if fresh or path not in self.names:
            self.names[path] = Inode()
        return self.names[path]

    def used(self) -> int:
        return sum(len(inode.data) for inode in self.names.values())

    def _fail(self, code: int, words: str) -> None:
        self.errors += 1
        self.world.note(words)
        self.world.seen[f"disk: {words}"] += 1
        raise OSError(code, words)


def _left_of(inode: Inode, rng: Random) -> bytes:
    """What a crash leaves of a file."""
    whole, sure = bytes(inode.data), inode.durable
    if not whole.startswith(sure):
        return rng.choice([whole, sure])
    tail = whole[len(sure) :]
    cut = rng.randint(0, len(tail))
    match rng.choice(["all", "none", "prefix", "zeros", "spoilt", "spoilt block"]):
        case "all":
            kept = tail
        case "none":
            kept = b""
        case "prefix":
            kept = tail[:cut]
        case _ if len(tail) - cut < SECTOR_BYTES:
            kept = tail[:cut]
        case "zeros":
            kept = tail[:cut] + bytes(len(tail) - cut)
        case "spoilt":
            kept = tail[:cut] + _spoilt(len(tail) - cut, rng)
        case _:
            end = rng.randint(cut + SECTOR_BYTES, len(tail))
            kept = tail[:cut] + _spoilt(end - cut, rng) + tail[end:]
    return sure + kept


def _spoilt(size: int, rng: Random) -> bytes:
    return bytes(rng.choices(SPOILT, k=size))
