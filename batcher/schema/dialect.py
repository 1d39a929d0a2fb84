"""Translates the vendor's input schema to JSON Schema, and finds its text and media properties.

The vendor writes a variant of JSON Schema: ``"type": "float"``, ``validations``, a ``required`` inside a
property, null for "not set". A schema comes from the network, so it is not trusted: anything unusable
raises a :class:`SchemaError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import msgspec

from batcher.errors import InputError
from batcher.jobs.nodes import WORKFLOW

WORKFLOW_KIND = "workflow"
MAX_DEPTH = 32
JSON_DEPTH_MAX = 100
INT_MIN, INT_MAX = -(2**63), 2**64 - 1
SCALAR_MAX_CHARS = 64
EXACT_FLOAT_INT_MAX = 2**53

_TYPE_WORDS = {
    "float": "number", "double": "number", "decimal": "number", "int": "integer", "long": "integer",
    "bool": "boolean", "str": "string", "text": "string", "list": "array", "dict": "object",
}  # fmt: skip
_JSON_TYPES = frozenset({"string", "number", "integer", "boolean", "array", "object", "null"})
_PYTHON_TYPES: Mapping[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
_SCHEMA_MAPS = frozenset({"properties", "$defs", "definitions"})
_SCHEMA_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_LITERALS = frozenset({"default", "const", "enum", "examples", "example"})
_DROPPED = frozenset({"$schema", "$id", "id", "nullable", "validations", "discriminator"})
_RULES = {
    "min": "minimum", "minimum": "minimum", "max": "maximum", "maximum": "maximum",
    "minlength": "minLength", "maxlength": "maxLength", "minitems": "minItems",
    "maxitems": "maxItems", "pattern": "pattern", "regex": "pattern",
}  # fmt: skip
_OWN_REQUIRED = "x-required"

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?(?:0,[0-9]+|[0-9]+,(?![0-9]{3}$)[0-9]+)")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_MEDIA_FORMAT = re.compile(r"(image|video|audio)_ur[il]s?")
_MEDIA_NAME = re.compile(
    r"(?:(?P<before>\w+)_)?(?P<kind>image|video|audio)s?(?:_?ur[li]s?)?(?:_?[0-9]+)?", re.IGNORECASE
)
_PERHAPS_MEDIA = re.compile(
    r"(?:^|_)(?:img|imgs|image|mask|frame|face|photo|picture|pic|ctrl|control|voice|audio|sound|music|song|"
    r"video|clip|reference|ref|sample|sketch|depth|pose|background|avatar|portrait|garment|file|url|uri)"
    r"s?(?:_|\d|$)",
    re.IGNORECASE,
)
_COUNT_OR_SWITCH = re.compile(
    r"(?:num|number_of|max|min|n|count|enable|disable|generate|with|without|keep|add|use|has|no|is|"
    r"sync|return|include|remove|mute)(?:_.*)?",
    re.IGNORECASE,
)


class SchemaError(InputError):
    """The catalogue's answer about a model can't be used; ``str(error)`` names model and reason."""


def translate(node: Any, *, with_rules: bool = True, depth: int = 0) -> Any:
    """A vendor schema as JSON Schema (2020-12); with ``with_rules`` its ``validations`` are included.

    Raises SchemaError for invalid types or too deep nesting.
    """
    if depth > MAX_DEPTH:
        raise SchemaError(f"it is nested deeper than {MAX_DEPTH} levels")
    if not isinstance(node, dict):
        return node
    into = partial(translate, with_rules=with_rules, depth=depth + 1)
    out = {k: v for k, v in node.items() if k not in _DROPPED and (v is not None or k in _LITERALS)}
    for key, value in out.items():
        if key in _SCHEMA_MAPS and isinstance(value, dict):
            out[key] = {name: into(_property(name, schema)) for name, schema in value.items()}
        elif key in _SCHEMA_LISTS and isinstance(value, list):
            out[key] = [into(item) for item in value]
        elif isinstance(value, dict) and key not in _LITERALS:
            out[key] = into(value)
    _translate_types(out)
    _translate_bounds(out)
    _translate_required(out)
    if with_rules:
        _add_rules(out, node.get("validations"))
    return _without_null(out)


def _property(name: str, schema: Any) -> Any:
    if not isinstance(schema, dict | bool):
        raise SchemaError(f"its property {name!r} is not a schema")
    return schema


def _translate_types(out: dict[str, Any]) -> None:
    if "type" not in out:
        return
    words = out["type"] if isinstance(out["type"], list) else [out["type"]]
    types = [_TYPE_WORDS.get(word, word) if isinstance(word, str) else word for word in words]
    for name in types:
        if not isinstance(name, str) or name not in _JSON_TYPES:
            raise SchemaError(f"{name!r:.60} is not a type")
    out["type"] = types if isinstance(out["type"], list) else types[0]


def _translate_bounds(out: dict[str, Any]) -> None:
    """JSON Schema's draft 4 wrote ``"minimum": 0, "exclusiveMinimum": true``; an empty enum is none."""
    for keyword, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(out.get(keyword), bool) and out.pop(keyword) and bound in out:
            out[keyword] = out.pop(bound)
    for literal in ("enum", "const"):
        if literal in out and out[literal] in (None, []):
            del out[literal]


