"""Excel workbooks: one sheet as the records of a table, each with the number of its row."""

from __future__ import annotations

import datetime as dt
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from batcher.errors import ManifestError
from batcher.manifest.detect_format import looks_like, mistaken
from batcher.manifest.files import CHUNK_BYTES, ManifestFile
from batcher.manifest.rows import sheet_problem

MISSING = "reading XLSX needs openpyxl: pip install openpyxl (or save the sheet as CSV)"
UNREADABLE = "a workbook that openpyxl can't read; save the sheet as CSV"
EMPTY_ROWS_MAX = 10_000
_OLE = b"\xd0\xcf\x11\xe0"
"""Encrypted workbooks are in the container of the old Office files."""


_MARKUP = re.compile(
    rb"<(?:\w+:)?row\s(?=[^>]*\br=\"(?P<row>\d+)\")[^>]*\bhidden=\"(?:1|true)\"[^>/]*>"
    rb"|<(?:\w+:)?mergeCell\s[^>]*\bref=\"(?P<cells>[A-Z]+\d+:[A-Z]+\d+)\""
)
"""What openpyxl doesn't tell while it streams a sheet: hidden rows (with cells), and merged cells."""
_TAG_MAX_BYTES = 4096


class MergedCells(NamedTuple):
    """A range of cells that are one. Columns and rows are counted from 1; the last ones are included."""

    first_column: int
    first_row: int
    last_column: int
    last_row: int

    @property
    def is_tall(self) -> bool:
        """Whether it has more than one row."""
        return self.last_row > self.first_row

    @property
    def shown(self) -> str:
        """Its name in the spreadsheet, such as ``C2:C4``."""
        from openpyxl.utils import get_column_letter

        first, last = get_column_letter(self.first_column), get_column_letter(self.last_column)
        return f"{first}{self.first_row}:{last}{self.last_row}"


@dataclass(frozen=True, slots=True)
class Sheet:
    """The sheet to read, and what its cells don't show. ``told`` is a warning about other sheets."""

    name: str
    told: tuple[str, ...] = ()
    merged: list[MergedCells] = field(default_factory=list)
    hidden_rows: list[int] = field(default_factory=list)

    def told_below(self, header_line: int) -> Iterator[str]:
        """Warnings about rows below the header that are not what they seem on the screen."""
        hidden = [(row, "this row") for row in self.hidden_rows if row > header_line]
        merged = [cells for cells in self.merged if cells.first_row > header_line]
        tall = [(cells.first_row, cells.shown) for cells in merged if cells.is_tall]
        wide = [(cells.first_row, cells.shown) for cells in merged if not cells.is_tall]
        yield from _told_once(hidden, "is hidden, but read like the others")
        yield from _told_once(tall, "is merged: its value counts for each of its rows")
        yield from _told_once(wide, "is merged, as a heading is, but its row is read like the others")


def _told_once(found: list[tuple[int, str]], what: str) -> Iterator[str]:
    more = f" ({len(found)} such)" if len(found) > 1 else ""
    for row, which in found[:1]:
        yield f"{row}: {which} {what}{more}"


def sheet_of(file: ManifestFile, wanted: str) -> Sheet:
    """The ``wanted`` sheet, else the first visible sheet that is not empty. Raises ManifestError."""
    with _workbook(file, values=True) as book:
        name, told = (wanted, ()) if wanted else _first_filled(file, book)
        if name not in book.sheetnames:
            known = ", ".join(repr(sheet.title) for sheet in book.worksheets)
            raise ManifestError([f"{file.shown}: no sheet is called {wanted!r}; there are {known}"])
        sheet = Sheet(name, told)
        with book[name]._get_source() as source:
            _find_marks(source, sheet)
    return sheet


def _first_filled(file: ManifestFile, book: Any) -> tuple[str, tuple[str, ...]]:
    """The name of the first visible sheet that is not empty, and a warning about others."""
    filled = [s.title for s in book.worksheets if s.sheet_state == "visible" and _has_values(s)]
    if not filled:
        raise ManifestError([f"{file.shown}: no header: no visible sheet has anything on it"])
    others = ", ".join(f"--format 'xlsx:{name}'" for name in filled[1:])
    told = (f"the sheet {filled[0]!r} is read, of {len(filled)} with values; {others} reads another",)
    return filled[0], told if others else ()


def _find_marks(source: IO[bytes], sheet: Sheet) -> None:
    """Add the merged cells and hidden rows in the XML of a sheet to ``sheet``."""
    from openpyxl.utils import range_boundaries

    rest = b""
    while chunk := source.read(CHUNK_BYTES):
        rest += chunk
        end = 0
        for found in _MARKUP.finditer(rest):
            end = found.end()
            if found["row"]:
                sheet.hidden_rows.append(int(found["row"]))
            else:
                cells = found["cells"].decode()
                sheet.merged.append(MergedCells(*range_boundaries(cells)))
        rest = rest[max(end, len(rest) - _TAG_MAX_BYTES) :]


