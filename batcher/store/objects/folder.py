"""A bucket that is a plain folder: another disk, or a share that is mounted here."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batcher.disk import LocalDisk, reading, writing
from batcher.store.objects.failures import NoSuchObject
from batcher.store.objects.local_files import TEMPORARY, Parts, Staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from batcher.store.objects.place import BucketLocation

PIECE_BYTES: Final = 1 << 20


class FolderBucket:
    """See ``interface.Bucket``. Files get their names by rename, after an fsync."""

    def __init__(self, place: BucketLocation) -> None:
        self._place = place
        self._root = Path(place.prefix)
        self._disk = LocalDisk()

    @property
    def url(self) -> str:
        return self._place.url

    async def put_file(self, path: Path, key: str, sha256_hex: str, media_type: str | None) -> None:
        del media_type  # a file's name says it
        parts = Parts(path, sha256_hex, PIECE_BYTES)
        try:
            staged = await asyncio.to_thread(self._staged, key)
            try:
                async for part in parts:
                    await asyncio.to_thread(staged.write, part)
                await asyncio.to_thread(staged.keep)
            finally:
                staged.drop()
        finally:
            parts.close()

    async def put_bytes(self, key: str, data: bytes) -> None:
        await asyncio.to_thread(self._put, key, data)

    async def put_new(self, key: str, data: bytes) -> bool:
        return await asyncio.to_thread(self._put_new, key, data)

    async def get_bytes(self, key: str) -> bytes | None:
        return await asyncio.to_thread(self._get, key)

    async def get_file(self, key: str, path: Path) -> str:
        return await asyncio.to_thread(self._get_file, key, path)

    async def size(self, key: str) -> int | None:
        return await asyncio.to_thread(self._size, self._path(key))

    async def sha256(self, key: str) -> str | None:
        return await asyncio.to_thread(self._sha256, key)

    async def list(self, folder: str = "") -> AsyncIterator[tuple[str, int]]:
        root = self._path(folder) if folder else self._root
        for found in await asyncio.to_thread(self._below, root):
            yield found

    async def sizes(self) -> dict[str, int]:
        return await asyncio.to_thread(self._sizes)

    async def move(self, old: str, new: str) -> None:
        await asyncio.to_thread(self._move, self._path(old), self._path(new))

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self._delete, self._path(key))

    def _path(self, key: str) -> Path:
        return self._root / self._place.checked(key)

    def _size(self, path: Path) -> int | None:
        with reading(path):
            return self._disk.size(path) if not path.is_dir() else None

    def _delete(self, path: Path) -> None:
        with writing(path):
            self._disk.remove(path)

    def _staged(self, key: str) -> Staged:
        path = self._path(key)
        with writing(path):
            self._disk.make_dirs(path.parent)
        return Staged(path)

    def _put(self, key: str, data: bytes) -> None:
        staged = self._staged(key)
        try:
            staged.write(data)
            staged.keep()
        finally:
            staged.drop()

    def _put_new(self, key: str, data: bytes) -> bool:
        staged = self._staged(key)
        try:
            staged.write(data)
            return staged.keep_if_new() or self._get(key) == data
        finally:
            staged.drop()

    def _get(self, key: str) -> bytes | None:
        path = self._path(key)
        with reading(path):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _get_file(self, key: str, path: Path) -> str:
        source, digest = self._path(key), hashlib.sha256()
        if not source.is_file():
            raise NoSuchObject(f"{source}: can't read: there is no such object")
        with reading(source):
            file = source.open("rb")
        staged = Staged(path)
        try:
            with file:
                while piece := file.read(PIECE_BYTES):
                    digest.update(piece)
                    staged.write(piece)
            staged.keep()
        finally:
            staged.drop()
        return digest.hexdigest()

    def _sha256(self, key: str) -> str | None:
        path = self._path(key)
        with reading(path):
            try:
                with path.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _below(self, root: Path) -> Sequence[tuple[str, int]]:
        with reading(root):
            return [
                (path.relative_to(self._root).as_posix(), path.stat().st_size)
                for folder, _, names in os.walk(root)
                for name in names
                if not TEMPORARY.fullmatch(name)
                for path in [Path(folder, name)]
            ]

    def _sizes(self) -> dict[str, int]:
        with reading(self._root):
            sizes = {name: self._size(self._root / name) for name in self._disk.list_dir(self._root)}
        return {
            name: size
            for name, size in sizes.items()
            if size is not None and not TEMPORARY.fullmatch(name)
        }

    def _move(self, old: Path, new: Path) -> None:
        with writing(new):
            if not old.exists() and new.exists():
                return
            if not old.exists():
                raise NoSuchObject(f"{old}: can't move: there is no such object")
            self._disk.rename(old, new)
            self._disk.sync_dir(new.parent)
            self._disk.sync_dir(old.parent)
