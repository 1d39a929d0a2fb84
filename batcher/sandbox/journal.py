"""The state file: what a sandbox must remember when its process is killed. Append-only JSONL.

Each line goes to the kernel in one write before the answer that it is about, so a killed process
loses nothing. (A power failure may: a stand-in does not fsync.) A torn last line is dropped.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from batcher.errors import InputError, RunDirError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL_API = "model-api"
"""The name of the first API that a sandbox serves. State files don't repeat it."""
_READ_SIZE_BYTES = 1 << 20


class JobCreated(msgspec.Struct, frozen=True, tag_field="event", tag="created", omit_defaults=True):
    """A job was created and charged for. All that its future depends on.

    ``key`` is the digest of model and inputs; ``input`` is fit for the file (``data:`` URIs are
    recorded by their hash); ``queue_s`` and ``run_s`` are durations in seconds, ``at`` seconds
    since the epoch; ``fate`` is the fault of its generation, or empty; ``api`` is the name of the
    API by which it came.
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


class Cancellation(msgspec.Struct, frozen=True, tag_field="event", tag="cancelled"):
    """A queued request was cancelled and its price refunded."""

    id: str
    at: float


class Spurned(msgspec.Struct, frozen=True, tag_field="event", tag="spurned"):
    """A POST went wrong and created nothing: the next one for ``key`` meets another fate."""

    key: str


Entry = JobCreated | Cancellation | Spurned

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


def read_entries(path: Path) -> Iterator[Entry]:
    """All entries of a state file, oldest first, which another process may be writing.

    Raises InputError if a line can't be read, OSError.
    """
    return (entry for entry, _ in _entries(path))


def _entries(path: Path) -> Iterator[tuple[Entry, int]]:
    """Each entry with the bytes of its line, as far as lines are whole."""
    with path.open("rb", buffering=_READ_SIZE_BYTES) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield _decoder.decode(line), len(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InputError(f"{path}:{number}: not a sandbox's state: {error}") from error


class Journal:
    """An open state file; with ``path`` None it keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        """Open, creating it where missing. Raises RunDirError where that can't be done."""
        self._path = path
        self._descriptor: int | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise RunDirError(f"the sandbox can't write {path}: {error.strerror}") from error

    def replay(self) -> Iterator[Entry]:
        """All entries, oldest first; cuts a torn last line off the file.

        Raises InputError where any other line can't be read.
        """
        if self._path is None or self._descriptor is None:
            return
        whole_bytes = 0
        for entry, size_bytes in _entries(self._path):
            yield entry
            whole_bytes += size_bytes
        os.ftruncate(self._descriptor, whole_bytes)

    def append(self, entry: Entry) -> None:
        """Hand one line to the kernel. Raises RunDirError where it can't take the whole of it."""
        if self._descriptor is None:
            return
        line = _encoder.encode(entry) + b"\n"
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError as error:
            raise RunDirError(f"the sandbox can't write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file. May be repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
