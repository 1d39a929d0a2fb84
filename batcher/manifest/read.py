"""Any manifest file as a :class:`Document`: a head, and rows that can be read again and again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from batcher.errors import ManifestError
from batcher.manifest.files import ManifestFile
from batcher.manifest.jsonfiles import json_document, jsonl_rows
from batcher.manifest.rows import Columns, Head, LinedList, Row, head_of, row_of
from batcher.manifest.tables import open_table
from batcher.manifest.tally import problem_line
from batcher.manifest.yamlfiles import yaml_document
from batcher.schema.wording import shown

HELD_ROWS_HINT = 50_000


@dataclass(frozen=True, slots=True)
class Document:
    """One manifest file. ``rows()`` may be called repeatedly and raises ManifestError where the file
    can't be read on, ManifestChanged where it is not the same any more.

    ``row_keys`` are the reserved keys that rows may have. ``held`` counts rows kept in memory: 0
    where they stream.
    """

    file: ManifestFile
    head: Head
    rows: Callable[[], Iterator[Row]]
    row_keys: frozenset[str]
    held: int = 0

    @property
    def directory(self) -> Path:
        """What relative paths in the file are relative to."""
        return self.file.path.parent


def open_document(path: Path, shown_as: str, columns: Columns) -> Document:
    """Open a manifest file of any format and check all but its rows. Raises ManifestError."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(_READERS)
        raise ManifestError([f"{shown_as}: not a kind of manifest; its name must end in {known}"])
    return reader(ManifestFile.at(path, shown_as), columns)


def _read_table(file: ManifestFile, columns: Columns, delimiter: str | None = None) -> Document:
    table = open_table(file, columns, delimiter)
    return Document(file, Head(), table.rows, table.row_keys)


def _read_jsonl(file: ManifestFile, columns: Columns) -> Document:
    return Document(
        file, Head(), partial(jsonl_rows, file, columns), frozenset({"model", "matrix", "from"})
    )


def _read_held(load: Callable[[ManifestFile], Any], file: ManifestFile, columns: Columns) -> Document:
    top = load(file)
    if isinstance(top, list):
        top = {"jobs": top}
    if not isinstance(top, dict):
        raise ManifestError([f"{file.shown}:1: {_what_is(top)}: a list of jobs or a mapping is needed"])
    head = head_of(top, columns)
    problems = [problem_line(file.shown, *problem) for problem in head.layer.problems]
    if not isinstance(top.get("jobs"), list):
        problems.append(f"{file.shown}:{head.layer.line_of('jobs')}: jobs: a list of jobs is needed")
    if problems:
        raise ManifestError(problems)
    jobs = top["jobs"]
    lines = jobs.lines if isinstance(jobs, LinedList) else itertools.repeat(1)
    rows = [row_of(entry, line, columns) for entry, line in zip(jobs, lines, strict=False)]
    keys = frozenset(_keys_of(rows))
    return Document(file, head, partial(_unchanged, file, rows), keys, held=len(rows))


def _keys_of(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        yield from (name for name in ("model", "matrix") if getattr(row, name) is not None)
        if row.include is not None:
            yield "from"


def _unchanged(file: ManifestFile, rows: list[Row]) -> Iterator[Row]:
    """The rows of a file that was read before, as long as it still is that file."""
    with file.open():
        yield from rows


def _what_is(top: Any) -> str:
    return "the file is empty" if top is None else f"{shown(top)} is no manifest"


_READERS: Mapping[str, Callable[[ManifestFile, Columns], Document]] = {
    ".csv": _read_table,
    ".tsv": partial(_read_table, delimiter="\t"),
    ".yaml": partial(_read_held, yaml_document),
    ".yml": partial(_read_held, yaml_document),
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": partial(_read_held, json_document),
}
