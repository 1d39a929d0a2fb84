"""Records of CSV, TSV and similar formats: cells between delimiters, one record at a time.

The standard library's reader does the work, in strict mode. It misreads two habits of real files: a
space before an opening quote, and a quote that doesn't enclose its cell. Only lines with one of these
are parsed here.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator

from batcher.errors import ManifestError
from batcher.manifest.files import ManifestFile

CELL_MAX_CHARS = 1024 * 1024
BLOCK_RECORDS = 256
DELIMITERS = (",", "\t", ";", "|")

Record = tuple[int, list[str]]
"""The line on which a record begins, and its cells."""

_EXCEL_HINT = re.compile(r'"?sep=([,;\t|])"?[,;\t|]*[\r\n]*')
_QUOTED = re.compile(r' *"((?:[^"]|"")*)" *')
_CLOSED = re.compile(r' *"(?:[^"]|"")*"(?!") *')
"""The same, if no later line can close the quote."""


def delimiter_of(file: ManifestFile) -> str:
    """The most frequent delimiter, outside quotes, in the first line that is not blank."""
    for line in file.lines():
        if hint := _EXCEL_HINT.fullmatch(line):
            return hint[1]
        if line.strip():
            outside = re.sub(r'"[^"]*"?', "", line)
            return max(DELIMITERS, key=outside.count)
    return DELIMITERS[0]


def records(file: ManifestFile, delimiter: str) -> Iterator[list[Record]]:
    """Each record, including blank ones, but without Excel's ``sep=`` line: many at a time.

    Raises ManifestError, after the records before it.
    """
    found = iter(_Records(file, delimiter))
    for first in found:
        line, cells = first[0]
        yield first[line == 1 and _EXCEL_HINT.fullmatch(delimiter.join(cells)) is not None :]
        break
    yield from found


def in_blocks(records: Iterator[Record]) -> Iterator[list[Record]]:
    """``records``, many at a time. A ManifestError is raised after the records before it."""
    block: list[Record] = []
    chars = 0
    try:
        for record in records:
            block.append(record)
            chars += sum(map(len, record[1]))
            if len(block) >= BLOCK_RECORDS or chars >= CELL_MAX_CHARS:
                yield block
                block, chars = [], 0
    except ManifestError:
        if block:
            yield block
        raise
    if block:
        yield block


class _Records:
    """Reads blocks of lines, at once if each line is a record and needs no repair.

    Any other block is read record by record: its lines, and more if its last record needs them, are fed
    to ``csv.reader``, and those of the record that is being read are kept.

    After a record that the reader rejects, all its lines but the first are read ``again``. Cells longer
    than the process's limit are rare: after the first one, each record is read with a higher limit.
    """

    def __init__(self, file: ManifestFile, delimiter: str) -> None:
        self._file = file
        self._delimiter = delimiter
        self._blocks = file.blocks()
        self._again: list[str] = []
        self._held: list[str] = []
        self._begins = 1
        self._is_long = csv.field_size_limit() > CELL_MAX_CHARS

    def __iter__(self) -> Iterator[list[Record]]:
        while lines := next(self._blocks, []):
            records = self._simple(lines)
            if records is None:
                self._again = lines[::-1]
                yield from in_blocks(self._one_by_one())
            else:
                yield [*zip(itertools.count(self._begins), records)]
                self._begins += len(records)

    def _one_by_one(self) -> Iterator[Record]:
        """The records of the lines to be read again, and of those that the last one of them needs."""
        while self._again:
            try:
                yield from self._read()
            except csv.Error as error:
                if "field larger" in str(error) and not self._is_long:
                    self._is_long = True
                    self._again += reversed(self._held)
                    self._held.clear()
                else:
                    cells = self._repaired(str(error))
                    yield self._begins, cells
                    self._begins += 1

    def _simple(self, lines: list[str]) -> list[list[str]] | None:
        """The records of ``lines``, one for each; None if that is not certain."""
        if self._is_long or ' "' in "".join(lines):
            return None
        try:
            records = [*csv.reader(lines, delimiter=self._delimiter, strict=True)]
        except csv.Error:
            return None
        return records if len(records) == len(lines) else None

    def _read(self) -> Iterator[Record]:
        reader = csv.reader(self._fed(), delimiter=self._delimiter, strict=True)
        held = self._held
        for cells in _with_long_cells(reader) if self._is_long else reader:
            begins, count = self._begins, len(held)
            if count > 1:
                self._check_swallowed(cells)
            held.clear()
            self._begins = begins + count
            yield begins, cells
            if not self._again:
                return

    def _fed(self) -> Iterator[str]:
        held = self._held
        while self._again or self._refill():
            line = self._again.pop()
            is_spaced = ' "' in line and not held  # a record begins: outside of all quotes
            held.append(line)
            yield self._closed_up(line) if is_spaced else line

    def _refill(self) -> bool:
        """Whether there is another block; its lines are to be read ``again``."""
        self._again = next(self._blocks, [])[::-1]
        return bool(self._again)

    def _closed_up(self, line: str) -> str:
        try:
            return _closed_up(line, self._delimiter)
        except ValueError as error:
            raise self._error(str(error)) from None

    def _check_swallowed(self, cells: list[str]) -> None:
        """Raises ManifestError for a cell of a TSV that seems to begin at a stray quote, rows ago."""
        if self._delimiter == "\t" and any("\t" in c and ("\n" in c or "\r" in c) for c in cells):
            raise self._error(
                "a quote is opened here, and a later line closes it: tabs and line ends between are one "
                "cell; take that quote away, or double it inside quotes"
            )

    def _repaired(self, reason: str) -> list[str]:
        """The cells of the first held line, whose quotes are text; the others are read again."""
        first, *rest = self._held
        if self._delimiter != "\t" and ("expected after" not in reason or rest):
            raise self._error(_csv_reason(reason))
        if rest and "expected after" in reason and _closes_well("".join(rest)):
            raise self._error("a quote is opened here, and it is not clear which one closes it")
        try:
            cells = _taken_apart(first, self._delimiter)
        except ValueError as error:
            raise self._error(str(error)) from None
        if max(map(len, cells)) > CELL_MAX_CHARS:
            raise self._error(_csv_reason(reason))
        self._held.clear()
        self._again += reversed(rest)
        return cells

    def _error(self, what: str) -> ManifestError:
        return ManifestError([f"{self._file.shown}:{self._begins}: {what}"])


def _with_long_cells(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The records of ``reader`` with cells up to CELL_MAX_CHARS.

    The limit is global to the process: it is only changed while a record is read.
    """
    while True:
        before = csv.field_size_limit(CELL_MAX_CHARS)
        try:
            cells = next(reader, None)
        finally:
            csv.field_size_limit(before)
        if cells is None:
            return
        yield cells


