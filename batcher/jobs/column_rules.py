"""The role of each column of a file: by its header, and by the user's options.

A key of a JSON or YAML job is read like a table's header: trimmed, case-insensitive, a space is ``_``.
:class:`ColumnRules` remembers how the user wrote it, for models whose schema is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import NamedTuple

RESERVED = ("id", "model", "matrix", "vars", "repeat", "meta", "from", "input")
TYPES = ("int", "float", "bool", "json", "str", "list")
ALL = "*"
INPUT, META, VARS, KEY, IGNORED, NONE = "input", "meta", "vars", "key", "ignored", ""
"""Roles. ``KEY``: one of the reserved words. ``NONE``: a column without a header."""

_PREFIXED = re.compile(r"(meta|vars|input)\.(.+)", re.DOTALL)
_NUMBERED = re.compile(r"#[1-9][0-9]{0,4}")


def normal(name: str) -> str:
    """``name`` in the form used for comparison: trimmed, in lower case, each space a ``_``."""
    return "_".join(name.lower().split())


class Place(NamedTuple):
    """Where the values of a column go. ``spelling`` is ``name`` as the user wrote it, ``type`` the one
    that the header names; ``path`` are the keys of a mapping inside the input ``name``; ``renamed`` is
    set if the user chose the place.
    """

    role: str
    name: str
    spelling: str = ""
    type: str | None = None
    path: tuple[str, ...] = ()
    renamed: bool = False


@dataclass(frozen=True)
class Mapped:
    """The user's options about the columns of a file; each column as it was typed.

    A column is given by its whole header, by its name in any case, by ``#N`` (the N-th column of a
    table), or by its path in nested JSON (``body.prompt``). ``meta`` and ``ignore`` may contain ``*``:
    every column that is not an input of the model.
    """

    rename: tuple[tuple[str, str], ...] = ()
    vars: tuple[str, ...] = ()
    meta: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    @cached_property
    def _places(self) -> dict[str, Place]:
        """Places by header, both as typed and as compared. More specific options come later and win."""
        said: dict[str, Place] = {}
        for role, names in ((IGNORED, self.ignore), (META, self.meta), (VARS, self.vars)):
            for name in names:
                said[name] = said[normal(name)] = Place(role, normal(name), renamed=True)
        for name, target in self.rename:
            said[name] = said[normal(name)] = target_of(target)
        return said

    @cached_property
    def nested(self) -> frozenset[str]:
        """The keys whose mappings are split into fields, because an option names a path inside them."""
        paths = [name.split(".") for name in self._places if not _PREFIXED.fullmatch(name)]
        return frozenset(".".join(path[:depth]) for path in paths for depth in range(1, len(path)))

    @property
    def rest(self) -> str | None:
        """The role of inputs that the model doesn't have: ``META``, ``IGNORED``; None: an error."""
        if ALL in self.meta:
            return META
        return IGNORED if ALL in self.ignore else None

    @property
    def named(self) -> Iterator[str]:
        """Each column that is named, as it was typed."""
        renamed = (name for name, _ in self.rename)
        return (name for name in (*renamed, *self.vars, *self.meta, *self.ignore) if name != ALL)

    def place(self, header: str, number: int | None = None) -> Place | None:
        """The place that the options give column ``header``, the ``number``-th (from 1) of its table."""
        said = self._places
        if not said:
            return None
        by_number = said.get(f"#{number}") if number is not None else None
        name, _ = split_type(header)
        for key in (header, header.strip(), normal(header), normal(name)):
            if key in said:
                return _filled_in(by_number or said[key], header)
        return _filled_in(by_number, header) if by_number is not None else None


def _filled_in(place: Place, header: str) -> Place:
    """``place`` under the column's own name, if the option gave the column's number."""
    return place._replace(name=normal(header)) if _NUMBERED.fullmatch(place.name) else place


def split_type(header: str) -> tuple[str, str | None]:
    """A header's name and its type, if any (``seed:int``); any other colon is part of the name."""
    name, colon, type_ = header.rpartition(":")
    type_ = type_.strip().lower()
    return (name.strip(), type_) if colon and type_ in TYPES and name.strip() else (header.strip(), None)


def place_of(header: str) -> Place:
    """The place of a column by its header alone."""
    written, type_ = split_type(header)
    spelling = "_".join(written.split())
    name = spelling.lower()
    if match := _PREFIXED.fullmatch(name):
        return Place(match[1], match[2], spelling[match.start(2) :], type_)
    if name in RESERVED:
        return Place(KEY, name)
    return Place(INPUT if name else NONE, name, spelling, type_)


def target_of(text: str) -> Place:
    """The place that ``--rename COLUMN=text`` names: like a header, or with dots inside a mapping."""
    place = place_of(text)
    if place.role == INPUT and "." in place.name:
        spelling, *path = place.spelling.split(".")
        place = Place(INPUT, spelling.lower(), spelling, place.type, tuple(path))
    return place._replace(renamed=True)


class ColumnRules:
    """The rules for the columns of one file: of the command line, then of the enclosing ``from``.

    ``spelled`` maps each name in its compared form to the user's spelling, for all files of a manifest.
    """

    def __init__(self, *said: Mapped, outer: ColumnRules | None = None) -> None:
        self._said = said
        self.spelled: dict[str, str] = outer.spelled if outer is not None else {}
        self._seen: dict[str, None] = outer._seen if outer is not None else {}
        self._named: dict[str, None] = outer._named if outer is not None else {}
        self._named.update(dict.fromkeys(name for mapped in said for name in mapped.named))
        self._known: dict[str, Place] = {}

    def inside(self, mapped: Mapped) -> ColumnRules:
        """The rules for a file that a ``from`` entry includes with the options ``mapped``."""
        return ColumnRules(*self._said, mapped, outer=self)

    @property
    def rest(self) -> str | None:
        """The role of inputs that the model doesn't have."""
        return next((mapped.rest for mapped in self._said if mapped.rest is not None), None)

    def of_header(self, header: str, number: int) -> Place:
        """The place of the ``number``-th column (from 1) of a table."""
        self._seen[f"#{number}"] = None
        self._see(header)
        return self._spelled(self._said_of(header, number) or place_of(header))

    def of_key(self, key: str) -> Place:
        """The place of a key of a JSON or YAML job."""
        place = self._known.get(key)
        if place is None:
            self._see(key)
            place = self._known[key] = self._spelled(self._said_of(key, None) or place_of(key))
        return place

    def without_column(self) -> Iterator[tuple[str, str | None]]:
        """Columns that options name but no file read so far has, each with the nearest existing name."""
        for name in self._named:
            if name not in self._seen and normal(name) not in self._seen:
                near = get_close_matches(name, [seen for seen in self._seen if seen[:1] != "#"], n=1)
                yield name, near[0] if near else None

    def _see(self, header: str) -> None:
        name, _ = split_type(header)
        self._seen.update(dict.fromkeys((header, header.strip(), normal(header), normal(name))))

    def is_nested(self, key: str) -> bool:
        """Whether a mapping under ``key`` is split into fields."""
        return any(key in mapped.nested or normal(key) in mapped.nested for mapped in self._said)

    def input_named(self, name: str) -> str:
        """The name of an input in the form used for comparison."""
        return self._spelled(Place(INPUT, normal(name), "_".join(name.split()))).name

    def _spelled(self, place: Place) -> Place:
        if place.role == INPUT:
            self.spelled.setdefault(place.name, place.spelling)
        return place

    def _said_of(self, header: str, number: int | None) -> Place | None:
        for mapped in self._said:
            if (place := mapped.place(header, number)) is not None:
                return place
        return None
