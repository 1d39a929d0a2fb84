"""Reads any manifest file as a :class:`Document`: a head, and rows that can be read repeatedly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from batcher.errors import ManifestError
from batcher.jobs.column_rules import ColumnRules
from batcher.manifest.csv_files import Table, open_table
from batcher.manifest.delimited import delimiter_of, in_blocks, records
from batcher.manifest.detect_format import looks_like, mistaken
from batcher.manifest.files import ManifestFile
from batcher.manifest.json_files import (
    ShapeError,
    batch_line,
    is_lines,
    json_document,
    jsonl_rows,
    shaped,
)
from batcher.manifest.parquet_files import check_parquet, parquet_rows
from batcher.manifest.rows import Head, LinedList, Remarks, Row, head_of, row_of
from batcher.manifest.tally import problem_line
from batcher.manifest.text_files import text_rows
from batcher.manifest.xlsx_files import sheet_of, sheet_records
from batcher.manifest.yaml_files import yaml_document
from batcher.options.facts import AS_IT_TELLS, Reading
from batcher.schema.problems import shown

HELD_ROWS_HINT = 50_000


@dataclass(frozen=True, slots=True)
class Document:
    """One manifest file. ``rows()`` may be called repeatedly and raises ManifestError if the file
    can't be read any further, ManifestChanged if it has changed.

    ``row_keys`` are the reserved keys that rows may have. ``held`` counts rows kept in memory: 0
    if they are streamed. ``base`` is the folder of relative paths in the file, None: its own directory.
    ``warnings`` are lines about the file as a whole, ``remarks`` the warnings of this pass about its
    rows. In a table, cells with only blanks are empty; ``table`` is set if ``rows`` are just its rows.
    ``rest`` is the role of its columns that are not inputs of the model. A listing is not a file, only
    names of others.
    """

    file: ManifestFile
    head: Head
    rows: Callable[[], Iterator[Row]]
    row_keys: frozenset[str]
    held: int = 0
    warnings: tuple[str, ...] = ()
    base: Path | None = None
    remarks: Remarks = field(default_factory=Remarks)
    is_table: bool = False
    table: Table | None = None
    rest: str | None = None
    is_listing: bool = False

    @property
    def directory(self) -> Path:
        """The folder that relative paths in the file are relative to."""
        return self.base if self.base is not None else self.file.path.parent


def open_document(
    path: Path, shown_as: str, columns: ColumnRules, reading: Reading = AS_IT_TELLS
) -> Document:
    """Open a manifest file of any format and check everything except its rows. Raises ManifestError."""
    return read_document(ManifestFile.at(path, shown_as, reading.encoding), columns, reading)


def read_document(file: ManifestFile, columns: ColumnRules, reading: Reading) -> Document:
    """:func:`open_document` for a file that is already open."""
    name, _, inside = (reading.format or "").partition(":")
    format_ = _format_named(name) if name else _format_of(file.path)
    if name and format_ is None:
        known = ", ".join(FORMATS)
        raise ManifestError([f"{file.shown}: {name!r} is no format; formats are {known}"])
    head = file.head()
    if FORMATS[format_ or "txt"].is_text and (what := mistaken(head, file.path.name)):
        raise ManifestError([f"{file.shown}:1: {what}"])
    if format_ is None:
        format_ = _guessed(file, head)
        told = f"{file.shown}: read as {format_}, which it looks like; --format says otherwise"
        found = FORMATS[format_].read(ManifestSource(file, columns, reading.delimiter, inside))
        return replace(found, warnings=(told, *found.warnings), rest=columns.rest)
    if format_ == "txt" and not name:
        _check_plain(file, head)
    document = FORMATS[format_].read(ManifestSource(file, columns, reading.delimiter, inside))
    return replace(document, rest=columns.rest)


def _format_named(name: str) -> str | None:
    name = name.lower().removeprefix(".")
    return next((key for key, f in FORMATS.items() if name == key or f".{name}" in f.suffixes), None)


def _guessed(file: ManifestFile, head: bytes) -> str:
    """The format of a file whose name has no suffix. Raises ManifestError for any other."""
    seems = looks_like(head)
    if Path(file.path.name.lower().removesuffix(".gz")).suffix:
        what = f"not a kind of manifest, by its name; --format {seems} reads it, as it seems"
        raise ManifestError([f"{file.shown}: {what} (formats: {', '.join(FORMATS)})"])
    return seems


def _check_plain(file: ManifestFile, head: bytes) -> None:
    """Raises ManifestError for a table or JSON under the name of plain text."""
    seems = looks_like(head)
    if seems != "txt":
        what = f"this looks like {seems.upper()}, not like one prompt a line"
        raise ManifestError([f"{file.shown}:1: {what}; --format {seems} reads it (or --format txt)"])


def _format_of(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    return next((key for key, f in FORMATS.items() if name.endswith(f.suffixes)), None)


@dataclass(frozen=True, slots=True)
class ManifestSource:
    """A file with the reader's options. ``inside`` is the part of it to read."""

    file: ManifestFile
    columns: ColumnRules
    delimiter: str | None = None
    inside: str = ""


