"""Rows to drafts: defaults, matrix, variables, templates, globs and repeat, before any schema.

Who wins, for an input of a row: ``--set``, the row's own value, its ``matrix``, the matrices around it
from the inside out, the values of the ``from`` entries that brought it in, the ``defaults`` from the
inside out.
"""

from __future__ import annotations

import glob
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from batcher.jobs import matrix_digest
from batcher.manifest.rows import LocalPath, Row
from batcher.manifest.templates import names_in

JOBS_PER_ROW_MAX = 1_000_000

FieldProblem = tuple[str, str]
"""A field and what is wrong with it."""


class ExpandError(ValueError):
    """A row that can't be expanded; ``field`` is to blame."""

    def __init__(self, field_name: str, what: str) -> None:
        super().__init__(what)
        self.field = field_name


class Draft(msgspec.Struct):
    """One concrete job before its model's schema has been asked.

    ``id`` is the explicit id with what a matrix adds to it, ``explicit`` that id as it was written;
    both None where the job names itself. ``sample`` counts from 1. ``bases`` says what relative paths
    are relative to, for fields whose value stands in another file than the row. ``problems`` are
    those of its templates.
    """

    inputs: dict[str, Any]
    model: str | None
    meta: dict[str, Any]
    id: str | None = None
    explicit: str | None = None
    sample: int = 1
    bases: Mapping[str, Path] | None = None
    problems: tuple[FieldProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """A manifest's head, or a ``from`` entry, in the file whose directory is ``directory``."""

    row: Row
    directory: Path
    is_entry: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """What the command line says of every job: inputs by ``--set``, and ``--model``.

    An input that is None was set to nothing: it is taken away. ``directory`` is the top manifest's.
    """

    inputs: Mapping[str, str | None] = field(default_factory=dict)
    model: str | None = None
    directory: Path = Path()


class Globs:
    """What patterns found: remembered, so that each pass over a manifest sees the same files."""

    def __init__(self) -> None:
        self._found: dict[tuple[Path, str], list[LocalPath]] = {}

    def files(self, directory: Path, pattern: str) -> list[LocalPath]:
        """The files that match, sorted, relative to ``directory``. Raises ValueError for none."""
        key = (directory, pattern)
        if key not in self._found:
            try:
                found = sorted(glob.glob(pattern, root_dir=directory, recursive=True))
            except (ValueError, OSError, RecursionError) as error:
                raise ValueError(f"glob {pattern!r:.60}: {error}") from None
            self._found[key] = [LocalPath(name) for name in found if (directory / name).is_file()]
        if not self._found[key]:
            raise ValueError(f"glob {pattern!r:.60} matches no file in {directory}")
        return self._found[key]


class Scope:
    """What stands around the rows of one file, merged once: ``layers`` from the inside out."""

    def __init__(
        self, layers: tuple[Layer, ...], directory: Path, setting: Setting, globs: Globs
    ) -> None:
        self.layers = layers
        self.directory = directory
        self._setting = setting
        self._globs = globs
        weakest_first = sorted(reversed(layers), key=lambda layer: layer.is_entry)
        self._defaults: dict[str, Any] = {}
        self._bases: dict[str, Path] = {}
        for layer in weakest_first:
            self._defaults.update(layer.row.inputs)
            self._bases.update(dict.fromkeys(layer.row.inputs, layer.directory))
        self._vars = _merged(layer.row.vars for layer in weakest_first)
        self._meta = _merged(layer.row.meta for layer in weakest_first)
        self.model = setting.model or _last(layer.row.model for layer in weakest_first)
        self._repeat = _last(layer.row.repeat for layer in weakest_first) or 1
        self._matrix = {
            key: (values, layer.directory)
            for layer in reversed(layers)
            for key, values in (layer.row.matrix or {}).items()
        }
        self._bases = {name: base for name, base in self._bases.items() if base != directory}
        self._bases.update(dict.fromkeys(setting.inputs, setting.directory))
        self._simple = not self._matrix and self._repeat == 1 and not _is_special(self._defaults)
        self._simple &= not _is_special(self._meta) and not _is_special(setting.inputs)

    def drafts(self, row: Row) -> Iterator[Draft]:
        """The jobs that ``row`` makes, in a stable order. Raises ExpandError."""
        simple = self._simple and row.matrix is None and row.repeat is None
        if not simple or _is_special(row.inputs) or _is_special((row.meta or {}) | {"": row.id}):
            yield from self._expanded(row)
            return
        inputs = {**self._defaults, **row.inputs} if self._defaults else row.inputs.copy()
        if self._setting.inputs:
            self._set(inputs)
        bases = self._bases_of(row) if self._bases else None
        meta = {**self._meta, **(row.meta or {})}
        yield Draft(inputs, self._model_of(row), meta, row.id, row.id, 1, bases)

    def _model_of(self, row: Row) -> str | None:
        return self._setting.model or row.model or self.model

    def _set(self, inputs: dict[str, Any]) -> None:
        for name, text in self._setting.inputs.items():
            if text is None:
                inputs.pop(name, None)
            else:
                inputs[name] = text

    def _bases_of(self, row: Row) -> dict[str, Path]:
        own = row.inputs.keys() - self._setting.inputs.keys()
        return {name: base for name, base in self._bases.items() if name not in own}

    def _expanded(self, row: Row) -> Iterator[Draft]:
        base = {**self._defaults, **row.inputs}
        self._set(base)
        bases = self._bases_of(row)
        meta = {**self._meta, **(row.meta or {})}
        axes = self._axes(row, base, bases)
        inputs, variables = self._divided(axes, row, (base, meta, row.id))
        samples = row.repeat or self._repeat
        if samples * math.prod(len(values) for values in axes.values()) > JOBS_PER_ROW_MAX:
            raise ExpandError("matrix", f"this row makes more than {JOBS_PER_ROW_MAX} jobs")
        for name in inputs:
            bases.pop(name, None)
            if name in self._matrix and name not in (row.matrix or {}):
                bases[name] = self._matrix[name][1]
        named = {name.partition(".")[0] for name in names_in(row.id)}
        for values in itertools.product(*axes.values()):
            combination = dict(zip(axes, values, strict=True))
            scope = {**self._vars, **{k: combination[k] for k in variables}, **(row.vars or {})}
            draft = self._draft(row, {**base, **{k: combination[k] for k in inputs}}, meta, scope)
            draft.bases = bases
            draft.model = combination.get("model") or draft.model
            told_apart = {k: v for k, v in combination.items() if k not in named}
            if draft.id is not None and told_apart:
                draft.id = f"{draft.id}-{matrix_digest(told_apart)}"
            for sample in range(1, samples + 1):
                yield msgspec.structs.replace(draft, inputs=draft.inputs.copy(), sample=sample)
