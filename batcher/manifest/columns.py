"""Checks a block of a table's rows by column. It only says which rows are certainly right.

Rows with cells in the same columns share a pattern (``pattern.py``), and what is searched for in every
row, such as templates, is searched for once in all of them. All other rows are checked one by one
(``load.py``). That check has the same result for the rows that are certainly right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from operator import and_
from typing import Any

from batcher.jobs.identity import generated_ids
from batcher.jobs.job import are_explicit_ids, explicit_id_problem
from batcher.manifest.check import Checker, FittedRow
from batcher.manifest.csv_files import Table
from batcher.manifest.pattern import FittedRows, rows_of
from batcher.manifest.row_marks import marks_of
from batcher.manifest.rows import Row, needs_look
from batcher.manifest.walk import Block

Shape = tuple[bool, ...]
"""Which cells of a row are filled."""


def fitted_rows(block: Block, checker: Checker) -> list[FittedRow | None]:
    """For each record of ``block``, its job without a source; None if it isn't surely right."""
    fitted: list[FittedRow | None] = [None] * len(block.records)
    for shape, numbers in _by_shape(block):
        for number, row in _of_shape(block, shape, numbers, checker):
            fitted[number] = row
    return fitted


def _by_shape(block: Block) -> Iterable[tuple[Shape, list[int]]]:
    """The numbers of the records of each shape. Most blocks have one."""
    width = len(block.table.names)
    rows = [cells for _, cells in block.records]
    if {*map(len, rows)} == {width}:
        columns = [*zip(*rows, strict=True)]
        shape = (*map(any, columns),)
        if not any("" in column for column, filled in zip(columns, shape, strict=True) if filled):
            return [(shape, [*range(len(rows))])]
    by_shape: dict[Shape, list[int]] = {}
    for number, cells in enumerate(rows):
        if len(cells) == width:
            by_shape.setdefault((*map(bool, cells),), []).append(number)
    return by_shape.items()


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
    if not rows:
        return ()
    columns = [*zip(*rows, strict=True)]
    inputs = scope.inputs_of(Row(0, {table.names[at]: columns[at] for at in places}))
    found = pattern.fitted_rows(inputs.values(), len(rows))
    own_ids = columns[table.id_at] if table.id_at is not None and shape[table.id_at] else None
    metas = _metas(block, shape, columns)
    return zip(numbers, _jobs_without_source(found, own_ids, metas), strict=True)


def _jobs_without_source(
    found: FittedRows, own_ids: Sequence[str] | None, metas: list[dict[str, Any]]
) -> Iterator[FittedRow | None]:
    """The jobs of rows; ``own_ids`` are those in the table, if it has any."""
    ids, certain = own_ids, found.certain
    if ids is None:
        ids = generated_ids(found.inputs, found.digests)
    elif not are_explicit_ids(ids):
        usable = (explicit_id_problem(job_id) is None for job_id in ids)
        certain = [*map(and_, certain, usable)]
    marks = marks_of(found.inputs, metas)
    has_own = repeat(own_ids is not None, len(ids))
    jobs = zip(ids, found.inputs, metas, found.digests, marks, has_own, strict=True)
    return (job if is_certain else None for job, is_certain in zip(jobs, certain, strict=True))


def _are_plain(rows: list[list[str]], table: Table, places: list[int]) -> bool:
    """Whether no row needs a look at its texts, of which the inputs' are in ``places``."""
    columns = [column if len({*column}) > 1 else column[:1] for column in zip(*rows, strict=True)]
    if table.header in rows or "{{" in "".join(chain.from_iterable(columns)):
        return False
    return not needs_look([*chain.from_iterable(columns[at] for at in places)])


def _metas(block: Block, shape: Shape, columns: list[tuple[str, ...]]) -> list[dict[str, Any]]:
    """The metadata of each row; one dict for all of them if they have the same."""
    own = {name: columns[at] for at, name in block.table.meta if shape[at]}
    count = len(columns[0])
    if all(len({*values}) == 1 for values in own.values()):
        return [block.scope.meta_of({name: values[0] for name, values in own.items()})] * count
    return [block.scope.meta_of(row) for row in rows_of(own, count)]
