"""Reads JSON bodies leniently, since a paid request may depend on it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, TypeGuard

import msgspec

REQUEST_ID_MAX_CHARS: Final = 200
INTEGER_MAX_BITS: Final = 63
CODE_MIN: Final = 1000
"""Smaller numbers under ``code`` are HTTP statuses or enumerations."""
CODE_DEPTH_MAX: Final = 4
CODE_NAMES: Final = ("error_code", "errorCode", "code")
CODE_WRAPPERS: Final = ("error", "errors", "detail", "data")

_REQUEST_ID = re.compile(rf"[A-Za-z0-9._~-]{{1,{REQUEST_ID_MAX_CHARS}}}")
_CODE = re.compile(r"[0-9]{1,9}")
# The status line, and all headers up to the first empty line, valid or not.
_HEAD = re.compile(rb"HTTP/[0-9.]+ +([0-9]{3})\b.*?\r?\n\r?\n", re.DOTALL)
_CHUNK_LINE = re.compile(rb"\r\n[0-9A-Fa-f]{1,8}(;[^\r\n]*)?\r\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
INT_DIGITS_MAX = 300
_AFTER_JSON = b" \t\r\n\0"
_BEFORE_JSON = _AFTER_JSON + _BYTE_ORDER_MARK + b"\xff\xfe"


def as_it_is(text: str) -> str:
    return text


def document_of(body: bytes | None) -> dict[str, Any]:
    """The JSON object in a body. NaN as a number, and encodings other than UTF-8, are accepted."""
    try:
        document = msgspec.json.decode((body or b"").removeprefix(_BYTE_ORDER_MARK))
    except (msgspec.DecodeError, RecursionError, ValueError):
        document = _lenient(body or b"")
    return document if isinstance(document, dict) else {}


def _whole_number(digits: str) -> int | float:
    """Python refuses to read very long ones, and one of them must not make the rest unreadable."""
    return int(digits) if len(digits) <= INT_DIGITS_MAX else float(digits)


def _lenient(body: bytes) -> Any:
    if not body.lstrip(_BEFORE_JSON).startswith(b"{") or not body.rstrip(_AFTER_JSON).endswith(b"}"):
        return None
    try:
        text = body.decode(json.detect_encoding(body), "replace").strip("\0\ufeff")
        document = json.loads(text, parse_int=_whole_number)
        # Half of a surrogate pair can't be written to our files.
        return json.loads(json.dumps(document, ensure_ascii=False).encode(errors="replace"))
    except (RecursionError, ValueError):
        return None


def error_code_of(document: dict[str, Any]) -> int | str | None:
    """The ``error_code``: a number in any spelling, or a word; None and 0 are no error.

    A number also counts under ``code`` and inside of ``error`` and ``detail``.
    """
    code = _code(document.get("error_code"))
    return code if code is not None else _code_within(document, CODE_DEPTH_MAX)


def _code(value: object) -> int | str | None:
    if isinstance(value, str):
        value = value.strip()
        value = int(value) if _CODE.fullmatch(value) else value
    return value or None if isinstance(value, str) or is_plain_int(value) else None


def _code_within(value: object, levels: int) -> int | None:
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, dict)), None)
    if not isinstance(value, dict) or not levels:
        return None
    for key in (key for key in CODE_NAMES if key in value):
        number = _code(value[key])
        if isinstance(number, int) and number >= CODE_MIN:
            return number
    inner = (_code_within(value[key], levels - 1) for key in CODE_WRAPPERS if key in value)
    return next((number for number in inner if number is not None), None)


def is_whole_object(body: bytes) -> bool:
    """Whether ``body`` is one complete JSON object."""
    return bool(document_of(body))


def id_in(heard: bytes, redact: Callable[[str], str] = as_it_is) -> str | None:
    """The request id in the raw first bytes of an answer to a POST that the HTTP parser rejected.

    Only the body of a 2xx counts, and only a complete object with a usable id.
    """
    while (head := _HEAD.match(heard)) is not None:
        body = heard[head.end() :]
        if head[1][:1] != b"1":
            break
        heard = body
    if head is None or head[1][:1] != b"2":
        return None
    whole = body[body.find(b"{") : body.rfind(b"}") + 1]
    for one in (whole, _CHUNK_LINE.sub(b"", whole)):
        if (found := own_id(document_of(one), redact)) is not None:
            return found
    return None


def own_id(document: dict[str, Any], redact: Callable[[str], str]) -> str | None:
    """The usable request id of a document, unless most of it is the token."""
    found = usable_id(document.get("request_id"))
    if found is None:
        return None
    return found if 2 * len(redact(found)) >= len(found) else None


def usable_id(value: object) -> str | None:
    """``value`` as a request id that is safe as one path segment, or None. Integers become text."""
    if is_plain_int(value):
        value = str(value)
    if not isinstance(value, str) or not _REQUEST_ID.fullmatch(value) or value in (".", ".."):
        return None
    return value


def is_plain_int(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an integer that other programs can store; JSON has no limit."""
    return type(value) is int and value.bit_length() <= INTEGER_MAX_BITS
