"""PNGs drawn from a prompt: a small deterministic painter on palette images, no imaging library.

Speed comes from never touching a pixel: the colour index at (x, y) is a wave over x, shifted and
then displaced by waves over y, so each row is one slice and one ``bytes.translate``.
"""

from __future__ import annotations

import struct
import zlib
from math import cos, pi, sin
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

COLOURS = 256
SIDES_BY_ASPECT = {
    "1:1": (256, 256),
    "16:9": (320, 180),
    "9:16": (180, 320),
    "4:3": (320, 240),
    "3:4": (240, 320),
}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BIT_DEPTH, _PALETTE_COLOUR = 8, 3
_FASTEST = 1
_WAVES = 3
_MIDDLE = 128
_IDENTITY = bytes(range(COLOURS)) * 2
_SHIFTS = [_IDENTITY[shift : shift + COLOURS] for shift in range(COLOURS)]


def draw_png(rng: random.Random, aspect_ratio: str, label: str) -> bytes:
    """A PNG of the size that belongs to ``aspect_ratio`` ("16:9"; others: square).

    The picture is drawn with ``rng``; ``label`` (Latin-1) goes into a text chunk.
    """
    width, height = SIDES_BY_ASPECT.get(aspect_ratio, SIDES_BY_ASPECT["1:1"])
    header = struct.pack(">IIBBBBB", width, height, _BIT_DEPTH, _PALETTE_COLOUR, 0, 0, 0)
    palette, rows = _palette(rng), _rows(rng, width, height)
    return _SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", palette),
            _chunk(b"tEXt", b"Comment\0" + label.encode("latin-1")),
            _chunk(b"IDAT", zlib.compress(rows, _FASTEST)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _palette(rng: random.Random) -> bytes:
    """A ring of colours (the last runs into the first): a cosine per channel, a little apart."""
    first, apart = rng.random(), rng.uniform(0.06, 0.3) * rng.choice((-1, 1))
    channels = [(first + number * apart, rng.uniform(60, 125)) for number in range(3)]
    return bytes(
        round(_MIDDLE + swing * cos(2 * pi * (index / COLOURS + phase)))
        for index in range(COLOURS)
        for phase, swing in channels
    )


def _rows(rng: random.Random, width: int, height: int) -> bytes:
    """The image data: each row is a filter byte (0: none) and one colour index per pixel."""
    sway_px, bends = rng.randrange(width // 6), rng.uniform(0.5, 2.0)
    profile = rng.choice((_rolling, _rings))
    across, down = profile(rng, width + 2 * sway_px), profile(rng, height)
    wave = bytes(int(across(x)) % COLOURS for x in range(width + 2 * sway_px))
    rows = []
    for y in range(height):
        left = sway_px + round(sway_px * sin(2 * pi * bends * y / height))
        rows.append(b"\0" + wave[left : left + width].translate(_SHIFTS[int(down(y)) % COLOURS]))
    return b"".join(rows)


def _rolling(rng: random.Random, length: int) -> Callable[[float], float]:
    """A sum of a few sines over ``length`` pixels, some ``COLOURS`` high."""
    waves = [
        (rng.uniform(0.5, 3.0) * 2 * pi / length, rng.uniform(0, 2 * pi), COLOURS / (2 * n))
        for n in range(1, _WAVES + 1)
    ]
    return lambda at: sum(height * sin(pace * at + phase) for pace, phase, height in waves)


def _rings(rng: random.Random, length: int) -> Callable[[float], float]:
    """A parabola: two of them, across and down, add up to concentric rings."""
    centre = length * rng.uniform(0.3, 0.7)
    steepness = rng.uniform(2.0, 6.0) * COLOURS / length**2
    return lambda at: steepness * (at - centre) ** 2
