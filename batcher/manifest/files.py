"""Manifest files on disk: opened, decoded, and watched for changes while they are read."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from batcher.errors import ManifestError
from batcher.manifest.rows import ManifestChanged

LINE_MAX_BYTES = 64 * 1024 * 1024
LINES_BETWEEN_CHECKS = 32
WHOLE_FILE_MAX_BYTES = 512 * 1024 * 1024

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One manifest file. ``shown`` is its name as the user would write it.

    ``fingerprint`` (device, inode, size, mtime in ns) is that of the moment when it was first seen.
    """

    path: Path
    shown: str
    fingerprint: tuple[int, ...]

    @classmethod
    def at(cls, path: Path, shown: str) -> ManifestFile:
        """Raises ManifestError where ``path`` is no readable regular file in UTF-8 or near to it."""
        try:
            with open(path, "rb", opener=_open_without_blocking) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ManifestError([f"{shown}: not a regular file"])
                mark = file.read(4)
        except (OSError, ValueError) as error:
            raise ManifestError([f"{shown}: {_reason(error)}"]) from None
        if mark.startswith(_UTF16_MARKS):
            raise ManifestError([f"{shown}:1: this is UTF-16; save it as UTF-8"])
        return cls(path, shown, _fingerprint(status))

    def is_same_as(self, other: ManifestFile) -> bool:
        """Whether both are one file on disk, under whatever names."""
        return self.fingerprint[:2] == other.fingerprint[:2]

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, for reading bytes. Raises ManifestChanged where it is not the same any more."""
        try:
            file = open(self.path, "rb", buffering=1 << 18)  # noqa: SIM115 (closed below)
        except OSError as error:
            raise ManifestError([f"{self.shown}: {_reason(error)}"]) from None
        with file:
            self.check_unchanged(file)
            yield file

    def check_unchanged(self, file: IO[bytes] | IO[str]) -> None:
        """Raises ManifestChanged where the open ``file`` is not the one that was first seen."""
        if _fingerprint(os.fstat(file.fileno())) != self.fingerprint:
            raise ManifestChanged([f"{self.shown}: changed while it was being read"])

    def lines(self, file: BinaryIO) -> Iterator[bytes]:
        """The lines of the open file with their ends, without a byte-order mark.

        Raises ManifestChanged (a few lines late, but never after the last), or ManifestError for a
        line beyond LINE_MAX_BYTES.
        """
        number = 0
        while line := file.readline(LINE_MAX_BYTES):
            number += 1
            if number % LINES_BETWEEN_CHECKS == 0:
                self.check_unchanged(file)
            if len(line) == LINE_MAX_BYTES:
                raise ManifestError([f"{self.shown}:{number}: a line of more than {len(line)} bytes"])
            yield line if number > 1 else line.removeprefix(codecs.BOM_UTF8)
        self.check_unchanged(file)

    def decoded(self, content: bytes, first_line: int = 1) -> str:
        """``content`` as text; raises ManifestError with the line where it is not UTF-8."""
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise self.not_utf8(error, first_line) from None

    def not_utf8(self, error: UnicodeDecodeError, first_line: int) -> ManifestError:
        """What to raise for ``error`` in bytes that begin on ``first_line``."""
        line = first_line + error.object.count(b"\n", 0, error.start)
        return ManifestError(
            [f"{self.shown}:{line}: byte 0x{error.object[error.start]:02x} is not UTF-8"]
        )

    def text(self) -> str:
        """The whole file as text. Raises ManifestError."""
        with self.open() as file:
            content = file.read(WHOLE_FILE_MAX_BYTES + 1)
            self.check_unchanged(file)
        if len(content) > WHOLE_FILE_MAX_BYTES:
            raise ManifestError([f"{self.shown}: too large to be held; use CSV or JSONL, which stream"])
        return self.decoded(content.removeprefix(codecs.BOM_UTF8))


def _open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe without a writer would hang


def _fingerprint(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a directory, not a file"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
