"""When two rows are the same job: canonical inputs, their digest, and the ids made from it.

A ledger records the rule by which its ids were made (``identity`` in its first line): a run directory
that version 0.1 began keeps ``identity_v1``, so that no row becomes a different job.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import MAX_EMAX, MIN_EMIN, Context
from functools import lru_cache
from itertools import repeat
from typing import Any, Final

import msgspec

from batcher.jobs import identity_v1
from batcher.jobs.job import Job, LocalMedia, data_uri_sha256, is_data_uri
from batcher.jobs.nodes import is_override, node_and_name, node_order
from batcher.jobs.signatures import without_signature

_TEXTS: Final = ("prompt", "text")

FIRST_RULE = 1
"""The rule of ledgers that name none: version 0.1 wrote them."""
RULE = 2
HASH_CHARS = 16
MATRIX_HASH_CHARS = 8
SLUG_MAX_CHARS = 40
SLUG_MAX_BYTES = 80
SLUGGED_CHARS = 4 * SLUG_MAX_CHARS

Texts = bool | Mapping[str, "Texts"]
"""Which part of an input is compared as text: all of it (True), no part for certain (False: a value of
unknown type is compared as a number if it reads as one), or these keys of a mapping."""
Spelling = Callable[[Any], Any]
"""Maps all spellings of an input to one value."""

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,4})?")
_EXACT = Context(prec=100, Emax=MAX_EMAX, Emin=MIN_EMIN)
_PLAIN_EXPONENT_MAX = 30
_SHORT_CHARS = 24
_TRUTHS = frozenset({"true", "false"})
_TRUTH_MAX_CHARS = len("false")
_TEXT_NAMES = ("prompt", "text")
_WORDS_APART = bytes(ord(chr(c).lower()) if c < 128 and chr(c).isalnum() else 32 for c in range(256))
_DASHES_APART = b"\0" + _WORDS_APART[1:].replace(b" ", b"-")
"""The same with dashes, except that NUL stays as it is."""
_unicode = unicodedata.ucd_3_2_0  # frozen: the same text has the same slug in every version of Python
_encode_sorted = msgspec.json.Encoder(order="sorted").encode
KEY_CHARS = 16
SETTING_MAX_CHARS = 24
_FREE_FIELDS = frozenset({"prompt", "negative_prompt", "seed", "text"})
_FREE_IN_NODES = _FREE_FIELDS | {"noise_seed"}


def is_text_name(name: str) -> bool:
    """Whether an input that no schema describes is text because it is called a prompt."""
    return name.lower().endswith(_TEXT_NAMES)


class Spellings(dict[str, tuple[str, Spelling]]):
    """For each input: its name in lower case, and how its spellings are unified, by its ``texts``.

    An input that is not in ``texts`` is text if it is called a prompt, else of unknown type.
    """

    def __init__(self, texts: Mapping[str, Texts] | None = None) -> None:
        super().__init__()
        for name, where in (texts or {}).items():
            self[name] = (name.lower(), _text_or_other if where is True else _spelling(where))

    def __missing__(self, name: str) -> tuple[str, Spelling]:
        entry = (name.lower(), _text_or_other if is_text_name(name) else canonical)
        self[name] = entry
        return entry


def _spelling(texts: Texts) -> Spelling:
    return lambda value: canonical(value, texts)


def input_digest(model: str, inputs: dict[str, Any], spellings: Spellings | None = None) -> str:
    """16 hex digits of the SHA-256 over model and canonical inputs. Equal digests are the same job.

    ``inputs`` have the types of the schema, if there is one. The case of their names is ignored, unless
    two names differ only in case.
    """
    known = _UNKNOWN if spellings is None else spellings
    named = {}
    count = 0
    for name, value in inputs.items():
        if value is not None:
            count += 1
            key, spelled = known[name]
            named[key] = spelled(value)
    if len(named) < count:
        named = {name: known[name][1](value) for name, value in inputs.items() if value is not None}
    return digest_of(model, named)


def digest_of(model: str, named: dict[str, Any]) -> str:
    """:func:`input_digest` of inputs that are canonical already."""
    text = _encode_sorted({"model": model, "input": named})
    return hashlib.sha256(text).hexdigest()[:HASH_CHARS]


def digests_of(model: str, columns: Mapping[str, Sequence[Any]], count: int) -> list[str]:
    """:func:`digest_of` for each of ``count`` rows that are given by column.

    A column is one value for all rows, or a value for each. What all rows share is encoded once.
    """
    parts: list[Iterable[bytes]] = []
    shared = b'{"input":{'
    for key in sorted(columns):
        values = columns[key]
        shared += _encode_sorted(key) + b":"
        if len(values) == 1:
            shared += _encode_sorted(values[0]) + b","
        else:
            quote, encoded = _encoded(values)
            parts += [repeat(shared + quote), encoded]
            shared = quote + b","
    shared = shared.removesuffix(b",") + b'},"model":' + _encode_sorted(model) + b"}"
    texts = map(b"".join, zip(*parts, repeat(shared, count)))  # noqa: B905 (parts may have no end)
    return [hashlib.sha256(text).hexdigest()[:HASH_CHARS] for text in texts]


def _encoded(values: Sequence[Any]) -> tuple[bytes, Iterable[bytes]]:
    """Each of ``values`` as JSON, without the quotes around it, which are returned first."""
    if {*map(type, values)} == {str}:  # ``","`` can't be in a text, which has a backslash before quotes
        return b'"', _encode_sorted(values)[2:-2].split(b'","')
    return b"", map(_encode_sorted, values)


def matrix_digest(values: dict[str, Any], rule: int = RULE) -> str:
    """The suffix that distinguishes the jobs that a matrix makes from one explicit id."""
    if rule == FIRST_RULE:
        return identity_v1.matrix_digest(values)
    return _digest(canonical(values), MATRIX_HASH_CHARS)


def _digest(value: Any, chars: int) -> str:
    return hashlib.sha256(_encode_sorted(value)).hexdigest()[:chars]


def canonical(value: Any, texts: Texts = False) -> Any:
    """``value`` with all spellings of the same input mapped to one.

    A number becomes its value, a boolean its word, media their SHA-256, a URL loses the parameters that
    only sign it. Text keeps its value with LF for CRLF and CR, unless it may be of another type: see
    :data:`Texts`.
    """
    if isinstance(value, str):
        return _text(value) if texts is True else _untyped(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(repr(value))
    if isinstance(value, LocalMedia):
        return f"sha256:{value.sha256}"
    if isinstance(value, list):
        return [canonical(item, texts) for item in value]
    if isinstance(value, dict):
        return _canonical_mapping(value, texts)
    return value


def _canonical_mapping(value: dict[str, Any], texts: Texts) -> Any:
    if value.keys() == {"path", "sha256"}:
        return f"sha256:{value['sha256']}"
    inner: Mapping[str, Texts] = texts if isinstance(texts, Mapping) else {}
    return {key: canonical(v, inner.get(key, False)) for key, v in value.items() if v is not None}


def _text_or_other(value: Any) -> Any:
    """The canonical value of a text field. By far the most values are text with only one spelling."""
    if type(value) is str:
        return value if value[:1] not in "hd" and "\r" not in value else _text(value)
    return canonical(value, True)


def spelled_each(texts: Sequence[str], spelled: Spelling) -> Sequence[Any]:
    """``spelled`` of each text of a column: one search shows that most columns stay as they are."""
    if spelled is _text_or_other:
        joined = "\0".join(texts)
        may_be_signed = "?" in joined and "://" in joined
        if not may_be_signed and "data:" not in joined and "\r" not in joined:
            return texts
    return [*map(spelled, texts)]


def _text(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    first = text[:1]
    if (
        first == "h"
        and "?" in text
        and text.startswith(("http://", "https://"))
        and not _has_space(text)
    ):
        return without_signature(text)
    if first == "d" and is_data_uri(text):
        return f"sha256:{data_uri_sha256(text)}"
    return text


def _has_space(text: str) -> bool:
    return len(text.split(None, 1)) > 1


def _untyped(text: str) -> str | list[Any]:
    respelled = _SPELLINGS.get(text[:1])
    return _text(text) if respelled is None else respelled(text)


def _number(text: str) -> str:
    return _remembered_number(text) if len(text) <= _SHORT_CHARS else _number_in(text)


def _number_in(text: str) -> str:
    if not _NUMBER.fullmatch(text):
        return _text(text)
    number = _EXACT.create_decimal(text).normalize(_EXACT)
    if not number:
        return "0"
    plain = abs(number.adjusted()) <= _PLAIN_EXPONENT_MAX
    return format(number, "f") if plain else str(number)


_remembered_number = lru_cache(maxsize=4096)(_number_in)
"""Cached for texts up to _SHORT_CHARS: most columns repeat a few values."""


def _truth(text: str) -> str:
    if len(text) <= _TRUTH_MAX_CHARS and (word := text.lower()) in _TRUTHS:
        return word
    return _text(text)


def _array(text: str) -> str | list[Any]:
    """A list written as JSON in a table's cell is the same input as the list itself."""
    try:
        items = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _text(text)
    return [canonical(item) for item in items]


