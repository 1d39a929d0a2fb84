"""``metadata.jsonl``: one flat line per output file, derived from the ledger.

Every line has the same keys and each key has one type, so that the file loads as a table unchanged.
Lines are appended as jobs finish. If the file may be out of date (a crash, new columns, jobs that left
the manifest), it is rebuilt from the ledger, atomically.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from batcher.dataset.card import card, is_ours
from batcher.dataset.metadata_rows import ColumnTypes, Rows
from batcher.disk import AppendFile, Disk, writing
from batcher.jobs.lifecycle import State
from batcher.jobs.shard import Shard
from batcher.layout import CARD_NAME, HIDDEN_NAME, METADATA_CACHE_NAME
from batcher.ledger.finished import JobRecord
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.run_dir_lock import is_held
from batcher.ledger.snapshot import Snapshot
from batcher.store.local import RunDir

_GATHER_LOCK = "gather"
GATHER_PATIENCE_S = 600.0
_LAYOUT = 4
"""Version of the columns that every row has: to be incremented when they change."""
HEAD_BYTES = 8 << 20
"""Less than loaders read to infer types: 10 MB in `datasets`, in ``_read_metadata``."""


class _Cache(msgspec.Struct):
    """What the file matched when it was last closed.

    If its columns, the ledger's last change to the dataset, or its own size differ now, the file is
    rebuilt.
    """

    columns: dict[str, str]
    dataset_changes: int
    size_bytes: int | None
    layout: int = 1
    kinds: dict[str, int] = msgspec.field(default_factory=dict)
    """Outputs by the first part of their media type."""


class Written(Protocol):
    """A ledger: its snapshot, and whether all of it is on disk."""

    @property
    def snapshot(self) -> Snapshot: ...
    @property
    def is_durable(self) -> bool: ...


class Describes(Protocol):
    """Keeps ``metadata.jsonl`` up to date when outputs change."""

    def open(self, columns: ColumnTypes) -> None: ...
    def append(self, job_id: str) -> None: ...
    def mark_stale(self) -> None: ...
    def close(self) -> None: ...


class Later:
    """Does nothing: a shard doesn't write the metadata while it runs. See :func:`gather`."""

    def open(self, columns: ColumnTypes) -> None: ...
    def append(self, job_id: str) -> None: ...
    def mark_stale(self) -> None: ...
    def close(self) -> None: ...


