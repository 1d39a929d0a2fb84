"""Tables: CSV for people and their spreadsheets, Parquet for programs."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from batcher.dataset.export.writer import Filed
from batcher.dataset.metadata_rows import FLAG, INTEGER, NUMBER, TEXTS
from batcher.errors import InputError

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_BATCH_ROWS, _BATCH_BYTES = 4096, 64 << 20
_MEDIA = "media"


class CsvWriter:
    """One header, one line per output. Text that a spreadsheet would execute gets a ``'`` prefix."""

    extension = ".csv"
    reads_media = False

    def __init__(self, columns: dict[str, str]) -> None:
        self._columns = list(columns)
        self.fingerprint = f"csv 1 {','.join(self._columns)}"

    def write(self, path: Path, rows: Filed) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(map(cell, self._columns))
            for row, _ in rows:
                writer.writerow([cell(row[name]) for name in self._columns])


def cell(value: Any) -> Any:
    """A value in safe form for CSV (OWASP, CSV injection): numbers stay numbers, lists become JSON."""
    if isinstance(value, list):
        value = msgspec.json.encode(value).decode()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value


class ParquetWriter:
    """Typed columns; with ``embed`` also ``media``: bytes and path, as `datasets` reads them."""

    extension = ".parquet"

    def __init__(self, columns: dict[str, str], *, embed: bool) -> None:
        self._columns = columns
        self.reads_media = embed
        self.fingerprint = f"parquet 1 {embed} {','.join(map(':'.join, columns.items()))}"
        self._schema = self._make_schema()

    def _make_schema(self) -> Any:
        try:
            import pyarrow as pa
        except ImportError:
            raise InputError("Parquet needs pyarrow: pip install pyarrow") from None
        types = {
            INTEGER: pa.int64(),
            NUMBER: pa.float64(),
            FLAG: pa.bool_(),
            TEXTS: pa.list_(pa.string()),
        }
        fields = [(name, types.get(kind, pa.string())) for name, kind in self._columns.items()]
        if self.reads_media:
            media = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
            fields.insert(0, (_MEDIA, media))
        return pa.schema(fields)

    def write(self, path: Path, rows: Filed) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetWriter(path, self._schema) as writer:
            for batch in self._batches(rows):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=self._schema))

    def _batches(self, rows: Filed) -> Iterator[list[dict[str, Any]]]:
        """Row groups, limited by the number of rows and by the bytes of media."""
        batch: list[dict[str, Any]] = []
        held = 0
        for row, media in rows:
            if self.reads_media:
                content = {"bytes": media.read_bytes(), "path": media.name}
                batch.append({_MEDIA: content, **row})
                held += row["bytes"]
            else:
                batch.append(row)
            if len(batch) >= _BATCH_ROWS or held >= _BATCH_BYTES:
                yield batch
                batch, held = [], 0
        if batch:
            yield batch
