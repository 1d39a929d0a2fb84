"""Detects a body's compression from its bytes, because headers are often wrong."""

from __future__ import annotations

import zlib
from typing import Final

GZIP: Final = b"\x1f\x8b\x08"
LAYERS_MAX: Final = 3
_GZIP_OR_ZLIB_WINDOW: Final = 32 + zlib.MAX_WBITS


def unpack(body: bytes, most_bytes: int) -> bytes | None:
    """``body`` without its gzip or zlib layers; None if it decompresses to more than ``most_bytes``.

    Data that is cut short is decompressed as far as possible; invalid data is returned unchanged.
    """
    for _ in range(LAYERS_MAX):
        if not (body.startswith(GZIP) or _is_zlib(body)):
            break
        opener = zlib.decompressobj(_GZIP_OR_ZLIB_WINDOW)
        try:
            opened = opener.decompress(body, most_bytes + 1)
        except zlib.error:
            break
        if len(opened) > most_bytes:
            return None
        body = opened
    return body


def _is_zlib(body: bytes) -> bool:
    """RFC 1950 section 2.2: deflate with a window of up to 32 KiB, and a check of both bytes."""
    return len(body) > 2 and body[0] & 0x8F == 0x08 and (body[0] << 8 | body[1]) % 31 == 0
