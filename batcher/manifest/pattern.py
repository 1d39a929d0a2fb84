"""Checks rows cell by cell: what depends on the names of their inputs is decided once for all of them.

Most rows of a table have the same columns, and their cells need little: a type, a look at a URL. Of
many rows whole columns are checked at once. A pattern never finds a problem and never reads a file.
Rows for which it isn't certain are left to the full check (``check.py``), which has the same result for
all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from batcher.jobs.identity import Spelling, digest_of, digests_of, spelled_each
from batcher.jobs.nodes import DEPLOYMENT, OVERRIDES, WORKFLOW, is_override
from batcher.manifest.fit import typed_float
from batcher.manifest.media import are_public_urls, is_public_url, may_be_file
from batcher.schema.dialect import SCALAR_MAX_CHARS, types_of
from batcher.schema.spec import ModelSpec

VALUES_KEPT = 256

Fitted = tuple[dict[str, Any], str]
"""The inputs of a row as they are sent, and their digest."""
Cell = Callable[[Any], tuple[Any, Any] | None]
"""For a value of one input: as it is sent, and as it is compared; None if that is not certain."""
Texts = Callable[[Sequence[str]], tuple[Sequence[Any], Sequence[Any]] | None]
"""The same for the texts of a whole column; None if it is not certain for all of them."""


class FittedRows(NamedTuple):
    """Inputs of many rows as they are sent, and their digests; ``certain`` are those that are right."""

    inputs: list[dict[str, Any]]
    digests: list[str]
    certain: list[bool]


class _InputColumn:
    """One input: its name, its name as compared, its checks, and the first different cells.

    Most columns repeat a few cells.
    """

    def __init__(self, name: str, key: str, cell: Cell, texts: Texts) -> None:
        self.name = name
        self.key = key
        self._cell = cell
        self._texts = texts
        self._known: dict[str, tuple[Any, Any]] = {}

    @property
    def may_fit(self) -> bool:
        """Whether any value can be certain."""
        return self._cell is not _uncertain

    def one(self, value: Any) -> tuple[Any, Any] | None:
        """A value as it is sent, and as it is compared; None if that is not certain."""
        found = self._known.get(value) if type(value) is str else None
        if found is None:
            found = self._cell(value)
            if len(self._known) < VALUES_KEPT and found is not None and _lasts(value):
                self._known[value] = found
        return found

    def many(self, values: Any) -> tuple[Sequence[Any], Sequence[Any]]:
        """The same for many rows: for a tuple of texts, or one value that all have; that stays one.

        What is not certain is None.
        """
        if type(values) is not tuple or len({*values}) == 1:
            sent, compared = self.one(values[0] if type(values) is tuple else values) or (None, None)
            return (sent,), (compared,)
        found = self._texts(values)
        if found is not None:
            return found
        pairs: list[Any] = [*map(self._known.get, values)]
        if None in pairs:
            pairs = [self.one(value) or (None, None) for value in values]
        sent, compared = zip(*pairs, strict=True)
        return sent, compared


class Pattern:
    """The inputs ``names`` of jobs of one model, which has a ``spec``."""

    def __init__(self, model: str, names: Iterable[str], spec: ModelSpec) -> None:
        own = [name if name in spec.fields else spec.capitals.get(name, "") for name in names]
        keys = [spec.spellings[name][0] for name in own]
        is_usual = not model.startswith(DEPLOYMENT) and len({*keys}) == len(keys)
        is_known = is_usual and all(name in spec.fields for name in own)
        self._model = model
        self._spec = spec
        self._columns = [
            _InputColumn(name, key, *(_checks_of(name, spec) if is_known else _UNCERTAIN))
            for name, key in zip(own, keys, strict=True)
        ]

    @property
    def may_fit(self) -> bool:
        """Whether any values can be certainly right."""
        return bool(self._columns) and all(column.may_fit for column in self._columns)

    def fitted(self, values: Iterable[Any]) -> Fitted | None:
        """The inputs with these values, typed and checked, and their digest; None: check them in full.

        ``values`` are in the order of the names.
        """
        sent: dict[str, Any] = {}
        compared: dict[str, Any] = {}
        for column, value in zip(self._columns, values):  # noqa: B905 (strict is slow)
            found = column.one(value)
            if found is None:
                return None
            sent[column.name], compared[column.key] = found
        return None if self._spec.problems(sent) else (sent, digest_of(self._model, compared))

    def fitted_rows(self, columns: Iterable[Any], count: int) -> FittedRows:
        """:meth:`fitted` for ``count`` rows: each of ``columns`` is a tuple of texts, or one value."""
        sent: dict[str, Sequence[Any]] = {}
        compared: dict[str, Sequence[Any]] = {}
        for column, values in zip(self._columns, columns, strict=True):
            sent[column.name], compared[column.key] = column.many(values)
        inputs = rows_of(sent, count)
        certain = [True] * count
        if any(None in values for values in sent.values()) or not self._spec.are_valid(inputs):
            certain = [None not in row.values() and not self._spec.problems(row) for row in inputs]
        return FittedRows(inputs, digests_of(self._model, compared, count), certain)


def rows_of(columns: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, Any]]:
    """A dict for each of ``count`` rows; a column is one value for all of them, or one for each."""
    first = {name: values[0] for name, values in columns.items()}
    rows = [first.copy() for _ in range(count)]
    for name, values in columns.items():
        if len(values) > 1:
            for row, value in zip(rows, values, strict=True):
                row[name] = value
    return rows


def _lasts(text: Any) -> bool:
    return type(text) is str and len(text) <= SCALAR_MAX_CHARS


def _checks_of(name: str, spec: ModelSpec) -> tuple[Cell, Texts]:
    """The checks of one value, and of a whole column."""
    types = types_of(spec.fields[name])
    if types & {"array", "object"} or name in (WORKFLOW, OVERRIDES) or is_override(name):
        return _UNCERTAIN
    spelled = spec.spellings[name][1]
    if name in spec.media:
        return _url_cell(spelled), _url_texts(spelled)
    if name in spec.typed:
        return _typed_cell(spec.typed[name], spelled), _uncertain
    if name in spec.perhaps_media:
        return _text_cell(spelled, may_be_media=True), _uncertain
    return _text_cell(spelled, may_be_media=False), lambda texts: (texts, spelled_each(texts, spelled))


def _uncertain(value: Any) -> None:
    del value


_UNCERTAIN: tuple[Cell, Texts] = (_uncertain, _uncertain)


def _url_texts(spelled: Spelling) -> Texts:
    def texts(values: Sequence[str]) -> tuple[Sequence[Any], Sequence[Any]] | None:
        return (values, spelled_each(values, spelled)) if are_public_urls(values) else None

    return texts


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
        if type(value) is float:
            sent = typed_float(value, read)
            return sent, spelled(sent)
        return (value, spelled(value)) if type(value) in (int, bool) else None

    return cell
