"""Plain text: one prompt a line."""

from __future__ import annotations

from collections.abc import Iterator

from batcher.manifest.files import ManifestFile
from batcher.manifest.remarks import Remarks
from batcher.manifest.rows import Row
from batcher.schema.wording import shown

PROMPT = "prompt"


def text_rows(file: ManifestFile, remarks: Remarks) -> Iterator[Row]:
    """One row a line that is neither blank nor a comment. Raises ManifestError."""
    for number, line in enumerate(file.lines(), 1):
        text = line.strip()
        if text.startswith("#") and not text.startswith("#\ufe0f"):
            what = "a line that begins with # is a comment and no job: "
            remarks.note(number, what, shown(text))
        elif text:
            yield Row(number, {PROMPT: text})
