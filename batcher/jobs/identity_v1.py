"""The identity of jobs in run directories that version 0.1 began. Frozen: ids live in ledgers.

It treats more values as equal than ``identity``: texts that read as the same number, and URLs that
differ only in a parameter that often signs. In such run directories it must keep doing so, or jobs
already paid for would be bought again.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from decimal import MAX_EMAX, MIN_EMIN, Context
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus

import msgspec

from batcher.jobs.job import LocalMedia, data_uri_sha256, is_data_uri

SLUG_MAX_CHARS = 40
HASH_CHARS = 16
MATRIX_HASH_CHARS = 8

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,4})?")
_EXACT = Context(prec=100, Emax=MAX_EMAX, Emin=MIN_EMIN)
_PLAIN_EXPONENT_MAX = 30
_WORDS_APART = bytes(ord(chr(c).lower()) if c < 128 and chr(c).isalnum() else 32 for c in range(256))
_SHORT_CHARS = 24
_TRUTHS = frozenset({"true", "false"})
_TRUTH_MAX_CHARS = len("false")
_encode_sorted = msgspec.json.Encoder(order="sorted").encode
_SIGNING_PARAMETERS = frozenset(
    {"expires", "signature", "sig", "token", "policy", "key-pair-id", "awsaccesskeyid", "googleaccessid"}
    | {"hdnea", "hdnts"}
)
_SIGNING_BESIDE_SIG = frozenset(
    {"se", "sp", "sv", "sr", "st", "spr", "skoid", "sktid", "skt", "ske", "sks", "skv"}
)
_SIGNING_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "q-sign")


def canonical(value: Any) -> Any:
    """``value`` with all spellings of the same input mapped to one (5, 5.0 and "5"; a re-signed URL)."""
    if isinstance(value, str):
        respelled = _SPELLINGS.get(value[:1])
        return value if respelled is None else respelled(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(repr(value))
    if isinstance(value, LocalMedia):
        return f"sha256:{value.sha256}"
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"path", "sha256"}:
            return f"sha256:{value['sha256']}"
        return {key: canonical(item) for key, item in value.items() if item is not None}
    return value


def _number(text: str) -> str:
    return _remembered_number(text) if len(text) <= _SHORT_CHARS else _number_in(text)


def _number_in(text: str) -> str:
    if not _NUMBER.fullmatch(text):
        return text
    number = _EXACT.create_decimal(text).normalize(_EXACT)
    if not number:
        return "0"
    plain = abs(number.adjusted()) <= _PLAIN_EXPONENT_MAX
    return format(number, "f") if plain else str(number)


_remembered_number = lru_cache(maxsize=4096)(_number_in)
"""Cached for texts up to _SHORT_CHARS: most columns repeat a few values."""


def _truth(text: str) -> str:
    if len(text) > _TRUTH_MAX_CHARS:
        return text
    word = text.lower()
    return word if word in _TRUTHS else text


def _url(text: str) -> str:
    return _without_signature(text) if text.startswith(("http://", "https://")) else text


def _data_uri(text: str) -> str:
    return f"sha256:{data_uri_sha256(text)}" if is_data_uri(text) else text


def _array(text: str) -> str | list[Any]:
    """A list written as JSON in a table's cell is the same input as the list itself."""
    try:
        items = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return text
    return [canonical(item) for item in items]


_SPELLINGS: Mapping[str, Callable[[str], str | list[Any]]] = {
    **dict.fromkeys("-0123456789", _number),
    **dict.fromkeys("tTfF", _truth),
    "h": _url,
    "d": _data_uri,
    "[": _array,
}
"""Functions that unify the spellings of a text, by its first character; other texts have only one."""


def input_digest(model: str, inputs: dict[str, Any]) -> str:
    """16 hex digits of the SHA-256 over model and canonical inputs. Equal digests are the same job.

    The case of input names is ignored, because it is ignored in a table's header.
    """
    named = {name.lower(): canonical(value) for name, value in inputs.items() if value is not None}
    return _digest({"model": model, "input": named}, HASH_CHARS)


def matrix_digest(values: dict[str, Any]) -> str:
    """The suffix that distinguishes the jobs that a matrix makes from one explicit id."""
    return _digest(canonical(values), MATRIX_HASH_CHARS)


def _digest(value: Any, chars: int) -> str:
    return hashlib.sha256(_encode_sorted(value)).hexdigest()[:chars]


def slug(text: str) -> str:
    """``text`` as up to 40 lower-case ASCII letters, digits and single dashes; "job" if none remain."""
    text = text[: 4 * SLUG_MAX_CHARS]
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
    words = b"-".join(text.encode("ascii", "ignore").translate(_WORDS_APART).split())
    return words[:SLUG_MAX_CHARS].rstrip(b"-").decode() or "job"


def generated_id(inputs: dict[str, Any], digest: str) -> str:
    """The id of a job without an explicit id: slug of its prompt, then its digest."""
    prompt = canonical(inputs.get("prompt"))
    return f"{slug(prompt if isinstance(prompt, str) else '')}-{digest}"


def _signing_in(pairs: list[str]) -> set[str]:
    """Those of a query's ``name=value`` pairs that only sign it.

    Azure's parameter names are too short to count without their ``sig``.
    """
    named = {pair: unquote_plus(pair.partition("=")[0]).lower() for pair in pairs}
    azure = _SIGNING_BESIDE_SIG if "sig" in named.values() else frozenset()
    names = _SIGNING_PARAMETERS | azure
    return {p for p, name in named.items() if name in names or name.startswith(_SIGNING_PREFIXES)}


def _map_signing(url: str, change: Callable[[str], str | None]) -> str:
    """``url`` with ``change`` made to each parameter that only signs it (None drops it)."""
    head, hash_mark, fragment = url.partition("#")
    base, _, query = head.partition("?")
    pairs = query.split("&")
    signing = _signing_in(pairs)
    if not signing:
        return url
    changed = [change(pair) if pair in signing else pair for pair in pairs]
    kept = "&".join(pair for pair in changed if pair is not None)
    return f"{base}{'?' if kept else ''}{kept}{hash_mark}{fragment}"


def _without_signature(url: str) -> str:
    return _map_signing(url, lambda pair: None) if "?" in url else url
