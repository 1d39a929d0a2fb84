"""Which columns have a value in the first bytes of a table of JSON lines.

Loaders infer a column's type from the first bytes alone: `datasets` reads 10 MB, and if a column is null
in all of them, it assumes that it is always null. A value further down is then an error. Therefore rows
with the first value of a column go to the front.
"""

from __future__ import annotations

from typing import Any

HEAD_BYTES = 8 << 20
"""Less than loaders read to infer types: 10 MB in `datasets`, in ``_read_metadata``."""


class TypedHead:
    """Counts the rows of a file in their order, and detects those that are too far down."""

    def __init__(self, size_bytes: int = HEAD_BYTES) -> None:
        self._left_bytes = size_bytes
        self._typed: set[str] = set()

    def take(self, row: dict[str, Any], line_bytes: int) -> bool:
        """Count the next row. True if it has the first value of a column, but is after the head."""
        late = self._left_bytes <= 0
        self._left_bytes -= line_bytes
        first = [name for name, value in row.items() if name not in self._typed and has_type(value)]
        self._typed.update(first)
        return late and bool(first)


def has_type(value: Any) -> bool:
    """Whether a value determines the type of its column: null and the empty list fit any."""
    return value is not None and value != []
