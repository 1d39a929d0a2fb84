"""Text for people: safe to print on a terminal, with counts and money in words.

Messages come from servers, ids and paths from manifests and from ledgers that anyone may have edited. An
escape sequence in them could move the cursor, overwrite printed text, or set a title; a bidirectional
override could make ``$10`` read as ``$01``.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import msgspec

_SUSPECT = re.compile(r"[^\x20-\x7e]")
_UNESCAPED_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def visible(text: str) -> str:
    """``text`` as one line, with control and formatting characters replaced by their escapes."""
    return _SUSPECT.sub(_shown, text)


def visible_lines(text: str) -> str:
    """:func:`visible` for text of several lines that this package composed."""
    return "\n".join(map(visible, text.split("\n")))


def counted(count: int, one: str, many: str) -> str:
    """A count and what is counted: ``1 job is``, ``2 jobs are``."""
    return f"{count} {one if count == 1 else many}"


def money(usd: float | None) -> str:
    """An amount for people: ``$12.60``, with hundredths of a cent if there are any."""
    if usd is None:
        return "unknown"
    whole, _, fraction = f"{round(usd, 4) + 0.0:,.4f}".partition(".")
    return f"${whole}.{fraction[:2]}{fraction[2:].rstrip('0')}"


def legible(path: Path | str) -> str:
    """``path`` as text that can be encoded as UTF-8: a file name's bytes need not be."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def visible_json(value: Any) -> str:
    """``value`` as one line of JSON, the same to every parser and harmless to a terminal."""
    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # half a surrogate pair, as in the name of a file that is not UTF-8
        text = json.dumps(msgspec.to_builtins(value))
    return _UNESCAPED_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _shown(match: re.Match[str]) -> str:
    char = match[0]
    hidden = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return ascii(char)[1:-1] if hidden else char