def sheet_records(file: ManifestFile, sheet: Sheet) -> Iterator[tuple[int, list[str]]]:
    """Row number and cells of each row of the ``sheet``, as text. Raises ManifestError."""
    empty = 0
    spread = _Spread(sheet.merged)
    for number, cells in _rows(file, sheet.name):
        empty = 0 if any(cells) else empty + 1
        if empty > EMPTY_ROWS_MAX:
            return
        spread.into(number, cells)
        yield number, cells


def _rows(file: ManifestFile, name: str) -> Iterator[tuple[int, list[str]]]:
    with _workbook(file, values=True) as book, _workbook(file, values=False) as formulas:
        sheets = book[name], formulas[name]
        for sheet in sheets:
            sheet.reset_dimensions()  # the size in the file may be wrong
        rows = zip(*(_silently(sheet.iter_rows()) for sheet in sheets), strict=True)
        for number, (values, written) in enumerate(rows, 1):
            yield number, [_text(file, *pair) for pair in zip(values, written, strict=True)]


class _Spread:
    """Copies the value of vertically merged cells into those of their rows that have other values."""

    def __init__(self, merged: list[MergedCells]) -> None:
        tall = (cells for cells in merged if cells.is_tall)
        self._waiting = sorted(tall, key=lambda cells: -cells.first_row)
        self._begun: list[tuple[MergedCells, str]] = []

    def into(self, number: int, cells: list[str]) -> None:
        """Complete the row ``number``. Rows must come in order."""
        while self._waiting and self._waiting[-1].first_row <= number:
            one = self._waiting.pop()
            at = one.first_column - 1
            if one.first_row == number and at < len(cells) and cells[at]:
                self._begun.append((one, cells[at]))
        if not self._begun or not any(cells):
            return
        self._begun = [item for item in self._begun if item[0].last_row >= number]
        for one, value in self._begun:
            cells.extend([""] * (one.first_column - len(cells)))
            cells[one.first_column - 1] = value


def _has_values(sheet: Any) -> bool:
    sheet.reset_dimensions()
    rows = _silently(sheet.iter_rows(max_row=EMPTY_ROWS_MAX, values_only=True))
    return any(value is not None for row in rows for value in row)


def _text(file: ManifestFile, cell: Any, written: Any) -> str:
    value = cell.value
    if cell.data_type == "e" and sheet_problem(str(value), is_table=True) is None:
        what = f"{value} is an error value; fix the cell and save the file again"
        raise ManifestError([f"{file.shown}:{cell.row}: {cell.coordinate}: {what}"])
    if value is None and written.value is not None and cell.data_type != "str":  # a computed text, empty
        what = "a formula whose value was never computed; open and save the file in a spreadsheet"
        raise ManifestError([f"{file.shown}:{written.row}: {written.coordinate}: {what}"])
    return _WRITERS.get(type(value), str)(value)


def _number(value: float) -> str:
    """With the 15 digits that a spreadsheet shows: ``=0.1*3`` is 0.3, as after an export to CSV."""
    value = float(f"{value:.15g}")
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _moment(value: dt.datetime) -> str:
    return value.date().isoformat() if value.time() == dt.time() else value.isoformat(" ")


_WRITERS: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "",
    bool: lambda value: "true" if value else "false",
    float: _number,
    dt.datetime: _moment,
    dt.date: dt.date.isoformat,
}


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Ignores what openpyxl warns of: parts of a workbook that have no values, such as a style."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _silently(rows: Iterator[Any]) -> Iterator[Any]:
    """``rows``, without warnings while one is read; between them, other code may run."""
    while True:
        with _without_warnings():
            row = next(rows, None)
        if row is None:
            return
        yield row


@contextmanager
def _workbook(file: ManifestFile, *, values: bool) -> Iterator[Any]:
    """The workbook, with the values of its formulas or the formulas themselves.

    Raises ManifestError, also in the body of ``with``: openpyxl ends a damaged file with any exception.
    """
    try:
        import openpyxl
    except ImportError:
        raise ManifestError([f"{file.shown}: {MISSING}"]) from None
    with file.open() as stream:
        try:
            with _without_warnings():
                book = openpyxl.load_workbook(stream, read_only=True, data_only=values, keep_links=False)
            with closing(book):
                yield book
        except ManifestError:
            raise
        except zipfile.BadZipFile as error:
            raise ManifestError(
                [f"{file.shown}: not an XLSX workbook: {_instead(file, error)}"]
            ) from None
        except Exception as error:  # noqa: BLE001 - whatever openpyxl raises, the file is the reason
            what = " ".join(str(error).split()) or type(error).__name__
            raise ManifestError([f"{file.shown}: {UNREADABLE} ({what:.200})"]) from None


def _instead(file: ManifestFile, error: zipfile.BadZipFile) -> str:
    """What the file is, if that can be told, and the remedy."""
    head = file.head()
    if head.startswith(_OLE):
        return (
            "it has a password, or is an old Office file (XLS, DOC); save it as XLSX without a password"
        )
    if (what := mistaken(head, file.path.name)) is not None:
        return what
    is_text = head and b"\0" not in head
    return f"it looks like text; --format {looks_like(head)} reads it" if is_text else str(error)
