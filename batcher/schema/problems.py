"""What is wrong with values: checks them by a schema, and says so in words that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import msgspec

from batcher.jobs.job import LocalMedia, recorded
from batcher.schema.dialect import (
    SchemaError,
)

SHOWN_CHARS = 60
WHAT_MAX_CHARS = 300
NEAR_ENOUGH = 0.7
"""The minimum similarity of a suggested name: "aspect" doesn't suggest "caption"."""

_NO_VALUE = frozenset({"n/a", "na", "none", "null", "nan", "nil", "-", "--", "–", "—", "?", "tbd"})
_WITH_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:[a-zA-Z]{1,8}\.?|(%))\s*")

Problem = tuple[str, str]
"""A field (``image_urls[1]``) and its problem."""

_TYPES = {
    "string": "text", "integer": "an integer", "number": "a number", "boolean": "true or false",
    "array": "a list", "object": "a mapping", "null": "null",
}  # fmt: skip


def shown(value: Any) -> str:
    """``value`` for a message: short, on one line, without the signature of a URL."""
    value = recorded(value)
    if isinstance(value, dict | list):
        text = msgspec.json.encode(value).decode()
    elif isinstance(value, bool):
        text = str(value).lower()
    elif value is None:
        text = "null"
    else:
        text = repr(value)
    return _cut(text, SHOWN_CHARS)


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 3]}..."


def described(fields: Mapping[str, Any], error: Any) -> Iterator[Problem]:
    """The problems in one validation error; ``fields`` are the existing properties."""
    path = field_name(error.instance_path)
    details = error.kind.as_dict()
    match error.kind.name:
        case "required":
            yield _below(path, details["property"]), "required, but missing"
        case "additionalProperties" | "unevaluatedProperties":
            for name in details["unexpected"]:
                yield _below(path, name), unknown_field(name, () if path else fields)
        case kind:
            wording = _WORDING.get(kind)
            what = wording(error.instance, details) if wording else f"is not allowed ({error.message})"
            yield path or "input", _cut(what, WHAT_MAX_CHARS)


def field_name(path: list[str | int]) -> str:
    """A path into an input as a user writes it: ``image_urls[1]``, ``camera.zoom``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def unknown_field(name: str, known: Collection[str]) -> str:
    """A message that ``name`` is unknown, with the nearest of ``known``."""
    near = _nearest(name.lower(), known)
    return f"unknown field, did you mean {near}?" if near else "unknown field"


def _nearest(text: str, known: Collection[str]) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(text, known, n=1, cutoff=NEAR_ENOUGH)), None)


def _not_one_of(value: Any, details: Mapping[str, Any]) -> str:
    choices = details["options"]
    options = ", ".join(o if isinstance(o, str) else shown(o) for o in choices)
    what = f"{shown(value)} is not one of {options}"
    if not isinstance(value, str):
        return what
    near = _nearest(value, [one for one in choices if isinstance(one, str)])
    hint = f"; did you mean {near}?" if near else _nothing_meant(value)
    return _cut(what, WHAT_MAX_CHARS - len(hint)) + hint


def _not_of_type(value: Any, details: Mapping[str, Any]) -> str:
    types = details["types"]
    what = f"{shown(value)} is not {' or '.join(_TYPES[name] for name in types)}"
    if isinstance(value, int | float) and "string" in types:
        return f"{what}; put it in quotes"
    if not isinstance(value, str):
        return what
    if not {"integer", "number"}.isdisjoint(types) and (match := _WITH_UNIT.fullmatch(value)):
        if match[2] and "number" in types:
            return (
                f"{what}; write {float(match[1]) / 100:g}, or {match[1]} if the model counts in percent"
            )
        return f"{what}; write {match[1]}"
    return f"{what}{_nothing_meant(value)}"


def _nothing_meant(value: str) -> str:
    return "; leave it empty if there is none" if value.strip().lower() in _NO_VALUE else ""


def _bound(what: str) -> Callable[[Any, Mapping[str, Any]], str]:
    return lambda value, details: f"{shown(value)} is {what} {shown(details['limit'])}"


def _size(what: str, unit: str) -> Callable[[Any, Mapping[str, Any]], str]:
    return lambda value, details: f"has {len(value)} {unit}, {what} {details['limit']}"


_WORDING: Mapping[str, Callable[[Any, Mapping[str, Any]], str]] = {
    "enum": _not_one_of,
    "const": lambda value, details: f"{shown(value)} is not {shown(details['expected_value'])}",
    "type": _not_of_type,
    "minimum": _bound("less than the minimum"),
    "maximum": _bound("more than the maximum"),
    "exclusiveMinimum": _bound("not more than"),
    "exclusiveMaximum": _bound("not less than"),
    "multipleOf": lambda value, details: (
        f"{shown(value)} is not a multiple of {shown(details['multiple_of'])}"
    ),
    "minLength": _size("at least", "characters"),
    "maxLength": _size("at most", "characters"),
    "minItems": _size("at least", "items"),
    "maxItems": _size("at most", "items"),
    "uniqueItems": lambda value, details: "has an item twice",
    "pattern": lambda value, details: f"{shown(value)} does not match {details['pattern']}",
    "anyOf": lambda value, details: f"{shown(value)} fits none of the forms that the model takes",
    "oneOf": lambda value, details: f"{shown(value)} fits none of the forms that the model takes",
}


class Validator:
    """A schema, compiled on first use, because importing the compiler is slow."""

    def __init__(self, model_id: str, schema: dict[str, Any]) -> None:
        self._model_id = model_id
        self._schema = schema
        self.is_valid: Callable[[Any], bool] = self._compile_and_check

    def compile(self) -> None:
        """Raises SchemaError if the schema is invalid. Fetches nothing."""
        import jsonschema_rs

        try:
            compiled = jsonschema_rs.Draft202012Validator(self._schema, retriever=_refuse_to_fetch)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise SchemaError(f"{self._model_id}: its input schema is broken: {reason}") from None
        self._compiled = compiled
        self.is_valid = compiled.is_valid

    def errors(self, value: Any) -> Iterator[Any]:
        """All errors of ``value``. Call it only after :attr:`is_valid`."""
        return iter(self._compiled.iter_errors(value))

    def _compile_and_check(self, value: Any) -> bool:
        self.compile()
        return self.is_valid(value)


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"a reference to {uri} is not followed")


def as_sent(value: Any) -> Any:
    """``value`` with local media replaced by the beginning of the ``data:`` URI that will be sent."""
    if isinstance(value, LocalMedia):
        return f"data:{value.media_type};base64,"
    if isinstance(value, list):
        return [as_sent(item) for item in value]
    if isinstance(value, dict):
        return {str(key): as_sent(item) for key, item in value.items()}
    return str(value) if isinstance(value, str) else value
