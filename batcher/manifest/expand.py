"""Turns rows into drafts: defaults, matrix, variables, templates, globs and repeat, before any schema.

Precedence for an input of a row: ``--set``, the row's own value, its ``matrix``, the enclosing matrices
from the inside out, the values of the ``from`` entries that include it, the ``defaults`` from the inside
out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import msgspec

from batcher.jobs.column_rules import normal
from batcher.jobs.identity import RULE, matrix_digest
from batcher.manifest.globs import Globs
from batcher.manifest.rows import GLOB, Row, is_glob
from batcher.manifest.templates import TemplateError, filled, names_in

JOBS_PER_ROW_MAX = 1_000_000

FieldProblem = tuple[str, str]
"""A field and its problem."""


class ExpandError(ValueError):
    """A row that can't be expanded because of ``field``."""

    def __init__(self, field_name: str, what: str) -> None:
        super().__init__(what)
        self.field = field_name


class Draft(msgspec.Struct):
    """One concrete job before the check against its model's schema.

    ``id`` is the explicit id with the suffix of a matrix, ``explicit`` that id as it was written; both
    are None if the id is to be generated. ``sample`` counts from 1. ``bases`` holds the base folders of
    relative paths, for fields whose value is in another file than the row. ``glob`` is the input
    that a glob gave a file. ``problems`` are those of its templates. ``vars`` are its variables.
    """

    inputs: dict[str, Any]
    model: str | None
    meta: dict[str, Any]
    id: str | None = None
    explicit: str | None = None
    sample: int = 1
    bases: Mapping[str, Path] | None = None
    glob: str | None = None
    problems: tuple[FieldProblem, ...] = ()
    vars: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class RowLayer:
    """A manifest's head, or a ``from`` entry, in the file whose directory is ``directory``.

    ``rest`` is the role of that file's columns that are not inputs of the model.
    """

    row: Row
    directory: Path
    is_entry: bool = False
    rest: str | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """The command line's options for every job: inputs by ``--set``, and ``--model``.

    An input that is None was set to nothing: it is removed. ``directory`` is the top manifest's.
    ``rule`` is the one by which ids are made. ``variables`` are those of every job, ``extra`` the inputs
    that may be sent although the schema doesn't list them; with ``per_row`` rows with the same inputs
    are separate jobs. ``spelled`` has the user's spelling of inputs.
    """

    inputs: Mapping[str, str | None] = field(default_factory=dict)
    model: str | None = None
    directory: Path = Path()
    rule: int = RULE
    variables: Mapping[str, str] = field(default_factory=dict)
    extra: frozenset[str] = frozenset()
    per_row: bool = False
    spelled: Mapping[str, str] = field(default_factory=dict)


