"""Reads files of job ids: one per line, or JSON lines."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

import msgspec

from batcher.errors import UsageError

IDS_SHOWN = 5
_COMMENT = re.compile(r"(?:^|\s)#.*")
_QUOTES = "\"'"


def ids_in(path: Path, option: str) -> frozenset[str]:
    """Job ids from a file: one per line, or the JSON lines that ``status --list`` prints.

    Accepts byte-order marks, any line endings, blank lines, ``#`` comments, quotes around an id, and
    more cells after it. Raises UsageError.
    """
    try:
        content = path.read_bytes()
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = content.decode("utf-16" if wide else "utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"{option} @{path}: can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{option} @{path}: can't be read: not text in UTF-8 or UTF-16") from None
    ids = set()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("{"):
            try:
                text = msgspec.json.decode(text)["job"]
            except (msgspec.MsgspecError, KeyError, TypeError):
                raise UsageError(f"{path}:{number}: a JSON line without a job") from None
        else:
            text = _first_cell(_COMMENT.sub("", text))
        if text:
            ids.add(unicodedata.normalize("NFC", text))
    return frozenset(ids)


def _first_cell(text: str) -> str:
    """The text before the first comma or tab, without quotes: no id contains any of these."""
    cell = re.split(r"[,;\t]", text, maxsplit=1)[0].strip()
    if len(cell) > 1 and cell[0] in _QUOTES and cell[-1] == cell[0]:
        cell = cell[1:-1].strip()
    return cell


def strangers(option: str, ids: set[str], where: str) -> str:
    """A message about ``ids`` that are not jobs of ``where``."""
    shown = ", ".join(sorted(ids)[:IDS_SHOWN]) + (", ..." if len(ids) > IDS_SHOWN else "")
    verb = "names" if len(ids) == 1 else "name"
    return f"{option}: {len(ids)} of the ids {verb} no job of {where}: {shown}"
