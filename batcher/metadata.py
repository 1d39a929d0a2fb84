"""``metadata.jsonl``: one flat line per output file, derived from the ledger.

The same keys stand in every line and a key has one type, so that the file loads as a table as it is.
Lines are appended as jobs finish; where that can't have gone right (a crash, new columns, jobs that left
the manifest) the file is made anew from the ledger, whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from batcher.disk import AppendFile, Disk, writing
from batcher.ledger import Ledger
from batcher.lifecycle import Record, Snapshot, State
from batcher.rows import Columns, Rows
from batcher.rundir import RunDir

_CACHE_NAME = "metadata.json"
_LAYOUT = 2
"""Of the columns that every row has: raised where they change."""


class _Cache(msgspec.Struct):
    """What the file was in step with when it was last closed.

    Where its columns, the ledger's last word on the dataset, or its own size is another one now, it is
    made anew.
    """

    columns: dict[str, str]
    dataset_offset: int
    size_bytes: int | None
    layout: int = 1


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
        self._cached: _Cache | None = None
        self._changes = 0

    def open(self, columns: Columns) -> None:
        """Begin with ``columns`` (those of the manifest); makes the file anew where it is stale.

        Raises RunDirError.
        """
        with writing(self._run_dir.metadata):
            self._cached = self._read_cache()
            self._columns = self._known_columns(columns)
            self._changes = self._ledger.snapshot.dataset_changes
            self._stale = self._cached != self._in_step()
            self.refresh()

    def append(self, job_id: str) -> None:
        """Add the lines of a job that just became done."""
        self._changes += 1
        record = self._ledger.snapshot.records[job_id]
        if self._file is None:
            self._file = self._disk.open_append(self._run_dir.metadata)
        try:
            self._file.write(b"".join(self._lines(job_id, record)))
        except OSError:
            self._stale = True
            raise

    def mark_stale(self) -> None:
        """Lines that stand in the file are no longer true: make it anew at the next ``refresh``."""
        self._stale = True

    def refresh(self) -> None:
        """Make the file anew from the ledger where it is stale."""
        if not self._stale:
            return
        self._close_file()
        snapshot = self._ledger.snapshot
        if any(self._all_rows(snapshot)) or self._disk.size(self._run_dir.metadata) is not None:
            self._disk.write_whole(self._run_dir.metadata, self._all_rows(snapshot))
        self._changes = snapshot.dataset_changes
        self._stale = False

    def close(self) -> None:
        """Make the file anew if it went stale, and let go of it. Raises RunDirError.

        It went stale also where the ledger tells of more than was appended here: a run that was
        interrupted between the two. While lines of the ledger are still to be written, it is left to
        the next run.
        """
        try:
            with writing(self._run_dir.metadata):
                if self._ledger.is_durable:
                    self._stale |= self._changes != self._ledger.snapshot.dataset_changes
                    self.refresh()
                    self._vouch()
        finally:
            self._close_file()
            if self._source is not None:
                self._source.close()

    def _vouch(self) -> None:
        """Make the file durable, and say that it is in step."""
        if self._file is not None:
            self._file.sync()
        cache = self._in_step()
        if cache != self._cached:
            self._disk.write_whole(self._cache_path, [msgspec.json.encode(cache)])
            self._cached = cache

    def _all_rows(self, snapshot: Snapshot) -> Iterator[bytes]:
        for job_id, record in snapshot.items():
            if record.state is State.DONE:
                yield from self._lines(job_id, record)

    def _lines(self, job_id: str, record: Record) -> Iterator[bytes]:
        rows = Rows(self._ledger_file(), self._columns)
        return (msgspec.json.encode(row) + b"\n" for row in rows.of(job_id, record))

    def _known_columns(self, columns: Columns) -> Columns:
        if self._cached is None:
            return self._ledger_columns(columns)
        known = Columns(self._cached.columns)
        known.merge(columns)
        return known

    def _ledger_columns(self, columns: Columns) -> Columns:
        merged = Columns(columns.types)
        if any(record.input_offset >= 0 for record in self._ledger.snapshot.records.values()):
            Rows(self._ledger_file(), merged).widen(self._ledger.snapshot)
        return merged

    def _ledger_file(self) -> BinaryIO:
        if self._source is None:
            self._source = self._disk.open_read(self._run_dir.ledger)
        return self._source

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

    def _in_step(self) -> _Cache:
        size_bytes = self._disk.size(self._run_dir.metadata)
        offset = self._ledger.snapshot.dataset_offset
        return _Cache(dict(self._columns.types), offset, size_bytes, _LAYOUT)


__all__ = ["Columns", "Metadata"]
