"""Whether a file is complete by the rules of its format, and whether its end is surely missing.

The first is for downloads without a Content-Length, the second for files of the user's. A body without
a length ends with its connection, even if that broke. Only a format that marks its own end can show that
nothing is missing; for all others the answer is no.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from batcher.media.finding import BrokenFile
from batcher.media.mp4 import TOP_LEVEL, boxes

PIECE_BYTES: Final = 1 << 20
TAIL_BYTES: Final = 1 << 16
JSON_MAX_BYTES: Final = 64 << 20
_LONG_SIZE: Final = 1
_STL_HEAD_BYTES, _STL_FACE_BYTES = 84, 50


def is_whole(path: Path, extension: str) -> bool:
    """Whether the file at ``path``, in the format that ``extension`` names, is complete by its content.

    Raises OSError.
    """
    check = _CHECKS.get(extension)
    if check is None:
        return False
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        try:
            return check(file, size)
        except (struct.error, ValueError, IndexError, RecursionError, zlib.error):
            return False


def is_torn(path: Path, media_type: str) -> bool:
    """Whether the end of a picture or video is missing; False if that is not certain. Raises OSError."""
    check = _TORN.get(media_type)
    if check is None:
        return False
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        try:
            return check(file, size)
        except (struct.error, ValueError, IndexError, BrokenFile):
            return False


def _picture_is_torn(file: BinaryIO, size: int, extension: str, endings: tuple[bytes, ...]) -> bool:
    file.seek(max(0, size - TAIL_BYTES))
    if endings and file.read().rstrip(b"\0\r\n").endswith(endings):
        return False
    file.seek(0)
    try:
        return not _CHECKS[extension](file, size)
    except (struct.error, ValueError, IndexError):
        return True


def _movie_is_torn(file: BinaryIO, size: int) -> bool:
    """A box ends behind the end of the file, or there is no description, or nothing is described."""
    kinds = set()
    for box in boxes(file, 0, size):
        if box.end > size:
            return b"moov" not in kinds or box.kind in TOP_LEVEL  # else bytes that players ignore
        kinds.add(box.kind)
    return b"moov" not in kinds or not kinds & {b"mdat", b"moof"}


def _segment_is_torn(file: BinaryIO, size: int) -> bool:
    """The segment's size is known, and not reached."""
    end = _segment_end(file)
    return end is not None and end > size


def png_is_whole(file: BinaryIO, size: int) -> bool:
    """Whether all chunks up to the last one are there; bytes after it are ignored."""
    at = 8
    while at + 12 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        at += 12 + length
        if kind == b"IEND":
            return bool(at <= size)
    return False


def jpeg_is_whole(file: BinaryIO, size: int) -> bool:
    """Walk the segments (ITU-T T.81, B.1): an end marker inside a thumbnail doesn't count."""
    at = 2
    while at + 2 <= size:
        file.seek(at)
        start, marker = file.read(2)
        if start != 0xFF:
            return False
        if marker == 0xD9:
            return True
        at += 2
        if marker == 0xFF:
            at -= 1
        elif marker != 0x01 and not 0xD0 <= marker <= 0xD8:
            (length,) = struct.unpack(">H", file.read(2))
            at += length
            if marker == 0xDA:
                at = _end_of_scan(file, at)
    return False


def _end_of_scan(file: BinaryIO, at: int) -> int:
    """The offset of the next marker that is neither a stuffed byte nor a restart."""
    file.seek(at)
    carried = b""
    while piece := file.read(PIECE_BYTES):
        data = carried + piece
        found = data.find(b"\xff")
        while 0 <= found < len(data) - 1:
            if data[found + 1] != 0 and not 0xD0 <= data[found + 1] <= 0xD7:
                return at + found
            found = data.find(b"\xff", found + 2)
        carried = b"\xff" if found == len(data) - 1 else b""
        at += len(data) - len(carried)
    return at


