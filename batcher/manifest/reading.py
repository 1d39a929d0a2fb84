"""The user's options for reading a manifest file, and the contents of ``from``."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

import msgspec

from batcher.jobs.column_rules import Mapped
from batcher.options.facts import AS_IT_TELLS, Reading
from batcher.schema.problems import shown, unknown_field

DELIMITER_NAMES: Mapping[str, str] = {
    "comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "space": " ",
}  # fmt: skip


class Include(msgspec.Struct, frozen=True):
    """The contents of ``from``: a file, how to read it, and the roles of its columns. ``base`` is the
    folder of its relative paths."""

    file: str
    reading: Reading = AS_IT_TELLS
    base: str | None = None
    mapped: Mapped = Mapped()


def encoding_named(text: str) -> str:
    """Python's name of a text encoding. Raises ValueError."""
    try:
        info = codecs.lookup(text.strip())
    except (LookupError, ValueError):
        raise ValueError(f"{shown(text)} is no encoding (try cp1252, utf-16, gb18030)") from None
    if not info._is_text_encoding:
        raise ValueError(f"{shown(text)} is no encoding of text")
    return info.name


def delimiter_named(text: str) -> str:
    """One character, or its name. Raises ValueError."""
    delimiter = DELIMITER_NAMES.get(text.strip().lower(), text)
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        names = ", ".join(name for name in DELIMITER_NAMES if name.isalpha())
        raise ValueError(f"{shown(text)} is no delimiter: one character, or one of {names}")
    return delimiter


def include_of(value: Any) -> Include:
    """Parse the value of ``from``: a file, or a mapping. Raises ValueError."""
    if isinstance(value, str) and value:
        return Include(value)
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is neither a file nor a mapping with the key file")
    texts: dict[str, str] = {}
    for key, item in value.items():
        if key not in INCLUDE_KEYS:
            raise ValueError(unknown_field(key, INCLUDE_KEYS).replace("field", f"key {key!r}"))
        if item is None or key in MAPPING_KEYS:
            continue
        if not isinstance(item, str) or not item:
            raise ValueError(f"{key}: {shown(item)} is not text")
        texts[key] = item
    if "file" not in texts:
        raise ValueError("the key file is missing")
    return Include(texts["file"], reading_of(texts), texts.get("base"), _mapped_of(value))


def _mapped_of(value: Mapping[str, Any]) -> Mapped:
    """Parse ``columns``, ``vars``, ``meta`` and ``ignore``. Raises ValueError."""
    columns = value.get("columns") or {}
    if not isinstance(columns, dict) or not all(isinstance(f, str) and f for f in columns.values()):
        raise ValueError("columns: a mapping from columns to inputs is needed")
    rename = tuple((str(column), target) for column, target in columns.items())
    return Mapped(rename, *(_names_in(key, value.get(key)) for key in ("vars", "meta", "ignore")))


def _names_in(key: str, value: Any) -> tuple[str, ...]:
    """Columns in a list, or in one comma-separated text. Raises ValueError."""
    if value is None:
        return ()
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key}: {shown(value)} is neither a column nor a list of columns")
    return tuple(name.strip() for name in names)


def reading_of(texts: Mapping[str, str | None]) -> Reading:
    """The three texts ``format``, ``encoding``, ``delimiter``, checked. Raises ValueError."""
    encoding, delimiter = texts.get("encoding"), texts.get("delimiter")
    return Reading(
        texts.get("format"),
        _named("encoding", encoding_named, encoding),
        _named("delimiter", delimiter_named, delimiter),
    )


def _named(key: str, check: Any, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return str(check(text))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


MAPPING_KEYS = ("columns", "vars", "meta", "ignore")
INCLUDE_KEYS = ("file", "format", "encoding", "delimiter", "base", *MAPPING_KEYS)
