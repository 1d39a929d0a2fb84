"""Detects a file's type by its first bytes if its name is misleading, with the remedy."""

from __future__ import annotations

import re

from batcher.manifest.encodings import marked_encoding
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
