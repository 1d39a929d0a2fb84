"""Files that list job ids: one a line, or JSON lines."""

from __future__ import annotations

from pathlib import Path

import msgspec

from batcher.errors import UsageError


def ids_in(path: Path, option: str) -> frozenset[str]:
    """Job ids from a file: one a line, or the JSON lines that ``status --list`` prints."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option} @{path}: can't be read: {error}") from None
    ids = set()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("{"):
            try:
                text = msgspec.json.decode(text)["job"]
            except (msgspec.MsgspecError, KeyError, TypeError):
                raise UsageError(f"{path}:{number}: a JSON line without a job") from None
        if text:
            ids.add(text)
    return frozenset(ids)
