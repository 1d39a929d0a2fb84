"""A manifest of chosen jobs of a run directory: their inputs, for another model or other parameters."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from batcher.disk import cannot_write
from batcher.errors import InputError, UsageError
from batcher.jobs.lifecycle import Event
from batcher.jobs.signatures import MASK
from batcher.ledger.finished import JobRecord
from batcher.ledger.snapshot import Snapshot
from batcher.manifest.templates import names_in

FROM_RUN, FROM_JOB = "from_run", "from_job"
_PROBLEMS_SHOWN = 10
_LEVELS_ABOVE = 4
_WEB = ("http://", "https://")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_/-]*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_BREAKS_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that are allowed in JSON, but not in YAML, or that YAML reads as line breaks."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """The new manifest: ``sets`` are inputs as typed, by field; an empty one removes the field."""

    run_dir: Path
    target: Path
    model: str | None
    sets: Mapping[str, str]


def promote(order: Promotion, job_ids: Iterable[str], snapshot: Snapshot) -> int:
    """Write the manifest of these jobs; returns their number.

    Raises UsageError if the file exists already, InputError for inputs that can't be restored from the
    ledger.
    """
    if os.path.lexists(order.target):
        raise UsageError(f"{order.target}: is there already, and stays as it is: choose another name")
    document = _document(order, job_ids, snapshot)
    content = _as_yaml(document)
    try:
        with order.target.open("x", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        raise cannot_write(order.target, error) from error
    return len(document["jobs"])


def _document(order: Promotion, job_ids: Iterable[str], snapshot: Snapshot) -> dict[str, Any]:
    finder = _Finder(order, snapshot)
    rows, problems = [], []
    for job_id in job_ids:
        record = snapshot.get(job_id)
        if record is not None and record.input_offset >= 0:
            row, lost = _row(order, job_id, record, snapshot.line_at(record.input_offset), finder)
            rows.append(row)
            problems += lost
    if problems:
        more = [f"... and {len(problems) - _PROBLEMS_SHOWN} more"] * (len(problems) > _PROBLEMS_SHOWN)
        raise InputError("\n".join([*problems[:_PROBLEMS_SHOWN], *more]))
    head: dict[str, Any] = {"name": order.target.stem}
    if order.model is not None:
        head["model"] = order.model
    inputs = [msgspec.json.encode([row.get("model"), row["input"], row.get("vars")]) for row in rows]
    if len(set(inputs)) < len(inputs):  # samples have the same inputs, and each was chosen
        head["run"] = {"per-row": True}
    return {**head, "jobs": rows}


def _row(
    order: Promotion, job_id: str, record: JobRecord, event: Event, finder: _Finder
) -> tuple[dict[str, Any], list[str]]:
    """One job of the manifest, and its problems."""
    inputs = {name: value for name, value in (event.input or {}).items() if name not in order.sets}
    problems = []
    for name, value in inputs.items():
        try:
            inputs[name] = finder.restored(value, event.source)
        except ValueError as error:
            problems.append(f"{job_id}: {name}: {error}; --set {name}=... gives another one")
    inputs |= {name: _typed(text) for name, text in order.sets.items() if text}
    kept = dict(event.vars or {})
    row: dict[str, Any] = {} if order.model is not None else {"model": record.model}
    row["input"] = _literal(inputs, kept)
    row["meta"] = _literal({**(event.meta or {}), FROM_RUN: finder.run_dir, FROM_JOB: job_id}, kept)
    return ({**row, "vars": kept} if kept else row), problems


def _typed(text: str) -> Any:
    """Numbers and flags converted, other text unchanged: the schema decides later."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text
    return value if isinstance(value, bool | int | float | list | dict) else text


def _literal(value: Any, kept: dict[str, Any]) -> Any:
    """``value``, with each text that looks like a template moved to a variable to keep it literal."""
    if isinstance(value, str) and any(names_in(value)):
        name = next(free for n in count(1) if kept.get(free := f"text_{n}", value) == value)
        kept[name] = value
        return f"{{{{ {name} }}}}"
    if isinstance(value, dict):
        return {key: _literal(item, kept) for key, item in value.items()}
    return [_literal(item, kept) for item in value] if isinstance(value, list) else value


class _Finder:
    """Finds local files again, by path and hash, and gives their paths relative to the new manifest."""

    def __init__(self, order: Promotion, snapshot: Snapshot) -> None:
        self._target_dir = order.target.parent.resolve()
        self._run_dir = order.run_dir.resolve()
        self.run_dir = self._from_target(self._run_dir)
        self._bases = list(dict.fromkeys(self._manifest_dirs(snapshot)))
        self._found: dict[tuple[str, str], str] = {}

    def restored(self, value: Any, source: str | None) -> Any:
        """A value of the ledger in the form of a manifest. Raises ValueError."""
        if isinstance(value, dict):
            if value.keys() == {"path", "sha256"}:
                return self._file(str(value["path"]), str(value["sha256"]), source)
            return {key: self.restored(item, source) for key, item in value.items()}
        if isinstance(value, list):
            return [self.restored(item, source) for item in value]
        if isinstance(value, str) and value.startswith(_WEB) and MASK in value.partition("?")[2]:
            raise ValueError("its URL was signed, and the ledger keeps no signatures")
        return value

    def _file(self, shown: str, sha256: str, source: str | None) -> str:
        if shown.startswith("data:"):
            raise ValueError("it was given inline, and the ledger keeps only its hash")
        key = (shown, sha256)
        if key not in self._found:
            paths = [base / shown for base in self._bases_of(source)]
            path = next((path for path in paths if _has_hash(path, sha256)), None)
            if path is None:
                raise ValueError(f"the file {shown} that it was made from is not there any more")
            self._found[key] = self._from_target(path)
        return self._found[key]

    def _bases_of(self, source: str | None) -> Iterator[Path]:
        """Folders that a path may be relative to: that of the row's own file first."""
        if source is not None:
            folder = Path(source.rpartition(":")[0]).parent
            yield from (base / folder for base in self._around())
        yield from self._bases

    def _manifest_dirs(self, snapshot: Snapshot) -> Iterator[Path]:
        last = snapshot.last_run
        if last is None:
            return
        for manifest in last.asked.manifests if last.asked is not None else ():
            yield (self._run_dir / manifest).parent
        if last.manifest:
            yield from ((base / last.manifest).parent for base in self._around())

    def _around(self) -> tuple[Path, ...]:
        """Folders in which a path may have been typed: here, or above the run directory."""
        return (Path.cwd(), *self._run_dir.parents[:_LEVELS_ABOVE])

    def _from_target(self, path: Path) -> str:
        return Path(os.path.relpath(path.parent.resolve(), self._target_dir), path.name).as_posix()


def _has_hash(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return path.is_file() and hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _as_yaml(document: dict[str, Any]) -> str:
    """Block style down to the fields of a job; every value as JSON, which is valid YAML."""
    lines = [f"{key}: {_scalar(value)}" for key, value in document.items() if key != "jobs"]
    lines.append("jobs:" if document["jobs"] else "jobs: []")
    for row in document["jobs"]:
        begin = "  - "
        for key, value in row.items():
            if isinstance(value, dict):
                lines.append(f"{begin}{key}:" if value else f"{begin}{key}: {{}}")
                lines += [f"      {_scalar(name)}: {_scalar(item)}" for name, item in value.items()]
            else:
                lines.append(f"{begin}{key}: {_scalar(value)}")
            begin = "    "
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    text = msgspec.json.encode(value).decode()
    return _BREAKS_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
