"""Drafts to jobs: media, types and limits by the model's schema, ids. Every problem is one line."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from batcher.jobs import identity_v1
from batcher.jobs.identity import FIRST_RULE, RULE, UNKNOWN_FIELDS, generated_id, input_digest
from batcher.jobs.job import Job, LocalMedia, Source, explicit_id_problem
from batcher.manifest.csv_files import json_list_in
from batcher.manifest.expand import Draft, FieldProblem
from batcher.manifest.id_table import Claim, IdTable
from batcher.manifest.media import LocalFiles, MediaError, check_body_size, is_public_url
from batcher.schema.dialect import media_kind
from batcher.schema.spec import ModelSpec

NO_MODEL = "no model is named (model: in the file, or --model)"

_LINE_BITS = 40
_LINE_MASK = (1 << _LINE_BITS) - 1
"""A place in the id table: the number of the file, then the line."""


class Rejects(Exception):
    """A draft that is no job."""

    def __init__(self, problems: list[FieldProblem]) -> None:
        super().__init__(problems)
        self.problems = problems


class Checker:
    """Makes drafts into jobs, for one pass: it knows the ids that the pass has seen.

    ``dropped`` takes the numbers of drafts that are no jobs; ``earlier`` are those of an earlier pass,
    after which nobody needs to look at the ids again.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        files: LocalFiles,
        dropped: array[int],
        earlier: array[int] | None = None,
        rule: int = RULE,
    ) -> None:
        self._specs = specs
        self._files = files
        self._rule = rule
        self._number = 0
        self._dropped = dropped
        self._ids = IdTable() if earlier is None else None
        self._left_out = iter(earlier or ())
        self._next_left_out = next(self._left_out, 0)
        self._file_numbers: dict[str, int] = {}

    def job(self, draft: Draft, source: Source, directory: Path) -> Job | None:
        """The job that ``draft`` is, None where it was listed before. Raises Rejects.

        ``source`` is where its row stands, ``directory`` what paths in that row are relative to.
        """
        self._number += 1
        if self._number == self._next_left_out:
            self._next_left_out = next(self._left_out, 0)
            return None
        job = None
        try:
            job = self._checked(draft, source, directory)
        finally:
            if job is None:
                self._dropped.append(self._number)
        return job

    def _checked(self, draft: Draft, source: Source, directory: Path) -> Job | None:
        model, inputs = draft.model, draft.inputs
        if model is None:
            raise Rejects([*draft.problems, ("model", NO_MODEL)])
        problems = list(draft.problems)
        spec = self._specs.get(model)
        if spec is not None and spec.capitals:
            _spell(inputs, spec)
        self._resolve_media(draft, _media_fields(draft, spec), directory, problems)
        digest = identity_v1.input_digest(model, inputs) if self._rule == FIRST_RULE else ""
        if spec is not None:
            _give_types(inputs, spec)
            against = spec.problems(inputs)
            if against:
                blamed = {name for name, _ in problems}
                problems += [(name, _hinted(name, what)) for name, what in against if name not in blamed]
        if draft.explicit is not None and (what := explicit_id_problem(draft.explicit)):
            problems.append(("id", what))
        if problems:
            raise Rejects(problems)
        digest = digest or input_digest(model, inputs, spec.texts if spec else UNKNOWN_FIELDS)
        job_id = generated_id(inputs, digest, self._rule) if draft.id is None else draft.id
        if draft.sample > 1:
            job_id = f"{job_id}-{draft.sample}"
        job = Job(job_id, model, inputs, draft.meta, source, digest, draft.id is not None)
        return job if self._ids is None or self._is_new(job, draft, self._ids) else None

    def _resolve_media(
        self,
        draft: Draft,
        fields: Iterable[tuple[str, str | None]],
        directory: Path,
        problems: list[FieldProblem],
    ) -> None:
        """Put local media in the place of their paths, in ``draft``; note what can't be sent."""
        inputs = draft.inputs
        changed = False
        for name, kind in fields:
            value = inputs.get(name)
            if value is None or (isinstance(value, str) and is_public_url(value)):
                continue
            base = draft.bases.get(name, directory) if draft.bases else directory
            try:
                inputs[name] = self._files.resolved(json_list_in(value), kind, base)
            except MediaError as error:
                problems.append((name, str(error)))
                del inputs[name]
            changed = True
        if changed:
            try:
                check_body_size(inputs)
            except MediaError as error:
                problems.append(("", str(error)))

    def _is_new(self, job: Job, draft: Draft, ids: IdTable) -> bool:
        """Claim the job's id. Raises Rejects where it stands for something else."""
        kind = "own" if draft.explicit == job.id else "made"
        source, numbers = job.source, self._file_numbers
        if source.file not in numbers:
            numbers[source.file] = len(numbers)
        place = numbers[source.file] << _LINE_BITS | source.line
        claim, first = ids.claim(job.id, (kind, job.digest), place)
        if claim is Claim.TAKEN:
            where = f"{[*numbers][first >> _LINE_BITS]}:{first & _LINE_MASK}"
            what = (
                f"{job.id!r} is taken by other inputs, or in other letter case, at {where}"
                if kind == "own"
                else f"{job.id!r}, made for this job, is the id of another one, at {where}"
            )
            raise Rejects([("id", what)])
        return claim is Claim.NEW


def _media_fields(draft: Draft, spec: ModelSpec | None) -> Iterable[tuple[str, str | None]]:
    """The media fields with the kind of media that each takes; without a spec, by their names.

    Some of them may be no inputs of this draft.
    """
    fields: Mapping[str, str | None]
    if spec is not None:
        fields = spec.media
    else:
        fields = {name: kind for name in draft.inputs if (kind := media_kind(name)) is not None}
    if draft.glob is not None and draft.glob not in fields:
        fields = {**fields, draft.glob: None}
    return fields.items()


def _spell(inputs: dict[str, Any], spec: ModelSpec) -> None:
    """Give fields the capitals that the schema writes and a table's header can't."""
    for name in [n for n in inputs if n not in spec.fields and n in spec.capitals]:
        inputs.setdefault(spec.capitals[name], inputs.pop(name))


def _hinted(name: str, what: str) -> str:
    if what != "unknown field":
        return what
    return f"{what} (--meta {name} keeps it with the results, --ignore {name} drops it)"


def _give_types(inputs: dict[str, Any], spec: ModelSpec) -> None:
    """Let text become what the schema says the field is, and 5.0 an integer where one is wanted."""
    for name, read in spec.typed.items():
        value = inputs.get(name)
        if isinstance(value, str):
            inputs[name] = read(value)
        elif isinstance(value, float) and value.is_integer():
            inputs[name] = read(repr(value))
        elif isinstance(value, LocalMedia) and name in spec.lists:
            inputs[name] = [value]
