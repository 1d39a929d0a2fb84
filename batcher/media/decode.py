"""Decodes the pictures themselves: Pillow for images, PyAV for video (the extra ``media``).

A video is decoded only at its beginning, middle and end: enough to detect a broken or blank file, at a
cost that doesn't grow with its length.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from batcher.media.finding import Finding

BLANK = "blank"
_PROBES = 3
_FLAT_LEVELS = 3
"""A picture counts as blank if its brightest and darkest pixel differ by no more than this (of 255)."""
_SURE = frozenset({"image/png", "image/jpeg", "image/gif", "image/bmp"})
"""Formats that Pillow always supports: a file of these that it can't identify is damaged."""
_TO_RGBA = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa"})
_THUMBNAIL = (64, 64)
_QUARTER_TURN = 90


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
