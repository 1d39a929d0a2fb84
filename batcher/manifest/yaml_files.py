"""YAML: the core schema of YAML 1.2, built from the events of the C parser, with lines.

PyYAML's constructors are not used because they read ``16:9`` as 969, ``no`` as false and ``2024-01-01``
as a date, keep the last of two equal keys, expand aliases without limit, and follow any depth of nesting
on the C stack.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from batcher.errors import ManifestError
from batcher.manifest.files import ManifestFile
from batcher.manifest.rows import Lined, LinedList
from batcher.schema.dialect import INT_MAX, INT_MIN

if TYPE_CHECKING:
    import yaml

DEPTH_MAX = 100
ALIASED_VALUES_MAX = 1_000_000
INTEGER_MAX_CHARS = 24

_NULL = re.compile(r"null|Null|NULL|~|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
# Numbers that YAML 1.1 and 1.2 read alike. What they disagree on (007, 0o17, 1e3) stays text, which is
# what a writer of the other version meant; if the schema wants a number, the text is converted.
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"(?:[-+]?[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

_COMMENT = re.compile(r"[ \t]+(#[^\n]*)")
_TAG = "tag:yaml.org,2002:"
_KINDS: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "null": (type(None),),
}
_MERGE = object()
"""The key ``<<``."""


class _NotYaml(Exception):
    """YAML that this reader rejects; ``line`` counts from 1."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def yaml_document(file: ManifestFile, cut: list[str] | None = None) -> Any:
    """The value of a YAML file; its mappings are :class:`Lined`. Raises ManifestError with the line.

    ``cut`` receives a line about each text that a comment follows, because it may be part of the text.
    """
    import yaml

    text = file.text()
    try:
        composer = _Composer(yaml.parse(text, Loader=yaml.CSafeLoader), text)
        value = composer.document()
    except _NotYaml as error:
        raise ManifestError([f"{file.shown}:{error.line}: {error}"]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ManifestError([f"{file.shown}:{line}: not YAML: {error.reason}"]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file.shown}:{mark.line + 1}" if mark else file.shown
        what = str(error.problem or error.context)
        raise ManifestError([f"{place}: not YAML: {what}{_remedy(what, mark, text)}"]) from None
    if cut is not None:
        cut += composer.cut
    return value


_REMEDIES: Mapping[str, str] = {
    "mapping values": "text with ': ' in it needs quotes; keys of one job begin in the same column",
    "expected '-' indicator": "keys of one job begin in the same column",
    "unknown escape": "between double quotes \\ begins an escape: use single quotes",
    "start any token": "text that begins with this character needs quotes",
    "alphabetic or numeric": "text that begins with * or & needs quotes",
    "did not find expected key": "text that begins with {, [ or a quote needs quotes around all of it",
}
"""By a part of the parser's words."""


def _remedy(problem: str, mark: yaml.Mark | None, text: str) -> str:
    """What to do about a problem of the parser, to be appended to it; empty if that isn't known."""
    lines = text.split("\n")
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    indentation = line[: len(line) - len(line.lstrip())]
    if line.startswith("```"):
        return "; take the lines that begin with ``` away"
    if indentation.strip(" "):
        return "; indent with plain spaces, no tabs or other blanks"
    remedy = next((remedy for part, remedy in _REMEDIES.items() if part in problem), None)
    return f"; {remedy}" if remedy else ""


class _Composer:
    """Builds values from events. Limits what aliases repeat: a small text may expand to a huge value."""

    def __init__(self, events: Iterator[yaml.Event], text: str) -> None:
        self._events = events
        self._text = text
        self.cut: list[str] = []
        self._anchors: dict[str, tuple[Any, int] | None] = {}
        self._values = 0
        self._aliased = 0

    def document(self) -> Any:
        import yaml

        value = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _NotYaml(_line(event), "a second document begins here; one is allowed")
                value = self._value(next(self._events), 0)
        return value

    def _value(self, event: Any, depth: int) -> Any:
        import yaml

        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth > DEPTH_MAX:
            raise _NotYaml(_line(event), f"nested deeper than {DEPTH_MAX} levels")
        before = self._values
        self._values += 1
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(event, depth)
        else:
            value = self._mapping(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._values - before)
        return value

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            raise _NotYaml(_line(event), f"*{event.anchor} is not defined")
        anchored = self._anchors[event.anchor]
        if anchored is None:
            raise _NotYaml(_line(event), f"*{event.anchor} contains itself")
        value, size = anchored
        self._values += size
        self._aliased += size
        if self._aliased > ALIASED_VALUES_MAX:
            raise _NotYaml(_line(event), f"aliases repeat more than {ALIASED_VALUES_MAX} values")
        return value

    def _sequence(self, start: Any, depth: int) -> LinedList:
        import yaml

        _check_tag(start, "seq")
        items = LinedList()
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.lines.append(_line(event))
            items.append(self._value(event, depth + 1))
            self._look_behind(event, "")
        return items

    def _mapping(self, start: Any, depth: int) -> Lined:
        import yaml

        _check_tag(start, "map")
        mapping = Lined(_line(start))
        merged: list[Lined] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event)
            told = next(self._events)
            value = self._value(told, depth + 1)
            self._look_behind(told, key)
            if key is _MERGE:
                merged += _mergeable(value, _line(event))
            elif key in mapping:
                first = mapping.lines[key]
                raise _NotYaml(_line(event), f"{key}: this key is already on line {first}")
            else:
                mapping[key] = value
                mapping.lines[key] = _line(event)
        for other in merged:
            for key in [key for key in other if key not in mapping]:
                mapping[key], mapping.lines[key] = other[key], other.lines[key]
        return mapping

    def _look_behind(self, event: Any, key: Any) -> None:
        """Report unquoted text of several words, or a prompt, that ends where a comment begins."""
        import yaml

        if not isinstance(event, yaml.ScalarEvent) or event.style or not event.implicit[0]:
            return
        end: Any = event.end_mark
        comment = _COMMENT.match(self._text, end.index)
        if comment is not None and (" " in event.value or key == "prompt"):
            name = key if isinstance(key, str) and key else "text"
            ends = f"YAML ends it at ' #', as {event.value[-30:]!r}"
            self.cut.append(
                f"{end.line + 1}: {name}: {ends}; if {comment[1][:30]!r} belongs to it: quotes"
            )

    def _key(self, event: Any) -> Any:
        import yaml

        if isinstance(event, yaml.AliasEvent):
            key = self._alias(event)
            if isinstance(key, str):
                return key
        elif isinstance(event, yaml.ScalarEvent):
            if event.value == "<<" and event.implicit[0]:
                return _MERGE
            self._value(event, 0)
            return event.value
        raise _NotYaml(
            _line(event), "a key has to be plain text; text that begins with { or [ needs quotes"
        )


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _check_tag(event: Any, name: str) -> None:
    if event.tag not in (None, "!", _TAG + name):
        raise _NotYaml(_line(event), f"the tag {_shown_tag(event.tag)} is not supported")


