"""A row as written in a manifest file, before anything is filled in, and what is surely a mistake in it.

A job entry, the head of a manifest and a ``from`` entry have the same type, :class:`Row`: the values of
a head and of a ``from`` entry are defaults for the rows that they enclose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from batcher.errors import ManifestError
from batcher.jobs.column_rules import IGNORED, KEY, META, NONE, RESERVED, VARS, ColumnRules, Place
from batcher.manifest.reading import Include, include_of
from batcher.schema.problems import shown, unknown_field

REPEAT_MAX = 100_000
GLOB = "glob"
NO_HEADER = "a column without a header has values (--ignore '' drops it, --rename '#N=FIELD' names it)"

RowProblem = tuple[int, str, str]
"""Line, field (may be empty), problem."""
_ERROR_VALUE = re.compile(r"#(?:[¡¿]?[A-ZÀ-Þ][A-ZÀ-Þ0-9_/]*[!?]|DIV/0!|N/A|N/D|NV|GETTING_DATA)\s*")
_FORMULA = re.compile(
    r"=[\s+\-@(]*(?:[A-Z][A-Z0-9.]*\(|(?:'[^']+'!|\w+!)?\$?[A-Z]{1,3}\$?[0-9]{1,7}(?![\w.]))"
)
_GARBLED = re.compile("[\u00c2-\u00f4\u221a\u2248][^\x00-\x7f]|\ufffd")
_SURELY_GARBLED = re.compile("\u00e2\u20ac|\u00c3[\x80-\xbf]|\ufffd")
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_BLANKS = "".join(char for char in map(chr, range(0x3001)) if char.isspace()) + _INVISIBLE
_MISSING = "(?i:nan|none|null|nil|n/a|undefined|\\[object Object\\])"
"""What programs write for a value that is missing."""
_TOTALS = "(?i:(?:grand |sub-?)?totals?|sum|summe|gesamt|total g[eé]n[eé]ral|итого|合計|合计|总计):?"
"""What people write in front of the sums of a table."""
_WORDS = f"(?=[nuNU\\[tgsTGSиИ合总])(?:{_MISSING}|{_TOTALS})\0"  # few texts begin so: twice as fast
_BEGINNING = re.compile(f"\0(?:[\0#= \t\r\n\v\f]|{_WORDS})")
"""The beginning of a text that needs a check, between NULs; two of them are an empty text."""
_ODD = re.compile(f"{_BEGINNING.pattern}|\0[{re.escape(_BLANKS)}]|{_GARBLED.pattern}")
"""The same for texts that are not ASCII, and what garbled text has anywhere."""
_PROMPTS = frozenset({"prompt", "text"})
_CODE_PAGES = ("cp1252", "latin-1", "mac-roman")


class ManifestChanged(ManifestError):
    """A manifest file has changed since it was checked."""


class LocalPath(str):
    """A path found by a glob: a local file, regardless of the field's name."""

    __slots__ = ()


class Row(msgspec.Struct):
    """One entry. Missing fields are left out: no input, variable or metadata is null.

    ``line`` is the entry's first, ``lines`` those of its keys if the format tells them.
    ``include`` is its ``from``. ``problems`` are those found by reading; a row with any is invalid.
    ``is_plain``: it is already known that nothing in it is a template or a glob.
    """

    line: int
    inputs: dict[str, Any]
    id: str | None = None
    model: str | None = None
    matrix: dict[str, Any] | None = None
    vars: dict[str, Any] | None = None
    repeat: int | None = None
    meta: dict[str, Any] | None = None
    include: Include | None = None
    lines: Mapping[str, int] | None = None
    problems: tuple[RowProblem, ...] = ()
    is_plain: bool = False

    def line_of(self, name: str) -> int:
        """The line of key ``name`` (or of the key that ``name[3].part`` is in)."""
        lines = self.lines or {}
        return lines.get(name.partition("[")[0].partition(".")[0], self.line)

    def blame(self, name: str, what: str) -> None:
        """Add a problem of field ``name`` (empty: of the whole entry)."""
        self.problems += ((self.line_of(name), name, what),)


class Lined(dict[str, Any]):
    """A mapping with its line, and the lines of its keys."""

    __slots__ = ("line", "lines")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}


class LinedList(list[Any]):
    """A list with the lines of its items."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []


def plain(value: Any) -> Any:
    """``value`` as plain JSON types."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def is_glob(value: Any) -> bool:
    """Whether ``value`` is ``{glob: PATTERN}``."""
    return isinstance(value, dict) and value.keys() == {GLOB} and isinstance(value[GLOB], str)


