"""MP4 and QuickTime: reads the boxes with size and duration (ISO/IEC 14496-12); all are required."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from batcher.media.finding import BrokenFile, Finding

_CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl"})
TOP_LEVEL = frozenset(
    b"ftyp moov mdat free skip wide moof mfra sidx ssix styp uuid pdin meta udta emsg pnot prft".split()
)
_MAX_HEADER_BYTES = 64 << 20
_FIXED_POINT = 1 << 16
_LONG_SIZE, _TO_THE_END = 1, 0


class Box(NamedTuple):
    kind: bytes
    start: int
    end: int


class _Track:
    """The facts in the boxes of one track."""

    def __init__(self) -> None:
        self.is_video = False
        self.width = self.height = self.frames = 0
        self.duration_s = 0.0

    def take(self, kind: bytes, body: bytes) -> None:
        match kind:
            case b"tkhd":
                self.width, self.height = _shown_size(body)
            case b"hdlr":
                # QuickTime has a second one, in minf, that names the data handler.
                self.is_video = self.is_video or body[8:12] == b"vide"
            case b"mdhd":
                self.duration_s = _duration_s(body)
            case b"stts":
                (count,) = struct.unpack(">I", body[4:8])
                self.frames = sum(n for n, _ in struct.iter_unpack(">II", body[8 : 8 + 8 * count]))


def read_movie(file: BinaryIO, media_type: str) -> Finding:
    """Facts about the first video track. Raises BrokenFile for a file that is cut off or has none."""
    size = file.seek(0, os.SEEK_END)
    movie = None
    for box in boxes(file, 0, size):
        if box.end > size and movie is not None and box.kind not in TOP_LEVEL:
            break  # bytes after the end, which players ignore
        if box.end > size:
            raise BrokenFile("truncated")
        if box.kind == b"moov":
            movie = box
    if movie is None or movie.end - movie.start > _MAX_HEADER_BYTES:
        raise BrokenFile("no movie header")
    duration_s, tracks = _movie(file, movie)
    video = next((track for track in tracks if track.is_video), None)
    if video is None:
        raise BrokenFile("no video track")
    fps = round(video.frames / video.duration_s, 3) if video.duration_s and video.frames else None
    return Finding(
        media_type, video.width or None, video.height or None, round(duration_s, 3) or None, fps
    )


def _movie(file: BinaryIO, movie: Box) -> tuple[float, list[_Track]]:
    """Duration in seconds, and the tracks."""
    duration_s, tracks = 0.0, []
    for kind, body in _walk(file, movie):
        if kind == b"mvhd":
            duration_s = _duration_s(body)
        elif kind == b"trak":
            tracks.append(_Track())
        elif tracks:
            tracks[-1].take(kind, body)
    return duration_s, tracks


def _walk(file: BinaryIO, parent: Box) -> Iterator[tuple[bytes, bytes]]:
    """The boxes under ``parent``, in order: a container without its body, others with it."""
    for box in boxes(file, parent.start, parent.end):
        if box.end > parent.end:
            raise BrokenFile("broken headers")
        if box.kind in _CONTAINERS:
            yield box.kind, b""
            yield from _walk(file, box)
        else:
            file.seek(box.start)
            yield box.kind, file.read(box.end - box.start)


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[Box]:
    """The boxes from ``start``; the last one may end after ``end``. Raises BrokenFile."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        header = 8
        if size == _LONG_SIZE:
            (size,) = struct.unpack(">Q", file.read(8))
            header = 16
        elif size == _TO_THE_END:
            size = end - start
        if size < header:
            raise BrokenFile("broken headers")
        yield Box(kind, start + header, start + size)
        start += size


def _duration_s(body: bytes) -> float:
    """Of ``mvhd`` and ``mdhd``, which begin alike; version 1 has 64-bit times."""
    layout, at = (">IQ", 20) if body[0] == 1 else (">II", 12)
    timescale, duration = struct.unpack_from(layout, body, at)
    return duration / timescale if timescale else 0.0


def _shown_size(body: bytes) -> tuple[int, int]:
    """Pixels of ``tkhd``, after its matrix: a quarter turn swaps them."""
    at = 52 if body[0] == 1 else 40
    (a, b) = struct.unpack_from(">ii", body, at)
    width, height = (side // _FIXED_POINT for side in struct.unpack_from(">II", body, at + 36))
    return (height, width) if a == 0 and b else (width, height)