def _closes_well(rest: str) -> bool:
    """Whether the first quote after an opening one ends a cell of a TSV."""
    match = re.match(r'(?:[^"]|"")*"[ ]*(.?)', rest, re.DOTALL)
    return match is not None and match[1] in ("", "\t", "\r", "\n")


def _taken_apart(line: str, delimiter: str) -> list[str]:
    """Split a line into cells; a quote that doesn't enclose its cell is text. Raises ValueError."""
    text = line.rstrip("\r\n")
    cells: list[str] = []
    at = 0
    while at <= len(text):
        quoted = _QUOTED.match(text, at)
        if quoted is not None and text[quoted.end() :][:1] in ("", delimiter):
            at = quoted.end()
            cells.append(quoted[1].replace('""', '"'))
        else:
            begins, at = at, text.find(delimiter, at) % (len(text) + 1)
            cells.append(text[begins:at])
            _check_text(cells[-1], quoted, delimiter)
        at += 1
    return cells


def _check_text(cell: str, quoted: re.Match[str] | None, delimiter: str) -> None:
    """Raises ValueError if ``cell``, read as text, may have been intended as a quoted one."""
    if not cell.lstrip(" ").startswith('"'):
        return
    if '\\"' in cell:
        raise ValueError(r'quotes are written \" here; in a table a quote in quotes is doubled: ""')
    if delimiter == "\t":
        return
    if quoted is None:
        raise ValueError("a quote is opened here and never closed")
    if delimiter in quoted[1]:
        raise ValueError(
            f"a quote closes in the middle of the cell after {quoted[0]:.60}; double the quotes in it"
        )


def _closed_up(line: str, delimiter: str) -> str:
    """``line`` without the spaces before quotes that enclose a cell. Raises ValueError."""
    parts: list[str] = []
    at = 0
    while at < len(line):
        begins, at = at, at + len(line[at:]) - len(line[at:].lstrip(" "))
        opens = line.startswith('"', at)
        quoted = _CLOSED.match(line, at)
        if quoted is not None and line[quoted.end() :][:1] in (delimiter, "\r", "\n", ""):
            begins, end = at, quoted.end()
        elif quoted is None and opens and at > begins and delimiter != "\t":
            raise ValueError("a quote opens after a space and closes on no later cell; remove the space")
        elif quoted is None and opens:
            end = len(line)
        else:
            end = line.find(delimiter, at) % (len(line) + 1)
        parts.append(line[begins : end + 1])
        at = end + 1
    return "".join(parts)


def _csv_reason(reason: str) -> str:
    if "field limit" in reason or "field larger" in reason:
        return f"a cell of more than {CELL_MAX_CHARS} characters; is a quote missing?"
    if "end of data" in reason:
        return "a quote is opened here and never closed"
    return f"not CSV: {reason}"
