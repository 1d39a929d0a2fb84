"""Text in pictures: a bitmap font of 5×7 dots, in a band that is readable on a thumbnail."""

from __future__ import annotations

import textwrap
import unicodedata
from functools import cache
from math import isqrt

PAPER, INK = b"\0", b"\xff"
LINE_DOTS = 8
"""Rows of a line: seven for a letter, one for descenders (also the space between lines)."""

_COLUMNS, _CELL_DOTS = 5, 6
_FIRST = ord(" ")
_FONT = bytes.fromhex(
    "000000000000005f00000007000700147f147f14242a7f2a1223130864623649562050000807030000"
    "1c2241000041221c002a1c7f1c2a08083e0808008070300008080808080000606000201008040"
    "23e5149453e00427f4000724949494621414d4d331814127f1027454545393c4a4949314121110907"
    "3649494936464949291e0000140000004034000000081422411414141414004122140802015909063e"
    "415d594e7c1211127c7f494949363e414141227f4141413e7f494949417f090909013e414151737f08"
    "08087f00417f41002040413f017f081422417f404040407f021c027f7f0408107f3e4141413e7f09"
    "0909063e4151215e7f09192946264949493203017f01033f4040403f1f2040201f3f4038403f63140"
    "81463030478040361594d4543007f4141410204081020004141417f04020102044040404040000307"
    "080020545478407f284444383844444428384444287f385454541800087e090218a4a49c787f080404"
    "7800447d40002040403d007f1028440000417f40007c047804787c0804047838444444"
    "38fc18242418182424187c7c08040408485454542404043f44243c4040207c1c2040201c3c4030403c"
    "44281028444c9090907c4464544c4400083641000000770000004136080002010204"
    "02"
)
"""Printable ASCII from the space on, five bytes each: columns from the left, the lowest bit on top."""
_UNKNOWN = bytes.fromhex("7f4141417f")
_READABLE = 96
"""One pixel of a letter's dot per this many pixels of the picture's mean side."""
_ELLIPSIS = "..."
_CHARS_MAX = 2000


def band(text: str, width: int, height: int) -> list[bytes]:
    """``text`` as pixel rows of ``width`` bytes, each PAPER or INK, to lie over the top of a picture.

    The lines take at most half of the picture; longer text is drawn in smaller letters, then truncated
    with an ellipsis. Without text there are no rows.
    """
    plain = _plain(text)
    scale = max(2, isqrt(width * height) // _READABLE)
    lines = _wrapped(plain, width, height, scale)
    if lines and lines[-1].endswith(_ELLIPSIS):
        scale //= 2
        lines = _wrapped(plain, width, height, scale)
    rows = [row for line in lines for row in _drawn(line, width, scale)]
    margin = [PAPER * width] * scale
    return [*margin, *rows, *margin] if rows else []


def _plain(text: str) -> str:
    """``text`` without accents; characters that the font does not have are drawn as boxes."""
    apart = unicodedata.normalize("NFKD", text[:_CHARS_MAX])
    return "".join(char for char in apart if not unicodedata.combining(char))


def _wrapped(text: str, width: int, height: int, scale: int) -> list[str]:
    columns = max(width // (_CELL_DOTS * scale), len(_ELLIPSIS))
    most = max(height // 2 // (LINE_DOTS * scale), 1)
    return textwrap.wrap(text, columns, max_lines=most, placeholder=_ELLIPSIS)


def _drawn(line: str, width: int, scale: int) -> list[bytes]:
    glyphs = [_glyph(char, scale) for char in line]
    rows = [b"".join(glyph[dot] for glyph in glyphs)[:width] for dot in range(LINE_DOTS)]
    margin = (width - len(rows[0])) // 2
    return [(PAPER * margin + row).ljust(width, PAPER) for row in rows for _ in range(scale)]


@cache
def _glyph(char: str, scale: int) -> tuple[bytes, ...]:
    """The rows of one letter, each dot ``scale`` pixels wide, with the space after it."""
    at = (ord(char) - _FIRST) * _COLUMNS
    columns = _FONT[at : at + _COLUMNS] if 0 <= at < len(_FONT) else _UNKNOWN
    return tuple(
        b"".join((INK if column >> dot & 1 else PAPER) * scale for column in (*columns, 0))
        for dot in range(LINE_DOTS)
    )