def _gif(file: BinaryIO, size: int) -> bool:
    data = file.read()
    at = 13 + _colours(data[10])
    while at < size:
        kind = data[at]
        if kind == 0x3B:
            return True
        if kind == 0x21:
            at = _blocks(data, at + 2)
        elif kind == 0x2C:
            at = _blocks(data, at + 11 + _colours(data[at + 9]))
        else:
            return False
    return False


def _colours(flags: int) -> int:
    """Bytes of the colour table that ``flags`` announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += data[at] + 1
    return at + 1


def _riff(file: BinaryIO, size: int) -> bool:
    head = file.read(12)
    (length,) = struct.unpack("<I" if head[:4] == b"RIFF" else ">I", head[4:8])
    return bool(0 < length != 0xFFFFFFFF and 8 + length <= size)


def _boxes(file: BinaryIO, size: int) -> bool:
    """ISO media: every box is complete, and both the description and the content are there.

    More fragments may always follow: only the index at the end shows that none is missing.
    """
    kinds: dict[bytes, None] = {}
    at = 0
    while at < size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == _LONG_SIZE:
            (length,) = struct.unpack(">Q", file.read(8))
        if length < 8 or at + length > size:  # 0: it reaches to the end, wherever that is
            return False
        kinds.pop(kind, None)
        kinds[kind] = None  # the index comes last
        at += length
    if b"moof" in kinds:
        return next(reversed(kinds)) == b"mfra"
    described = b"moov" in kinds or b"meta" in kinds
    return (described and b"mdat" in kinds) or b"jxlc" in kinds


def _declared(layout: str, at: int) -> Callable[[BinaryIO, int], bool]:
    """Returns a check of a size that the header holds at ``at``."""

    def check(file: BinaryIO, size: int) -> bool:
        file.seek(at)
        (length,) = struct.unpack(layout, file.read(struct.calcsize(layout)))
        return bool(0 < length <= size)

    return check


def _zip(file: BinaryIO, size: int) -> bool:
    """The end of the central directory is at the offset that it gives (APPNOTE 4.3.16)."""
    start = max(0, size - TAIL_BYTES - 22)
    file.seek(start)
    tail = file.read()
    found = tail.rfind(b"PK\x05\x06")
    length, offset, comment = struct.unpack_from("<IIH", tail, found + 12)
    ends = start + found + 22 + comment == size
    return found >= 0 and ends and (offset == 0xFFFFFFFF or offset + length <= start + found)


def _ends_with(*endings: bytes) -> Callable[[BinaryIO, int], bool]:
    def check(file: BinaryIO, size: int) -> bool:
        file.seek(max(0, size - TAIL_BYTES))
        return file.read().rstrip(b"\0 \t\r\n").lower().endswith(endings)

    return check


def _json(file: BinaryIO, size: int) -> bool:
    """A list or an object, since a truncated number would still be a number."""
    return size <= JSON_MAX_BYTES and isinstance(
        json.loads(file.read().decode("utf-8-sig")), dict | list
    )


def _gzip(file: BinaryIO, size: int) -> bool:
    """All members end, with their checksums (RFC 1952)."""
    unpacker = zlib.decompressobj(31)
    while piece := file.read(PIECE_BYTES):
        while piece:
            unpacker.decompress(piece, PIECE_BYTES)
            while unpacker.unconsumed_tail:
                unpacker.decompress(unpacker.unconsumed_tail, PIECE_BYTES)
            piece = unpacker.unused_data
            if piece and unpacker.eof:
                unpacker = zlib.decompressobj(31)
    return unpacker.eof


def _ogg(file: BinaryIO, size: int) -> bool:
    """The last page is marked as the last, and all of it is there (RFC 3533, section 6)."""
    last = b""
    for page, body in _pages(file, size):
        if body > size:
            return False
        last = page
    return bool(last and last[5] & 4)


def _pages(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Each page's header, and where its body ends."""
    at = 0
    while at + 27 <= size:
        file.seek(at)
        header = file.read(27)
        if header[:4] != b"OggS":
            raise ValueError
        at += 27 + header[26] + sum(file.read(header[26]))
        yield header, at


