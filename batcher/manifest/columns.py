"""Checks a block of a table's rows by column. It only says which rows are certainly right.

Rows with cells in the same columns share a pattern (``pattern.py``), and what is searched for in every
row, such as templates, is searched for once in all of them. All other rows are checked one by one
(``load.py``). That check has the same result for the rows that are certainly right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from typing import Any

from batcher.manifest.check import Checker
from batcher.manifest.csv_files import Table
from batcher.manifest.pattern import FittedRow
from batcher.manifest.rows import Row, needs_look
from batcher.manifest.walk import Block

Shape = tuple[bool, ...]
"""Which cells of a row are filled."""


def fitted_rows(block: Block, checker: Checker) -> list[FittedRow | None]:
    """For each record of ``block``, its checked inputs and metadata; None if it isn't surely right."""
    fitted: list[FittedRow | None] = [None] * len(block.records)
    by_shape: dict[Shape, list[int]] = {}
    for number, (_, cells) in enumerate(block.records):
        by_shape.setdefault((*map(bool, cells),), []).append(number)
    for shape, numbers in by_shape.items():
        if len(shape) == len(block.table.names):
            for number, row in _of_shape(block, shape, numbers, checker):
                fitted[number] = row
    return fitted


def _of_shape(
    block: Block, shape: Shape, numbers: list[int], checker: Checker
) -> Iterable[tuple[int, FittedRow | None]]:
    """The records of ``block`` with these numbers, which have the same shape."""
    scope, table = block.scope, block.table
    places = [at for at, name in enumerate(table.names) if name and shape[at]]
    names = scope.inputs_of(Row(0, {table.names[at]: "" for at in places}))
    pattern = checker.pattern(scope.model or "", names)
    if pattern is None or not pattern.may_fit:
        return ()
    rows = [block.records[number][1] for number in numbers]
    if not _are_plain(rows, table, places):
        numbers = [number for number in numbers if _are_plain([block.records[number][1]], table, places)]
        rows = [block.records[number][1] for number in numbers]
    columns = [*zip(*rows, strict=True)] or [()] * len(shape)
    inputs = scope.inputs_of(Row(0, {table.names[at]: columns[at] for at in places}))
    values = [cells if type(cells) is tuple else (cells,) * len(rows) for cells in inputs.values()]
    metas = _metas(block, shape, columns)
    fits = zip(pattern.fitted_rows(values), metas)  # noqa: B905 (metadata may have no end)
    return zip(numbers, ((*fit, meta) if fit else None for fit, meta in fits), strict=True)


def _are_plain(rows: list[list[str]], table: Table, places: list[int]) -> bool:
    """Whether no row needs a look at its texts, of which the inputs' are in ``places``."""
    if table.header in rows or "{{" in "".join(chain.from_iterable(rows)):
        return False
    columns = [*zip(*rows, strict=True)]
    return not needs_look([*chain.from_iterable(columns[at] for at in places)])


def _metas(block: Block, shape: Shape, columns: list[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """The metadata of each row; without end if all have the same."""
    own = [(at, name) for at, name in block.table.meta if shape[at]]
    if not own:
        return repeat(block.scope.meta_of(None))
    names = [name for _, name in own]
    cells = zip(*(columns[at] for at, _ in own), strict=True)
    return (block.scope.meta_of(dict(zip(names, row, strict=True))) for row in cells)
