"""Compares an output with the job's inputs: duration, size, aspect ratio.

Only inputs whose names mean the same for every model are used. A model that keeps the shape of its input
image has no ``aspect_ratio``, and then nothing is compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from batcher.media.finding import Finding

_DURATIONS = ("duration", "duration_s", "duration_seconds", "seconds", "video_length")
_SIZES = ("size", "image_size", "resolution")
_SIZE = re.compile(r"(\d{2,5})\s*[x×*]\s*(\d{2,5})")
_RATIO = re.compile(r"(\d{1,3})\s*[:/]\s*(\d{1,3})")
_SHAPE_TOLERANCE = 0.05
"""Models round sides to multiples of 8 to 64."""
_DURATION_TOLERANCE, _DURATION_SLACK_S = 0.1, 0.5


def differences(found: Finding, inputs: dict[str, Any]) -> Iterator[str]:
    """Descriptions of how ``found`` differs from ``inputs``; empty if it doesn't."""
    if found.duration_s is not None and (found.media_type or "").startswith("video/"):
        yield from _duration(found.duration_s, inputs)
    if found.width and found.height:
        yield from _shape(found.width, found.height, inputs)


def _duration(duration_s: float, inputs: dict[str, Any]) -> Iterator[str]:
    asked_s = next((number for name in _DURATIONS if (number := _number(inputs.get(name)))), None)
    if asked_s is None:
        return
    if abs(duration_s - asked_s) > max(_DURATION_SLACK_S, _DURATION_TOLERANCE * asked_s):
        yield f"{duration_s:g} s instead of {asked_s:g} s"


def _shape(width: int, height: int, inputs: dict[str, Any]) -> Iterator[str]:
    asked = _asked_size(inputs)
    if asked is not None:
        if any(abs(a - b) > _SHAPE_TOLERANCE * b for a, b in zip((width, height), asked, strict=True)):
            yield f"{width}×{height} instead of {asked[0]}×{asked[1]}"
        return
    ratio = _RATIO.fullmatch(str(inputs.get("aspect_ratio", "")).strip())
    if ratio is None or not int(ratio[2]) or not int(ratio[1]):
        return
    wanted = int(ratio[1]) / int(ratio[2])
    if abs(width / height - wanted) > _SHAPE_TOLERANCE * wanted:
        yield f"{width}×{height} instead of {ratio[0]}"


def _asked_size(inputs: dict[str, Any]) -> tuple[int, int] | None:
    width, height = _number(inputs.get("width")), _number(inputs.get("height"))
    if width and height:
        return int(width), int(height)
    for name in _SIZES:
        value = inputs.get(name)
        if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
            return int(match[1]), int(match[2])
    return None


def _number(value: Any) -> float | None:
    """A positive number, given as a number or as text in the form of some schemas ("5", "5s")."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?s?", value):
        value = float(value.removesuffix("s"))
    return float(value) if isinstance(value, int | float) and value > 0 else None