_SPELLINGS: Mapping[str, Callable[[str], str | list[Any]]] = {
    **dict.fromkeys("-0123456789", _number),
    **dict.fromkeys("tTfF", _truth),
    "[": _array,
}
"""The functions that unify the spellings of a text of unknown type, by its first character."""


_UNKNOWN = Spellings()


def generated_id(inputs: dict[str, Any], digest: str, rule: int = RULE) -> str:
    """The id of a job without an explicit id: slug of its prompt, then its digest."""
    if rule == FIRST_RULE:
        return identity_v1.generated_id(inputs, digest)
    return f"{slug(_slugged(prompt_of(inputs)))}-{digest}"


def generated_ids(inputs: Sequence[Mapping[str, Any]], digests: Sequence[str]) -> list[str]:
    """:func:`generated_id` for many jobs, whose inputs have the same names."""
    is_plain = bool(inputs) and "prompt" in inputs[0]
    prompts = [one["prompt"] for one in inputs] if is_plain else [*map(prompt_of, inputs)]
    if {str}.issuperset(map(type, prompts)):
        starts = slugs(spelled_each(prompts, _text_or_other))
    else:
        starts = slugs([*map(_slugged, prompts)])
    return [f"{start}-{digest}" for start, digest in zip(starts, digests, strict=True)]


