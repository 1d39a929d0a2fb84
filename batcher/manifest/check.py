"""Turns drafts into jobs: media, types and limits by the model's schema, ids. One line per problem."""

from __future__ import annotations

import os
from array import array
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path, PurePath
from typing import Any

import msgspec

from batcher.jobs import identity_v1
from batcher.jobs.column_rules import normal
from batcher.jobs.identity import FIRST_RULE, RULE, generated_id, input_digest, is_text_name
from batcher.jobs.job import Job, Source, explicit_id_problem
from batcher.jobs.nodes import is_link
from batcher.manifest.csv_files import json_list_in
from batcher.manifest.expand import Draft, FieldProblem, Scope
from batcher.manifest.fit import fit_names, fit_nodes, give_types, hinted, judged, nodes_missing
from batcher.manifest.folders import FILE_NAME, media_of
from batcher.manifest.id_table import Claim, Claims, IdTable
from batcher.manifest.media import LocalFiles, MediaError, check_body_size, is_public_url, several_urls
from batcher.manifest.pattern import Pattern
from batcher.manifest.row_marks import differences, mark_of
from batcher.manifest.rows import LocalPath
from batcher.manifest.tally import ManifestTally, Repeated
from batcher.schema.dialect import may_name_media, media_kind
from batcher.schema.spec import ModelSpec

NO_MODEL = "no model is named (model: in the file, or --model; `batcher models` lists them)"

PATTERNS_KEPT = 1024

_LINE_BITS = 40
_LINE_MASK = (1 << _LINE_BITS) - 1
"""A place in the id table: the number of the file, then the line."""
FittedRow = tuple[str, dict[str, Any], dict[str, Any], str, int, bool]
"""A row that fits a pattern: the job's id, inputs, metadata, digest, mark; whether it gave the id."""


class Rejects(Exception):
    """A draft that can't become a job."""

    def __init__(self, problems: list[FieldProblem]) -> None:
        super().__init__(problems)
        self.problems = problems


