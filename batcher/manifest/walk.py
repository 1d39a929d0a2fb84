"""The rows of a manifest and of all files that it includes, each with what encloses it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from batcher.errors import ManifestError
from batcher.jobs.column_rules import ColumnRules
from batcher.manifest.csv_files import Table
from batcher.manifest.delimited import Record
from batcher.manifest.expand import RowLayer, Scope, Setting
from batcher.manifest.folders import FILE_NAME
from batcher.manifest.globs import Globs, is_below
from batcher.manifest.read import HELD_ROWS_HINT, Document
from batcher.manifest.reading import Include
from batcher.manifest.rows import ManifestChanged, Row, judge
from batcher.manifest.sources import open_source
from batcher.manifest.tally import ManifestTally

INCLUDE_DEPTH_MAX = 20

Found = tuple[Scope, Row, Document]
"""A row, what encloses it, and its file."""


class Block(NamedTuple):
    """Records of a plain ``table``, whose rows may be checked by column, and what encloses them."""

    scope: Scope
    records: list[Record]
    table: Table
    document: Document

    def found(self, record: Record, tally: ManifestTally) -> Found | None:
        """The row of one record, if it has no problem; counted in ``tally``."""
        row = self.table.row(*record)
        return (self.scope, row, self.document) if _is_valid(row, self.document, tally) else None


class Tree:
    """A manifest file and all files that it includes. They are opened once and read in each pass.

    A file that could not be opened in one pass is left out of later ones: all have the same rows.
    """

    def __init__(self, top: Document, columns: ColumnRules, setting: Setting) -> None:
        self.top = top
        self._columns = columns
        self._setting = setting
        self._globs = Globs()
        self._left_out: str | None = None
        self._included: dict[tuple[Path, Include], Document | ManifestError] = {}

    def leave_out(self, folder: Path) -> None:
        """Let no pattern and no listing find a file in ``folder``. Call it before the first pass."""
        self._left_out = os.path.realpath(folder)
        self._globs = Globs(self._left_out)

    def keep_rule(self, rule: int) -> None:
        """Make ids by ``rule``."""
        self._setting = replace(self._setting, rule=rule)

    def rows(self, tally: ManifestTally) -> Iterator[Found]:
        """Each row without a problem. Counts rows, and the others' problems, in ``tally``.

        Raises ManifestError if a file can't be read any further, ManifestChanged if it has changed.
        """
        for part in self.parts(tally):
            if not isinstance(part, Block):
                yield part
                continue
            for record in part.records:
                if (found := part.found(record, tally)) is not None:
                    yield found

    def parts(self, tally: ManifestTally) -> Iterator[Found | Block]:
        """The same, except that rows in blocks are neither checked nor counted."""
        return self._parts((self.top,), (), tally)

    def unnamed(self) -> Iterator[str]:
        """After a pass: a message for each column that an option names but no file has."""
        for name, near in self._columns.without_column():
            hint = f"; the nearest is {near!r}" if near is not None else ""
            yield f"{self.top.file.shown}: no column is called {name!r}{hint}"

    def scope(self, document: Document, around: tuple[RowLayer, ...] = ()) -> Scope:
        """What encloses the rows of ``document``; ``around`` is the scope that includes it."""
        layers = (RowLayer(document.head.layer, document.directory, rest=document.rest), *around)
        return Scope(layers, document.directory, self._setting, self._globs)

    def _parts(
        self, trail: tuple[Document, ...], around: tuple[RowLayer, ...], tally: ManifestTally
    ) -> Iterator[Found | Block]:
        document = trail[-1]
        scope = self.scope(document, around)
        document.remarks.clear()
        tally.warnings += document.warnings
        if document.held > HELD_ROWS_HINT:
            tally.warnings.append(
                f"{document.file.shown}: {document.held} jobs are held in memory; "
                "CSV or JSONL stream (also from YAML, with `from: jobs.csv`)"
            )
        table = document.table
        if table is not None and table.is_plain and scope.is_uniform:
            for records in table.blocks():
                yield Block(scope, records, table, document)
        else:
            for row in document.rows():
                if document.is_listing and self._is_left_out(row, document):
                    continue
                if not _is_valid(row, document, tally):
                    continue
                if row.include is None:
                    yield scope, row, document
                else:
                    yield from self._rows_inside(row, trail, scope.layers, tally)
        tally.warnings += document.remarks.lines(document.file.shown)

    def _is_left_out(self, row: Row, listing: Document) -> bool:
        name = row.include.file if row.include is not None else row.inputs[FILE_NAME]
        return self._left_out is not None and is_below(listing.directory / name, self._left_out)

    def _rows_inside(
        self, entry: Row, trail: tuple[Document, ...], around: tuple[RowLayer, ...], tally: ManifestTally
    ) -> Iterator[Found | Block]:
        document = trail[-1]
        try:
            inner = self._open(entry, trail)
        except ManifestChanged:
            raise
        except ManifestError as error:
            tally.invalid += 1
            tally.extend(error.problems)
            return
        if inner.head.run_line is not None:
            tally.warnings.append(
                f"{inner.file.shown}:{inner.head.run_line}: run: the options of a file that another one "
                f"includes don't count; they belong into {self.top.file.shown}"
            )
        layer = RowLayer(entry, document.directory, is_entry=True)
        yield from self._parts((*trail, inner), (layer, *around), tally)

    def _open(self, entry: Row, trail: tuple[Document, ...]) -> Document:
        """The document that ``entry`` includes. Raises ManifestError with complete lines."""
        document = trail[-1]
        assert entry.include is not None
        path = document.directory / entry.include.file
        place = f"{document.file.shown}:{entry.line_of('from')}: from"
        if entry.id is not None:
            raise ManifestError([f"{place}: rows of another file can't share the id {entry.id!r}"])
        if len(trail) > INCLUDE_DEPTH_MAX:
            raise ManifestError([f"{place}: files include each other deeper than {INCLUDE_DEPTH_MAX}"])
        inner = self._opened(path, entry.include, document)
        if isinstance(inner, ManifestError):
            before = "" if document.is_listing else f"{place}: "
            raise ManifestError([f"{before}{line}" for line in inner.problems], inner.total)
        if any(inner.file.is_same_as(outer.file) for outer in trail):
            raise ManifestError([f"{place}: {entry.include.file} includes itself"])
        return inner

    def _opened(self, path: Path, include: Include, outer: Document) -> Document | ManifestError:
        key = (path, include)
        if key not in self._included:
            beside = Path() if outer.is_listing else Path(outer.file.shown).parent
            shown_as = str(beside / include.file)
            columns = self._columns.inside(include.mapped)
            try:
                inner = open_source(path, shown_as, columns, include.reading)
            except ManifestError as error:
                self._included[key] = error
            else:
                if include.base is not None:
                    inner = replace(inner, base=outer.directory / include.base)
                self._included[key] = inner
        return self._included[key]


def _is_valid(row: Row, document: Document, tally: ManifestTally) -> bool:
    """Whether ``row`` has no problem by itself; counts it in ``tally``."""
    tally.rows += row.include is None
    judge(row, document.remarks, is_table=document.is_table)
    if row.problems:
        tally.reject(document.file.shown, row.problems)
        return False
    return True