class Scope:
    """What encloses the rows of one file, merged once: ``layers`` from the inside out."""

    def __init__(
        self, layers: tuple[RowLayer, ...], directory: Path, setting: Setting, globs: Globs
    ) -> None:
        self.layers = layers
        self.directory = directory
        self.setting = setting
        self.globs = globs
        outside_in = layers[::-1]
        weakest_first = sorted(outside_in, key=lambda layer: layer.is_entry)
        rows = [layer.row for layer in weakest_first]
        self.defaults = _merged(row.inputs for row in rows)
        self.vars = _merged(row.vars for row in rows)
        self.meta = _merged(row.meta for row in rows)
        self.rest = layers[0].rest
        self._named_model = _last(row.model for row in rows)
        self.model = setting.model or self._named_model
        self.overridden = setting.model is not None and self._named_model not in (None, setting.model)
        """Whether --model overrides the model that is named for all rows."""
        self.used = frozenset(map(normal, names_in([*setting.inputs.values()])))
        """Names in templates of ``--set``: a column with such a name that is no input is a variable."""
        self.repeat = _last(row.repeat for row in rows) or 1
        self.matrix: dict[str, tuple[Any, Path]] = {}
        for layer in outside_in:
            self.matrix.update(_located(layer.row.matrix, layer.directory))
        bases = {name: layer.directory for layer in weakest_first for name in layer.row.inputs}
        bases.update(dict.fromkeys(setting.inputs, setting.directory))
        self.bases = {name: base for name, base in bases.items() if base != directory}
        self._simple = not (
            self.matrix
            or self.repeat > 1
            or _is_special(self.defaults)
            or _is_special(self.meta)
            or _is_special(setting.inputs)
        )

    @property
    def is_uniform(self) -> bool:
        """Whether all rows with only inputs and metadata differ in nothing else (then :meth:`only_draft`
        has a draft for each without a template, with the model of all)."""
        given = self.bases or self.vars or self.setting.variables or self.overridden
        return self._simple and not given and self.setting.rule == RULE

    def only_draft(self, row: Row) -> Draft | None:
        """The only job of ``row`` if nothing varies and it has no templates; else see ``expanded``."""
        if not self._simple or (not row.is_plain and _needs_expansion(row)):
            return None
        bases = self.bases_of(row) if self.bases else None
        draft = Draft(
            self.inputs_of(row), self.model_of(row), self.meta_of(row.meta), row.id, row.id, 1, bases
        )
        if row.vars or self.vars or self.setting.variables:
            draft.vars = _kept({**self.vars, **(row.vars or {}), **self.setting.variables})
        return draft

    def inputs_of(self, row: Row) -> dict[str, Any]:
        """A new dict of the inputs of ``row`` if nothing varies."""
        inputs = {**self.defaults, **row.inputs}
        for name, text in self.setting.inputs.items():
            if text is None:
                inputs.pop(name, None)
            else:
                inputs[name] = text
        return inputs

    def meta_of(self, own: dict[str, Any] | None) -> dict[str, Any]:
        """The metadata of a row with its ``own``, if nothing varies."""
        return {**self.meta, **own} if own and self.meta else own or self.meta

    def model_of(self, row: Row) -> str | None:
        """The model of ``row``, without regard to a matrix."""
        return self.setting.model or row.model or self.model

    def other_model(self, row: Row) -> str | None:
        """The model of ``row`` that ``--model`` overrides, if any."""
        if self.setting.model is None:
            return None
        varied = (row.matrix or {}).get("model") or self.matrix.get("model", ((),))[0]
        named = [row.model or self._named_model, *varied]
        return next((model for model in named if model and model != self.setting.model), None)

    def models_of(self, row: Row) -> set[str]:
        """The models of the jobs of ``row``."""
        named = self.setting.model or row.model
        varied = (row.matrix or {}).get("model") or self.matrix.get("model", ((),))[0]
        if named or not varied:
            named = self.model_of(row)
            return set() if named is None else {named}
        return set(varied)

    def bases_of(self, row: Row) -> dict[str, Path]:
        """The directories of fields whose value isn't in the row's own file."""
        own = row.inputs.keys() - self.setting.inputs.keys()
        return {name: base for name, base in self.bases.items() if name not in own}


def _needs_expansion(row: Row) -> bool:
    return (
        row.matrix is not None
        or row.repeat is not None
        or _is_special(row.inputs)
        or (row.meta is not None and _is_special(row.meta))
        or (row.id is not None and "{{" in row.id)
    )


def _is_special(values: Mapping[str, Any]) -> bool:
    """Whether ``values`` may contain a template or a glob."""
    for value in values.values():
        kind = type(value)
        if (kind is str and "{{" in value) or kind is dict or kind is list:
            return True
    return False


def _merged(mappings: Iterable[dict[str, Any] | None]) -> dict[str, Any]:
    return {key: value for mapping in mappings for key, value in (mapping or {}).items()}


def _last(values: Iterable[Any]) -> Any:
    return next((value for value in reversed([*values]) if value is not None), None)


def expanded(row: Row, scope: Scope) -> Iterator[Draft]:
    """The jobs of a row with a matrix, templates, a glob or samples. Raises ExpandError."""
    base = scope.inputs_of(row)
    meta = {**scope.meta, **(row.meta or {})}
    axes = _Axes(row, scope, (base, meta, row.id))
    axes.add_matrix()
    axes.add_globs(base)
    samples = row.repeat or scope.repeat
    if samples * axes.count() > JOBS_PER_ROW_MAX:
        raise ExpandError("matrix", f"this row makes more than {JOBS_PER_ROW_MAX} jobs")
    for combination in axes.combinations():
        inputs = {**base, **{normal(name): combination[name] for name in axes.inputs}}
        draft = _filled(row, (inputs, meta), axes.variables_in(combination), scope)
        draft.model = combination.get("model") or scope.model_of(row)
        draft.bases, draft.glob = axes.bases, axes.globbed
        told_apart = axes.told_apart(combination)
        if draft.id is not None and told_apart:
            draft.id = f"{draft.id}-{matrix_digest(told_apart, scope.setting.rule)}"
        for sample in range(1, samples + 1):
            yield msgspec.structs.replace(draft, inputs=draft.inputs.copy(), sample=sample)


