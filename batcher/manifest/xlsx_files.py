"""Excel workbooks: one sheet as the records of a table, each with the number of its row."""

from __future__ import annotations

import datetime as dt
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from batcher.errors import ManifestError
from batcher.manifest.files import ManifestFile

MISSING = "reading XLSX needs openpyxl: pip install openpyxl (or save the sheet as CSV)"
UNREADABLE = "a workbook that openpyxl can't read; save the sheet as CSV"
EMPTY_ROWS_MAX = 10_000


def sheet_of(file: ManifestFile, wanted: str) -> tuple[str, tuple[str, ...]]:
    """The name of the sheet to read, and a warning about others. Raises ManifestError.

    It is the ``wanted`` one, else the first visible sheet that is not empty.
    """
    with _workbook(file, values=True) as book:
        names = [sheet.title for sheet in book.worksheets]
        if wanted:
            if wanted not in names:
                known = ", ".join(map(repr, names))
                raise ManifestError([f"{file.shown}: no sheet is called {wanted!r}; there are {known}"])
            return wanted, ()
        filled = [s.title for s in book.worksheets if s.sheet_state == "visible" and _has_values(s)]
    if not filled:
        raise ManifestError([f"{file.shown}: no header: no visible sheet has anything on it"])
    others = ", ".join(f"--format 'xlsx:{name}'" for name in filled[1:])
    told = (f"the sheet {filled[0]!r} is read, of {len(filled)} with values; {others} reads another",)
    return filled[0], told if others else ()


def sheet_records(file: ManifestFile, name: str) -> Iterator[tuple[int, list[str]]]:
    """Row number and cells of each row of the sheet ``name``, as text. Raises ManifestError."""
    with _workbook(file, values=True) as book, _workbook(file, values=False) as formulas:
        sheets = book[name], formulas[name]
        for sheet in sheets:
            sheet.reset_dimensions()  # the size in the file may be wrong
        empty = 0
        rows = zip(*(sheet.iter_rows() for sheet in sheets), strict=True)
        for number, (values, written) in enumerate(rows, 1):
            cells = [_text(file, *pair) for pair in zip(values, written, strict=True)]
            empty = 0 if any(cells) else empty + 1
            if empty > EMPTY_ROWS_MAX:
                return
            yield number, cells


def _has_values(sheet: Any) -> bool:
    sheet.reset_dimensions()
    rows = sheet.iter_rows(max_row=EMPTY_ROWS_MAX, values_only=True)
    return any(value is not None for row in rows for value in row)


def _text(file: ManifestFile, cell: Any, written: Any) -> str:
    value = cell.value
    if cell.data_type == "e":
        what = f"{value} is an error value; fix the cell and save the file again"
        raise ManifestError([f"{file.shown}:{cell.row}: {cell.coordinate}: {what}"])
    if value is None and written.value is not None:
        what = "a formula whose value was never computed; open and save the file in a spreadsheet"
        raise ManifestError([f"{file.shown}:{written.row}: {written.coordinate}: {what}"])
    return _WRITERS.get(type(value), str)(value)


def _number(value: float) -> str:
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
            book = openpyxl.load_workbook(stream, read_only=True, data_only=values, keep_links=False)
            with closing(book):
                yield book
        except ManifestError:
            raise
        except zipfile.BadZipFile as error:
            raise ManifestError([f"{file.shown}: not an XLSX workbook: {error}"]) from None
        except Exception as error:  # noqa: BLE001 - whatever openpyxl raises, the file is the reason
            what = " ".join(str(error).split()) or type(error).__name__
            raise ManifestError([f"{file.shown}: {UNREADABLE} ({what:.200})"]) from None
