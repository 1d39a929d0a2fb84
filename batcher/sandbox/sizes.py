"""The size and duration of an output, derived from the inputs like real models do."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from math import sqrt
from typing import Any

Value = Callable[[str], Any]
"""An input by its name, with the schema's default; None if there is neither."""

PICTURE_PIXELS, CLIP_PIXELS = 256 * 256, 256 * 144
"""The approximate number of pixels if only a shape is requested, not a size."""
SIDES = range(16, 4097)
DURATIONS_S = (0.1, 60.0)
DEFAULT_DURATION_S = 5.0

_SIZE = re.compile(r"(\d{2,4})\s*[x×*]\s*(\d{2,4})")
_RATIO = re.compile(r"(\d{1,4})\s*[:/]\s*(\d{1,4})")
_SECONDS = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)s?")
_STEEPEST = 8
_FEW_UNITS = 8
"""Below this, whole multiples of a ratio's terms would miss the number of pixels by too much."""


def size_of(value: Value, pixels: int, default: str) -> tuple[int, int]:
    """Width and height: as requested in pixels, or by the ``aspect_ratio``, or by the ``default`` one.

    Both are even. Of an aspect ratio, they are about as many ``pixels`` as given.
    """
    named = _match(_SIZE, value("size")) or _match(_SIZE, value("image_size"))
    sides = named.groups() if named else (value("width"), value("height"))
    if all(str(side).isdecimal() and int(side) in SIDES for side in sides):
        width, height = map(int, sides)
        return width - width % 2, height - height % 2
    return _shaped(value("aspect_ratio"), pixels) or _shaped(default, pixels) or (256, 256)


def duration_s_of(value: Value) -> float:
    """The ``duration`` in seconds, also from texts like "5" and "5s"; for others ("auto") a default."""
    asked = _match(_SECONDS, value("duration"))
    shortest_s, longest_s = DURATIONS_S
    return min(max(float(asked[1]), shortest_s), longest_s) if asked else DEFAULT_DURATION_S


def _match(pattern: re.Pattern[str], value: Any) -> re.Match[str] | None:
    return pattern.fullmatch(str(value).strip())


def _shaped(aspect_ratio: Any, pixels: int) -> tuple[int, int] | None:
    """The sides of "16:9" and the like; None for anything else. Exact for small terms."""
    asked = _match(_RATIO, aspect_ratio)
    if asked is None or not int(asked[1]) or not int(asked[2]):
        return None
    ratio = Fraction(int(asked[1]), int(asked[2]))
    if not Fraction(1, _STEEPEST) <= ratio <= _STEEPEST:
        return None
    unit = sqrt(pixels / (ratio.numerator * ratio.denominator))
    if unit < _FEW_UNITS:
        width = sqrt(pixels * ratio)
        return 2 * round(width / 2), 2 * round(width / ratio / 2)
    even = 2 * round(unit / 2)
    return ratio.numerator * even, ratio.denominator * even
