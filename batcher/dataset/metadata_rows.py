"""One flat row per output file, made from the ledger; used by metadata, exports and report.

Every row has the same keys and each key has one type, over all models, so that rows load as a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from batcher.jobs.identity import prompt_of
from batcher.jobs.job import Job, LocalMedia
from batcher.jobs.lifecycle import State
from batcher.ledger.finished import JobRecord
from batcher.ledger.snapshot import Snapshot

TEXT, INTEGER, NUMBER, FLAG, TEXTS, NOTHING = "text", "integer", "number", "flag", "texts", "null"
NONE: Mapping[str, Any] = MappingProxyType({})
OWN_COLUMNS = {
    "file_name": TEXT,
    "job": TEXT,
    "model": TEXT,
    "prompt": TEXT,
    "request_id": TEXT,
    "attempt": INTEGER,
    "submitted_at": TEXT,
    "finished_at": TEXT,
    "cost_usd": NUMBER,
    "bytes": INTEGER,
    "sha256": TEXT,
    "media_type": TEXT,
    "width": INTEGER,
    "height": INTEGER,
    "duration_s": NUMBER,
    "fps": NUMBER,
    "quality": TEXT,
    "orphaned": FLAG,
    "source": TEXT,
}
"""Columns that every row has, with their types. Those of inputs, metadata and variables follow."""


class Made(NamedTuple):
    """A job's model, inputs, metadata and variables, from the ledger."""

    inputs: dict[str, Any]
    meta: dict[str, Any]
    variables: dict[str, Any]
    source: str | None


class ColumnTypes:
    """The columns for inputs, metadata and variables: name → type, merged over many jobs."""

    def __init__(self, types: dict[str, str] | None = None) -> None:
        self.types: dict[str, str] = dict(types or {})
        self._last_kinds: tuple[object, ...] = ()
        self._last_inputs: dict[str, type] = {}
        self._last_meta: dict[str, type] = {}
        self._last_vars: dict[str, type] = {}

    def watch(self, blocks: Iterable[Sequence[Job]]) -> Iterator[Sequence[Job]]:
        """Yield blocks of jobs unchanged, and add their columns."""
        for block in blocks:
            rows = [job.input for job in block]
            if {(*row, *map(type, row.values())) for row in rows} != {self._last_kinds}:
                for row in rows:
                    self._add_inputs(row)
            for meta in {id(job.meta): job.meta for job in block if job.meta}.values():
                self._take("meta", meta, self._last_meta)
            for job in block:
                if job.vars:
                    self._take("var", job.vars, self._last_vars)
            yield block

    def add(
        self, inputs: dict[str, Any], meta: dict[str, Any], variables: Mapping[str, Any] = NONE
    ) -> None:
        """Add one job's values."""
        self._add_inputs(inputs)
        self._take("meta", meta, self._last_meta)
        self._take("var", variables, self._last_vars)

    def _add_inputs(self, inputs: dict[str, Any]) -> None:
        """Most have the types of the job before."""
        kinds = (*inputs, *map(type, inputs.values()))
        if kinds != self._last_kinds:
            self._take("input", inputs, self._last_inputs)
            self._last_kinds = kinds if list not in kinds else ()

    def _take(self, prefix: str, values: Mapping[str, Any], last: dict[str, type]) -> None:
        for name, value in values.items():
            kind = type(value)
            if last.get(name) is not kind:
                column = f"{prefix}.{name}"
                known = self.types.get(column, NOTHING)
                self.types[column] = _merged(known, _type_of(_shown(value)))
                if kind is not list:  # the next list may have items of another type
                    last[name] = kind

    def merge(self, other: ColumnTypes) -> None:
        """Add the columns of ``other``."""
        for name, kind in other.types.items():
            self.types[name] = _merged(self.types.get(name, NOTHING), kind)

    def fill(
        self, inputs: dict[str, Any], meta: dict[str, Any], variables: Mapping[str, Any] = NONE
    ) -> dict[str, Any]:
        """One job's value for every column, converted to the column's type; None if it has none."""
        row: dict[str, Any] = dict.fromkeys(sorted(self.types))
        for prefix, values in (("input", inputs), ("meta", meta), ("var", variables)):
            for name, value in values.items():
                column = f"{prefix}.{name}"
                row[column] = _cast(_shown(value), self.types.get(column, TEXT))
        return row


