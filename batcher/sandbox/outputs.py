"""The outputs of a finished request: real media, generated on demand, and URLs that expire.

Nothing is stored. An output's bytes are determined by its request alone, so a URL serves the same file
on every call and in every process.
"""

from __future__ import annotations

import hashlib
import hmac
import random
import struct
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import msgspec

from batcher.sandbox.catalogue import Model, catalogue
from batcher.sandbox.clips import draw_clip
from batcher.sandbox.faults import Fault
from batcher.sandbox.pictures import draw_png
from batcher.sandbox.sizes import CLIP_PIXELS, PICTURE_PIXELS, duration_s_of, size_of

if TYPE_CHECKING:
    from batcher.sandbox.journal import JobCreated

MEDIA_TYPES = {"mp4": "video/mp4", "png": "image/png", "wav": "audio/wav"}
EXTENSIONS = {"video": "mp4", "videos": "mp4", "image": "png", "images": "png", "audio": "wav"}

_SAMPLE_RATE_HZ = 8000
_NOTE_SAMPLES = 1600
_NOTES = 5
_SIGNATURE_CHARS = 32


def names(order: JobCreated) -> list[str]:
    """File names of a request's outputs: ``0.png``, ``1.png``, ..."""
    model = _model(order)
    kind = model.simulation.output
    inputs = msgspec.json.decode(order.input)
    if kind == "workflow":
        return ["0.png", "1.mp4", "2.png"]
    counted = model.value(inputs, "num_images") or model.value(inputs, "num_outputs") or 1
    count = counted if kind == "images" else 1
    return [f"{index}.{EXTENSIONS[kind]}" for index in range(count)]


def output(order: JobCreated, urls: list[str]) -> dict[str, Any]:
    """The ``output`` object: its shape depends on the model (one URL, a list, a nested object)."""
    kind = _model(order).simulation.output
    if kind == "audio":
        return {kind: {"url": urls[0], "content_type": MEDIA_TYPES["wav"]}}
    return {kind: urls if kind in ("images", "videos") else urls[0]}


def content(order: JobCreated, name: str) -> bytes:
    """The bytes of one output. ``name`` is one of :func:`names`."""
    inputs = msgspec.json.decode(order.input)
    rng = random.Random(f"{_subject(order, inputs)}:{name}")  # noqa: S311 - a painter's dice
    label, caption = f"request={order.id}&output={name}", str(inputs.get("prompt") or "")
    value = partial(_model(order).value, inputs)
    match name.partition(".")[2]:
        case "mp4":
            size = _shaped(order, size_of(value, CLIP_PIXELS, "16:9"))
            return draw_clip(rng, size, duration_s_of(value), caption, label)
        case "png":
            size = _shaped(order, size_of(value, PICTURE_PIXELS, "1:1"))
            return draw_png(rng, size, caption, label)
        case _:
            return _wav(rng, label)


def _shaped(order: JobCreated, size: tuple[int, int]) -> tuple[int, int]:
    """``size``, or with the fault of a wrong shape 1:2 or 2:1."""
    if order.fate != Fault.GENERATE_OTHER_SHAPE:
        return size
    side = max(min(size) // 4 * 2, 16)
    return (side, 2 * side) if size[0] >= size[1] else (2 * side, side)


def _model(order: JobCreated) -> Model:
    return catalogue(order.api)[order.model]


def _subject(order: JobCreated, inputs: dict[str, Any]) -> str:
    """The values that the picture depends on: with a ``seed`` only the inputs, like real models."""
    return f"{order.model}:{inputs.get('prompt')}:{inputs.get('seed', order.id)}"


def _wav(rng: random.Random, label: str) -> bytes:
    """One second of square-wave melody: 8-bit mono PCM, with ``label`` in an ignored chunk."""
    half_waves = [rng.randrange(6, 16) for _ in range(_NOTES)]
    samples = b"".join(
        (b"\x70" * half + b"\x90" * half) * (_NOTE_SAMPLES // (2 * half)) for half in half_waves
    )
    form = struct.pack("<HHIIHH", 1, 1, _SAMPLE_RATE_HZ, _SAMPLE_RATE_HZ, 1, 8)
    chunks = _riff(b"fmt ", form) + _riff(b"data", samples) + _riff(b"note", label.encode())
    return _riff(b"RIFF", b"WAVE" + chunks)


def _riff(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


class Signer:
    """Signs output URLs, and verifies its signatures, including those of an earlier process."""

    def __init__(self, seed: int, url_ttl_s: float) -> None:
        self._key = f"sandbox:{seed}".encode()
        self._url_ttl_s = url_ttl_s

    def sign(self, path: str, now_s: float) -> str:
        """``path`` with a query that allows a download for ``url_ttl_s`` seconds."""
        expires_s = str(ceil(now_s + self._url_ttl_s))
        return f"{path}?Expires={expires_s}&Signature={self._signature(path, expires_s)}"

    def allows(self, path: str, expires_s: str, signature: str, now_s: float) -> bool:
        """Whether the query was signed here and has not expired."""
        genuine = hmac.compare_digest(self._signature(path, expires_s).encode(), signature.encode())
        return genuine and now_s < int(expires_s)

    def _signature(self, path: str, expires_s: str) -> str:
        message = f"{path}:{expires_s}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:_SIGNATURE_CHARS]
