"""The interface of an export format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

Filed = Iterator[tuple[dict[str, Any], Path]]
"""Rows, each with the path of its media file."""


class Writer(Protocol):
    """Writes one shard at a time. ``fingerprint`` changes if the same rows would give other bytes."""

    extension: str
    reads_media: bool
    fingerprint: str

    def write(self, path: Path, rows: Filed) -> None:
        """Write ``rows`` to the new file ``path``."""
        ...
