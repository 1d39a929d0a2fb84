"""Finds a table's header, and reports a table without one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from batcher.errors import ManifestError
from batcher.manifest.detect_format import KNOWN_NAMES, is_header
from batcher.schema.problems import shown

AGAIN = "the header again; take this row away"
TITLES_MAX = 10

_VALUE = re.compile(
    r"\s*(?:https?://|data:|[-+]?[0-9]+(?:[.,][0-9]+)?\s*$|\S+\.(?:png|jpe?g|webp|gif|mp4|mov|webm)\s*$)",
    re.IGNORECASE,
)
_LONG_CHARS = 40
_LONG_WORDS = 4

NumberedCells = tuple[int, list[str]]


def header_in(shown_as: str, first: Sequence[NumberedCells]) -> tuple[NumberedCells, list[str]]:
    """The header among the ``first`` rows that are not blank, and warnings about those above it.

    A title or a comment has one cell, and is above a row of column names. Raises ManifestError for a
    table without a header.
    """
    for number, (line, cells) in enumerate(first):
        if is_header(cells):
            above = first[:number]
            if all(_is_title(shown_cells, cells) for _, shown_cells in above):
                return (line, cells), list(_titles(shown_as, above))
            break
    line, cells = first[0]
    if (value := _value_in(cells)) is not None:
        what = f"{shown(value)} is no column name; put a line above: {','.join(_names_for(cells))}"
        raise ManifestError([f"{shown_as}:{line}: no header: {what}"])
    return (line, cells), []


def _titles(shown_as: str, above: Sequence[NumberedCells]) -> Iterator[str]:
    for line, cells in above:
        text = next((cell for cell in cells if cell.strip()), "")
        yield f"{shown_as}:{line}: taken for a title or a comment, not for the header: {shown(text)}"


def _is_title(cells: list[str], header: list[str]) -> bool:
    filled = [cell for cell in cells if cell.strip()]
    return cells[0].lstrip().startswith("#") or (len(filled) == 1 and len(header) > 1)


def _value_in(cells: list[str]) -> str | None:
    """A cell that can't be a column's name, if no cell has the name of an input."""
    names = {cell.strip().lower().replace(" ", "_").partition(":")[0] for cell in cells}
    if names & KNOWN_NAMES:
        return None
    found = (cell for cell in cells if _VALUE.match(cell) or _is_prose(cell))
    return next(found, None)


def _is_prose(cell: str) -> bool:
    return len(cell) > _LONG_CHARS or len(cell.split()) > _LONG_WORDS


def _names_for(cells: list[str]) -> Iterator[str]:
    """Names that the columns probably want."""
    taken: set[str] = set()
    for number, cell in enumerate(cells, 1):
        name = "image_url" if re.match(r"\s*\S+[:.]\S+\s*$", cell) else "prompt"
        yield name if name not in taken else f"column_{number}"
        taken.add(name)
