"""Reads a file's headers without any library: its type, its pixel size, and whether it is complete."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from batcher.media.documents import DOCUMENT_TYPES
from batcher.media.file_types import HEAD_BYTES, MEDIA_TYPES, sniff
from batcher.media.finding import BrokenFile, Finding
from batcher.media.mp4 import read_movie
from batcher.media.wholeness import jpeg_is_whole, png_is_whole

SMALL_BYTES = 1 << 16
_DECODED = ("image/", "video/")
_SVG = "image/svg+xml"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})


def read_headers(path: Path) -> Finding:
    """The facts in the headers of ``path``. Violations of the format's rules are ``problems``."""
    with path.open("rb", buffering=0) as raw:
        begin = raw.read(SMALL_BYTES)
        # Each system call lets other threads run: a small file is read in one call.
        file = io.BytesIO(begin) if len(begin) < SMALL_BYTES else io.BufferedReader(raw)
        media_type = type_of(begin[:HEAD_BYTES], path.suffix)
        read = _READERS.get(media_type or "")
        if read is None:
            return _unread(media_type, path.suffix)
        file.seek(0)
        try:
            return read(file, media_type or "")
        except (BrokenFile, struct.error, IndexError) as error:
            what = str(error) if isinstance(error, BrokenFile) else "broken headers"
            return Finding(media_type, problems=(what,))


def _unread(media_type: str | None, suffix: str) -> Finding:
    """A file that can't be inspected. An image, video or sound without its signature is a problem."""
    if media_type is not None:
        return Finding(media_type, judged=media_type.startswith(_DECODED) and media_type != _SVG)
    named = MEDIA_TYPES.get(suffix)
    if named and named.startswith((*_DECODED, "audio/")) and suffix not in DOCUMENT_TYPES:
        return Finding(named, problems=("unknown format",))
    return Finding(named, judged=False)


def type_of(head: bytes, suffix: str) -> str | None:
    """The media type by the first bytes; the name decides between formats of one container."""
    signature = sniff(head)
    if signature is None:
        return None
    return MEDIA_TYPES[suffix if suffix in signature.family else signature.extension]


def _png(file: BinaryIO, media_type: str) -> Finding:
    width, height = struct.unpack(">II", file.read(24)[16:24])
    _check_end(file, png_is_whole)
    return Finding(media_type, width, height)


def _jpeg(file: BinaryIO, media_type: str) -> Finding:
    """Walk the segments to the frame header (ITU-T T.81, B.2.2)."""
    file.seek(2)
    while True:
        start, marker = file.read(2)
        if start != 0xFF:
            raise BrokenFile("broken headers")
        if marker in _JPEG_BARE:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if marker in _JPEG_FRAMES:
            _, height, width = struct.unpack(">BHH", file.read(5))
            _check_end(file, jpeg_is_whole)
            return Finding(media_type, width, height)
        file.seek(length - 2, os.SEEK_CUR)


def _gif(file: BinaryIO, media_type: str) -> Finding:
    width, height = struct.unpack("<HH", file.read(10)[6:10])
    return Finding(media_type, width, height)


def _webp(file: BinaryIO, media_type: str) -> Finding:
    head = file.read(30)
    (size_bytes,) = struct.unpack("<I", head[4:8])
    if size_bytes + 8 > file.seek(0, os.SEEK_END):
        raise BrokenFile("truncated")
    match head[12:16]:
        case b"VP8X":
            width = int.from_bytes(head[24:27], "little") + 1
            height = int.from_bytes(head[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            width, height = (side & 0x3FFF for side in struct.unpack("<HH", head[26:30]))
    return Finding(media_type, width, height)


def _check_end(file: BinaryIO, is_whole: Callable[[BinaryIO, int], bool]) -> None:
    """Whether the end marker is there; any bytes after it don't belong to the picture."""
    if not is_whole(file, file.seek(0, os.SEEK_END)):
        raise BrokenFile("truncated")


_READERS: dict[str, Callable[[BinaryIO, str], Finding]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/gif": _gif,
    "image/webp": _webp,
    "video/mp4": read_movie,
    "video/x-m4v": read_movie,
    "video/quicktime": read_movie,
}