class Checker:
    """Turns drafts into jobs, for one pass: it remembers the ids that the pass has seen.

    ``tally`` collects problems, and the numbers of rejected drafts; ``earlier`` holds those numbers of
    an earlier pass, so that the ids need not be compared again.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        files: LocalFiles,
        tally: ManifestTally,
        earlier: array[int] | None = None,
    ) -> None:
        self._specs = specs
        self._files = files
        self._tally = tally
        self._number = 0
        self._ids = IdTable()
        self._compares = earlier is None
        self._left_out = iter(earlier or ())
        self._next_left_out = next(self._left_out, 0)
        self._file_numbers: dict[str, int] = {}
        self._repeats: dict[str, int] = {}
        self._patterns: dict[tuple[str, ...], Pattern] = {}

    def job(self, draft: Draft, source: Source, scope: Scope) -> Job | None:
        """The job of ``draft``; None if it is a duplicate. Raises Rejects.

        ``source`` is the position of its row, ``scope`` what encloses it.
        """
        if self._is_left_out():
            return None
        try:
            job = self._checked(draft, source, scope)
        except Rejects:
            self._tally.dropped.append(self._number)
            raise
        return self._admitted(job, draft.explicit, scope)

    def fitted_job(self, fitted: FittedRow, source: Source, scope: Scope) -> Job | None:
        """:meth:`job` for a row whose inputs fit a :meth:`pattern`. Raises Rejects."""
        if self._is_left_out():
            return None
        job_id, inputs, meta, digest, _, explicit = fitted
        job = Job(job_id, scope.model or "", inputs, meta, source, digest, explicit)
        return self._admitted(job, job_id if explicit else None, scope)

    def fitted_jobs(
        self, rows: Sequence[FittedRow], lines: Sequence[int], file: str, scope: Scope
    ) -> list[Job] | None:
        """:meth:`fitted_job` for many rows of ``file`` if all are new jobs; else nothing is done."""
        ids, inputs, metas, digests, marks, explicit = zip(*rows, strict=True)
        leaves_out = 0 < self._next_left_out <= self._number + len(rows)
        if leaves_out or not _can_name_files("".join(ids)):
            return None
        if self._compares or scope.setting.per_row:
            number = self._file_number(file)
            places = [number << _LINE_BITS | line for line in lines]
            meanings = [*map(_meaning, digests, explicit)] if any(explicit) else digests
            if not self._ids.claim_all(Claims(ids, meanings, places, marks)):
                return None
        self._number += len(rows)
        sources = map(Source, repeat(file), lines)
        return [*map(Job, ids, repeat(scope.model or ""), inputs, metas, sources, digests, explicit)]

    def _is_left_out(self) -> bool:
        """Count one more draft; whether an earlier pass has rejected it."""
        self._number += 1
        if self._number != self._next_left_out:
            return False
        self._next_left_out = next(self._left_out, 0)
        return True

    def _admitted(self, job: Job, explicit: str | None, scope: Scope) -> Job | None:
        """``job`` if its id can be used, with a number if ids are per row; None if it is a duplicate."""
        admitted = None
        try:
            if not job.id.isascii():
                _check_file_name(job.id)
            if scope.setting.per_row:
                admitted = self._own_job(job, explicit)
            elif not self._compares or self._is_new(job, explicit):
                admitted = job
        finally:
            if admitted is None:
                self._tally.dropped.append(self._number)
        return admitted

    def _checked(self, draft: Draft, source: Source, scope: Scope) -> Job:
        model = draft.model
        if model is None:
            raise Rejects([*draft.problems, ("model", NO_MODEL)])
        digest = self._by_pattern(draft, model, scope) or self._in_full(draft, model, scope)
        inputs = draft.inputs
        job_id = generated_id(inputs, digest, scope.setting.rule) if draft.id is None else draft.id
        if draft.sample > 1:
            job_id = f"{job_id}-{draft.sample}"
        return Job(job_id, model, inputs, draft.meta, source, digest, draft.id is not None, draft.vars)

    def pattern(self, model: str, inputs: Iterable[str]) -> Pattern | None:
        """The pattern of inputs with these names; None if the model has no schema."""
        spec = self._specs.get(model)
        if spec is None:
            return None
        names = (model, *inputs)
        pattern = self._patterns.get(names)
        if pattern is None:
            if len(self._patterns) >= PATTERNS_KEPT:
                self._patterns.clear()
            pattern = self._patterns[names] = Pattern(model, names[1:], spec)
        return pattern

    def _by_pattern(self, draft: Draft, model: str, scope: Scope) -> str:
        """Check and type the inputs by the pattern of their names; returns their digest.

        An empty one means that nothing was done, because there may be problems: see :meth:`_in_full`.
        """
        if draft.problems or scope.setting.rule != RULE:
            return ""
        if draft.explicit is not None and explicit_id_problem(draft.explicit):
            return ""
        pattern = self.pattern(model, draft.inputs)
        fitted = pattern.fitted(draft.inputs.values()) if pattern is not None else None
        if fitted is None:
            return ""
        draft.inputs, digest = fitted
        return digest

    def _in_full(self, draft: Draft, model: str, scope: Scope) -> str:
        """Check and type the inputs; returns their digest. Raises Rejects with all problems."""
        spec = self._specs.get(model)
        problems = [*draft.problems, *fit_nodes(draft, model)]
        if spec is not None and draft.inputs.keys() <= spec.fields.keys():
            perhaps_media: Iterable[str] = spec.perhaps_media
        else:
            problems += [*_place_file(draft.inputs, spec), *fit_names(draft, spec, scope)]
            perhaps_media = _perhaps_media(draft.inputs, spec)
        inputs = draft.inputs
        self._resolve_media(draft, _media_fields(draft, spec), scope.directory, problems)
        problems += nodes_missing(inputs, self._files)
        rule = scope.setting.rule
        digest = identity_v1.input_digest(model, inputs) if rule == FIRST_RULE else ""
        self._send_files(draft, perhaps_media, scope.directory, problems)
        if spec is not None:
            give_types(inputs, spec)
            if against := spec.problems(judged(inputs, spec, scope)):
                problems += self._against(inputs, against, spec, problems)
        if draft.explicit is not None and (what := explicit_id_problem(draft.explicit)):
            problems.append(("id", what))
        if problems:
            raise Rejects(problems)
        return digest or input_digest(model, inputs, spec.spellings if spec is not None else None)

    def _against(
        self,
        inputs: dict[str, Any],
        against: list[FieldProblem],
        spec: ModelSpec,
        before: list[FieldProblem],
    ) -> list[FieldProblem]:
        """Problems of the inputs by the schema, besides those already known; added to the tally."""
        blamed = {name for name, _ in before}
        for name, what in against:
            if what.startswith("unknown field"):
                self._tally.unfit.add_unknown(name, inputs.get(name))
            elif what.startswith("required") and name not in blamed:
                self._tally.unfit.add_missing(name, spec.model_id)
        return [(name, hinted(name, what)) for name, what in against if name not in blamed]

    def _resolve_media(
        self,
        draft: Draft,
        fields: Iterable[tuple[str, str | None]],
        directory: Path,
        problems: list[FieldProblem],
    ) -> None:
        """Replace paths by local media in ``draft``; record what can't be sent."""
        inputs = draft.inputs
        changed = False
        for name, kind in fields:
            value = inputs.get(name)
            if value is None or is_link(name, value) or _is_url(value):
                if type(value) is str and "://" in value[8:] and (what := several_urls(value)):
                    problems.append((name, what))
                continue
            base = draft.bases.get(normal(name), directory) if draft.bases else directory
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

    def _send_files(
        self, draft: Draft, names: Iterable[str], directory: Path, problems: list[FieldProblem]
    ) -> None:
        """Send media for the path of a media file, even in fields that are only known to be text."""
        inputs = draft.inputs
        for name in names:
            value = inputs.get(name)
            if type(value) not in (str, list):
                continue
            base = draft.bases.get(normal(name), directory) if draft.bases else directory
            try:
                inputs[name] = self._files.perhaps(value, base, strict=may_name_media(name))
            except MediaError as error:
                problems.append((name, str(error)))

    def _is_new(self, job: Job, explicit: str | None) -> bool:
        """Claim the job's id. Raises Rejects if another job has it."""
        mark = mark_of(job)
        claim, first, first_mark = self._claim(job, explicit, mark)
        if claim is Claim.TAKEN:
            raise Rejects([("id", self._taken(job, explicit, first))])
        if claim is Claim.SAME:
            inputs_differ, meta_differs = differences(mark, first_mark)
            self._tally.repeat(Repeated(job.source, self._place(first), meta_differs, inputs_differ))
        return claim is Claim.NEW

    def _own_job(self, job: Job, explicit: str | None) -> Job:
        """The job with its own id: the k-th row with the same inputs gets ``-k``, like samples."""
        base = job.id
        while True:
            claim, first, _ = self._claim(job, explicit, 0)
            if claim is Claim.NEW:
                return job
            if claim is Claim.TAKEN:
                raise Rejects([("id", self._taken(job, explicit, first))])
            self._repeats[base] = count = self._repeats.get(base, 1) + 1
            job = msgspec.structs.replace(job, id=f"{base}-{count}")

    def _claim(self, job: Job, explicit: str | None, mark: int) -> tuple[Claim, int, int]:
        place = self._file_number(job.source.file) << _LINE_BITS | job.source.line
        return self._ids.claim(job.id, _meaning(job.digest, explicit == job.id), place, mark)

    def _file_number(self, file: str) -> int:
        return self._file_numbers.setdefault(file, len(self._file_numbers))

    def _taken(self, job: Job, explicit: str | None, first: int) -> str:
        where = self._place(first)
        if explicit == job.id:
            return f"{job.id!r} is taken by other inputs, or in other letter case, at {where}"
        return f"{job.id!r}, made for this job, is the id of another one, at {where}"

    def _place(self, place: int) -> str:
        return f"{[*self._file_numbers][place >> _LINE_BITS]}:{place & _LINE_MASK}"


