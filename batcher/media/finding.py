"""The result of inspecting a file."""

from __future__ import annotations

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """Facts about one file (None for each unknown one), and its problems.

    ``width`` and ``height`` are in pixels as displayed; ``problems`` are for people to read. ``judged``
    is False if no decoder here can check the file: an SVG, a sound, a picture above a decoder's limits.
    """

    media_type: str | None = None
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    fps: float | None = None
    problems: tuple[str, ...] = ()
    judged: bool = True


class BrokenFile(Exception):
    """The file breaks the rules of its format; the message says how."""
