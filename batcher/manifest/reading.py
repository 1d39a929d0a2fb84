"""How a manifest file is to be read, as far as its user said so; and what ``from`` may say."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

import msgspec

from batcher.options.facts import AS_IT_TELLS, Reading
from batcher.schema.wording import shown, unknown_field

DELIMITER_NAMES: Mapping[str, str] = {
    "comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "space": " ",
}  # fmt: skip


class Include(msgspec.Struct, frozen=True):
    """What ``from`` names: a file and how it is read. ``base`` is where its relative paths begin."""

    file: str
    reading: Reading = AS_IT_TELLS
    base: str | None = None


def encoding_named(text: str) -> str:
    """The name of a text encoding as Python knows it. Raises ValueError."""
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
    """What stands under ``from``: a file, or a mapping. Raises ValueError."""
    if isinstance(value, str) and value:
        return Include(value)
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is neither a file nor a mapping with the key file")
    texts: dict[str, str] = {}
    for key, item in value.items():
        if key not in INCLUDE_KEYS:
            raise ValueError(unknown_field(key, INCLUDE_KEYS).replace("field", f"key {key!r}"))
        if item is None:
            continue
        if not isinstance(item, str) or not item:
            raise ValueError(f"{key}: {shown(item)} is not text")
        texts[key] = item
    if "file" not in texts:
        raise ValueError("the key file is missing")
    return Include(texts["file"], reading_of(texts), texts.get("base"))


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


INCLUDE_KEYS = ("file", "format", "encoding", "delimiter", "base")
