"""Detects what a file is by its first bytes: its format, its encoding, and what it is by mistake.

The guess of an encoding is limited to those that spreadsheets save in. A general detector (charset-
normalizer was tried) returns cp852 or cp1006 for a few words of French: tables of prompts are too
short for it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping

from batcher.manifest.media import media_type_of

_XLSX = "an Excel workbook (XLSX)"
_CONVERT = "save it as CSV"

_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip", "add .gz to its name"),
    (b"BZh", "bzip2", "unpack it, or: bzcat {name} | batcher plan - --format csv"),
    (b"\xfd7zXZ", "xz", "unpack it, or: xzcat {name} | batcher plan - --format csv"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "unpack it, or: zstdcat {name} | batcher plan - --format csv"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"PAR1", "Parquet", "read it with --format parquet"),
    (b"ARROW1", "Arrow (Feather)", "save it as Parquet or CSV"),
    (b"%PDF-", "a PDF", f"copy its table into a sheet and {_CONVERT}"),
    (b"SQLite format 3\0", "an SQLite database", "sqlite3 -csv -header {name} 'SELECT ...' > jobs.csv"),
    (b"{\\rtf", "rich text (RTF)", "save it as plain text"),
    (b"\xd0\xcf\x11\xe0", "an old Office file (XLS, DOC)", "save it as XLSX or CSV"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer", "fetch the file: git lfs pull"),
    (b"\x93NUMPY", "a NumPy array", _CONVERT),
)
_ZIPPED: tuple[tuple[bytes, str, str], ...] = (
    (b"xl/", _XLSX, "read it with --format xlsx"),
    (b"opendocument.spreadsheet", "an OpenDocument sheet (ODS)", "save it as XLSX or CSV"),
    (b"Index/", "a Numbers document", "export it as CSV"),
    (b"word/", "a Word document", "save it as plain text"),
)
_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body)[\s>]", re.IGNORECASE)
_RULE = re.compile(r"\|?(?:\s*:?-{2,}:?\s*\|)+(?:\s*:?-{2,}:?)?\s*")
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


def mistaken(head: bytes, name: str) -> str | None:
    """The type of the file ``name``, and the remedy, if its ``head`` is not the text of a manifest."""
    for signature, what, remedy in _SIGNATURES:
        if head.startswith(signature):
            return f"this is {what}; {remedy.format(name=name)}"
    if head.startswith(b"PK\x03\x04"):
        inside = next((row for row in _ZIPPED if row[0] in head), None)
        _, what, remedy = inside or (b"", "a ZIP archive", "unpack it")
        return f"this is {what}; {remedy}"
    if (media_type := media_type_of(head)) is not None and not head.startswith(b"BM"):
        return f"this is {media_type}, not a manifest"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if _HTML.match(text):
        return "this is an HTML page, not a manifest; download the raw file"
    if text.startswith(b"<?xml"):
        return f"this is XML; {_CONVERT}"
    if _is_markdown(head):
        return "this is a Markdown table; make it CSV: commas for the bars, and no line of dashes"
    return None


def looks_like(head: bytes) -> str:
    """The format of text whose name doesn't tell: csv, tsv, json, jsonl, yaml or txt."""
    lines = [line for line in text_of(head).splitlines() if line.strip()]
    first = lines[0].strip() if lines else ""
    if first[:1] == "[" or first == "{":
        return "json"
    if first[:1] == "{":
        return "jsonl"
    if re.match(r"(?:jobs|defaults|model|name):(?:\s|$)|---$", first):
        return "yaml"
    if first.strip('"').lower() in ("prompt", "prompts", "text", "caption"):
        return "csv"
    for delimiter, name in (("\t", "tsv"), (",", "csv"), (";", "csv"), ("|", "csv")):
        if delimiter in first and is_header(first.split(delimiter)):
            return name
    return "txt"


def text_of(head: bytes) -> str:
    """The beginning of a file as text, ignoring decoding errors."""
    return head.decode(marked_encoding(head) or "utf-8-sig", "replace")


def is_header(cells: list[str]) -> bool:
    """Whether ``cells`` can only be column names: short words, with at least one usual input name."""
    names = [cell.strip().strip('"').strip().lower().replace(" ", "_") for cell in cells]
    words = all(re.fullmatch(r"[\w.:()#/-]{0,40}", name) for name in names)
    return words and any(name.partition(":")[0] in KNOWN_NAMES for name in names)


KNOWN_NAMES = frozenset(
    {"prompt", "prompts", "negative_prompt", "text", "caption", "image", "image_url", "images"}
    | {"image_urls", "video", "video_url", "audio_url", "file_name", "id", "seed", "duration"}
    | {"aspect_ratio", "model", "title", "description", "url", "style", "name"}
)
"""Usual names of columns with prompts and media."""


def _is_markdown(head: bytes) -> bool:
    lines = text_of(head[:4096]).lstrip().splitlines()
    return len(lines) > 1 and "|" in lines[0] and _RULE.fullmatch(lines[1].strip()) is not None


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
