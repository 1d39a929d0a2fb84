"""The shapes of JSON files with jobs: a list, a list under a key, by name, columns, batch lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from batcher.jobs.columns import ColumnRules
from batcher.manifest.detect_format import KNOWN_NAMES
from batcher.manifest.rows import HEAD_KEYS, Lined, LinedList
from batcher.schema.dialect import media_kind

JOBS = "jobs"
_REQUEST = frozenset({"body", "input", "params"})
_ENVELOPE = frozenset({"custom_id", "method", "url", "body", "params"})
_DOCUMENT_ONLY = frozenset({"defaults", "matrix", "vars", "repeat", "run"})


class ShapeError(ValueError):
    """The jobs can't be found in the document; ``str(error)`` says how to name them."""


def shaped(top: Any, inside: str = "") -> tuple[Any, tuple[str, ...]]:
    """A manifest as a list of jobs, or a mapping with a list under ``jobs``; and warnings about it.

    ``inside`` is the dotted key that holds the jobs, if the user named it. Raises ShapeError.
    """
    if inside:
        return _listed(_under(top, inside)), ()
    if not isinstance(top, dict) or JOBS in top or not top or _DOCUMENT_ONLY & top.keys():
        return top, ()
    if _is_job(top):
        return _one(top), ()
    if (columns := _as_rows(top)) is not None:
        return columns, ()
    lists = [key for key, value in top.items() if key not in HEAD_KEYS and _holds_jobs(key, value)]
    if len(lists) > 1:
        ways = ", ".join(f"--format json:{key} ({len(top[key])})" for key in lists)
        raise ShapeError(f"several lists of objects stand here; say which one holds the jobs: {ways}")
    if lists:
        return _unwrapped(top, lists[0])
    named = _by_name(top)
    return (top if named is None else named), ()


def wrapped(top: Mapping[str, Any]) -> bool:
    """Whether a mapping holds jobs, and is not a job itself."""
    return not _is_job(top) and (
        _as_rows(top) is not None or any(itertools.starmap(_holds_jobs, top.items()))
    )


def batch_line(entry: Any, columns: ColumnRules) -> Any:
    """The job in a request of a batch API, ``{"custom_id", "body"}``; anything else unchanged.

    Also unchanged if the user's options name paths inside it.
    """
    if not isinstance(entry, dict) or "custom_id" not in entry:
        return entry
    key = next((key for key in ("body", "params") if isinstance(entry.get(key), dict)), None)
    if key is None or columns.is_nested(key):
        return entry
    job = Lined(entry.line) if isinstance(entry, Lined) else {}
    job.update(entry[key])
    job.setdefault("id", entry["custom_id"])
    job.update((name, value) for name, value in entry.items() if name not in _ENVELOPE)
    return job


def _is_job(top: Mapping[str, Any]) -> bool:
    names = {str(key).lower() for key in top}
    text = any(isinstance(top.get(name), str) for name in ("prompt", "text", "caption", "from"))
    return text or ("custom_id" in names and bool(names & _REQUEST))


def _one(top: Any) -> LinedList:
    jobs = LinedList()
    jobs.append(top)
    jobs.lines.append(getattr(top, "line", 1))
    return jobs


def _holds_jobs(key: str, value: Any) -> bool:
    """Whether a list is a list of jobs: of objects, or of texts that are not media."""
    kinds = {type(item) for item in value} if isinstance(value, list) and value else {None}
    return kinds <= {dict, Lined, str} and (kinds != {str} or media_kind(key) is None)


def _unwrapped(top: Mapping[str, Any], key: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    left = [name for name in top if name != key and name not in HEAD_KEYS]
    head = Lined(getattr(top, "line", 1))
    for name, value in top.items():
        if name not in left:
            kept = JOBS if name == key else name
            head[kept] = value
            head.lines[kept] = getattr(top, "lines", {}).get(name, head.line)
    told = f" the jobs are those under {key!r}"
    if left:
        told += (
            f"; {', '.join(map(repr, left[:6]))}{', ...' if len(left) > 6 else ''} beside it: not read"
        )
    return head, (told,)


def _by_name(top: Mapping[str, Any]) -> LinedList | None:
    """Jobs whose ids are the keys of a mapping; None for anything else."""
    values = list(top.values())
    texts = all(isinstance(value, str) for value in values) and not KNOWN_NAMES & top.keys()
    if not (all(isinstance(value, dict) for value in values) or (texts and len(values) > 1)):
        return None
    if top.keys() & set(HEAD_KEYS):
        return None
    jobs = LinedList()
    lines = getattr(top, "lines", {})
    for key, value in top.items():
        entry = {"prompt": value} if texts else value
        jobs.append({"id": key, **entry})
        jobs.lines.append(lines.get(key, 1))
    return jobs


def _as_rows(top: Mapping[str, Any]) -> LinedList | None:
    """The rows of a mapping of columns, as pandas writes it (``{"prompt": {"0": ..}}``) or of lists."""
    names = {str(key).lower() for key in top}
    if not names & KNOWN_NAMES or not (len(names) > 1 or "prompt" in names):
        return None
    columns = [_column(value) for value in top.values()]
    if None in columns or len({len(column or ()) for column in columns}) != 1:
        return None
    if any(isinstance(item, dict) for column in columns for item in column or ()):
        return None
    jobs = LinedList()
    for cells in zip(*(column or () for column in columns), strict=True):
        jobs.append(dict(zip(top, cells, strict=True)))
    jobs.lines += itertools.repeat(1, len(jobs))
    return jobs


def _column(value: Any) -> list[Any] | None:
    if isinstance(value, dict) and value and all(str(key).isdigit() for key in value):
        return list(value.values())
    return value if isinstance(value, list) and value else None


def _under(top: Any, inside: str) -> Any:
    value = top
    for key in inside.split("."):
        if not isinstance(value, dict) or key not in value:
            known = ", ".join(map(str, value)) if isinstance(value, dict) else "nothing"
            raise ShapeError(f"nothing stands under {inside!r} ({key!r} is not among: {known})")
        value = value[key]
    return value


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        by_name = _by_name(value)
        value = _one(value) if by_name is None else by_name
    if not isinstance(value, list):
        raise ShapeError("there is no list of jobs")
    return value


def mappings_in(value: Any) -> Iterator[Any]:
    """All mappings in ``value``, at any depth, including itself."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings_in(item)
