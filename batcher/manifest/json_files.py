"""JSONL, which is streamed, and JSON, in all shapes that jobs come in, with the line of every job."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import msgspec

from batcher.errors import ManifestError
from batcher.jobs.column_rules import ColumnRules
from batcher.manifest.detect_format import KNOWN_NAMES
from batcher.manifest.files import ManifestFile
from batcher.manifest.rows import HEAD_KEYS, Lined, LinedList, Row, row_of
from batcher.schema.dialect import INT_MIN, check_json, json_value, media_kind

_KEY_END = re.compile(r'"\s*:')
_SPACE = re.compile(r"[ \t\r\n]*")
JOBS = "jobs"
_REQUEST = frozenset({"body", "input", "params"})
_ENVELOPE = frozenset({"custom_id", "method", "url", "body", "params"})
_DOCUMENT_ONLY = frozenset({"defaults", "matrix", "vars", "repeat", "run"})
_PROMPTS = frozenset({"prompt", "prompts", "text", "texts", "caption", "captions"})
_Cells = tuple[list[str], Iterable[Iterable[Any]]]  # the names of columns, and the rows


class _NotJson(ValueError):
    """Invalid JSON; ``position`` counts characters."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


def jsonl_rows(file: ManifestFile, columns: ColumnRules) -> Iterator[Row]:
    """One row per line; a line that is not JSON is a row with a problem. Raises ManifestError."""
    for number, line in enumerate(file.lines(errors="surrogateescape"), 1):
        if line.isspace():
            continue
        try:
            entry = batch_line(_checked(line), columns)
        except UnicodeEncodeError:
            yield Row(number, {}, problems=((number, "", "not JSON: a byte that is not UTF-8"),))
        except ValueError as error:
            yield Row(number, {}, problems=((number, "", f"not JSON: {error}"),))
        else:
            yield row_of(entry, number, columns)


def _checked(line: str) -> Any:
    """The value of one line. Raises ValueError, also for a repeated key."""
    value = json_value(line)
    if len(_KEY_END.findall(line)) != sum(map(len, mappings_in(value))):
        json.loads(line, object_pairs_hook=_without_repeats)  # a key twice, or text that looks like it
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r:.60} is here twice")
        result[key] = value
    return result


def is_lines(file: ManifestFile) -> bool:
    """Whether a JSON file has one job per line, regardless of its name. Raises ManifestError."""
    filled = (line.strip() for line in file.lines(errors="surrogateescape") if not line.isspace())
    first, second = next(filled, ""), next(filled, "")
    named_lines = file.path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson"))
    value = _value_of(first)
    if value is None:
        goes_on = first in ("{", "[") or first.endswith((",", "{", "["))
        return named_lines and not goes_on
    if second:
        return named_lines or second[:1] == first[:1]
    holds_jobs = wrapped(value) if isinstance(value, dict) else isinstance(value, list) and bool(value)
    return named_lines and not holds_jobs


def _value_of(line: str) -> Any:
    try:
        return json_value(line)
    except ValueError:
        return None


def json_document(file: ManifestFile) -> Any:
    """The value of a JSON file: a list of jobs, or a mapping whose ``jobs`` is one.

    The top mapping and the jobs are :class:`Lined`. Raises ManifestError with the line.
    """
    text = file.text()
    try:
        return _Scanner(text).document()
    except (_NotJson, json.JSONDecodeError) as error:
        position = error.position if isinstance(error, _NotJson) else error.pos
        line = text.count("\n", 0, position) + 1
        message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ManifestError([f"{file.shown}:{line}: not JSON: {message}"]) from None


