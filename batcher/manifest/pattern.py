"""Checks rows cell by cell: what depends on the names of their inputs is decided once for all of them.

Most rows of a table have the same columns, and their cells need little: a type, a look at a URL. A
pattern never finds a problem and never reads a file. Rows for which it isn't certain are left to the
full check (``check.py``), which has the same result for all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from batcher.jobs.identity import Spelling, digest_of
from batcher.jobs.nodes import DEPLOYMENT, OVERRIDES, WORKFLOW, is_override
from batcher.manifest.media import is_public_url, may_be_file
from batcher.schema.dialect import SCALAR_MAX_CHARS, types_of
from batcher.schema.spec import ModelSpec

VALUES_KEPT = 256

Fitted = tuple[dict[str, Any], str]
"""The inputs of a row as they are sent, and their digest."""
FittedRow = tuple[dict[str, Any], str, dict[str, Any]]
"""The same with the row's metadata."""
Cell = Callable[[Any], tuple[Any, Any] | None]
"""For a value of one input: as it is sent, and as it is compared; None if that is not certain."""


class Pattern:
    """The inputs ``names`` of jobs of one model, which has a ``spec``."""

    def __init__(self, model: str, names: Iterable[str], spec: ModelSpec) -> None:
        own = [name if name in spec.fields else spec.capitals.get(name, "") for name in names]
        keys = [spec.spellings[name][0] for name in own]
        is_usual = not model.startswith(DEPLOYMENT) and len({*keys}) == len(keys)
        is_known = is_usual and all(name in spec.fields for name in own)
        self._model = model
        self._spec = spec
        self._columns: list[tuple[str, str, Cell, dict[str, tuple[Any, Any]]]] = [
            (name, key, _cell_of(name, spec) if is_known else _uncertain, {})
            for name, key in zip(own, keys, strict=True)
        ]
        """Name, name as compared, check, and the first different cells: most columns repeat a few."""

    @property
    def may_fit(self) -> bool:
        """Whether any values can be certainly right."""
        return bool(self._columns) and all(cell is not _uncertain for _, _, cell, _ in self._columns)

    def fitted(self, values: Iterable[Any]) -> Fitted | None:
        """The inputs with these values, typed and checked, and their digest; None: check them in full.

        ``values`` are in the order of the names.
        """
        sent: dict[str, Any] = {}
        compared: dict[str, Any] = {}
        for (name, key, cell, known), value in zip(self._columns, values):  # noqa: B905 (strict is slow)
            is_text = type(value) is str
            found = known.get(value) if is_text else None
            if found is None:
                found = cell(value)
                if found is None:
                    return None
                if len(known) < VALUES_KEPT and _lasts(value, found):
                    known[value] = found
            sent[name], compared[key] = found
        return self._judged(sent, compared)

    def fitted_rows(self, columns: Sequence[Sequence[Any]]) -> Iterator[Fitted | None]:
        """:meth:`fitted` for many rows, given by column."""
        found = [
            _found(cells, *column[2:]) for cells, column in zip(columns, self._columns, strict=True)
        ]
        names = [name for name, _, _, _ in self._columns]
        keys = [key for _, key, _, _ in self._columns]
        for row in zip(*found, strict=True):
            if None in row:
                yield None
                continue
            sent, compared = zip(*row, strict=True)
            yield self._judged(dict(zip(names, sent)), dict(zip(keys, compared)))  # noqa: B905 (slow)

    def _judged(self, sent: dict[str, Any], compared: dict[str, Any]) -> Fitted | None:
        return None if self._spec.problems(sent) else (sent, digest_of(self._model, compared))


def _found(
    values: Sequence[Any], cell: Cell, known: dict[str, tuple[Any, Any]]
) -> Sequence[tuple[Any, Any] | None]:
    """What ``cell`` makes of each value of a column."""
    found = [*map(known.get, values)]
    if None in found:
        found = [seen or cell(value) for seen, value in zip(found, values, strict=True)]
        if len(known) < VALUES_KEPT:
            _keep(known, zip(values, found, strict=True))
    return found


def _keep(known: dict[str, tuple[Any, Any]], pairs: Iterable[tuple[Any, Any]]) -> None:
    """Remember the first different texts of a column."""
    lasting = (pair for pair in pairs if _lasts(*pair))
    for value, found in lasting:
        if len(known) >= VALUES_KEPT:
            break
        known[value] = found


def _lasts(value: Any, found: tuple[Any, Any] | None) -> bool:
    return type(value) is str and found is not None and len(value) <= SCALAR_MAX_CHARS


def _cell_of(name: str, spec: ModelSpec) -> Cell:
    types = types_of(spec.fields[name])
    if types & {"array", "object"} or name in (WORKFLOW, OVERRIDES) or is_override(name):
        return _uncertain
    spelled = spec.spellings[name][1]
    if name in spec.media:
        return _url_cell(spelled)
    if name in spec.typed:
        return _typed_cell(spec.typed[name], spelled)
    return _text_cell(spelled, may_be_media=name in spec.perhaps_media)


def _uncertain(value: Any) -> None:
    del value


def _url_cell(spelled: Spelling) -> Cell:
    def cell(value: Any) -> tuple[Any, Any] | None:
        if type(value) is not str or "://" in value[8:] or not is_public_url(value):
            return None
        return value, spelled(value)

    return cell


def _text_cell(spelled: Spelling, *, may_be_media: bool) -> Cell:
    def cell(value: Any) -> tuple[Any, Any] | None:
        if type(value) is not str or (may_be_media and may_be_file(value)):
            return None
        return value, spelled(value)

    return cell


def _typed_cell(read: Callable[[str], Any], spelled: Spelling) -> Cell:
    def cell(value: Any) -> tuple[Any, Any] | None:
        if type(value) is str:
            sent = read(value)
            return sent, spelled(sent)
        return (value, spelled(value)) if type(value) in (int, bool) else None

    return cell
