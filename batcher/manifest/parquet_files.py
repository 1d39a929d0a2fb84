"""Parquet: each row is a job; reads a batch of rows at a time."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from batcher.errors import ManifestError
from batcher.jobs.column_rules import ColumnRules
from batcher.manifest.files import ManifestFile
from batcher.manifest.rows import Remarks, Row, row_of

MISSING = "reading Parquet needs pyarrow: pip install pyarrow (or save it as CSV)"
BATCH_ROWS = 1024


def parquet_rows(file: ManifestFile, columns: ColumnRules, remarks: Remarks) -> Iterator[Row]:
    """The file's rows, numbered from 1. Raises ManifestError."""
    number = 0
    with _opened(file) as table:
        for batch in table.iter_batches(BATCH_ROWS):
            for entry in batch.to_pylist():
                number += 1
                for name in [name for name, value in entry.items() if _holds_bytes(value)]:
                    del entry[name]
                    remarks.note(number, f"{name}: holds bytes (embedded media?), which are not sent")
                yield row_of(_plain(entry), number, columns)


def check_parquet(file: ManifestFile) -> None:
    """Raises ManifestError if the file is not a Parquet file."""
    with _opened(file):
        pass


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_bytes, value.values()))
    return isinstance(value, bytes) or (isinstance(value, list) and any(map(_holds_bytes, value)))


def _plain(value: Any) -> Any:
    """An Arrow value as JSON; NaN becomes a missing value."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | dt.timedelta):
        return str(value)
    return value


@contextmanager
def _opened(file: ManifestFile) -> Iterator[Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ManifestError([f"{file.shown}: {MISSING}"]) from None
    with file.open() as stream:
        try:
            with parquet.ParquetFile(pa.PythonFile(stream, "r")) as table:
                yield table
                file.check_unchanged(stream)
        except (pa.ArrowException, OSError) as error:
            what = str(error).splitlines()[0]
            raise ManifestError([f"{file.shown}: can't be read as Parquet: {what}"]) from None
