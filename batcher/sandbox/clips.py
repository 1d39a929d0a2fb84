"""Clips drawn for a prompt: a painted picture moving in waves, below a fixed caption."""

from __future__ import annotations

from functools import cache, lru_cache
from math import pi, sin
from typing import TYPE_CHECKING

from batcher.sandbox.h264 import (
    MACROBLOCK,
    SUBPEL,
    Planes,
    blocks,
    key_frame,
    moved_row,
    parameter_sets,
)
from batcher.sandbox.lettering import band
from batcher.sandbox.mp4 import TICKS_PER_S, box, movie, sample
from batcher.sandbox.pictures import PALETTES, captioned, paint, palette

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

FRAMES_PER_S = 15
_FRAME_TICKS = TICKS_PER_S // FRAMES_PER_S
_SWAY_S = 2.5
"""Approximate length of one wave, in seconds; rounded to whole waves per clip, so that it can loop."""
_SWAY_PX, _HEAVE_PX = 14.0, 5.0
_LAG = 0.15
"""How far each row of macroblocks is behind the one above, in radians."""
_MOTIONS_KEPT = 256


def draw_clip(
    rng: random.Random, size: tuple[int, int], duration_s: float, caption: str, label: str
) -> bytes:
    """An MP4 of (even) width × height and this duration, drawn with ``rng``.

    ``label`` (ASCII) goes into a box at the end that players skip (ISO 14496-12, 8.1.2).
    """
    width, height = size
    colours = rng.randrange(PALETTES)
    letters = band(caption, width, height)
    painted = paint(rng, blocks(width) * MACROBLOCK, blocks(height) * MACROBLOCK)
    first = key_frame(_planes(captioned(painted, letters), colours))
    duration_ticks = max(round(duration_s * TICKS_PER_S), 1)
    still = blocks(len(letters))
    later = _motion(blocks(width), blocks(height), still, -(-duration_ticks // _FRAME_TICKS))
    samples = (sample([first]), *later)
    made = movie(size, parameter_sets(*size), samples, _FRAME_TICKS, duration_ticks)
    return made + box(b"free", label.encode())


def _planes(rows: list[bytes], colours: int) -> Planes:
    luma, blue, red = _tables(colours)
    small = [row[::2] for row in rows[::2]]
    return Planes(
        [row.translate(luma) for row in rows],
        [row.translate(blue) for row in small],
        [row.translate(red) for row in small],
    )


@cache
def _tables(colours: int) -> tuple[bytes, ...]:
    """Each colour of a palette as luma, blue and red."""
    return tuple(map(bytes, zip(*(_ycbcr(*colour) for colour in palette(colours)), strict=True)))


def _ycbcr(red: int, green: int, blue: int) -> tuple[int, int, int]:
    """RGB to video colours (BT.601): luma 16 to 235, chroma 16 to 240."""
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    to_blue, to_red = (blue - luma) / 1.772, (red - luma) / 1.402
    return (
        round(16 + luma * 219 / 255),
        round(128 + to_blue * 224 / 255),
        round(128 + to_red * 224 / 255),
    )


@lru_cache(_MOTIONS_KEPT)
def _motion(across: int, down: int, still: int, count: int) -> tuple[bytes, ...]:
    """All frames but the first, of ``count``: the same for all clips of one shape and duration."""
    waves = max(round(count / (FRAMES_PER_S * _SWAY_S)), 1)
    return tuple(
        sample(_rows(across, down, still, (frame, 2 * pi * waves * frame / count)))
        for frame in range(1, count)
    )


def _rows(across: int, down: int, still: int, at: tuple[int, float]) -> Iterable[bytes]:
    frame, angle = at
    for row in range(down):
        behind = _LAG * row
        sway = _SWAY_PX * (sin(angle + behind) - sin(behind))
        heave = _HEAVE_PX * (sin(2 * angle + behind) - sin(behind))
        moved = (round(SUBPEL * sway), round(SUBPEL * heave)) if row >= still else (0, 0)
        yield moved_row(row, across, frame, moved)
