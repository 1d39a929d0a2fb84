"""Writes jobs from a Python program to a manifest file, which can be read twice like any other.

Accepts dictionaries, texts (prompts), data frames of pandas and polars, tables of pyarrow, and any
iterable of such rows, which may be long and is read once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import msgspec

from batcher.errors import UsageError
from batcher.schema.problems import shown

TOP_NAME = "jobs.json"
ROWS_NAME = "rows.jsonl"


def write_manifest(jobs: Any, folder: Path, name: str) -> Path:
    """Write ``jobs`` into ``folder`` and return the manifest to open; paths in them are relative to the
    working directory. Raises UsageError for an invalid row."""
    encoder = msgspec.json.Encoder(enc_hook=_plain)
    with (folder / ROWS_NAME).open("wb") as file:
        for number, row in enumerate(_rows(jobs), 1):
            try:
                file.write(encoder.encode(_present(row)) + b"\n")
            except (TypeError, ValueError, OverflowError) as error:
                raise UsageError(f"jobs, row {number}: {error}") from None
    include = {"file": ROWS_NAME, "base": str(Path.cwd())}
    top = folder / TOP_NAME
    top.write_bytes(msgspec.json.encode({"name": name, "jobs": [{"from": include}]}))
    return top


def _rows(jobs: Any) -> Iterator[Any]:
    if hasattr(jobs, "itertuples"):  # pandas
        names = [str(name) for name in jobs.columns]
        return (dict(zip(names, row, strict=True)) for row in jobs.itertuples(index=False, name=None))
    if hasattr(jobs, "iter_rows"):  # polars
        rows: Iterator[Any] = jobs.iter_rows(named=True)
        return rows
    if hasattr(jobs, "to_pylist"):  # pyarrow
        return iter(jobs.to_pylist())
    if isinstance(jobs, Mapping | bytes) or not isinstance(jobs, Iterable):
        raise UsageError("jobs: a list, a data frame or another iterable of rows is needed")
    return iter(jobs)


def _present(row: Any) -> dict[str, Any]:
    """A row without empty cells: None, NaN and the like. Raises TypeError, ValueError."""
    if isinstance(row, str):
        return {"prompt": row}
    if not isinstance(row, Mapping):
        raise TypeError(f"{type(row).__name__} is no row: a dictionary of inputs, or a prompt, is one")
    for name, value in row.items():
        _check(name, value)
    filled = {str(name): value for name, value in row.items() if not _is_missing(value)}
    if not any(isinstance(value, str | int | float) for value in filled.values()):
        filled.setdefault("meta", {})  # else lists alone would be taken for the columns of a table
    return filled


def _check(name: Any, value: Any) -> None:
    """Raises TypeError or ValueError for a value that would not be sent as it is.

    JSON makes bytes base64, and infinity null; the order of a set differs from one process to the next,
    and so would the job's id.
    """
    if isinstance(value, str | int | PurePath) or value is None:
        return
    if isinstance(value, bytes | bytearray | memoryview):
        what = "are bytes; give text, the path of a file, or a data: URI"
        raise TypeError(f"{name}: {shown(bytes(value[:20]))} {what}")
    if isinstance(value, set | frozenset):
        raise TypeError(f"{name}: a set has no order; give a list")
    if isinstance(value, float) and math.isinf(value):
        raise ValueError(f"{name}: {value} is not a finite number")
    for within, item in _inside(name, value):
        _check(within, item)


def _inside(name: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    """What is inside a value, each with its name: the items of a collection, or of numpy's."""
    if isinstance(value, Mapping):
        yield from ((f"{name}.{key}", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        yield from ((name, item) for item in value)
    elif not isinstance(value, float) and hasattr(value, "tolist"):
        yield name, value.tolist()


def _is_missing(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _plain(value: Any) -> Any:
    """Another library's value as JSON: numbers of numpy, paths. Raises TypeError."""
    if isinstance(value, PurePath):
        return str(value)
    for method in ("tolist", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"{type(value).__name__} can't be sent: give a URL, a path, text or a number")
