"""The state file: the state that survives a kill of the sandbox's process. Append-only JSONL.

Each line is written in one call before the answer that it is about, so a killed process loses nothing.
(A power failure may: the sandbox does not fsync.) A torn last line is dropped.

Processes that serve the same run directory (shards, Dask workers) share the file: before it answers,
each reads what the others appended, and holds a lock until it has appended its own line.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from batcher.errors import InputError, RunDirError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MODEL_API = "model-api"
"""The name of the first API that a sandbox serves. State files don't repeat it."""
_READ_SIZE_BYTES = 1 << 20


class JobCreated(msgspec.Struct, frozen=True, tag_field="event", tag="created", omit_defaults=True):
    """A job was created and charged for. Contains everything that its future depends on.

    ``key`` is the digest of model and inputs; ``input`` is fit for the file (``data:`` URIs are
    recorded by their hash); ``queue_s`` and ``run_s`` are durations in seconds, ``at`` seconds
    since the epoch; ``fate`` is the fault of its generation, or empty; ``api`` is the name of the
    API by which it came. If ``instances`` isn't 0, so many workers serve its model alone, which take
    ``wake_s`` seconds to start if they are asleep.
    """

    id: str
    at: float
    model: str
    key: str
    input: msgspec.Raw
    price_usd: float
    queue_s: float
    run_s: float
    fate: str = ""
    api: str = MODEL_API
    instances: int = 0
    wake_s: float = 0.0


class Cancellation(msgspec.Struct, frozen=True, tag_field="event", tag="cancelled", omit_defaults=True):
    """A request was cancelled: its price refunded, unless ``charged`` (it was already running)."""

    id: str
    at: float
    charged: bool = False


class Spurned(msgspec.Struct, frozen=True, tag_field="event", tag="spurned"):
    """A POST failed and created nothing: the next one for ``key`` has another fate."""

    key: str


Entry = JobCreated | Cancellation | Spurned

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


def read_entries(path: Path) -> Iterator[Entry]:
    """All entries of a state file, oldest first; another process may be writing it.

    Raises InputError if a line can't be read, OSError.
    """
    with path.open("rb") as file:
        yield from Reader(path, file.fileno())


class Reader:
    """Iterates over the entries of a state file that it has not returned yet, oldest first.

    Stops before an incomplete last line. Raises InputError if a line can't be read.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.descriptor = descriptor
        self.read_bytes = 0
        self._path = path
        self._line_number = 0

    def __iter__(self) -> Iterator[Entry]:
        while os.fstat(self.descriptor).st_size > self.read_bytes and (lines := self._lines()):
            for line in lines:
                self.skip(len(line) + 1)
                try:
                    yield _decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    where = f"{self._path}:{self._line_number}"
                    raise InputError(f"{where}: not a sandbox's state: {error}") from error

    def skip(self, line_bytes: int) -> None:
        """Skip the next line, which has this length."""
        self._line_number += 1
        self.read_bytes += line_bytes

    def _lines(self) -> list[bytes]:
        """The next complete lines, without their ends; empty if there are none."""
        size_bytes = _READ_SIZE_BYTES
        while True:
            chunk = os.pread(self.descriptor, size_bytes, self.read_bytes)
            lines = chunk.split(b"\n")[:-1]
            if lines or len(chunk) < size_bytes:
                return lines
            size_bytes *= 2


class Journal:
    """An open state file, which several processes may share; with ``path`` None nothing is saved."""

    def __init__(self, path: Path | None) -> None:
        """Open the file, creating it if missing. Raises RunDirError if that fails."""
        self._path = path
        self._reader: Reader | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise RunDirError(f"the sandbox can't write {path}: {error.strerror}") from error
        self._reader = Reader(path, descriptor)

    def news(self) -> Iterable[Entry]:
        """The entries that this object has neither read nor appended yet, oldest first.

        Raises InputError if a line can't be read.
        """
        return self._reader or ()

    @contextmanager
    def alone(self) -> Iterator[Iterable[Entry]]:
        """Lock out other processes from appending. Yields the :meth:`news`, to be read first.

        After they are read, a torn last line is cut off: its writer is dead. The kernel releases the
        lock when its process ends.
        """
        if self._reader is None:
            yield ()
            return
        fcntl.flock(self._reader.descriptor, fcntl.LOCK_EX)
        try:
            yield self._whole_news(self._reader)
        finally:
            fcntl.flock(self._reader.descriptor, fcntl.LOCK_UN)

    def _whole_news(self, reader: Reader) -> Iterator[Entry]:
        yield from reader
        os.ftruncate(reader.descriptor, reader.read_bytes)

    def append(self, entry: Entry) -> None:
        """Append one line, inside :meth:`alone`.

        Raises RunDirError if it can't be written completely.
        """
        if self._reader is None:
            return
        line = _encoder.encode(entry) + b"\n"
        left = line
        try:
            while left:
                left = left[os.write(self._reader.descriptor, left) :]
        except OSError as error:
            raise RunDirError(f"the sandbox can't write {self._path}: {error.strerror}") from error
        self._reader.skip(len(line))

    def close(self) -> None:
        """Close the file. May be repeated."""
        if self._reader is not None:
            os.close(self._reader.descriptor)
            self._reader = None
