"""Outputs inside an answer instead of at a URL: texts, and ``data:`` URIs (RFC 2397)."""

from __future__ import annotations

import binascii
from urllib.parse import unquote_to_bytes

from batcher.media.file_types import HEAD_BYTES, MEDIA_TYPES, FileType, identify

_TEXT = FileType(".txt", MEDIA_TYPES[".txt"])


def read_inline(text: str) -> tuple[bytes, FileType]:
    """The bytes of an output and their type. Anything but a valid ``data:`` URI is a text."""
    content = _data(text) if text.startswith("data:") else None
    if not content:
        return text.encode(errors="surrogatepass"), _TEXT
    media_type = text[len("data:") :].partition(",")[0].partition(";")[0]
    return content, identify(content[:HEAD_BYTES], [""], media_type) or _TEXT


def _data(uri: str) -> bytes | None:
    head, _, body = uri.partition(",")
    content = unquote_to_bytes(body)
    if not head.endswith(";base64"):
        return content
    try:
        return binascii.a2b_base64(content)
    except binascii.Error:
        return None