def _meaning(digest: str, is_own: bool) -> Hashable:
    """What an id means: an id that a row gave is not the one that is made for a job."""
    return ("own", digest) if is_own else digest


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and is_public_url(value)


def _check_file_name(job_id: str) -> None:
    """Raises Rejects if the file system's encoding can't represent the outputs' names."""
    if not _can_name_files(job_id):
        what = f"{job_id!a} can't name a file under this locale; set PYTHONUTF8=1, or give the job an id"
        raise Rejects([("id", what)])


def _can_name_files(ids: str) -> bool:
    try:
        os.fsencode(ids)
    except UnicodeEncodeError:
        return False
    return True


def _perhaps_media(inputs: dict[str, Any], spec: ModelSpec | None) -> list[str]:
    """The inputs that may take media although the schema doesn't say so: all without a prompt's name."""
    known = spec.fields if spec is not None else ()
    perhaps = spec.perhaps_media if spec is not None else ()
    return [name for name in inputs if name in perhaps or not (name in known or is_text_name(name))]


def _media_fields(draft: Draft, spec: ModelSpec | None) -> Iterable[tuple[str, str | None]]:
    """The media fields with the kind of media that each takes; without a spec, by their names.

    This draft may not have all of them.
    """
    fields: Mapping[str, str | None]
    if spec is not None:
        fields = spec.media
    else:
        fields = {name: kind for name in draft.inputs if (kind := media_kind(name)) is not None}
    if draft.glob is not None and draft.glob not in fields:
        fields = {**fields, draft.glob: None}
    return fields.items()


def _place_file(inputs: dict[str, Any], spec: ModelSpec | None) -> Iterator[FieldProblem]:
    """Put a listed file into the one field of the model that takes its kind of media."""
    path = inputs.get(FILE_NAME)
    if not isinstance(path, LocalPath):
        return
    kind = media_of(PurePath(path))
    fields = [name for name, takes in (spec.media if spec else {}).items() if takes in (kind, None)]
    required = [name for name in fields if spec is not None and name in spec.schema.get("required", ())]
    found = [name for name in required or fields if name not in inputs]
    del inputs[FILE_NAME]
    if len(found) == 1:
        inputs[found[0]] = path
    else:
        which = f"one of {', '.join(found)}" if found else f"the input that takes the {kind or 'file'}"
        yield FILE_NAME, f"say which input this is: --rename {FILE_NAME}=FIELD, {which}"