def _shown(value: Any) -> Any:
    """``value`` of a job or a ledger line, with its local media replaced by their paths."""
    if isinstance(value, LocalMedia):
        return value.shown
    if isinstance(value, dict) and value.keys() == {"path", "sha256"}:
        return value["path"]
    return [_shown(item) for item in value] if isinstance(value, list) else value


def _type_of(value: Any) -> str:
    match value:
        case None:
            return NOTHING
        case bool():
            return FLAG
        case int():
            return INTEGER
        case float():
            return NUMBER
        case list() if all(isinstance(item, str) for item in value):
            return TEXTS
        case _:
            return TEXT


def _merged(one: str, other: str) -> str:
    if other in (one, NOTHING):
        return one
    if one == NOTHING:
        return other
    return NUMBER if {one, other} == {INTEGER, NUMBER} else TEXT


def _cast(value: Any, kind: str) -> Any:
    """``value`` converted to the type of its column, which can hold it: see ``_merged``."""
    if value is None:
        return None
    if kind == TEXT:
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return float(value) if kind == NUMBER else value


class Rows:
    """Makes rows from a snapshot, and from the ledger's lines, which it reads again."""

    def __init__(self, snapshot: Snapshot, columns: ColumnTypes) -> None:
        self.columns = columns
        self._snapshot = snapshot

    def all(self) -> Iterator[dict[str, Any]]:
        """The rows of every done job, in the order in which they were done."""
        for job_id, record in self._snapshot.items():
            if record.state is State.DONE:
                yield from self.of(job_id, record)

    def of(self, job_id: str, record: JobRecord) -> Iterator[dict[str, Any]]:
        """One row for each output of a done job."""
        made = self.made_of(record)
        filled = self.columns.fill(made.inputs, made.meta, made.variables)
        done = self._snapshot.line_at(record.done_offset)
        for artifact in done.files or ():
            yield {
                "file_name": artifact.path,
                "job": job_id,
                "model": record.model,
                "prompt": _prompt(made.inputs),
                "request_id": record.request_id,
                "attempt": record.attempt,
                "submitted_at": record.submitting_at,
                "finished_at": done.at,
                "cost_usd": record.charge_usd,
                "bytes": artifact.bytes,
                "sha256": artifact.sha256,
                "media_type": artifact.media_type,
                "width": artifact.width,
                "height": artifact.height,
                "duration_s": artifact.duration_s,
                "fps": artifact.fps,
                "quality": record.quality,
                "orphaned": record.orphaned,
                "source": made.source,
                **filled,
            }

    def made_of(self, record: JobRecord) -> Made:
        """A job's inputs and metadata; its ``source`` is the row at its last attempt."""
        if record.input_offset < 0:
            return Made({}, {}, {}, None)
        event = last = self._snapshot.line_at(record.input_offset)
        if record.submitting_offset not in (-1, record.input_offset):
            last = self._snapshot.line_at(record.submitting_offset)
        return Made(event.input or {}, event.meta or {}, event.vars or {}, last.source)

    def widen(self) -> None:
        """Extend the columns so that they fit every job in the ledger."""
        for record in self._snapshot.records.values():
            if record.input_offset >= 0:
                made = self.made_of(record)
                self.columns.add(made.inputs, made.meta, made.variables)


def _prompt(inputs: dict[str, Any]) -> str | None:
    prompt = prompt_of(inputs)
    return prompt if isinstance(prompt, str) or prompt is None else str(prompt)
