"""Tables of any format: the header is compiled once, then rows are read one at a time."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from batcher.errors import ManifestError
from batcher.jobs.column_rules import IGNORED, INPUT, KEY, META, NONE, ColumnRules, Place
from batcher.manifest.delimited import Record
from batcher.manifest.headers import AGAIN, TITLES_MAX, header_in
from batcher.manifest.rows import LocalPath, ManifestChanged, Row, put, set_reserved
from batcher.schema.dialect import boolean_in, integer_in, json_value, number_in
from batcher.schema.problems import shown

COLUMNS_MAX = 4096

Records = Callable[[], Iterator[list[Record]]]
"""Starts a pass over the records of a table, many at a time, including blank ones."""

_AS_JSON = frozenset({"matrix", "vars", "meta", "input"})


def _json_in(text: str) -> Any:
    try:
        return json_value(text)
    except ValueError:
        return None


def json_list_in(value: Any) -> Any:
    """The list if ``value`` is the text of a JSON list, anything else unchanged (also ``[1].png``)."""
    if not isinstance(value, str) or isinstance(value, LocalPath) or not value.startswith("["):
        return value
    decoded = _json_in(value)
    return decoded if isinstance(decoded, list) else value


def list_in(text: str) -> list[str]:
    """The items of a cell: one per line, or separated by the first of ``|``, ``;``, ``,`` in it."""
    decoded = json_list_in(text)
    if isinstance(decoded, list):
        return decoded
    mark = next((mark for mark in "\n|;," if mark in text), "\n")
    return [item.strip() for item in text.split(mark) if item.strip()]


_TYPES: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "int": (integer_in, "an integer"),
    "float": (number_in, "a number"),
    "bool": (boolean_in, "true or false"),
    "json": (_json_in, "JSON"),
    "str": (str, "text"),
    "list": (list_in, "a list"),
}


@dataclass(frozen=True, slots=True)
class _Column:
    """The role of a column that is not a plain input."""

    index: int
    place: Place
    columns: ColumnRules

    @property
    def is_plain_meta(self) -> bool:
        """Whether its cells are metadata without conversion."""
        return self.place.role == META and self.place.type is None

    @property
    def is_id(self) -> bool:
        """Whether its cells are the ids of jobs."""
        return self.place.role == KEY and self.place.name == "id"

    def put(self, row: Row, cell: str, joined: dict[str, list[Any]]) -> None:
        """Store a cell in its place in ``row``, or record the problem with it."""
        place = self.place
        value: Any = cell
        if place.type is not None:
            convert, wanted = _TYPES[place.type]
            value = convert(cell if place.type == "str" else cell.strip())
            if value is None:
                row.blame(place.name, f"{shown(cell)} is not {wanted}")
                return
        if place.role == KEY:
            self._put_reserved(row, cell.strip())
        else:
            put(row, place, value, joined)

    def _put_reserved(self, row: Row, text: str) -> None:
        name = self.place.name
        value: Any = text
        if name == "repeat":
            value = integer_in(text)
        elif name in _AS_JSON:
            value = _json_in(text)
        if text:
            set_reserved(row, name, text if value is None else value, self.columns)


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose header has been read, on line ``header_line``.

    ``names`` has, for each column, its name if it is a plain input, else "". ``id_at`` is the index of
    the column of ids, if there is one. ``meta`` are index and name of the columns that are metadata
    without conversion, up to the first of the ``others``. ``told`` are warnings about lines above the
    header.
    """

    records: Records
    header_line: int
    names: tuple[str, ...]
    meta: tuple[tuple[int, str], ...]
    others: tuple[_Column, ...]
    header: list[str]
    id_at: int | None = None
    told: tuple[str, ...] = ()

    @property
    def row_keys(self) -> frozenset[str]:
        """The reserved keys that rows of this table may have."""
        return frozenset(c.place.name for c in self.others if c.place.role == KEY)

    @property
    def is_plain(self) -> bool:
        """Whether rows have only ids, inputs and metadata, none of which needs a conversion."""
        return not self.others

    def rows(self) -> Iterator[Row]:
        """The rows that are not blank. Raises ManifestError if the file can't be read any further."""
        return (self.row(*record) for block in self.blocks() for record in block)

    def blocks(self) -> Iterator[list[Record]]:
        """The records of :meth:`rows`, many at a time, with a cell for each column.

        Raises ManifestError, after the records before it.
        """
        return map(self._filled, self.records())

    def _filled(self, block: list[Record]) -> list[Record]:
        header_line, width = self.header_line, len(self.names)
        filled = []
        for record in block:
            line, cells = record
            if line <= header_line or (not (cells and cells[0].strip()) and _is_blank(cells)):
                continue
            if len(cells) < width:
                cells.extend([""] * (width - len(cells)))
            filled.append(record)
        return filled

    def row(self, line: int, cells: list[str]) -> Row:
        """The row of one record of a block."""
        inputs = {name: cell for name, cell in zip(self.names, cells) if cell}  # noqa: B905 (twice as fast)
        inputs.pop("", None)
        row = Row(line, inputs, meta={name: cells[at] for at, name in self.meta if cells[at]} or None)
        if self.id_at is not None:
            row.id = cells[self.id_at].strip() or None
        if self.others or len(cells) > len(self.names):
            self._put_others(row, cells)
        else:
            row.is_plain = "{{" not in "".join(cells)
        if cells == self.header:
            row.blame("", AGAIN)
        return row

    def _put_others(self, row: Row, cells: list[str]) -> None:
        joined: dict[str, list[Any]] = {}
        for column in self.others:
            if cells[column.index]:
                column.put(row, cells[column.index], joined)
        if any(cells[len(self.names) :]):
            what = f"{len(cells)} cells under {len(self.names)} headers; is a quote missing?"
            row.blame("", what)


