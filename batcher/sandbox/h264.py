"""A tiny H.264 encoder (ITU-T H.264, baseline): one uncompressed picture, then waves that displace it.

The first frame consists of I_PCM macroblocks: raw samples after two bytes of header. Every other frame
refers to it and only contains the displacement of each row of macroblocks, a few bytes per row. So a
clip costs hardly more than its first picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MACROBLOCK = 16
"""The side of a macroblock in luma samples; half of that in chroma samples."""
SUBPEL = 4
"""Displacements are in quarters of a sample."""

_SPS, _PPS, _IDR, _P = b"\x67", b"\x68", b"\x65", b"\x01"
"""First bytes of NAL units (7.3.1). The P slices are marked as not used for reference."""
_PROFILE = bytes((66, 0xC0, 30))
"""Constrained baseline, level 3."""
_FRAME_NUM_BITS, _ORDER_BITS = 4, 16
_P_SLICE, _I_SLICE = 0, 2
_I_PCM = 25
_PCM_PREFIX = b"\x0d\x00"
"""``mb_type`` of I_PCM and the padding to the next byte, where each macroblock but the first begins."""
_HALF = MACROBLOCK // 2
_ZEROS = re.compile(rb"\x00\x00(?=[\x00-\x03])")


@dataclass(frozen=True, slots=True)
class Planes:
    """A picture in 4:2:0: rows of samples between 1 and 255, of whole macroblocks."""

    luma: Sequence[bytes]
    blue: Sequence[bytes]
    red: Sequence[bytes]


def parameter_sets(width: int, height: int) -> tuple[bytes, bytes]:
    """Sequence and picture parameter set (7.3.2.1, 7.3.2.2) for frames of this (even) size."""
    across, down = blocks(width), blocks(height)
    cropped = ((across * MACROBLOCK - width) // 2, (down * MACROBLOCK - height) // 2)
    order = _ue(0) + _ue(_ORDER_BITS - 4)
    sequence = _ue(0) + _ue(_FRAME_NUM_BITS - 4) + order + _ue(1) + "0"
    sequence += _ue(across - 1) + _ue(down - 1) + "11"
    sequence += "1" + _ue(0) + _ue(cropped[0]) + _ue(0) + _ue(cropped[1])
    # The VUI (E.1.1) contains only this: no frame depends on a later one.
    sequence += "1" + "00000000" + "1" + "1" + _ue(0) * 2 + _ue(10) * 2 + _ue(0) + _ue(1)
    picture = _ue(0) * 2 + "00" + _ue(0) * 3 + "000" + _ue(0) * 3 + "100"
    return _nal(_SPS, _PROFILE + _trailed(sequence)), _nal(_PPS, _trailed(picture))


def blocks(samples: int) -> int:
    """The number of macroblocks that cover ``samples`` samples."""
    return -(-samples // MACROBLOCK)


def key_frame(planes: Planes) -> bytes:
    """The frame that shows ``planes``, as one NAL unit."""
    header = _slice_header(0, _I_SLICE, 0, 0) + _ue(_I_PCM)
    samples = _PCM_PREFIX.join(_macroblocks(planes))
    return _nal(_IDR, _bytes(header) + samples + b"\x80")


def moved_row(row: int, across: int, order: int, displaced: tuple[int, int]) -> bytes:
    """One row of macroblocks of frame ``order``: the first frame's, displaced by quarters of samples.

    It is a separate NAL unit, so that its vectors are predicted only from itself: all but the first are
    as predicted, which costs five bits each.
    """
    header = _slice_header(row * across, _P_SLICE, 1, order)
    if displaced == (0, 0):
        return _nal(_P, _trailed(header + _ue(across)))
    first = "11" + _se(-displaced[0]) + _se(-displaced[1]) + "1"
    return _nal(_P, _trailed(header + first + "11111" * (across - 1)))


def _slice_header(first_block: int, kind: int, frame_num: int, order: int) -> str:
    """The slice's header (7.3.3). Frames are shown in coding order."""
    bits = _ue(first_block) + _ue(kind) + _ue(0) + _u(frame_num, _FRAME_NUM_BITS)
    bits += _ue(0) if kind == _I_SLICE else ""
    bits += _u(2 * order, _ORDER_BITS)
    bits += "00"  # in the key frame: normal reference marking; in others: no change of references
    return bits + _se(0) + _ue(1)  # no deblocking


def _macroblocks(planes: Planes) -> list[bytes]:
    found = []
    for top in range(0, len(planes.luma), MACROBLOCK):
        half = top // 2
        luma = planes.luma[top : top + MACROBLOCK]
        chroma = [*planes.blue[half : half + _HALF], *planes.red[half : half + _HALF]]
        for left in range(0, len(luma[0]), MACROBLOCK):
            at = left // 2
            samples = [row[left : left + MACROBLOCK] for row in luma]
            samples += [row[at : at + _HALF] for row in chroma]
            found.append(b"".join(samples))
    return found


def _nal(first: bytes, payload: bytes) -> bytes:
    """A NAL unit, with emulation prevention bytes against false start codes (7.4.1)."""
    return first + _ZEROS.sub(b"\x00\x00\x03", payload)


def _trailed(bits: str) -> bytes:
    return _bytes(bits + "1")


def _bytes(bits: str) -> bytes:
    size_bytes = -(-len(bits) // 8)
    return int(bits.ljust(size_bytes * 8, "0"), 2).to_bytes(size_bytes, "big")


def _u(value: int, bits: int) -> str:
    return f"{value % (1 << bits):0{bits}b}"


def _ue(value: int) -> str:
    """An unsigned number as an Exp-Golomb code (9.1)."""
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def _se(value: int) -> str:
    """A signed one (9.1.1)."""
    return _ue(2 * value - 1 if value > 0 else -2 * value)
