"""PNGs drawn for a prompt: a small deterministic painter on palette images, no imaging library.

It is fast because it never handles single pixels: the colour index at (x, y) is a wave over x, shifted
and then displaced by waves over y, so each row is one slice and one ``bytes.translate``.
"""

from __future__ import annotations

import random
import struct
import zlib
from functools import cache
from math import cos, pi, sin
from typing import TYPE_CHECKING

from batcher.sandbox.lettering import PAPER, band

if TYPE_CHECKING:
    from collections.abc import Callable

RING = 127
"""The number of colours in a cyclic gradient."""
INK_RGB = (250, 250, 246)
PALETTES = 100
_DIM = 0.35
"""The brightness of colours below a caption, as a share."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BIT_DEPTH, _PALETTE_COLOUR = 8, 3
_FASTEST = 1
_WAVES = 3
_MIDDLE = 128
_IDENTITY = bytes(range(RING)) * 4
_SHIFTS = [_IDENTITY[shift : shift + 256] for shift in range(RING)]
_DIMMED = bytes(range(RING, 2 * RING)).ljust(256, b"\0")


def draw_png(rng: random.Random, size: tuple[int, int], caption: str, label: str) -> bytes:
    """A PNG of width × height pixels, drawn with ``rng``, ``caption`` across its top.

    ``label`` (Latin-1) goes into a text chunk.
    """
    width, height = size
    header = struct.pack(">IIBBBBB", width, height, _BIT_DEPTH, _PALETTE_COLOUR, 0, 0, 0)
    colours = palette(rng.randrange(PALETTES))
    rows = captioned(paint(rng, width, height), band(caption, width, height))
    # Each row begins with the number of its filter: none.
    pixels = b"".join(b"\0" + row for row in rows)
    return _SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", bytes(channel for colour in colours for channel in colour)),
            _chunk(b"tEXt", b"Comment\0" + label.encode("latin-1")),
            _chunk(b"IDAT", zlib.compress(pixels, _FASTEST)),
            _chunk(b"IEND", b""),
        )
    )


@cache
def palette(number: int) -> tuple[tuple[int, ...], ...]:
    """One of PALETTES: RING colours, a cosine per channel, a little apart; the same, dim; ink."""
    rng = random.Random(number)  # noqa: S311 - a painter's dice
    first, apart = rng.random(), rng.uniform(0.06, 0.3) * rng.choice((-1, 1))
    channels = [(first + number * apart, rng.uniform(60, 125)) for number in range(3)]
    ring = [
        tuple(round(_MIDDLE + swing * cos(2 * pi * (index / RING + phase))) for phase, swing in channels)
        for index in range(RING)
    ]
    dim = [tuple(round(_DIM * channel) for channel in colour) for colour in ring]
    return (*ring, *dim, *[INK_RGB] * (256 - 2 * RING))


def captioned(rows: list[bytes], letters: list[bytes]) -> list[bytes]:
    """``rows``, dimmed below ``letters`` at the top, which are drawn in ink."""
    lettered = [
        _inked(row.translate(_DIMMED), ink.ljust(len(row), PAPER))
        for row, ink in zip(rows, letters, strict=False)
    ]
    return lettered + rows[len(lettered) :]


def _inked(row: bytes, ink: bytes) -> bytes:
    # All bits set is the colour of ink, and a row is or-ed faster as one number than byte by byte.
    return (int.from_bytes(row) | int.from_bytes(ink)).to_bytes(len(row))


def paint(rng: random.Random, width: int, height: int) -> list[bytes]:
    """Rows with an index into the RING for each pixel."""
    sway_px, bends = rng.randrange(max(width // 6, 1)), rng.uniform(0.5, 2.0)
    profile = rng.choice((_rolling, _rings))
    across, down = profile(rng, width + 2 * sway_px), profile(rng, height)
    wave = bytes(int(across(x)) % RING for x in range(width + 2 * sway_px))
    rows = []
    for y in range(height):
        left = sway_px + round(sway_px * sin(2 * pi * bends * y / height))
        rows.append(wave[left : left + width].translate(_SHIFTS[int(down(y)) % RING]))
    return rows


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _rolling(rng: random.Random, length: int) -> Callable[[float], float]:
    """A sum of a few sines over ``length`` pixels, some ``RING`` high."""
    waves = [
        (rng.uniform(0.5, 3.0) * 2 * pi / length, rng.uniform(0, 2 * pi), RING / (2 * n))
        for n in range(1, _WAVES + 1)
    ]
    return lambda at: sum(height * sin(pace * at + phase) for pace, phase, height in waves)


def _rings(rng: random.Random, length: int) -> Callable[[float], float]:
    """A parabola: two of them, across and down, add up to concentric rings."""
    centre = length * rng.uniform(0.3, 0.7)
    steepness = rng.uniform(2.0, 6.0) * RING / length**2
    return lambda at: steepness * (at - centre) ** 2
