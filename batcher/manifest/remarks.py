"""Finds values in a row that are surely mistakes, and those that deserve a warning."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from batcher.manifest.rows import Row

_ERROR_VALUE = re.compile(r"#(?:[¡¿]?[A-ZÀ-Þ][A-ZÀ-Þ0-9_/]*[!?]|DIV/0!|N/A|N/D|NV|GETTING_DATA)\s*")
_FORMULA = re.compile(
    r"=[\s+\-@(]*(?:[A-Z][A-Z0-9.]*\(|(?:'[^']+'!|\w+!)?\$?[A-Z]{1,3}\$?[0-9]{1,7}(?![\w.]))"
)
_GARBLED = re.compile("[\u00c2-\u00f4\u221a\u2248][^\x00-\x7f]|\ufffd")
_SURELY_GARBLED = re.compile("\u00e2\u20ac|\u00c3[\x80-\xbf]|\ufffd")
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_BLANKS = "".join(char for char in map(chr, range(0x3001)) if char.isspace()) + _INVISIBLE
_BEGINNINGS = tuple(f"\0{first}" for first in "\0#= \t\r\n\v\f")
"""Beginnings of texts that need a check, between NULs; the first is the empty text."""
_CODE_PAGES = ("cp1252", "latin-1", "mac-roman")


class Remarks:
    """Warnings of one pass over one file: each once, with the first line and the number of lines."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, int, str]] = {}

    def clear(self) -> None:
        """Start another pass."""
        self._found.clear()

    def note(self, line: int, what: str, example: str = "") -> None:
        """Count ``what`` on ``line``; of the first one, ``example`` is shown."""
        first, count, shown = self._found.get(what, (line, 0, example))
        self._found[what] = (first, count + 1, shown)

    def lines(self, shown_as: str) -> Iterator[str]:
        """The warnings about the file ``shown_as``."""
        for what, (first, count, example) in self._found.items():
            more = f" ({count} such lines)" if count > 1 else ""
            yield f"{shown_as}:{first}: {what}{example}{more}"


def judge(row: Row, remarks: Remarks, *, is_table: bool) -> None:
    """Add a problem to ``row`` for each sure mistake, and a warning to ``remarks`` for each likely one.

    In a table, a cell with only blanks is empty.
    """
    if _needs_look(row.inputs.values()):
        for name in [name for name, value in row.inputs.items() if type(value) is str]:
            _look_at(row, name, remarks, is_table)
    for name, value in row.vars.items() if row.vars else ():
        if isinstance(value, str) and (what := sheet_problem(value, is_table=is_table)):
            row.blame(name, what)


def _needs_look(values: Collection[Any]) -> bool:
    """Whether any text in ``values`` needs a check. Few rows have one, so one search covers all."""
    try:
        text = "\0".join(("", *values, ""))
    except TypeError:  # numbers, lists
        return True
    return not text.isascii() or any(map(text.__contains__, _BEGINNINGS))


def _look_at(row: Row, name: str, remarks: Remarks, is_table: bool) -> None:
    value = row.inputs[name]
    if not value.strip(_BLANKS):
        if is_table:
            del row.inputs[name]
        elif name == "prompt":
            row.blame(name, "nothing but blanks")
    elif what := sheet_problem(value, is_table=is_table):
        row.blame(name, what)
    elif is_garbled(value):
        what = f"{name}: text that was decoded in a wrong encoding, as it seems: "
        remarks.note(row.line, what, _shortened(value))


def sheet_problem(text: str, *, is_table: bool) -> str | None:
    """The problem with ``text`` if it is an error value of a spreadsheet, or in a table a formula."""
    if _ERROR_VALUE.fullmatch(text):
        return f"{text.strip()} is an error value of a spreadsheet; fix the cell there and save again"
    if is_table and _FORMULA.match(text):
        return f"{_shortened(text)} is a formula; save its value instead (in a sheet: paste as values)"
    return None


def is_garbled(text: str) -> bool:
    """Whether ``text`` was UTF-8 that was decoded in another encoding, or has lost characters."""
    if _GARBLED.search(text) is None:
        return False
    return _SURELY_GARBLED.search(text) is not None or any(
        _is_utf8_in(text, code_page) for code_page in _CODE_PAGES
    )


def _is_utf8_in(text: str, code_page: str) -> bool:
    try:
        return len(text.encode(code_page).decode()) < len(text)
    except UnicodeError:
        return False


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