def _translate_required(out: dict[str, Any]) -> None:
    """Move a property's own ``"required": true`` to the ``required`` list of its object."""
    if isinstance(out.get("required"), bool):
        out[_OWN_REQUIRED] = out.pop("required")
    properties = out.get("properties")
    named = [
        name
        for name, schema in (properties.items() if isinstance(properties, dict) else ())
        if isinstance(schema, dict) and schema.pop(_OWN_REQUIRED, False)
    ]
    if named:
        listed = out.get("required")
        out["required"] = list(dict.fromkeys([*(listed if isinstance(listed, list) else []), *named]))


def _add_rules(out: dict[str, Any], rules: Any) -> None:
    """Add those of the vendor's ``validations`` that JSON Schema can express; ignore the others."""
    for rule in rules if isinstance(rules, list) else ():
        if isinstance(rule, dict):
            word = re.sub("[_-]", "", str(rule.get("validation_rule")).lower())
            keyword, value = _RULES.get(word), rule.get("validation_value")
            if keyword is not None and keyword not in out and _fits_keyword(keyword, value):
                out[keyword] = value


def _fits_keyword(keyword: str, value: Any) -> bool:
    if keyword == "pattern":
        return isinstance(value, str)
    if keyword.endswith(("Length", "Items")):
        return type(value) is int and value >= 0
    return type(value) in (int, float)


def _without_null(out: dict[str, Any]) -> dict[str, Any]:
    """Fold "this or null" into "this": a null input is an absent one here, and never sent."""
    forms = out.get("anyOf")
    if not isinstance(forms, list):
        return out
    kept = [form for form in forms if not (isinstance(form, dict) and form.get("type") == "null")]
    if len(kept) != 1 or not isinstance(kept[0], dict):
        return out
    return {**kept[0], **{key: value for key, value in out.items() if key != "anyOf"}}


def resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A property merged with the target of its reference into ``root``; ``{}`` if it is no object."""
    if not isinstance(schema, dict):
        return {}
    parts = schema.get("allOf")
    only = parts[0] if isinstance(parts, list) and len(parts) == 1 else schema
    pointer = only.get("$ref") if isinstance(only, dict) else None
    target: Any = root
    for step in pointer[2:].split("/") if isinstance(pointer, str) and pointer[:2] == "#/" else ("",):
        target = target.get(step) if isinstance(target, dict) else None
    return {**target, **schema} if isinstance(target, dict) else schema


def types_of(schema: Any) -> set[str]:
    """The JSON types that a property may have, as far as the schema tells."""
    if not isinstance(schema, dict):
        return set()
    declared = [schema.get("type"), *_listed(schema, "type")]
    names = {name for name in declared if isinstance(name, str)}
    if names:
        return names
    forms = [form for key in ("anyOf", "oneOf", "allOf") for form in _listed(schema, key)]
    names = {name for form in forms for name in types_of(form)}
    return names | {_PYTHON_TYPES[type(v)] for v in _listed(schema, "enum") if type(v) in _PYTHON_TYPES}


def _listed(schema: Mapping[str, Any], key: str) -> list[Any]:
    listed = schema.get(key)
    return listed if isinstance(listed, list) else []


@lru_cache(maxsize=4096)
def media_kind(name: str) -> str | None:
    """The kind of media (image, video, audio) that a field's name says it takes, else None.

    Of a workflow's node it is the name of its input; the workflow itself is a kind of its own.
    """
    if name == WORKFLOW:
        return WORKFLOW_KIND
    match = _MEDIA_NAME.fullmatch(name.rpartition(".")[2])
    if match is None or _COUNT_OR_SWITCH.fullmatch(match["before"] or ""):
        return None
    return match["kind"].lower()


@lru_cache(maxsize=4096)
def may_name_media(name: str) -> bool:
    """Whether a field that is not known to take media may do so, by its name: ``img``, ``mask``, ..."""
    name = name.rpartition(".")[2]
    return _PERHAPS_MEDIA.search(name) is not None and _COUNT_OR_SWITCH.fullmatch(name) is None


def media_of(name: str, schema: Mapping[str, Any]) -> str | None:
    """The kind of media that a property takes: by its ``format``, else by its name."""
    items = schema.get("items")
    for text in (schema.get("format"), items.get("format") if isinstance(items, dict) else None):
        if isinstance(text, str) and (match := _MEDIA_FORMAT.fullmatch(text)):
            return match[1]
    other = types_of(schema) & {"integer", "number", "boolean", "object"} or "enum" in schema
    return None if other else media_kind(name)


def json_value(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError if it is not JSON, or if the API can't accept it."""
    try:
        value = msgspec.json.decode(text)
        check_json(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except msgspec.MsgspecError as error:
        what = str(error).removeprefix("JSON is malformed: ")
        raise ValueError(_not_finite_at(what, text) or what) from None
    return value


def _not_finite_at(problem: str, text: str | bytes) -> str | None:
    """The problem in words if it is a number that only Python's ``json`` writes."""
    place = re.search(r"\(byte ([0-9]+)\)$", problem)
    content = text if isinstance(text, bytes) else text.encode(errors="replace")
    found = re.match(rb"NaN|-?Infinity", content[int(place[1]) :]) if place else None
    return f"{found[0].decode()} is not a JSON value; write null" if found else None


def check_json(value: Any, depth: int = 0) -> None:
    """Raises ValueError for JSON that few programs can read: huge integers, deep nesting."""
    if type(value) is int:
        if not INT_MIN <= value <= INT_MAX:
            raise ValueError("an integer of more than 64 bits")
    elif type(value) in (dict, list):
        if depth >= JSON_DEPTH_MAX:
            raise ValueError("nested too deeply")
        for item in value.values() if type(value) is dict else value:
            check_json(item, depth + 1)


def reader_of(schema: Any) -> Callable[[str], Any]:
    """A function that converts text to the property's type; text that doesn't fit stays unchanged."""
    types = types_of(schema)
    read = partial(_from_text, schema, types)
    if types & {"array", "object"}:
        return read
    # Most columns repeat a few values; no number is longer than a short text.
    remembered = lru_cache(maxsize=1024)(read)
    return lambda text: remembered(text) if len(text) <= SCALAR_MAX_CHARS else text


def _from_text(schema: Any, types: set[str], text: str) -> Any:
    if text.lstrip()[:1] in ("[", "{") and types & {"array", "object"}:
        try:
            return json_value(text)
        except ValueError:
            return text
    if types - {"null"} == {"array"}:
        return [reader_of(schema.get("items"))(text)]
    if "string" in types:
        return _choice_in(schema.get("enum"), text)
    for name, convert in CONVERSIONS.items():
        if name in types and (value := convert(text.strip())) is not None:
            return value
    return text


def _choice_in(choices: Any, text: str) -> str:
    """``text``, or what it is without the spaces around it, if only that is one of ``choices``."""
    trimmed = text.strip()
    return trimmed if isinstance(choices, list) and text not in choices and trimmed in choices else text


def integer_in(text: str) -> int | None:
    """``text`` as an integer of up to 64 bits (5.0 and 1e3 too), else None."""
    number = number_in(text)
    if isinstance(number, float):
        whole = number.is_integer() and abs(number) <= EXACT_FLOAT_INT_MAX
        return int(number) if whole else None
    return number


def number_in(text: str) -> int | float | None:
    """``text`` as a finite number, with a decimal point or comma, else None.

    A comma that may separate thousands (``1,500``) is ambiguous: the result is None.
    """
    if _INTEGER.fullmatch(text):
        value = int(text)
        return value if INT_MIN <= value <= INT_MAX else None
    if _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    if not _DECIMAL.fullmatch(text):
        return None
    number = float(text)
    return None if abs(number) == float("inf") else number


def boolean_in(text: str) -> bool | None:
    """``text`` as a boolean (true, yes, 1, false, no, 0, in upper or lower case), else None."""
    return _BOOLEANS.get(text.lower())


CONVERSIONS: Mapping[str, Callable[[str], Any]] = {
    "integer": integer_in,
    "number": number_in,
    "boolean": boolean_in,
}
