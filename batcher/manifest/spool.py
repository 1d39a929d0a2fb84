"""Saves standard input, so that it can be read twice."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import weakref
from typing import IO, BinaryIO

from batcher.errors import ManifestError

MEMORY_MAX_BYTES = 16 * 1024 * 1024


class Spool:
    """The contents of a stream: in memory or, if large, in an unnamed temporary file."""

    def __init__(self, stream: BinaryIO, shown_as: str) -> None:
        """Read ``stream`` to its end. Raises ManifestError."""
        self._file: IO[bytes] | None = None
        try:
            self._content = stream.read(MEMORY_MAX_BYTES)
            if len(self._content) == MEMORY_MAX_BYTES:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (kept as long as this)
                weakref.finalize(self, self._file.close)
                self._file.write(self._content)
                shutil.copyfileobj(stream, self._file)
                self._file.flush()
        except OSError as error:
            raise ManifestError([f"{shown_as}: {error.strerror or error}"]) from None

    def reader(self) -> BinaryIO:
        """A new reader from the beginning; readers are independent of each other."""
        if self._file is None:
            return io.BytesIO(self._content)
        return io.BufferedReader(_At(self._file.fileno()))  # type: ignore[type-var]


class _At(io.RawIOBase):
    """Reads a file at its own position."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begins = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._descriptor).st_size}
        self._at = begins[whence] + offset
        return self._at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = os.pread(self._descriptor, len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