@dataclass(frozen=True, slots=True)
class ManifestFormat:
    """A kind of manifest: the names of its files, and how to read one."""

    suffixes: tuple[str, ...]
    read: Callable[[ManifestSource], Document]
    is_text: bool = True


def _read_table(source: ManifestSource, delimiter: str | None = None) -> Document:
    file = source.file
    delimiter = source.delimiter or delimiter or delimiter_of(file)
    table = open_table(file.shown, partial(records, file, delimiter), source.columns)
    return Document(
        file, Head(), table.rows, table.row_keys, warnings=table.told, is_table=True, table=table
    )


def _read_text(source: ManifestSource) -> Document:
    remarks = Remarks()
    rows = partial(text_rows, source.file, remarks)
    return Document(source.file, Head(), rows, frozenset(), remarks=remarks)


def _read_xlsx(source: ManifestSource) -> Document:
    file = source.file
    sheet = sheet_of(file, source.inside)
    table = open_table(file.shown, lambda: in_blocks(sheet_records(file, sheet)), source.columns)
    below = (f"{file.shown}:{what}" for what in sheet.told_below(table.header_line))
    warnings = (*(f"{file.shown}: {what}" for what in sheet.told), *table.told, *below)
    return Document(
        file, Head(), table.rows, table.row_keys, warnings=warnings, is_table=True, table=table
    )


def _read_parquet(source: ManifestSource) -> Document:
    remarks = Remarks()
    check_parquet(source.file)
    rows = partial(parquet_rows, source.file, source.columns, remarks)
    return Document(source.file, Head(), rows, frozenset({"model", "matrix", "from"}), remarks=remarks)


def _read_json(source: ManifestSource) -> Document:
    if source.inside or not is_lines(source.file):
        return _read_held(_json_top, source)
    rows = partial(jsonl_rows, source.file, source.columns)
    return Document(source.file, Head(), rows, frozenset({"model", "matrix", "from"}))


Told = tuple[Any, tuple[str, ...]]
"""The value of a file, and warnings about it."""


def _json_top(source: ManifestSource) -> Told:
    try:
        top = json_document(source.file)
        if not source.inside and _is_workflow(top):
            raise ShapeError(WORKFLOW)
        return shaped(top, source.inside)
    except ShapeError as error:
        raise ManifestError([f"{source.file.shown}:1: {error}"]) from None


WORKFLOW = (
    "this is a ComfyUI workflow, not a list of jobs; deploy it at RunComfy, and name it in a manifest: "
    "`model: deployment/ID` with `overrides` of its nodes (docs/providers.md)"
)


def _is_workflow(top: Any) -> bool:
    """Whether this is a workflow of ComfyUI, as saved by its editor or as sent to its API."""
    if not isinstance(top, dict) or not top:
        return False
    if isinstance(top.get("nodes"), list) and isinstance(top.get("links"), list):
        return True
    return all(
        isinstance(node, dict) and {"class_type", "inputs"} <= node.keys() for node in top.values()
    )


def _yaml_top(source: ManifestSource) -> Told:
    cut: list[str] = []
    return yaml_document(source.file, cut), tuple(cut)


def _read_held(
    load: Callable[[ManifestSource], tuple[Any, tuple[str, ...]]], source: ManifestSource
) -> Document:
    file, columns = source.file, source.columns
    top, told = load(source)
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
    entries = (batch_line(entry, columns) for entry in jobs)
    rows = [row_of(entry, line, columns) for entry, line in zip(entries, lines, strict=False)]
    warnings = tuple(f"{file.shown}:{what}" for what in told)
    unchanged = partial(_unchanged, file, rows)
    return Document(file, head, unchanged, frozenset(_keys_of(rows)), len(rows), warnings)


def _keys_of(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        yield from (name for name in ("model", "matrix") if getattr(row, name) is not None)
        if row.include is not None:
            yield "from"


def _unchanged(file: ManifestFile, rows: list[Row]) -> Iterator[Row]:
    """The rows of a file that was read before, if it is unchanged."""
    with file.open():
        yield from rows


def _what_is(top: Any) -> str:
    return "the file is empty" if top is None else f"{shown(top)} is no manifest"


FORMATS: Mapping[str, ManifestFormat] = {
    "csv": ManifestFormat((".csv",), _read_table),
    "tsv": ManifestFormat((".tsv", ".tab"), partial(_read_table, delimiter="\t")),
    "yaml": ManifestFormat((".yaml", ".yml"), partial(_read_held, _yaml_top)),
    "jsonl": ManifestFormat((".jsonl", ".ndjson"), _read_json),
    "json": ManifestFormat((".json",), _read_json),
    "txt": ManifestFormat((".txt", ".text"), _read_text),
    "xlsx": ManifestFormat((".xlsx", ".xlsm"), _read_xlsx, is_text=False),
    "parquet": ManifestFormat((".parquet", ".pq"), _read_parquet, is_text=False),
}
