"""What a look into a file found."""

from __future__ import annotations

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """Facts about one file, None where unknown, and what is wrong with it.

    ``width`` and ``height`` are pixels as shown; ``problems`` are words for people. ``judged`` is False
    for what nothing here can look into: an SVG, a sound, a picture beyond the decoder's limits.
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