def _matroska(file: BinaryIO, size: int) -> bool:
    """The segment's size is known and reached (RFC 9559)."""
    end = _segment_end(file)
    return end is not None and end <= size


def _segment_end(file: BinaryIO) -> int | None:
    """The offset at which the segment ends; None if its size is unknown, or it isn't found."""
    at, head = 0, file.read(1 << 12)
    while at < len(head):
        length_at = at + _vint_bytes(head[at])
        width = _vint_bytes(head[length_at])
        value = int.from_bytes(head[length_at : length_at + width]) & ((1 << 7 * width) - 1)
        body = length_at + width
        if head[at:length_at] == b"\x18\x53\x80\x67":
            return None if value == (1 << 7 * width) - 1 else body + value
        at = body + value
    return None


def _vint_bytes(first: int) -> int:
    if not first:
        raise ValueError
    return 9 - first.bit_length()


def _stl(file: BinaryIO, size: int) -> bool:
    head = file.read(_STL_HEAD_BYTES)
    if head.startswith(b"solid"):
        file.seek(max(0, size - TAIL_BYTES))
        return b"endsolid" in file.read()
    (faces,) = struct.unpack_from("<I", head, 80)
    return bool(size == _STL_HEAD_BYTES + faces * _STL_FACE_BYTES)


def _safetensors(file: BinaryIO, size: int) -> bool:
    (length,) = struct.unpack("<Q", file.read(8))
    if not 0 < length <= min(size, JSON_MAX_BYTES):
        return False
    tensors = json.loads(file.read(length))
    ends = [one["data_offsets"][1] for name, one in tensors.items() if name != "__metadata__"]
    return bool(8 + length + max(ends, default=0) == size)


_CHECKS: Final[dict[str, Callable[[BinaryIO, int], bool]]] = {
    ".png": png_is_whole,
    **dict.fromkeys((".jpg", ".jpeg"), jpeg_is_whole),
    ".gif": _gif,
    **dict.fromkeys((".webp", ".wav", ".avi", ".aiff"), _riff),
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".m4a", ".3gp", ".heic", ".heif", ".avif", ".jxl"), _boxes),
    ".bmp": _declared("<I", 2),
    ".glb": _declared("<I", 8),
    **dict.fromkeys((".zip", ".usdz", ".3mf", ".npz", ".pt", ".pth", ".docx", ".xlsx", ".pptx"), _zip),
    ".pdf": _ends_with(b"%%eof"),
    ".svg": _ends_with(b"</svg>"),
    **dict.fromkeys((".json", ".geojson", ".gltf"), _json),
    **dict.fromkeys((".gz", ".tgz", ".spz"), _gzip),
    **dict.fromkeys((".ogg", ".oga", ".ogv", ".opus"), _ogg),
    **dict.fromkeys((".webm", ".mkv"), _matroska),
    ".stl": _stl,
    ".safetensors": _safetensors,
    ".parquet": _ends_with(b"par1"),
    ".qoi": lambda file, size: file.seek(max(0, size - 8)) >= 0 and file.read() == b"\0" * 7 + b"\1",
}
_TORN: Final[dict[str, Callable[[BinaryIO, int], bool]]] = {
    # With the usual last bytes: a file that has them needs no look at the rest.
    "image/png": partial(_picture_is_torn, extension=".png", endings=(b"IEND\xaeB`\x82",)),
    "image/jpeg": partial(_picture_is_torn, extension=".jpg", endings=(b"\xff\xd9",)),
    "image/gif": partial(_picture_is_torn, extension=".gif", endings=(b"\0;",)),
    "image/webp": partial(_picture_is_torn, extension=".webp", endings=()),
    **dict.fromkeys(("video/mp4", "video/quicktime", "audio/mp4"), _movie_is_torn),
    "video/webm": _segment_is_torn,
}