class _Axes:
    """What varies in one row: the values of each axis, those that are inputs, those that are variables.

    ``bases`` is :attr:`Draft.bases` of all its drafts.
    """

    def __init__(self, row: Row, scope: Scope, templated: tuple[Any, ...]) -> None:
        self._row = row
        self._scope = scope
        self._values: dict[str, list[Any]] = {}
        self._file: str | None = None
        self._matrix = {**scope.matrix, **_located(row.matrix, scope.directory)}
        self._used = _names_used(templated, self._matrix)
        self.inputs: list[str] = []
        self.bases = scope.bases_of(row)

    def add_matrix(self) -> None:
        """Add each key of the matrix that neither the row nor the command line sets."""
        for key, (values, directory) in self._matrix.items():
            if self._is_decided(key):
                continue
            self._add(key, values, directory)
            if key not in self._used and key != "model":
                self.inputs.append(key)
                self.bases[normal(key)] = directory

    def add_globs(self, base: Mapping[str, Any]) -> None:
        """Add each input that is a glob: a matrix over its files."""
        for name, value in base.items():
            if is_glob(value) and name not in self.inputs:
                self._add(name, value, self.bases.get(name, self._scope.directory))
                self.inputs.append(name)

    @property
    def globbed(self) -> str | None:
        """The input whose values are the files of a glob."""
        return self._file if self._file in self.inputs else None

    def count(self) -> int:
        """The number of combinations."""
        return math.prod(len(values) for values in self._values.values())

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination, the last axis varying fastest."""
        for values in itertools.product(*self._values.values()):
            yield dict(zip(self._values, values, strict=True))

    def variables_in(self, combination: Mapping[str, Any]) -> dict[str, Any]:
        """The variables of templates: the row's ``vars`` win over the matrix, that over outer ones."""
        varying = {key: value for key, value in combination.items() if key not in self.inputs}
        if self._file is not None:
            varying["file"] = _about_file(PurePath(combination[self._file]))
        own = self._row.vars or {}
        return {**self._scope.vars, **varying, **own, **self._scope.setting.variables}

    def told_apart(self, combination: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a combination that the explicit id doesn't already contain."""
        spelled = {name.partition(".")[0] for name in names_in(self._row.id)}
        if self._file is not None and "file" in spelled:
            spelled.add(self._file)
        told = {key: value for key, value in combination.items() if key not in spelled}
        return {key: str(value) if key == self._file else value for key, value in told.items()}

    def _is_decided(self, key: str) -> bool:
        setting = self._scope.setting
        if key == "model":
            return bool(setting.model or self._row.model)
        if key in self._used:
            return key in (self._row.vars or {}) or key in setting.variables
        return normal(key) in self._row.inputs or normal(key) in setting.inputs

    def _add(self, key: str, values: Any, directory: Path) -> None:
        if is_glob(values):
            if self._file is not None:
                raise ExpandError(key, f"a second glob in one job; {self._file} has one already")
            self._file = key
            try:
                values = self._scope.globs.files(directory, values[GLOB], self._scope.setting.rule)
            except ValueError as error:
                raise ExpandError(key, str(error)) from None
        self._values[key] = values


def _located(matrix: Mapping[str, Any] | None, directory: Path) -> dict[str, tuple[Any, Path]]:
    return {key: (values, directory) for key, values in (matrix or {}).items()}


def _names_used(templated: tuple[Any, ...], matrix: Mapping[str, tuple[Any, Path]]) -> set[str]:
    """The first parts of all names in templates, including those in a matrix's values for inputs."""
    used = {name.partition(".")[0] for value in templated for name in names_in(value)}
    for key, (values, _) in matrix.items():
        if key not in used:
            used |= {name.partition(".")[0] for name in names_in(values)}
    return used


def _about_file(path: PurePath) -> dict[str, str]:
    return {"path": str(path), "name": path.name, "stem": path.stem, "suffix": path.suffix}


def _filled(
    row: Row, values: tuple[dict[str, Any], dict[str, Any]], variables: Mapping[str, Any], scope: Scope
) -> Draft:
    """A draft of these inputs and metadata with its templates filled; what can't be filled is a problem
    of its field. The templates of ``--set`` may name columns of the row too."""
    inputs, meta = values
    problems: list[FieldProblem] = []
    settings = scope.setting.inputs
    with_columns = {**meta, **scope.defaults, **row.inputs, **variables} if scope.used else variables

    def fill(name: str, value: Any) -> Any:
        try:
            return filled(value, with_columns if name in settings else variables)
        except TemplateError as error:
            problems.append((name, str(error)))
            return None

    sent = {name: fill(name, value) for name, value in inputs.items()}
    kept = {name: fill(f"meta.{name}", value) for name, value in meta.items()}
    explicit = fill("id", row.id)
    explicit = None if explicit is None else str(explicit)
    return Draft(
        _without_null(sent),
        None,
        _without_null(kept),
        explicit,
        explicit,
        problems=tuple(problems),
        vars=_kept(variables),
    )


def _kept(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that a job keeps: not its model, nor a glob's file, which are recorded anyway."""
    passing = ("model", "file")
    return _without_null({name: v for name, v in variables.items() if name not in passing})


def _without_null(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
