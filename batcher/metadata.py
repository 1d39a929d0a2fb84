"""``metadata.jsonl``: one flat line per output file, derived from the ledger.

The same keys stand in every line and a key has one type, so that the file loads as a table as it is.
Lines are appended as jobs finish; where that can't have gone right (a crash, new columns, jobs that left
the manifest) the file is made anew from the ledger, whole or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import msgspec

from batcher.disk import AppendFile, Disk
from batcher.jobs import Job, LocalMedia
from batcher.ledger import Ledger, line_at
from batcher.lifecycle import Record, Snapshot, State
from batcher.rundir import RunDir

_CACHE_NAME = "metadata.json"
_TEXT, _INTEGER, _NUMBER, _FLAG, _TEXTS, _NOTHING = "text", "integer", "number", "flag", "texts", "null"
_BLOCK_BYTES = 1 << 20


class Columns:
    """The columns that inputs and metadata need: name → type, merged over many jobs."""

    def __init__(self, types: dict[str, str] | None = None) -> None:
        self.types: dict[str, str] = dict(types or {})
        self._seen: set[tuple[Any, ...]] = set()

    def watch(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Pass ``jobs`` through, taking note of their columns."""
        for job in jobs:
            self.add(job.input, job.meta)
            yield job

    def add(self, inputs: dict[str, Any], meta: dict[str, Any]) -> None:
        """Take in one job's inputs and metadata. Most jobs look like one seen before."""
        values = (*inputs.values(), *meta.values())
        shape = (*inputs, None, *meta, None, *map(type, values))
        if shape in self._seen and not any(isinstance(value, list) for value in values):
            return
        self._seen.add(shape)
        for name, value in _flat(inputs, meta):
            self.types[name] = _merged(self.types.get(name, _NOTHING), _type_of(value))

    def fill(self, inputs: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
        """One job's values under every column, each in its column's type; None where it has none."""
        row: dict[str, Any] = dict.fromkeys(sorted(self.types))
        for name, value in _flat(inputs, meta):
            row[name] = _cast(value, self.types.get(name, _TEXT))
        return row


def _flat(inputs: dict[str, Any], meta: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in inputs.items():
        yield f"input.{name}", _shown(value)
    for name, value in meta.items():
        yield f"meta.{name}", _shown(value)


def _shown(value: Any) -> Any:
    """``value`` with its local media as their paths, as a job or a ledger line holds them."""
    if isinstance(value, LocalMedia):
        return value.shown
    if isinstance(value, dict) and value.keys() == {"path", "sha256"}:
        return value["path"]
    return [_shown(item) for item in value] if isinstance(value, list) else value


def _type_of(value: Any) -> str:
    match value:
        case None:
            return _NOTHING
        case bool():
            return _FLAG
        case int():
            return _INTEGER
        case float():
            return _NUMBER
        case list() if all(isinstance(item, str) for item in value):
            return _TEXTS
        case _:
            return _TEXT


def _merged(one: str, other: str) -> str:
    if other in (one, _NOTHING):
        return one
    if one == _NOTHING:
        return other
    return _NUMBER if {one, other} == {_INTEGER, _NUMBER} else _TEXT


def _cast(value: Any, kind: str) -> Any:
    if value is None or _type_of(value) == kind:
        return value
    if kind == _NUMBER:
        return float(value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


class _Cache(msgspec.Struct):
    """What the last run knew of the file: if it no longer holds, the file is made anew.

    ``orphans`` stands for which jobs had left the manifest: their lines say so.
    """

    columns: dict[str, str]
    orphans: str


class Metadata:
    """The metadata file of one run directory, kept in step with its ledger."""

    def __init__(self, run_dir: RunDir, ledger: Ledger, disk: Disk) -> None:
        self._run_dir = run_dir
        self._ledger = ledger
        self._disk = disk
        self._cache_path = run_dir.hidden / _CACHE_NAME
        self._columns = Columns()
        self._source: BinaryIO | None = None
        self._file: AppendFile | None = None
        self._stale = False

    def open(self, columns: Columns) -> None:
        """Begin with ``columns`` (those of the manifest); makes the file anew where it is stale."""
        cache = self._read_cache()
        if cache is None:
            self._columns = self._ledger_columns(columns)
        else:
            self._columns = Columns(cache.columns)
            for name, kind in columns.types.items():
                known = self._columns.types.get(name, _NOTHING)
                self._columns.types[name] = _merged(known, kind)
        wanted = self._present_cache()
        if cache != wanted or self._line_count() != self._expected_count():
            self._stale = True
        self.refresh()

    def append(self, job_id: str) -> None:
        """Add the lines of a job that just became done."""
        record = self._ledger.snapshot.records[job_id]
        if self._file is None:
            self._file = self._disk.open_append(self._run_dir.metadata)
        self._file.write(b"".join(self._rows(job_id, record)))

    def mark_stale(self) -> None:
        """Lines that stand in the file are no longer true: make it anew at the next ``refresh``.

        The cache goes at once, so that the next run does it where this one can't.
        """
        if not self._stale:
            self._disk.remove(self._cache_path)
        self._stale = True

    def refresh(self) -> None:
        """Make the file anew from the ledger where it is stale."""
        if not self._stale:
            return
        self._close_file()
        snapshot = self._ledger.snapshot
        if self._expected_count() or self._disk.size(self._run_dir.metadata) is not None:
            self._disk.write_whole(self._run_dir.metadata, self._all_rows(snapshot))
        self._write_cache()
        self._stale = False

    def close(self) -> None:
        """Make the file anew if it went stale, and let go of it."""
        self.refresh()
        self._close_file()
        if self._source is not None:
            self._source.close()

    def _all_rows(self, snapshot: Snapshot) -> Iterator[bytes]:
        for job_id, record in snapshot.items():
            if record.state is State.DONE:
                yield from self._rows(job_id, record)

    def _rows(self, job_id: str, record: Record) -> Iterator[bytes]:
        inputs, meta = self._inputs(record)
        filled = self._columns.fill(inputs, meta)
        for artifact in record.files:
            row = {
                "file_name": artifact.path,
                "job": job_id,
                "model": record.model,
                "prompt": _prompt(inputs),
                "request_id": record.request_id,
                "attempt": record.attempt,
                "cost_usd": record.charge_usd,
                "bytes": artifact.bytes,
                "sha256": artifact.sha256,
                "orphaned": record.orphaned,
                **filled,
            }
            yield msgspec.json.encode(row) + b"\n"

    def _inputs(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._source is None:
            self._source = self._disk.open_read(self._run_dir.ledger)
        event = line_at(self._source, record.input_offset)
        return event.input or {}, event.meta or {}

    def _ledger_columns(self, columns: Columns) -> Columns:
        merged = Columns(columns.types)
        for record in self._ledger.snapshot.records.values():
            if record.input_offset >= 0:
                merged.add(*self._inputs(record))
        return merged

    def _expected_count(self) -> int:
        records = self._ledger.snapshot.records.values()
        return sum(len(r.files) for r in records if r.state is State.DONE)

    def _line_count(self) -> int:
        if self._disk.size(self._run_dir.metadata) is None:
            return 0
        with self._disk.open_read(self._run_dir.metadata) as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK_BYTES), b""))

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_cache(self) -> _Cache | None:
        if self._disk.size(self._cache_path) is None:
            return None
        with self._disk.open_read(self._cache_path) as file:
            try:
                return msgspec.json.decode(file.read(), type=_Cache)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                return None

    def _write_cache(self) -> None:
        self._disk.write_whole(self._cache_path, [msgspec.json.encode(self._present_cache())])

    def _present_cache(self) -> _Cache:
        digest = hashlib.sha256()
        for job_id, record in self._ledger.snapshot.items():
            if record.orphaned:
                digest.update(job_id.encode() + b"\n")
        return _Cache(self._columns.types, digest.hexdigest())


def _prompt(inputs: dict[str, Any]) -> str | None:
    prompt = inputs.get("prompt")
    return prompt if isinstance(prompt, str) or prompt is None else str(prompt)