class Metadata:
    """The metadata file of one run directory, kept in step with its ledger."""

    def __init__(
        self, run_dir: RunDir, ledger: Written, disk: Disk, head_bytes: int = HEAD_BYTES
    ) -> None:
        self._run_dir = run_dir
        self._ledger = ledger
        self._disk = disk
        self._head_bytes = head_bytes
        self._head = TypedHead(head_bytes)
        self._cache_path = run_dir.hidden / METADATA_CACHE_NAME
        self._columns = ColumnTypes()
        self._file: AppendFile | None = None
        self._late: list[str] = []
        self._kinds: Counter[str] = Counter()
        self._card: bytes | None = None
        self._stale = False
        self._cached: _Cache | None = None
        self._changes = 0

    def open(self, columns: ColumnTypes) -> None:
        """Begin with ``columns`` (those of the manifest); rebuilds the file if it is stale.

        Waits if a shard that ended is just writing the file. Raises RunDirError, LockedError.
        """
        gathering = self._run_dir.hidden / _GATHER_LOCK
        if self._disk.size(gathering) is not None:
            self._disk.lock(gathering, GATHER_PATIENCE_S)()
        self.begin(columns)

    def begin(self, columns: ColumnTypes) -> None:
        """Like ``open``, if no other process can be writing the file. Raises RunDirError."""
        with writing(self._run_dir.metadata):
            self._cached = self._read_cache()
            self._columns = self._known_columns(columns)
            self._changes = self._ledger.snapshot.dataset_changes
            if self._cached is not None:
                self._kinds = Counter(self._cached.kinds)
            self._stale = self._cached != self._in_step()
            if not self._stale:
                self._head = self._read_head()
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
        self._stale |= bool(self._late)
        if self._card is None:
            self._write_card()

    def mark_stale(self) -> None:
        """Some lines in the file are no longer true: rebuild it at the next ``refresh``."""
        self._stale = True

    def refresh(self) -> None:
        """Rebuild the file from the ledger if it is stale."""
        if not self._stale:
            return
        self._close_file()
        snapshot = self._ledger.snapshot
        if any(self._all_done(snapshot)) or self._disk.size(self._run_dir.metadata) is not None:
            self._write_all(snapshot)
        self._changes = snapshot.dataset_changes
        self._stale = False

    def _write_all(self, snapshot: Snapshot) -> None:
        """Write the file; again if the first value of a column was too far down for loaders."""
        first: dict[str, None] = {}
        while True:
            self._late = []
            self._head, self._kinds = TypedHead(self._head_bytes), Counter()
            self._disk.write_whole(self._run_dir.metadata, self._all_lines(snapshot, first))
            late = dict.fromkeys(job_id for job_id in self._late if job_id not in first)
            if not late:
                return
            first |= late

    def close(self) -> None:
        """Rebuild the file if it became stale, and close it. Raises RunDirError.

        It is also stale if the ledger has more than was appended here, because a run was interrupted
        between the two. If lines of the ledger are still unwritten, the next run rebuilds it.
        """
        try:
            with writing(self._run_dir.metadata):
                if self._ledger.is_durable:
                    self._stale |= self._changes != self._ledger.snapshot.dataset_changes
                    self.refresh()
                    self._write_card()
                    self._vouch()
        finally:
            self._close_file()

    def _vouch(self) -> None:
        """Make the file durable, and record that it is up to date."""
        if self._file is not None:
            self._file.sync()
        cache = self._in_step()
        if cache != self._cached:
            self._disk.write_whole(self._cache_path, [msgspec.json.encode(cache)])
            self._cached = cache

    def _all_done(self, snapshot: Snapshot) -> Iterator[tuple[str, JobRecord]]:
        return ((job_id, record) for job_id, record in snapshot.items() if record.state is State.DONE)

    def _all_lines(self, snapshot: Snapshot, first: Collection[str]) -> Iterator[bytes]:
        for job_id in first:
            yield from self._lines(job_id, snapshot.records[job_id])
        for job_id, record in self._all_done(snapshot):
            if job_id not in first:
                yield from self._lines(job_id, record)

    def _lines(self, job_id: str, record: JobRecord) -> Iterator[bytes]:
        """A done job's lines, after counting them for the head of the file."""
        rows = Rows(self._ledger.snapshot, self._columns)
        for row in rows.of(job_id, record):
            line = msgspec.json.encode(row) + b"\n"
            self._kinds[(row["media_type"] or "other").partition("/")[0]] += 1
            if self._head.take(row, len(line)):
                self._late.append(job_id)
            yield line

    def _read_head(self) -> TypedHead:
        """Read the head of the existing file, which is up to date."""
        head = TypedHead(self._head_bytes)
        size_bytes = self._disk.size(self._run_dir.metadata)
        if size_bytes is None:
            return head
        with self._disk.open_read(self._run_dir.metadata) as file:
            for line in file.read(self._head_bytes).split(b"\n")[:-1]:
                head.take(msgspec.json.decode(line), 0)
        head.take({}, size_bytes)
        return head

    def _known_columns(self, columns: ColumnTypes) -> ColumnTypes:
        if self._cached is None or self._cached.dataset_changes != self._ledger.snapshot.dataset_changes:
            return self._ledger_columns(columns)
        known = ColumnTypes(self._cached.columns)
        known.merge(columns)
        return known

    def _ledger_columns(self, columns: ColumnTypes) -> ColumnTypes:
        merged = ColumnTypes(columns.types)
        Rows(self._ledger.snapshot, merged).widen()
        return merged

    def _write_card(self) -> None:
        """Write the dataset card if it changed. A card that batcher didn't write is kept."""
        if not self._kinds:
            return
        path = self._run_dir.root / CARD_NAME
        text = card(self._run_dir.root.name, self._columns.types, self._kinds).encode()
        if self._card is None and self._disk.size(path) is not None:
            with self._disk.open_read(path) as file:
                self._card = file.read()
        if self._card != text and (self._card is None or is_ours(self._card)):
            self._disk.write_whole(path, [text])
            self._card = text

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
        changes = self._ledger.snapshot.dataset_changes
        return _Cache(dict(self._columns.types), changes, size_bytes, _LAYOUT, dict(self._kinds))


class _AtRest(NamedTuple):
    """A ledger without a writer."""

    snapshot: Snapshot
    is_durable: bool = True


def gather(root: Path, shard: Shard, disk: Disk) -> None:
    """Rebuild ``metadata.jsonl`` from the outputs of all shards, after the last of them has ended.

    Each shard calls it after releasing the run directory; it does nothing while another shard runs.
    Raises RunDirError, LedgerError.
    """
    hidden = root / HIDDEN_NAME
    release = disk.lock(hidden / _GATHER_LOCK, GATHER_PATIENCE_S)
    try:
        with writing(hidden):
            if is_held(hidden, disk):  # under the lock: a run that begins now waits in ``open``
                return
        snapshot = read_snapshot(root, disk)
        metadata = Metadata(RunDir(root, disk, shard), _AtRest(snapshot), disk)
        metadata.begin(ColumnTypes())
        metadata.close()
    finally:
        release()


class TypedHead:
    """Counts the rows of a file in their order, and detects those that are too far down.

    Loaders infer a column's type from the first bytes alone: `datasets` reads 10 MB, and if a column is
    null in all of them, it assumes that it is always null. A value further down is then an error. So
    rows with the first value of a column go to the front.
    """

    def __init__(self, size_bytes: int = HEAD_BYTES) -> None:
        self._left_bytes = size_bytes
        self._typed: set[str] = set()

    def take(self, row: dict[str, Any], line_bytes: int) -> bool:
        """Count the next row. True if it has the first value of a column, but is after the head."""
        late = self._left_bytes <= 0
        self._left_bytes -= line_bytes
        first = [name for name, value in row.items() if name not in self._typed and has_type(value)]
        self._typed.update(first)
        return late and bool(first)


def has_type(value: Any) -> bool:
    """Whether a value determines the type of its column: null and the empty list fit any."""
    return value is not None and value != []
