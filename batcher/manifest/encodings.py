"""Encodings: by byte-order mark, by a guess for bytes that are not UTF-8, and detection of mojibake.

The guess is limited to encodings that spreadsheets save in. A general detector (charset-normalizer was
tried) returns cp852 or cp1006 for a few words of French: tables of prompts are too short for it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping

SAMPLE_BYTES = 4096

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WESTERN = frozenset("äöüßÄÖÜéèêëàâçîïôûùñáíóúåøæœÅØÆÉÈÀÇÑãõìò“”„‘’–—…€£°«»¡¿·•×´\xa0")
_DOUBLED = re.compile(r"[^\W\x00-\x7f](?=[^\W\x00-\x7f])(?!ß)")
_MIXED = re.compile(r"[A-Za-z][А-я]|[А-я][A-Za-z]")
_CENTRAL = frozenset("ąćęłńóśźżĄĆĘŁŃÓŚŹŻáčďéěíňřšťúůýžÁČĎÉĚÍŇŘŠŤÚŮÝŽöőüűÖŐÜŰäôľĺŕ„”–…")


def _share_in(letters: frozenset[str]) -> Callable[[str], float]:
    """The share of ``letters``; in languages that use them, they are among plain ones."""

    def share(text: str) -> float:
        doubled = len(_DOUBLED.findall(text))
        return max(0, sum(char in letters for char in text) - doubled) / _foreign(text)

    return share


def _foreign(text: str) -> int:
    return sum(not char.isascii() for char in text)


def _cyrillic(text: str) -> float:
    """Lower case must dominate: the wrong one of two Cyrillic encodings shows it as capitals.

    No word may mix them with Latin letters, as Western words decoded in a Cyrillic encoding do.
    """
    letters = sum(1.0 if "а" <= c <= "я" else 0.5 if "А" <= c <= "Я" else 0.0 for c in text)
    return max(0.0, letters - 2 * len(_MIXED.findall(text))) / _foreign(text)


def _japanese(text: str) -> float:
    kana = sum("\u3040" <= char <= "\u30ff" for char in text)
    han = sum("\u3000" <= char <= "\u303f" or "\u4e00" <= char <= "\u9fff" for char in text)
    return (kana + han) / _foreign(text) if kana else 0.0


def _korean(text: str) -> float:
    return sum("\uac00" <= char <= "\ud7a3" for char in text) / _foreign(text)


def _common_in(encoding: str, first: int, last: int) -> Callable[[str], float]:
    """The share of characters in those rows of a Chinese set that contain the common ones."""

    def share(text: str) -> float:
        leads = (char.encode(encoding, "ignore")[0:1] for char in text)
        return sum(bool(lead) and first <= lead[0] <= last for lead in leads) / _foreign(text)

    return share


_CANDIDATES: Mapping[str, Callable[[str], float]] = {
    "cp932": _japanese,
    "cp949": _korean,
    "gb18030": _common_in("gb2312", 0xB0, 0xD7),
    "big5": _common_in("big5", 0xA4, 0xC6),
    "cp1252": _share_in(_WESTERN),
    "cp1251": _cyrillic,
    "cp1250": _share_in(_CENTRAL),
    "koi8-r": _cyrillic,
    "mac-roman": _share_in(_WESTERN),
}


def marked_encoding(head: bytes) -> str | None:
    """The encoding that a byte-order mark names; None for UTF-8, marked or not."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def likely_encoding(content: bytes) -> str | None:
    """The most plausible encoding of ``content``, which is not UTF-8; None if there is none."""
    sample = content[:SAMPLE_BYTES]
    scores = {name: _score(sample, name, rate) for name, rate in _CANDIDATES.items()}
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] > 0.5 else None


def _score(sample: bytes, encoding: str, rate: Callable[[str], float]) -> float:
    decoder = codecs.getincrementaldecoder(encoding)()  # the sample may end inside a character
    try:
        text = decoder.decode(sample)
    except UnicodeDecodeError:
        return 0.0
    return 0.0 if text.isascii() else rate(text)


def encoding_hint(content: bytes) -> str:
    """The remedy for ``content`` that is not UTF-8, to be appended to the problem."""
    if 4 * content[:SAMPLE_BYTES].count(0) > len(content[:SAMPLE_BYTES]):
        return "; it looks like UTF-16 without a byte-order mark: --encoding utf-16-le (or -be) reads it"
    likely = likely_encoding(content) or "NAME"
    guess = "" if likely == "NAME" else f"; it looks like {likely}"
    return f'{guess}: read it with --encoding {likely}, or save it in UTF-8 (in Excel: "CSV UTF-8")'