def row_of(entry: Any, line: int, columns: ColumnRules) -> Row:
    """The row of a job entry in a YAML, JSON or JSONL manifest."""
    if isinstance(entry, str):
        return Row(line, {"prompt": entry})
    if not isinstance(entry, dict):
        return Row(line, {}, problems=((line, "", f"{shown(entry)} is not a job: a mapping is needed"),))
    row = Row(line, {}, lines=entry.lines if isinstance(entry, Lined) else None)
    joined: dict[str, list[Any]] = {}
    for key, value in _flat(entry, columns):
        place = columns.of_key(key)
        if value is None or place.role == IGNORED:
            continue
        if place.role == KEY:
            set_reserved(row, place.name, value, columns)
        else:
            put(row, place, plain(value), joined)
        if row.lines is not None and place.name != key and key in row.lines:
            row.lines = {**row.lines, place.name: row.lines[key]}
    return row


def _flat(entry: Mapping[Any, Any], columns: ColumnRules, above: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of an entry with their values; also the nested keys that the user's options name."""
    for key, value in entry.items():
        path = f"{above}{key}"
        if isinstance(value, dict) and columns.is_nested(path):
            yield from _flat(value, columns, f"{path}.")
        else:
            yield path, value


def put(row: Row, place: Place, value: Any, joined: dict[str, list[Any]]) -> None:
    """Store a value in its place in ``row``, or add a problem if something is there already.

    ``joined`` belongs to this row: the values of each input that several columns form together.
    """
    if place.role == META:
        row.meta = {**(row.meta or {}), place.name: value}
    elif place.role == VARS:
        row.vars = {**(row.vars or {}), place.name: value}
    elif place.role == NONE:
        row.blame("", NO_HEADER)
    elif place.path:
        _put_inside(row, place, value)
    elif place.name not in row.inputs:
        row.inputs[place.name] = value
        if place.renamed:
            joined[place.name] = [value]
    elif place.renamed or place.name in joined:
        values = joined.setdefault(place.name, [row.inputs[place.name]])
        values.append(value)
        row.inputs[place.name] = values
    else:
        row.blame(place.name, "is here twice, in different spellings")


def _put_inside(row: Row, place: Place, value: Any) -> None:
    """Store a value in a mapping of the inputs, along the path of its place."""
    target: Any = row.inputs
    for key in (place.name, *place.path[:-1]):
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            row.blame(place.name, "a column goes into it, and another one is it")
            return
    target[place.path[-1]] = value


def set_reserved(row: Row, key: str, value: Any, columns: ColumnRules) -> None:
    """Store the value of a reserved key in ``row``, or add a problem if it is invalid."""
    try:
        parsed = PARSERS[key](plain(value))
    except ValueError as error:
        row.blame(key, str(error))
        return
    if key == "input":
        row.inputs.update({columns.input_named(name): item for name, item in parsed.items()})
    elif key in ("meta", "vars"):
        setattr(row, key, {**(getattr(row, key) or {}), **parsed})
    else:
        setattr(row, "include" if key == "from" else key, parsed)


def _text(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"{shown(value)} is not text")


def _id(value: Any) -> str:
    return str(value) if type(value) is int else _text(value)


def _repeat(value: Any) -> int:
    if type(value) is int and 1 <= value <= REPEAT_MAX:
        return value
    raise ValueError(f"{shown(value)} is not a whole number from 1 to {REPEAT_MAX}")


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is not a mapping")
    return {str(key): item for key, item in value.items() if item is not None}


def _matrix(value: Any) -> dict[str, Any]:
    matrix = _mapping(value)
    for key, values in matrix.items():
        if key in RESERVED and key != "model":
            raise ValueError(f"{key!r} can't vary in a matrix")
        if is_glob(values):
            continue
        if not isinstance(values, list) or not values:
            raise ValueError(f"{key}: {shown(values)} is not a list with at least one value")
        if key == "model" and not all(isinstance(item, str) and item for item in values):
            raise ValueError("model: a list of model ids is needed")
    return matrix


PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "id": _id,
    "model": _text,
    "matrix": _matrix,
    "vars": _mapping,
    "repeat": _repeat,
    "meta": _mapping,
    "from": include_of,
    "input": _mapping,
}
HEAD_KEYS = ("name", "model", "defaults", "matrix", "vars", "meta", "repeat", "jobs", "run")


@dataclass(frozen=True, slots=True)
class Head:
    """A manifest's settings for all of its rows. Tables and JSONL have an empty one."""

    name: str | None = None
    layer: Row = field(default_factory=lambda: Row(1, {}))
    run_line: int | None = None
    """The line of ``run``, the options of its runs; None if there is none."""


