"""Divides rows into shards, and records the written ones: each is atomic, and none is written twice."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from batcher.disk import Disk
from batcher.errors import RunDirError, UsageError
from batcher.jobs.job import names_split

RECORD_NAME = ".export.json"
"""Hidden, so that loaders of whole folders skip it."""
DEFAULT_SHARD_BYTES = 1_000_000_000
ROWS_AT_MOST = 50_000
"""A shard's rows are in memory, its media never are."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")
_SPLIT_CHARS = 60
_LABEL_END = re.compile(r"/|-[0-9]+\.")
Row = dict[str, Any]
RowSource = Callable[[], Iterable[Row]]


@dataclass(frozen=True, slots=True)
class Cut:
    """Shard sizes: by bytes of media, or ``count`` about equal ones; per value of ``split_by``."""

    size_bytes: int = DEFAULT_SHARD_BYTES
    count: int | None = None
    split_by: str | None = None


@dataclass(frozen=True, slots=True)
class ExportShard:
    """Some rows, and the name of their file."""

    name: str
    rows: list[Row]

    @property
    def bytes(self) -> int:
        """The total size of their media, in bytes."""
        return sum(row["bytes"] for row in self.rows)

    def digest(self, fingerprint: str) -> str:
        """A hash of everything that determines the shard's bytes."""
        digest = hashlib.sha256(fingerprint.encode())
        for row in self.rows:
            digest.update(msgspec.json.encode(row) + b"\n")
        return digest.hexdigest()


def cut(source: RowSource, how: Cut, extension: str) -> Iterator[ExportShard]:
    """The shards of all rows of ``source``, which returns a new iterator at each call."""
    for label, rows in splits(source, how.split_by):
        groups = _by_count(rows, how.count) if how.count else _by_size(rows(), how.size_bytes)
        for number, group in enumerate(groups):
            yield ExportShard(f"{label}-{number:06d}{extension}", group)


def splits(source: RowSource, column: str | None) -> Iterator[tuple[str, RowSource]]:
    """The rows by value of ``column``, under names safe for files; without a column all as ``data``.

    Raises UsageError if there is no such column, or two values would share a name.
    """
    if column is None:
        yield "data", source
        return
    labels: dict[Any, str] = {}
    for row in source():
        if column not in row:
            raise UsageError(f"--split-by: no column {column!r}")
        value = row[column]
        labels.setdefault(value if not isinstance(value, list) else str(value), _label(value))
    if len(set(labels.values())) < len(labels):
        raise UsageError(f"--split-by {column}: some values give the same file name")
    for label in labels.values():
        yield label, lambda label=label: (r for r in source() if _label(r[column]) == label)  # type: ignore[misc]


def beside_splits(names: Iterable[str]) -> list[str]:
    """The labels that loaders leave out, of files that are named by the values of a column.

    If one label is the name of a split (``train``), loaders read the splits only.
    """
    labels = {_LABEL_END.split(name)[0] for name in names}
    others = [label for label in labels if not names_split(label)]
    return sorted(others) if len(others) < len(labels) else []


def _label(value: Any) -> str:
    """A split's name as part of a file name. Loaders read it up to the first dash."""
    text = "" if value is None else str(value)
    return _UNSAFE.sub("_", text).strip("_")[:_SPLIT_CHARS] or "none"


def _by_size(rows: Iterable[Row], size_bytes: int) -> Iterator[list[Row]]:
    group: list[Row] = []
    held = 0
    for row in rows:
        if group and (held + row["bytes"] > size_bytes or len(group) >= ROWS_AT_MOST):
            yield group
            group, held = [], 0
        group.append(row)
        held += row["bytes"]
    if group:
        yield group


def _by_count(source: RowSource, count: int) -> Iterator[list[Row]]:
    total = sum(1 for _ in source())
    rows = iter(source())
    for number in range(count):
        share = total * (number + 1) // count - total * number // count
        if group := list(islice(rows, share)):
            yield group


class _Entry(msgspec.Struct):
    bytes: int
    digest: str


class _Record(msgspec.Struct):
    shards: dict[str, _Entry]


class Shelf:
    """The target folder, and its record of the shards in it."""

    def __init__(self, target: Path, disk: Disk, fingerprint: str) -> None:
        self._target = target
        self._disk = disk
        self._fingerprint = fingerprint
        self._record = self._read()
        self._wanted: set[str] = set()

    def has(self, shard: ExportShard) -> bool:
        """Whether the same shard exists, with the size that it was written with."""
        self._wanted.add(shard.name)
        entry = self._record.shards.get(shard.name)
        if entry is None or entry.digest != shard.digest(self._fingerprint):
            self._refuse_strangers(shard.name, entry)
            return False
        return self._disk.size(self._target / shard.name) == entry.bytes

    def _refuse_strangers(self, name: str, entry: _Entry | None) -> None:
        if entry is None and self._disk.size(self._target / name) is not None:
            raise RunDirError(
                f"{self._target / name}: is there, and not of an export of ours; choose another -o"
            )

    @contextmanager
    def place(self, shard: ExportShard) -> Iterator[Path]:
        """A path to write the shard to; it gets its name and entry when it is complete and durable."""
        path, temporary = self._target / shard.name, self._target / f".{shard.name}.tmp"
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        size = path.stat().st_size
        self._record.shards[shard.name] = _Entry(size, shard.digest(self._fingerprint))
        self._write()

    def tidy(self, extension: str) -> None:
        """Remove shards of an earlier export in the same format that this one doesn't have."""
        for name in self._record.shards.keys() - self._wanted:
            if not name.endswith(extension):
                continue
            (self._target / name).unlink(missing_ok=True)
            del self._record.shards[name]
        self._write()

    def _read(self) -> _Record:
        try:
            return msgspec.json.decode((self._target / RECORD_NAME).read_bytes(), type=_Record)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return _Record({})

    def _write(self) -> None:
        text = msgspec.json.format(msgspec.json.encode(self._record, order="sorted"), indent=1)
        self._disk.write_whole(self._target / RECORD_NAME, [text + b"\n"])
