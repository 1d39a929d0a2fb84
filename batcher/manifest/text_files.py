"""Plain text: one prompt per line."""

from __future__ import annotations

import re
from collections.abc import Iterator

from batcher.manifest.files import ManifestFile
from batcher.manifest.rows import Remarks, Row
from batcher.schema.problems import shown

PROMPT = "prompt"
_MARK = re.compile(r"(?:[-*+\u2022]|[0-9]{1,6}[.)])\s+(?=\S)")
"""The prefix of an item in a list: a bullet, or its number."""


def text_rows(file: ManifestFile, remarks: Remarks) -> Iterator[Row]:
    """One row per line that is neither blank nor a comment. Raises ManifestError.

    If all lines begin like items of a list, bullets and numbers are removed.
    """
    is_list = _is_list(file)
    for number, line in enumerate(file.lines(), 1):
        text = line.strip()
        if _is_comment(text):
            what = "a line that begins with # is a comment and no job: "
            remarks.note(number, what, shown(text))
        elif text and is_list:
            plain = _MARK.sub("", text, count=1)
            remarks.note(number, "a list: its bullets or numbers are left out: ", shown(plain))
            yield Row(number, {PROMPT: plain})
        elif text:
            yield Row(number, {PROMPT: text})


def _is_comment(text: str) -> bool:
    return text.startswith("#") and not text.startswith("#\ufe0f")


def _is_list(file: ManifestFile) -> bool:
    texts = (text for line in file.lines() if (text := line.strip()) and not _is_comment(text))
    count = 0
    for text in texts:
        count += 1
        if not _MARK.match(text):
            return False
    return count > 1