class _Scanner:
    """Iterates over the two outer levels of a JSON text, to find each job's line."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted_to = 0
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_int=self._integer, parse_constant=self._constant
        )

    def document(self) -> Any:
        self._skip_space()
        if self._next() == "{":
            value: Any = self._top()
        elif self._next() == "[":
            value = self._jobs()
        else:
            value = self._value()
        self._skip_space()
        if isinstance(value, Lined) and self._next() == "{":
            return self._others(value)
        if self._at < len(self._text):
            raise _NotJson("something follows the end", self._at)
        return value

    def _others(self, first: Lined) -> LinedList:
        """Concatenated objects, each over several lines: a list of jobs."""
        jobs = LinedList()
        jobs.append(first)
        jobs.lines.append(first.line)
        while self._next() == "{":
            jobs.lines.append(self._here())
            jobs.append(self._top())
            self._skip_space()
        if self._at < len(self._text):
            raise _NotJson("something follows the end", self._at)
        return jobs

    def _top(self) -> Lined:
        top = Lined(self._here())
        for _ in self._items("}"):
            line, key = self._here(), self._value()
            if not isinstance(key, str) or key in top:
                raise _NotJson(f"{key!r:.60} is not a key, or is here twice", self._at)
            self._expect(":")
            self._skip_space()
            top.lines[key] = line
            top[key] = self._jobs() if self._next() == "[" else self._value()
        return top

    def _jobs(self) -> LinedList:
        jobs = LinedList()
        for _ in self._items("]"):
            jobs.lines.append(self._here())
            jobs.append(self._value())
        return jobs

    def _items(self, end: str) -> Iterator[None]:
        """Stop at the beginning of each item of the mapping or list that begins here."""
        self._at += 1
        self._skip_space()
        while self._next() != end:
            yield
            self._skip_space()
            if self._next() != end:
                self._expect(",")
                self._skip_space()
        self._at += 1

    def _value(self) -> Any:
        try:
            value, self._at = self._decoder.raw_decode(self._text, self._at)
            check_json(value)
            msgspec.json.encode(value)
        except RecursionError:
            raise _NotJson("nested too deeply", self._at) from None
        except UnicodeEncodeError:
            raise _NotJson("half of a surrogate pair", self._at) from None
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            raise _NotJson(str(error), self._at) from None
        return value

    def _here(self) -> int:
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._line

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _expect(self, mark: str) -> None:
        self._skip_space()
        if self._next() != mark:
            raise _NotJson(f"{mark!r} is missing", self._at)
        self._at += 1

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        try:
            return _without_repeats(pairs)
        except ValueError as error:
            raise _NotJson(str(error), self._at) from None

    def _integer(self, digits: str) -> int:
        if len(digits) > len(str(INT_MIN)):
            raise _NotJson("an integer of more than 64 bits", self._at)
        return int(digits)

    def _constant(self, name: str) -> NoReturn:
        raise _NotJson(f"{name} is not a JSON value", self._at)


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
        if not _are_prompts(top, lists[0]):
            raise ShapeError(
                f"are the texts under {lists[0]!r} prompts? Then add --format json:{lists[0]}"
            )
        return _unwrapped(top, lists[0])
    named = _by_name(top)
    return (top if named is None else named), ()


def wrapped(top: Mapping[str, Any]) -> bool:
    """Whether a mapping holds jobs, and is not a job itself."""
    lists = (_holds_jobs(key, value) and _are_prompts(top, key) for key, value in top.items())
    return not _is_job(top) and (_as_rows(top) is not None or any(lists))


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


def _are_prompts(top: Mapping[str, Any], key: str) -> bool:
    """Whether a list holds more than texts, or texts that are no keywords, or one column of several."""
    beside = [value for name, value in top.items() if name != key and name not in HEAD_KEYS]
    sure = key.lower() in _PROMPTS and not any(isinstance(value, list) for value in beside)
    return sure or not beside or not all(isinstance(item, str) for item in top[key])


def _unwrapped(top: Mapping[str, Any], key: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    left = [name for name in top if name != key and name not in HEAD_KEYS]
    head = Lined(getattr(top, "line", 1))
    for name, value in top.items():
        if name not in left:
            kept = JOBS if name == key else name
            head[kept] = value
            head.lines[kept] = getattr(top, "lines", {}).get(name, head.line)
    more = ", ..." if len(left) > 6 else ""
    beside = f"; {', '.join(map(repr, left[:6]))}{more} beside it: not read" if left else ""
    return head, (f" the jobs are those under {key!r}{beside}",)


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
    """The rows of a table: a mapping of columns or of lists, or pandas' ``orient="split"``."""
    if (found := _split(top) or _columns_in(top)) is None:
        return None
    jobs = LinedList()
    jobs += (dict(zip(found[0], cells, strict=True)) for cells in found[1])
    jobs.lines += itertools.repeat(1, len(jobs))
    return jobs


def _split(top: Mapping[str, Any]) -> _Cells | None:
    """``{"columns": ["prompt", ..], "index": [0, ..], "data": [["a", ..], ..]}``."""
    names, rows = top.get("columns"), top.get("data")
    known = set(top) <= {"columns", "index", "data"}
    if not (known and isinstance(names, list) and isinstance(rows, list)):
        return None
    names = list(map(str, names))
    fits = all(isinstance(row, list) and len(row) == len(names) for row in rows)
    return (names, rows) if fits and len(set(names)) == len(names) else None


def _columns_in(top: Mapping[str, Any]) -> _Cells | None:
    """``{"prompt": {"0": ..}}``, as pandas writes it, or ``{"prompt": [..]}``."""
    names = {str(key).lower() for key in top}
    if not names & KNOWN_NAMES or not (len(names) > 1 or "prompt" in names):
        return None
    columns = [column for value in top.values() if (column := _column(value))]
    numbers = {tuple(value) for value in top.values() if isinstance(value, dict)}
    fits = len(columns) == len(top) and len(set(map(len, columns))) == 1 and len(numbers) <= 1
    if not fits or any(isinstance(item, dict) for column in columns for item in column):
        return None
    return list(top), zip(*columns, strict=True)


def _column(value: Any) -> list[Any] | None:
    if isinstance(value, dict) and value and all(str(key).isdigit() for key in value):
        return list(value.values())
    return value if isinstance(value, list) and value else None


def _under(top: Any, inside: str) -> Any:
    value = top
    for key in inside.split("."):
        if not isinstance(value, dict) or key not in value:
            known = ", ".join(map(str, value)) if isinstance(value, dict) else "nothing"
            raise ShapeError(f"there is nothing under {inside!r} ({key!r} is not among: {known})")
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
