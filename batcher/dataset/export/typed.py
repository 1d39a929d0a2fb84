"""Orders rows so that the first ones show every column's type, for formats without declared types.

`datasets` infers the features of a WebDataset from its first five samples, which must agree with each
other, and then requires them of every later sample: a field that is null in those five must stay null.
Therefore a missing text becomes empty, and samples with a number in every column come first. If a number
is missing and there are no five samples with all of them, its column becomes text.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from batcher.dataset.export.shards import Row, RowSource
from batcher.dataset.metadata import has_type
from batcher.dataset.metadata_rows import TEXT

FIRST_SAMPLES = 5
"""How many samples ``datasets`` reads: its NUM_EXAMPLES_FOR_FEATURES_INFERENCE."""


def typed(source: RowSource, columns: dict[str, str], *, split: bool) -> RowSource:
    """``source`` with each of ``columns`` (name → type) in one type from the first row on.

    With ``split`` the rows go to several files, each of which may be read alone: the order is kept.
    """
    gaps = _gaps(source, [name for name, kind in columns.items() if kind != TEXT])
    first = [] if split else list(islice(_complete(source, gaps), FIRST_SAMPLES))
    if len(first) < FIRST_SAMPLES:
        first = []
    texts = {name for name, kind in columns.items() if kind == TEXT}
    texts |= set() if first else gaps
    return lambda: (_with_texts(row, texts) for row in _first(first, source))


def _gaps(source: RowSource, names: list[str]) -> set[str]:
    """Those of ``names`` that have a value in some rows, but not in all."""
    having, lacking = set[str](), set[str]()
    for row in source():
        for name in names:
            (having if has_type(row[name]) else lacking).add(name)
    return having & lacking


def _complete(source: RowSource, gaps: set[str]) -> Iterator[Row]:
    return (row for row in source() if all(has_type(row[name]) for name in gaps))


def _first(first: list[Row], source: RowSource) -> Iterator[Row]:
    names = {row["file_name"] for row in first}
    yield from first
    yield from (row for row in source() if row["file_name"] not in names)


def _with_texts(row: Row, texts: set[str]) -> Row:
    return {name: _text(value) if name in texts else value for name, value in row.items()}


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return msgspec.json.encode(value).decode()
