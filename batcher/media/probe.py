"""Inspects a media file: by its headers alone, or by decoding it (with the extra ``media``).

Pillow decodes images, PyAV video. A video is decoded only at its beginning, middle and end: enough to
detect a broken or blank file, at a cost that doesn't grow with its length.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from batcher.media.documents import DOCUMENT_TYPES
from batcher.media.file_types import HEAD_BYTES, MEDIA_TYPES, sniff
from batcher.media.finding import BrokenFile, Finding
from batcher.media.mp4 import read_movie
from batcher.media.wholeness import jpeg_is_whole, png_is_whole

BLANK = "blank"
_PROBES = 3
_FLAT_LEVELS = 3
"""A picture counts as blank if its brightest and darkest pixel differ by no more than this (of 255)."""
_SURE = frozenset({"image/png", "image/jpeg", "image/gif", "image/bmp"})
"""Formats that Pillow always supports: a file of these that it can't identify is damaged."""
_TO_RGBA = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa"})
_THUMBNAIL = (64, 64)
_QUARTER_TURN = 90
SMALL_BYTES = 1 << 16
_DECODED = ("image/", "video/")
_SVG = "image/svg+xml"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})


def decode(path: Path, media_type: str) -> Finding:
    """Facts from decoding ``path``, and the damage found in it.

    Raises ImportError if the extra is not installed, and the decoder's own error for a file that it does
    not support or that is too large: neither is damage.
    """
    if media_type.startswith("image/"):
        return _image(path, media_type)
    if media_type.startswith("video/"):
        return _video(path, media_type)
    raise ValueError(media_type)


def _image(path: Path, media_type: str) -> Finding:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            width, height = image.size
            flat = all(_is_flat(frame) for frame in _some_pictures(image))
    except (UnidentifiedImageError, SyntaxError, OSError) as error:
        if isinstance(error, UnidentifiedImageError) and media_type not in _SURE:
            raise
        if "decoder" in str(error):  # "decoder jpeg2k not available"
            raise
        return Finding(media_type, problems=(f"does not decode: {error}",))
    return Finding(media_type, width, height, problems=(BLANK,) if flat else ())


def _some_pictures(image: Any) -> Iterator[Any]:
    """The picture; of an animation its first, middle and last frame."""
    count = getattr(image, "n_frames", 1)
    for number in sorted({0, count // 2, count - 1}):
        if number:
            image.seek(number)
        image.load()
        yield image


def _is_flat(image: Any) -> bool:
    """Whether a Pillow image is blank: one colour throughout, or fully transparent."""
    if image.mode.startswith(("I", "F")):  # 16 bits and more: conversions do not scale them
        low, high = image.getextrema()
        return bool(high - low <= _FLAT_LEVELS * (high or 1) / 255)
    small = image if image.mode in _TO_RGBA else image.convert("RGB")
    small = small.convert("RGBA")
    small.thumbnail(_THUMBNAIL)
    *colours, alpha = small.getextrema()
    flat = all(high - low <= _FLAT_LEVELS for low, high in colours)
    return bool(alpha[1] == 0 or (flat and alpha[1] - alpha[0] <= _FLAT_LEVELS))


def _video(path: Path, media_type: str) -> Finding:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return Finding(media_type, problems=("no video track",))
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"
            frames = list(_some_frames(container, stream))
            if not frames:
                return Finding(media_type, problems=("does not decode: no frames",))
            return _of_frames(container, stream, frames, media_type)
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        return Finding(media_type, problems=(f"does not decode: {error.__class__.__name__}",))


def _some_frames(container: Any, stream: Any) -> Iterator[Any]:
    """The first frame after each of a few points in time, the last one near the end."""
    duration = container.duration or 0
    for number in range(_PROBES):
        if number:
            container.seek(duration * number // _PROBES)
        frame = next(container.decode(stream), None)
        if frame is not None:
            yield frame


def _of_frames(container: Any, stream: Any, frames: list[Any], media_type: str) -> Finding:
    import av

    width, height = frames[0].width, frames[0].height
    if abs(frames[0].rotation) % 180 == _QUARTER_TURN:
        width, height = height, width
    seconds = float(container.duration / av.time_base) if container.duration else None
    rate: Fraction | None = stream.average_rate
    blank = all(_is_flat(frame.to_image(width=64, height=64)) for frame in frames)
    return Finding(
        media_type,
        width,
        height,
        round(seconds, 3) if seconds else None,
        round(float(rate), 3) if rate else None,
        (BLANK,) if blank else (),
    )


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
