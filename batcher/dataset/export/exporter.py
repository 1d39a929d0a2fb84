"""Exports of a run directory: WebDataset shards, Parquet, CSV, folders with metadata or captions.

``choose`` selects rows, ``shards`` divides them and records what is written, one module per format
writes a shard. Rows come from the ledger, so an export works after a crash and during a run. Shards are
written atomically, and an existing one is not written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from batcher.dataset.export.choose import Choice
from batcher.dataset.export.folder import Folder, fill
from batcher.dataset.export.media import Source, media_of, unread
from batcher.dataset.export.shards import Cut, ExportShard, RowSource, Shelf, cut
from batcher.dataset.export.tables import CsvWriter, ParquetWriter
from batcher.dataset.export.tar import TarWriter
from batcher.dataset.export.typed import typed
from batcher.dataset.export.writer import Writer
from batcher.dataset.metadata_rows import OWN_COLUMNS, ColumnTypes, Rows
from batcher.disk import Disk, cannot_write
from batcher.errors import UsageError
from batcher.ledger.ledger import read_snapshot

TABLES = ("webdataset", "parquet", "csv")
FOLDERS = ("folder", "captions")
FORMATS = (*TABLES, *FOLDERS)
Progress = Callable[[int, int], object]
"""Called after each shard with its rows and bytes of media."""


@dataclass(frozen=True, slots=True)
class ExportOrder:
    """What to export, where, and how. ``embed``: also put the media's bytes into Parquet."""

    run_dir: Path
    target: Path
    format: str
    choice: Choice = field(default_factory=Choice)
    cut: Cut = field(default_factory=Cut)
    embed: bool = False


@dataclass(slots=True)
class Exported:
    """The result of an export. ``kept`` shards existed already."""

    rows: int = 0
    bytes: int = 0
    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def export(order: ExportOrder, disk: Disk, progress: Progress = lambda rows, size: None) -> Exported:
    """Export as ``order`` says. Repeated after an interruption, it only writes what is missing.

    Raises UsageError (filter, ids), InputError (a media file is missing or damaged, the library of a
    format is not installed), RunDirError (the target can't be written, or a bucket with the media can't
    be read), CredentialsError.
    """
    _check_target(order)
    if order.format in FOLDERS:
        return _fill(order, disk, progress)
    rows, result = _rows(order, disk), Exported()
    writer = _writer(order, _columns(rows))
    shelf = Shelf(order.target, disk, writer.fingerprint)
    try:
        disk.make_dirs(order.target)
        with _source(order, writer, disk) as source:
            for shard in cut(_chosen(order, rows), order.cut, writer.extension):
                _put(shard, shelf, writer, source, result)
                progress(len(shard.rows), shard.bytes)
        shelf.tidy(writer.extension)
    except OSError as error:
        raise cannot_write(order.target, error) from error
    return result


def _check_target(order: ExportOrder) -> None:
    """Loaders would take what is exported into a run directory for more of its own outputs."""
    if order.target.resolve().is_relative_to(order.run_dir.resolve()):
        raise UsageError(f"-o {order.target} is in the run directory: choose a folder outside of it")
    if str(order.target) == "-":
        raise UsageError("an export is a folder of files, not a stream: name one with -o")


def _fill(order: ExportOrder, disk: Disk, progress: Progress) -> Exported:
    rows, folder = _rows(order, disk), Folder(order.target, disk)
    result = Exported(written=folder.written, kept=folder.kept)
    captions = order.format == "captions"
    try:
        with media_of(order.run_dir, disk) as source:
            chosen = _chosen(order, rows)
            for size_bytes in fill(folder, chosen, order.cut.split_by, source, captions=captions):
                result.rows += 1
                result.bytes += size_bytes
                progress(1, size_bytes)
    except OSError as error:
        raise cannot_write(order.target, error) from error
    return result


def _columns(rows: Rows) -> dict[str, str]:
    return OWN_COLUMNS | dict(sorted(rows.columns.types.items()))


def _chosen(order: ExportOrder, rows: Rows) -> RowSource:
    """The rows to export; can be iterated repeatedly."""

    def chosen() -> Iterator[dict[str, Any]]:
        return order.choice.of(rows.all())

    split = order.cut.split_by is not None
    if order.format == "webdataset" or (order.format == "folder" and split):
        return typed(chosen, _columns(rows), split=split)
    return chosen


def selected(order: ExportOrder, disk: Disk) -> tuple[int, int]:
    """The number of rows that ``order`` selects, and the bytes of their media: for a progress bar."""
    sizes = [row["bytes"] for row in order.choice.of(_rows(order, disk).all())]
    return len(sizes), sum(sizes)


def _rows(order: ExportOrder, disk: Disk) -> Rows:
    """The rows of the run directory. Raises UsageError if the choice doesn't fit them."""
    rows = Rows(read_snapshot(order.run_dir, disk), ColumnTypes())
    rows.widen()
    order.choice.check(OWN_COLUMNS | rows.columns.types)
    return rows


def _put(shard: ExportShard, shelf: Shelf, writer: Writer, source: Source, result: Exported) -> None:
    result.rows += len(shard.rows)
    result.bytes += shard.bytes
    if shelf.has(shard):
        result.kept.append(shard.name)
        return
    rows = source(shard.rows)
    with shelf.place(shard) as path:
        writer.write(path, rows)
    result.written.append(shard.name)


def _source(order: ExportOrder, writer: Writer, disk: Disk) -> AbstractContextManager[Source]:
    if writer.reads_media:
        return media_of(order.run_dir, disk)
    return nullcontext(partial(unread, order.run_dir))


def _writer(order: ExportOrder, columns: dict[str, str]) -> Writer:
    match order.format:
        case "webdataset":
            return TarWriter()
        case "parquet":
            return ParquetWriter(columns, embed=order.embed)
        case _:
            return CsvWriter(columns)
