"""A model's inputs in words: for ``models show``, and for the comments of a starter manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from batcher.schema.dialect import WORKFLOW_KIND
from batcher.schema.spec import ModelSpec

_TYPE_WORDS = {
    "string": "text", "integer": "integer", "number": "number", "boolean": "true or false",
    "array": "list", "object": "mapping",
}  # fmt: skip
TYPES_MAX = 3
"""An input of more types takes anything."""
_SAMPLE_TEXT = "a paper boat drifts down a rainy street"
_SAMPLE_URLS = {
    "image": "https://example.com/media/boat.png",
    "video": "https://example.com/media/boat.mp4",
    "audio": "https://example.com/media/rain.mp3",
    WORKFLOW_KIND: "workflow.json",
}
_BOUNDS = (
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "above {}"),
    ("maximum", "at most {}"),
    ("exclusiveMaximum", "below {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "up to {} characters"),
    ("minItems", "at least {}"),
    ("maxItems", "at most {}"),
)


@dataclass(frozen=True, slots=True)
class FieldNote:
    """One input: a description of its values, and its schema."""

    name: str
    required: bool
    takes: str
    about: str
    sample: Any
    """A plausible value: the default if there is one."""


def field_notes(spec: ModelSpec) -> Iterator[FieldNote]:
    """Each input of a model, the required ones first."""
    required = spec.schema.get("required", [])
    for name in sorted(spec.fields, key=lambda name: name not in required):
        schema = spec.fields[name]
        media = spec.media.get(name)
        takes = ", ".join(_words(schema, media))
        yield FieldNote(name, name in required, takes, _about(name, schema), _sample(schema, media))


def _words(schema: Mapping[str, Any], media: str | None) -> Iterator[str]:
    if media == WORKFLOW_KIND:
        yield "a JSON file, or a mapping"
    elif media is not None:
        yield f"{media}s, a list of URLs or files" if _is_list(schema) else f"{media}, a URL or a file"
    elif "enum" in schema:
        yield "one of " + ", ".join(map(literal, schema["enum"]))
    else:
        yield _type_word(schema)
    for keyword, words in _BOUNDS:
        if keyword in schema:
            yield words.format(schema[keyword])
    if schema.get("default") is not None:
        yield f"default {literal(schema['default'])}"


def _sample(schema: Mapping[str, Any], media: str | None) -> Any:
    if schema.get("default") is not None:
        return schema["default"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "array":
        items = schema.get("items")
        one = _sample(items if isinstance(items, dict) else {}, media)
        return [one] * max(1, schema.get("minItems", 1))
    if media is not None:
        return _SAMPLE_URLS[media]
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    if kind in ("boolean", "object"):
        return True if kind == "boolean" else {}
    return _SAMPLE_TEXT[: schema.get("maxLength", len(_SAMPLE_TEXT))]


def _type_word(schema: Mapping[str, Any]) -> str:
    declared = schema.get("type")
    types = declared if isinstance(declared, list) and len(declared) <= TYPES_MAX else [declared]
    return " or ".join(_TYPE_WORDS.get(str(name), "anything") for name in types)


def _is_list(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "array"


def _about(name: str, schema: Mapping[str, Any]) -> str:
    """The vendor's description on one line; else its title, if that says more than the name."""
    text = schema.get("description") or schema.get("title") or ""
    line = " ".join(str(text).split())
    return "" if line.lower() == name.replace("_", " ").lower() else line


def literal(value: Any) -> str:
    """``value`` as YAML on one line: JSON, but plain words and numbers without quotes."""
    if isinstance(value, str) and value.replace("_", "").replace("-", "").isalpha():
        return value if value.lower() not in _YAML_WORDS else f'"{value}"'
    return msgspec.json.encode(value).decode()


_YAML_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
