"""Extracts the server's message from any kind of body: text, objects, lists, HTML pages."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any, Final

import msgspec

MESSAGE_MAX_CHARS: Final = 500
SNIPPET_MAX_BYTES: Final = 200
PAGE_MAX_BYTES: Final = 64 * 1024
WORDS_DEPTH_MAX: Final = 5
WORDS_COUNT_MAX: Final = 50

NAMED: Final = (
    *("message", "error_message", "errorMessage", "error", "failure_reason", "errors", "reason"),
    *("msg", "title", "description"),
)
"""Names of message fields, at the top level and inside an error, the most common first."""
DETAILS: Final = ("detail", "details", "debugInfo")
WRAPPERS: Final = ("data", "result", "response", "body")

_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_UNSHOWN = re.compile(r"<(script|style|head)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_TLS = re.compile(r" ssl:(<[^>]*>|\w+)(?= \[)")


def said(document: dict[str, Any]) -> str:
    """The message of an error document and its details; empty if it has none."""
    found = _message(document, WORDS_DEPTH_MAX)
    if found:
        return found
    inner = (document.get(key) for key in WRAPPERS)
    return next(filter(None, (_message(one, 2) for one in inner if isinstance(one, dict))), "")


def words(value: object, levels: int = WORDS_DEPTH_MAX) -> str:
    """The text of an error in any of its shapes: text, ``{"message"}``, a list of ``{"loc", "msg"}``."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and levels:
        items = (words(item, levels - 1) for item in value[:WORDS_COUNT_MAX])
        return "; ".join(dict.fromkeys(filter(None, items)))
    if not isinstance(value, dict) or not levels:
        return ""
    located = value.get("loc", value.get("field"))
    told = _message(value, levels) or (_by_field(value, levels - 1) if located is None else "")
    field = _field(located)
    return ": ".join(filter(None, (field, told)))


def page_words(body: bytes) -> str:
    """The message of an HTML or XML page: its title, else its text."""
    page = body[:PAGE_MAX_BYTES].decode(errors="replace")
    title = _TITLE.search(page)
    text = title[1] if title and title[1].strip() else _TAG.sub(" ", _UNSHOWN.sub(" ", page))
    return html.unescape(text)


def snippet(value: object) -> str:
    """The first characters of a document, unchanged."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return body[:SNIPPET_MAX_BYTES].decode(errors="replace")


def clean(text: str) -> str:
    """``text`` in one line of at most 500 characters, without control and formatting characters."""
    head = text[: 4 * MESSAGE_MAX_CHARS]
    if not head.isprintable():
        head = "".join(" " if unicodedata.category(char)[0] == "C" else char for char in head)
    line = " ".join(head.split())
    return line if len(line) <= MESSAGE_MAX_CHARS else f"{line[: MESSAGE_MAX_CHARS - 1]}…"


def _message(value: dict[str, Any], levels: int) -> str:
    named = next(filter(None, (words(value.get(key), levels - 1) for key in NAMED)), "")
    details = (words(value.get(key), levels - 1) for key in DETAILS)
    return ": ".join(dict.fromkeys(filter(None, (named, *details))))


def _by_field(value: dict[str, Any], levels: int) -> str:
    """``{"prompt": ["too long"]}`` as ``prompt: too long``: errors under their fields' names."""
    listed = [(key, item) for key, item in value.items() if isinstance(item, list)]
    told = ((key, words(item, levels)) for key, item in listed[:WORDS_COUNT_MAX])
    return "; ".join(f"{key}: {text}" for key, text in told if text)


def _field(loc: object) -> str:
    """``["body", "image_url"]`` as ``image_url``, ``["body", "images", 0]`` as ``images.0``."""
    parts = loc if isinstance(loc, list) else [loc]
    named = [str(part) for part in parts if isinstance(part, str | int)]
    return ".".join(named[1:] if named[:1] == ["body"] else named)


def error_text(error: Exception) -> str:
    """An exception's text, without the TLS context that aiohttp shows as an object with its address."""
    return _TLS.sub("", str(error))