def head_of(top: Mapping[str, Any], columns: ColumnRules, known: Collection[str] = HEAD_KEYS) -> Head:
    """The head in the top mapping of a YAML or JSON manifest; its problems are in ``layer``."""
    layer = _defaults_of(top, columns)
    layer.lines = {**(layer.lines or {}), **(top.lines if isinstance(top, Lined) else {})}
    for key, value in top.items():
        if key.startswith(("x-", ".")):
            continue
        if key not in known:
            what = unknown_field(key, known).replace("field", "key")
            layer.blame(key, f"{what} (inputs of all jobs: defaults)")
        elif value is not None and key in PARSERS:
            set_reserved(layer, key, value, columns)
    name = top.get("name")
    if name is not None and not isinstance(name, str):
        layer.blame("name", f"{shown(name)} is not text")
        name = None
    run_line = layer.line_of("run") if top.get("run") is not None else None
    return Head(name, layer, run_line)


def _defaults_of(top: Mapping[str, Any], columns: ColumnRules) -> Row:
    """``defaults`` hold only inputs, not keys that have their own place beside them."""
    line = top.lines.get("defaults", top.line) if isinstance(top, Lined) else 1
    defaults = top.get("defaults")
    if defaults is None:
        return Row(line, {})
    if not isinstance(defaults, dict):
        return Row(line, {}, problems=((line, "defaults", f"{shown(defaults)} is not a mapping"),))
    layer = row_of(defaults, line, columns)
    for key in sorted(PARSERS.keys() & defaults.keys() - {"input"}):
        layer.blame(
            key, "does not belong into defaults, which hold inputs (any other input: under `input`)"
        )
    return layer


class Remarks:
    """Warnings of one pass over one file: each once, with the first line and the number of lines."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, int, str]] = {}

    def clear(self) -> None:
        """Start another pass."""
        self._found.clear()

    def note(self, line: int, what: str, example: str = "") -> None:
        """Count ``what`` on ``line``; of the first one, ``example`` is shown."""
        first, count, shown = self._found.get(what, (line, 0, example))
        self._found[what] = (first, count + 1, shown)

    def lines(self, shown_as: str) -> Iterator[str]:
        """The warnings about the file ``shown_as``."""
        for what, (first, count, example) in self._found.items():
            more = f" ({count} such lines)" if count > 1 else ""
            yield f"{shown_as}:{first}: {what}{example}{more}"


def judge(row: Row, remarks: Remarks, *, is_table: bool) -> None:
    """Add a problem to ``row`` for each sure mistake, and a warning to ``remarks`` for each likely one.

    In a table, a cell with only blanks is empty.
    """
    if needs_look(row.inputs.values()):
        texts = [(name, value) for name, value in row.inputs.items() if type(value) is str]
        for name in [name for name, value in texts if needs_look((value,))]:
            _look_at(row, name, remarks, is_table)
    for name, value in row.vars.items() if row.vars else ():
        if isinstance(value, str) and (what := sheet_problem(value, is_table=is_table)):
            row.blame(name, what)


def needs_look(values: Collection[Any]) -> bool:
    """Whether any text in ``values`` needs a check. Few rows have one, so one search covers all."""
    try:
        text = "\0".join(("", *values, ""))
    except TypeError:  # numbers, lists
        return True
    return (_BEGINNING if text.isascii() else _ODD).search(text) is not None


def _look_at(row: Row, name: str, remarks: Remarks, is_table: bool) -> None:
    value = row.inputs[name]
    if not value.strip(_BLANKS):
        if is_table:
            del row.inputs[name]
        elif name == "prompt":
            row.blame(name, "nothing but blanks")
    elif what := sheet_problem(value, is_table=is_table):
        row.blame(name, what)
    elif name in _PROMPTS and re.fullmatch(_MISSING, value):
        remarks.note(row.line, f"{name}: a value that is missing, as it seems: ", repr(value))
    elif is_table and name in _PROMPTS and re.fullmatch(_TOTALS, value):
        remarks.note(row.line, f"{name}: a row of totals, as it seems: ", repr(value))
    elif is_garbled(value):
        what = f"{name}: text that was decoded in a wrong encoding, as it seems: "
        remarks.note(row.line, what, _shortened(value))


def sheet_problem(text: str, *, is_table: bool) -> str | None:
    """The problem with ``text`` if it is an error value of a spreadsheet, or in a table a formula."""
    if _ERROR_VALUE.fullmatch(text):
        return f"{text.strip()} is an error value of a spreadsheet; fix the cell there and save again"
    if is_table and _FORMULA.match(text):
        return f"{_shortened(text)} is a formula; save its value instead (in a sheet: paste as values)"
    return None


def is_garbled(text: str) -> bool:
    """Whether ``text`` was UTF-8 that was decoded in another encoding, or has lost characters."""
    if _GARBLED.search(text) is None:
        return False
    return _SURELY_GARBLED.search(text) is not None or any(
        _is_utf8_in(text, code_page) for code_page in _CODE_PAGES
    )


def _is_utf8_in(text: str, code_page: str) -> bool:
    try:
        return len(text.encode(code_page).decode()) < len(text)
    except UnicodeError:
        return False


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