def _shown_tag(tag: str) -> str:
    return tag.replace(_TAG, "!!")


def _mergeable(value: Any, line: int) -> list[Lined]:
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, Lined) for item in items):
        raise _NotYaml(line, "<< needs a mapping, or a list of mappings")
    return items


def _scalar(event: Any) -> Any:
    text: str = event.value
    if event.tag is None:
        return _resolved(text, _line(event)) if event.implicit[0] else text
    if event.tag in ("!", _TAG + "str"):
        return text
    value = _resolved(text, _line(event))
    kind = _KINDS.get(event.tag.removeprefix(_TAG))
    if kind is None:
        raise _NotYaml(_line(event), f"the tag {_shown_tag(event.tag)} is not supported")
    if not isinstance(value, kind):
        raise _NotYaml(_line(event), f"{text!r:.60} is not {_shown_tag(event.tag)}")
    return value


def _resolved(text: str, line: int) -> Any:
    """A plain scalar by the core schema (YAML 1.2.2, section 10.3.2)."""
    if _NULL.fullmatch(text):
        return None
    if text[0] not in "+-.0123456789tTfF":
        return text
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _DECIMAL.fullmatch(text):
        return _integer(text, 10, line)
    if _HEXADECIMAL.fullmatch(text):
        return _integer(text, 16, line)
    if _FLOAT.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        return _float(text, line)
    return text


def _integer(text: str, base: int, line: int) -> int:
    value = int(text, base) if len(text) <= INTEGER_MAX_CHARS else INT_MAX + 1
    if not INT_MIN <= value <= INT_MAX:
        raise _NotYaml(line, f"{text[:INTEGER_MAX_CHARS]} has more than 64 bits; text needs quotes")
    return value


def _float(text: str, line: int) -> float:
    value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise _NotYaml(line, f"{text:.60} is not a finite number; text needs quotes")
    return value