def open_table(shown_as: str, records: Records, columns: ColumnRules) -> Table:
    """Read the header of the table ``shown_as``. Raises ManifestError if it has none or a bad one."""
    first = _first_filled(records)
    if not first:
        last = max((line for line, _ in chain.from_iterable(records())), default=1)
        raise ManifestError([f"{shown_as}:{last}: no header: the file is empty"])
    for line, cells in first:
        if len(cells) > COLUMNS_MAX:
            raise ManifestError([f"{shown_as}:{line}: more than {COLUMNS_MAX} columns"])
    if any(columns.of_header(cell, index).renamed for index, cell in enumerate(first[0][1], 1)):
        return _compiled(shown_as, records, first[0], columns)
    header, told = header_in(shown_as, first)
    return replace(_compiled(shown_as, records, header, columns), told=tuple(told))


def _first_filled(records: Records) -> list[tuple[int, list[str]]]:
    """The first records that are not blank. Read errors after a header are left to the rows."""
    first: list[tuple[int, list[str]]] = []
    filled = (record for record in chain.from_iterable(records()) if not _is_blank(record[1]))
    try:
        first.extend(itertools.islice(filled, TITLES_MAX))
    except ManifestChanged:
        raise
    except ManifestError:
        if not first:
            raise
    return first


def _compiled(
    shown_as: str, records: Records, header: tuple[int, list[str]], columns: ColumnRules
) -> Table:
    line, cells = header
    places = [columns.of_header(cell, index) for index, cell in enumerate(cells, 1)]
    twice = [f"{shown_as}:{line}: {what}" for what in _repeated(places)]
    if twice:
        raise ManifestError(twice)
    shared = Counter(place.name for place in places if place.role == INPUT)
    plain = {
        index: place.name
        for index, place in enumerate(places)
        if place.role == INPUT and not (place.type or place.path) and shared[place.name] == 1
    }
    others = [
        _Column(index, place, columns)
        for index, place in enumerate(places)
        if index not in plain and place.role != IGNORED
    ]
    id_at = next((column.index for column in others if column.is_id), None)
    others = [column for column in others if not column.is_id]
    meta = tuple((c.index, c.place.name) for c in itertools.takewhile(lambda c: c.is_plain_meta, others))
    names = tuple(plain.get(index, "") for index in range(len(cells)))
    return Table(records, line, names, meta, tuple(others[len(meta) :]), cells, id_at)


def _repeated(places: Iterable[Place]) -> Iterator[str]:
    """Columns with the same name, unless the user's options caused it."""
    seen: dict[tuple[str, str], tuple[int, Place]] = {}
    for number, place in enumerate(places, 1):
        if place.role in (IGNORED, NONE) or place.path:
            continue
        first, other = seen.setdefault((place.role, place.name), (number, place))
        is_list = place.role == INPUT and (place.renamed or other.renamed)
        if first != number and not is_list:
            yield (
                f"{place.name}: two columns of this name, number {first} and {number} (--ignore "
                f"'#{number}' drops one, --rename '#{number}=FIELD' gives it another name)"
            )


def _is_blank(cells: list[str]) -> bool:
    return not cells or (not cells[0].strip() and not "".join(cells).strip())
