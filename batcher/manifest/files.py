"""Manifest files on disk: opened, unpacked, decoded, and watched for changes while they are read."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import shlex
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from batcher.errors import ManifestError
from batcher.manifest.detect_format import encoding_hint, marked_encoding
from batcher.manifest.rows import ManifestChanged
from batcher.manifest.spool import Spool

LINE_MAX_CHARS = 64 * 1024 * 1024
LINES_BETWEEN_CHECKS = 256
CHARS_BETWEEN_CHECKS = 1024 * 1024
WHOLE_FILE_MAX_CHARS = 512 * 1024 * 1024
BYTE_ORDER_MARK = "\ufeff"
GZIP_MARK = b"\x1f\x8b"
HEAD_BYTES = 64 * 1024
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One manifest file. ``shown`` is its name as the user would write it.

    ``fingerprint`` (device, inode, size, mtime in ns) is taken when the file is first seen. ``encoding``
    is given by the user; None: by the byte-order mark, else UTF-8.
    """

    path: Path
    shown: str
    fingerprint: tuple[int, ...]
    encoding: str | None = None
    spool: Spool | None = None

    @classmethod
    def spooled(cls, stream: BinaryIO, shown: str, encoding: str | None = None) -> ManifestFile:
        """A stream that can be read only once, saved for repeated reading. Raises ManifestError."""
        return cls(Path(shown), shown, (-1, 0), encoding, Spool(stream, shown))

    @classmethod
    def at(cls, path: Path, shown: str, encoding: str | None = None) -> ManifestFile:
        """Raises ManifestError if ``path`` is not a readable regular file."""
        try:
            with open(path, "rb", opener=_open_without_blocking) as file:
                status = os.fstat(file.fileno())
                if stat.S_ISFIFO(status.st_mode):
                    what = "not a regular file but a pipe; read it as standard input: batcher plan - <"
                    raise ManifestError([f"{shown}: {what} {shlex.quote(shown)}"])
                if not stat.S_ISREG(status.st_mode):
                    raise ManifestError([f"{shown}: not a regular file"])
        except (OSError, ValueError) as error:
            raise ManifestError([f"{shown}: {_reason(error)}"]) from None
        return cls(path, shown, _fingerprint(status), encoding)

    def is_same_as(self, other: ManifestFile) -> bool:
        """Whether both are the same file on disk, under any names."""
        return self.fingerprint[:2] == other.fingerprint[:2]

    @property
    def is_gzipped(self) -> bool:
        """Whether it is gzipped, by its name; a stream by its first bytes."""
        if self.spool is not None:
            return self.spool.reader().read(2) == GZIP_MARK
        return self.path.suffix.lower() == ".gz"

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, for reading bytes, decompressed if it is gzipped.

        Raises ManifestChanged if it has changed, ManifestError if it can't be read.
        """
        with self._opened() as file:
            self.check_unchanged(file)
            try:
                if self.is_gzipped:
                    with gzip.GzipFile(fileobj=file) as unpacked:
                        yield unpacked  # type: ignore[misc]
                else:
                    yield file
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                self.check_unchanged(file)
                raise ManifestError([f"{self.shown}: can't be unpacked: {error}"]) from None

    def _opened(self) -> BinaryIO:
        if self.spool is not None:
            return self.spool.reader()
        try:
            return open(self.path, "rb", buffering=CHUNK_BYTES)
        except OSError as error:
            raise ManifestError([f"{self.shown}: {_reason(error)}"]) from None

    def check_unchanged(self, file: IO[bytes] | IO[str]) -> None:
        """Raises ManifestChanged if the open ``file`` is not the one that was first seen."""
        if self.spool is None and _fingerprint(os.fstat(file.fileno())) != self.fingerprint:
            raise ManifestChanged([f"{self.shown}: changed while it was being read"])

    def head(self) -> bytes:
        """Its first HEAD_BYTES, unpacked. Raises ManifestError."""
        with self.open() as file:
            return file.read(HEAD_BYTES)

    def lines(self, errors: str = "strict") -> Iterator[str]:
        """Its lines with their ends (LF, CRLF or CR), without byte-order marks before them.

        ``errors`` tells how to handle bytes that are not in the file's encoding, as in ``bytes.decode``.

        Raises ManifestChanged (a few lines late, but never after the last), or ManifestError for a
        line beyond LINE_MAX_CHARS, for a NUL, and for bytes that are not in the file's encoding.
        """
        for block in self.blocks(errors):
            yield from block

    def blocks(self, errors: str = "strict") -> Iterator[list[str]]:
        """:meth:`lines`, many at a time. An error is raised after the lines before it."""
        number = 0
        with self._opened_as_text("", errors) as file:
            while True:
                block: list[str] = []
                try:
                    self._read_block(file, number, block)
                except (ManifestError, UnicodeDecodeError):
                    yield block
                    raise
                self.check_unchanged(file)
                if not block:
                    return
                yield block
                number += len(block)

    def _read_block(self, file: io.TextIOWrapper, number: int, block: list[str]) -> None:
        """Add lines to ``block``; ``number`` is that of the line before them."""
        chars = 0
        while len(block) < LINES_BETWEEN_CHECKS and chars < CHARS_BETWEEN_CHECKS:
            line = file.readline(LINE_MAX_CHARS)
            if line[:1] == BYTE_ORDER_MARK:  # a second one, or that of the next file after `cat a b`
                line = line.lstrip(BYTE_ORDER_MARK) or "\n"
            if "\0" in line:
                raise ManifestError([f"{self.shown}:{number + len(block) + 1}: {NUL}"])
            if len(line) == LINE_MAX_CHARS:
                what = f"a line of {len(line)} characters"
                raise ManifestError([f"{self.shown}:{number + len(block) + 1}: {what}"])
            if not line:
                return
            block.append(line)
            chars += len(line)

    def text(self) -> str:
        """The whole file as text whose lines end in LF. Raises ManifestError."""
        with self._opened_as_text(None) as file:
            content = file.read(WHOLE_FILE_MAX_CHARS + 1).lstrip(BYTE_ORDER_MARK)
            self.check_unchanged(file)
        if len(content) > WHOLE_FILE_MAX_CHARS:
            raise ManifestError([f"{self.shown}: too large to be held; use CSV or JSONL, which stream"])
        return content

    @contextmanager
    def _opened_as_text(self, newline: str | None, errors: str = "strict") -> Iterator[io.TextIOWrapper]:
        with self.open() as stream:
            encoding = self.encoding or marked_encoding(_first(stream))
            with io.TextIOWrapper(stream, encoding or "utf-8-sig", errors, newline) as file:
                try:
                    yield file
                except UnicodeDecodeError as error:
                    self.check_unchanged(file)
                    raise self._not_decodable(error) from None

    def _not_decodable(self, error: UnicodeDecodeError) -> ManifestError:
        """The error for bytes that are not in the file's encoding, with the line and the remedy."""
        lines = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(error.encoding)(), True)
        line = 1
        with self.open() as stream:
            while chunk := stream.read(CHUNK_BYTES):
                try:
                    line += lines.decode(chunk).count("\n")
                except UnicodeDecodeError as again:
                    line += _lines_before(again)
                    byte = again.object[again.start]
                    hint = encoding_hint(again.object[again.start :]) if self.encoding is None else ""
                    name = again.encoding.upper()
                    return ManifestError([f"{self.shown}:{line}: byte 0x{byte:02x} is not {name}{hint}"])
        return ManifestError([f"{self.shown}: ends in the middle of a character"])


NUL = "a NUL character; text in UTF-16 without a byte-order mark needs --encoding utf-16-le (or -be)"


def _first(stream: BinaryIO) -> bytes:
    """The file's first bytes, which will be read again later."""
    first = stream.read(4)
    stream.seek(0)
    return first


def _lines_before(error: UnicodeDecodeError) -> int:
    before = error.object[: error.start].decode(error.encoding, "replace")
    return before.replace("\r\n", "\n").replace("\r", "\n").count("\n")


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
