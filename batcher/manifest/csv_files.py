"""Tables, of whatever format: a header compiled once, then rows one at a time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from batcher.errors import ManifestError
from batcher.manifest.rows import RESERVED, ColumnRules, Row, set_reserved
from batcher.schema.dialect import boolean_in, integer_in, json_value, number_in
from batcher.schema.wording import shown

COLUMNS_MAX = 4096

Records = Callable[[], Iterator[tuple[int, list[str]]]]
"""Begins a pass over the records of a table: line and cells of each, blank ones included."""

_PREFIXED = re.compile(r"(meta|vars|input)\.(.+)", re.DOTALL)
_AS_JSON = frozenset({"matrix", "vars", "meta", "input"})


def _json_in(text: str) -> Any:
    try:
        return json_value(text)
    except ValueError:
        return None


def json_list_in(value: Any) -> Any:
    """The list that text writes as JSON, anything else as it is."""
    if not isinstance(value, str) or not value.startswith("["):
        return value
    decoded = _json_in(value)
    return decoded if isinstance(decoded, list) else value


_TYPES: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "int": (integer_in, "an integer"),
    "float": (number_in, "a number"),
    "bool": (boolean_in, "true or false"),
    "json": (_json_in, "JSON"),
    "str": (str, "text"),
}


@dataclass(frozen=True, slots=True)
class _Column:
    """What one column that is more than a plain input is for: ``role`` is a reserved key, or none."""

    index: int
    role: str | None
    name: str
    type: str | None = None

    def is_plain_meta(self) -> bool:
        """Whether its cells are metadata just as they are."""
        return self.role == "meta" and self.type is None

    def put(self, row: Row, cell: str) -> None:
        value: Any = cell
        if self.type is not None:
            convert, wanted = _TYPES[self.type]
            value = convert(cell if self.type == "str" else cell.strip())
            if value is None:
                row.blame(self.name, f"{shown(cell)} is not {wanted}")
                return
        if self.role == "input":
            row.inputs[self.name] = value
        elif self.role == "meta":
            row.meta = {**(row.meta or {}), self.name: value}
        elif self.role == "vars":
            row.vars = {**(row.vars or {}), self.name: value}
        elif self.role is None:
            row.blame("", f"{shown(cell)} stands in a column without a header")
        else:
            self._put_reserved(row, cell.strip())

    def _put_reserved(self, row: Row, text: str) -> None:
        value: Any = text
        if self.name == "repeat":
            value = integer_in(text)
        elif self.name in _AS_JSON:
            value = _json_in(text)
        if text:
            set_reserved(row, self.name, text if value is None else value)


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose header has been read. ``header_line`` is where it stands.

    ``names`` has, for each column, its name where it is a plain input, else "". ``meta`` are index and
    name of the columns that are metadata as they are, up to the first of the ``others``.
    """

    records: Records
    header_line: int
    names: tuple[str, ...]
    meta: tuple[tuple[int, str], ...]
    others: tuple[_Column, ...]

    @property
    def row_keys(self) -> frozenset[str]:
        """The reserved keys that rows of this table may have."""
        return frozenset(c.name for c in self.others if c.role == "reserved")

    def rows(self) -> Iterator[Row]:
        """The rows that are not blank. Raises ManifestError where the file can't be read on."""
        names, meta, header_line, width = self.names, self.meta, self.header_line, len(self.names)
        for line, cells in self.records():
            if line <= header_line or (not (cells and cells[0].strip()) and _is_blank(cells)):
                continue
            if len(cells) < width:
                cells.extend([""] * (width - len(cells)))
            inputs = {name: cell for name, cell in zip(names, cells) if cell}  # noqa: B905 (twice as fast)
            inputs.pop("", None)
            row = Row(line, inputs, meta={name: cells[at] for at, name in meta if cells[at]} or None)
            if self.others or len(cells) > width:
                self._put_others(row, cells)
            else:
                row.is_plain = "{{" not in "".join(cells)
            yield row

    def _put_others(self, row: Row, cells: list[str]) -> None:
        for column in self.others:
            if cells[column.index]:
                column.put(row, cells[column.index])
        if any(cells[len(self.names) :]):
            what = f"{len(cells)} cells under {len(self.names)} headers; is a quote missing?"
            row.blame("", what)


def open_table(shown_as: str, records: Records, columns: ColumnRules) -> Table:
    """Read the header of the table ``shown_as``. Raises ManifestError if it has none or a bad one."""
    line = 1
    for line, cells in records():
        if not _is_blank(cells):
            return _compiled(shown_as, records, (line, cells), columns)
    raise ManifestError([f"{shown_as}:{line}: no header: the file is empty"])


def _compiled(
    shown_as: str, records: Records, header: tuple[int, list[str]], columns: ColumnRules
) -> Table:
    line, cells = header
    if len(cells) > COLUMNS_MAX:
        raise ManifestError([f"{shown_as}:{line}: more than {COLUMNS_MAX} columns"])
    found: dict[tuple[str | None, str], _Column] = {}
    problems = []
    for index, cell in enumerate(cells):
        try:
            column = _column(index, cell, columns)
        except ValueError as error:
            problems.append(f"{shown_as}:{line}: {error}")
            continue
        if column.name and (column.role, column.name) in found:
            problems.append(f"{shown_as}:{line}: {column.name}: two columns of this name")
        found[column.role, column.name or f"\0{index}"] = column
    if problems:
        raise ManifestError(problems)
    plain = {c.index: c.name for c in found.values() if c.role == "input" and c.type is None}
    others = [c for c in found.values() if c.index not in plain and c.role != "ignored"]
    meta = tuple((c.index, c.name) for c in itertools.takewhile(_Column.is_plain_meta, others))
    names = tuple(plain.get(index, "") for index in range(len(cells)))
    return Table(records, line, names, meta, tuple(others[len(meta) :]))


def _column(index: int, cell: str, columns: ColumnRules) -> _Column:
    """What the column under header ``cell`` is for. Raises ValueError for a type that isn't one."""
    name, _, type_ = cell.strip().lower().partition(":")
    name, type_ = "_".join(name.split()), type_.strip()
    if type_ and type_ not in _TYPES:
        raise ValueError(f"{name}: {type_!r} is not a column type ({', '.join(_TYPES)})")
    if name in columns.ignored:
        return _Column(index, "ignored", name)
    if name in columns.meta:
        return _Column(index, "meta", name, type_ or None)
    if match := _PREFIXED.fullmatch(name):
        return _Column(index, match[1], match[2], type_ or None)
    if name in RESERVED:
        return _Column(index, "reserved", name)
    return _Column(index, "input" if name else None, name, type_ or None)


def _is_blank(cells: list[str]) -> bool:
    return not cells or (not cells[0].strip() and not "".join(cells).strip())
