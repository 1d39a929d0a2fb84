"""Local files copied to or from a bucket: read in parts and hashed; written completely or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
from typing import TYPE_CHECKING, Final

from batcher.disk import LocalDisk, reading, writing
from batcher.errors import RunDirError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


class StoppedReading(Exception):
    """The upload that reads the file was cancelled."""


class Parts:
    """The bytes of a file, ``part_bytes`` at a time, off the event loop.

    Raises RunDirError, never ends silently, if the bytes don't match ``sha256_hex`` or can't be
    read. The library passes this error on unchanged.
    """

    def __init__(self, path: Path, sha256_hex: str, part_bytes: int) -> None:
        self._path = path
        self._expected = sha256_hex
        self.part_bytes = part_bytes
        self._hash = hashlib.sha256()
        self._stopped = False
        with reading(path):
            self._file = path.open("rb")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._stopped:
            raise StoppedReading
        part = await asyncio.to_thread(self._read)
        if not part:
            raise StopAsyncIteration
        return part

    def _read(self) -> bytes:
        with reading(self._path):
            part = self._file.read(self.part_bytes)
        self._hash.update(part)
        if not part and self._hash.hexdigest() != self._expected:
            raise RunDirError(
                f"{self._path}: is not the file that was downloaded (its SHA-256 differs), so it was "
                "not stored; delete it and run again to fetch it"
            )
        return part

    def stop(self) -> None:
        """Return no more parts."""
        self._stopped = True

    def close(self) -> None:
        self._file.close()


class Staged:
    """A file that gets its name when complete and durable. Methods block; errors are RunDirErrors."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        with writing(path):
            self._file = self._temporary.open("xb")

    def write(self, data: bytes) -> None:
        with writing(self._path):
            self._file.write(data)

    def keep(self) -> None:
        """Make it durable and give it its name, replacing an existing file."""
        with writing(self._path):
            self._sync()
            self._temporary.replace(self._path)
            LocalDisk().sync_dir(self._path.parent)

    def keep_if_new(self) -> bool:
        """As :meth:`keep`, but only if the name is free; returns whether it was."""
        with writing(self._path):
            self._sync()
            try:
                os.link(self._temporary, self._path)
            except FileExistsError:
                return False
            LocalDisk().sync_dir(self._path.parent)
            return True

    def drop(self) -> None:
        """Close and delete the file. Raises nothing; harmless after :meth:`keep`."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