def _slugged(prompt: Any) -> str:
    """The text of a prompt that a slug is made from."""
    text = _text_or_other(prompt)
    return text if isinstance(text, str) else ""


def slug(text: str) -> str:
    """``text`` as up to 40 lower-case letters and digits of any script, and single dashes.

    Latin letters lose their accents. "job" if nothing remains. Safe as a file name: up to 80 bytes, no
    characters that change the direction of text, and the same in every version of Unicode.
    """
    text = text[:SLUGGED_CHARS]
    if not text.isascii():
        return _slug_of_any_script(text)
    words = b"-".join(text.encode("ascii").translate(_WORDS_APART).split())
    return words[:SLUG_MAX_CHARS].rstrip(b"-").decode() or "job"


def slugs(texts: Sequence[str]) -> list[str]:
    """:func:`slug` for each of many texts. Texts that are ASCII are changed all at once."""
    joined = "\0".join([text[:SLUGGED_CHARS] for text in texts])
    if not joined.isascii() or joined.count("\0") >= len(texts):
        return [*map(slug, texts)]
    words = joined.encode("ascii").translate(_DASHES_APART)
    while b"--" in words:
        words = words.replace(b"--", b"-")
    found = words.decode().split("\0")
    return [text.lstrip("-")[:SLUG_MAX_CHARS].rstrip("-") or "job" for text in found]


def _slug_of_any_script(text: str) -> str:
    kept: list[str] = []
    base = ""
    for char in _unicode.normalize("NFKD", text):
        kind = _unicode.category(char)[0]
        if kind != "M":
            base = char
            kept.append(char.lower() if kind in "LN" else " ")
        elif not base.isascii():
            kept.append(char)
    words = "-".join(_unicode.normalize("NFC", "".join(kept)).split())[:SLUG_MAX_CHARS]
    while len(words.encode()) > SLUG_MAX_BYTES:
        words = words[:-1]
    return words.rstrip("-") or "job"


def settings_of(inputs: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    """The inputs that are settings, without those that usually differ by job (prompts, media, seeds)."""
    return frozenset((name, value) for name, value in inputs.items() if _is_setting(name, value))


def _is_setting(name: str, value: Any) -> bool:
    _, dot, own = name.rpartition(".")
    if own in (_FREE_IN_NODES if dot else _FREE_FIELDS):
        return False
    if isinstance(value, str):
        return len(value) <= SETTING_MAX_CHARS and "://" not in value
    return isinstance(value, int | float)


def price_key(job: Job) -> str:
    """A key of the model and the parameters of ``job``: jobs with the same key cost the same."""
    settings = sorted((name, str(value)) for name, value in settings_of(job.input))
    text = msgspec.json.encode([job.model, settings])
    return hashlib.sha256(text).hexdigest()[:KEY_CHARS]


def prompt_of(inputs: Mapping[str, Any]) -> Any:
    """What a job is made from: its ``prompt``, or the first text that it gives a node of a workflow."""
    if "prompt" in inputs:
        return inputs["prompt"]
    places = ((node_and_name(path), value) for path, value in inputs.items() if is_override(path))
    texts = [
        (node_order(place[0]), place[1], value)
        for place, value in places
        if place is not None and isinstance(value, str) and place[1].lower().endswith(_TEXTS)
    ]
    return min(texts)[-1] if texts else None
