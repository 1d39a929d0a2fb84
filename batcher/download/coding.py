"""Detects content codings by the bytes, because a server's label may be wrong.

We request plain bytes. Stores label them ``aws-chunked``, ``utf-8`` or ``none``, and some send gzip
anyway. A file whose own name says that it is gzip is not unpacked.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batcher.media.file_types import GZIP, HEAD_BYTES, sniff

PIECE_BYTES: Final = 1 << 20
_GZIP_MAGIC: Final = b"\x1f\x8b\x08"
_UNREADABLE: Final = frozenset({"br", "zstd", "compress", "x-compress", "deflate"})


class Broken(Exception):
    """A gzip body can't be unpacked to its end."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A file that was unpacked in place: its size, SHA-256 in hex, and first bytes."""

    size_bytes: int
    sha256: str
    head: bytes


def is_packed(head: bytes, extension: str, media_type: str) -> bool:
    """Whether a body is gzip although its URL and type declare something else."""
    declares_gzip = extension in GZIP or "gzip" in media_type
    return head.startswith(_GZIP_MAGIC) and not declares_gzip


def is_unreadable(head: bytes, coding: str) -> bool:
    """Whether ``coding`` is one that we can't decode and the bytes don't show that it is unused."""
    return bool(_UNREADABLE & set(coding.replace(" ", "").split(","))) and sniff(head) is None


def unpack(path: Path, max_bytes: int) -> Unpacked | None:
    """Replace the gzip file at ``path`` by its content, durably; None if that is too large.

    Raises Broken, OSError.
    """
    plain = path.with_name(f"{path.name}.plain")
    try:
        unpacked = _unpack(path, plain, max_bytes)
        if unpacked is not None:
            plain.replace(path)
        return unpacked
    except zlib.error as error:
        raise Broken(str(error)) from error
    finally:
        plain.unlink(missing_ok=True)


def _unpack(packed: Path, plain: Path, max_bytes: int) -> Unpacked | None:
    unpacker, digest = zlib.decompressobj(31), hashlib.sha256()
    size, head = 0, b""
    with packed.open("rb") as source, plain.open("wb") as target:
        data = source.read(PIECE_BYTES)
        while data:
            piece = unpacker.decompress(data, PIECE_BYTES)
            size += len(piece)
            if size > max_bytes:
                return None
            head += piece[: HEAD_BYTES - len(head)]
            digest.update(piece)
            target.write(piece)
            data = unpacker.unconsumed_tail or (b"" if unpacker.eof else source.read(PIECE_BYTES))
        if not unpacker.eof:
            raise Broken("it is cut off")
        target.flush()
        os.fsync(target.fileno())
    return Unpacked(size, digest.hexdigest(), head)
