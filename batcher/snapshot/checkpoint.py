"""A snapshot kept beside its ledger, so that a million jobs need not be folded again each time.

The ledger stays the only state. A checkpoint says of how many of its bytes it is the fold, and their
SHA-256: it counts only where the ledger still begins with exactly these bytes, and where it is whole
itself. Anything else is as good as no checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from batcher.lifecycle import FORMAT_VERSION
from batcher.snapshot import Saved, Snapshot

FOLD_VERSION = f"{FORMAT_VERSION}.1"
"""Changed with everything that a fold keeps, or how it comes about."""
_PIECE_BYTES = 1 << 20


class _Head(msgspec.Struct, array_like=True):
    """What a checkpoint is of, and what tells that it is whole."""

    fold_version: str
    covered_bytes: int
    covered_sha256: str
    body_sha256: str


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_body = msgspec.msgpack.Decoder(Saved).decode


def encode_checkpoint(snapshot: Snapshot, ledger: BinaryIO, covered_bytes: int) -> list[bytes]:
    """``snapshot``, the fold of the first ``covered_bytes`` of ``ledger``, as the pieces of a file."""
    body = msgspec.msgpack.encode(snapshot.saved())
    covered = _sha256(ledger, covered_bytes) or ""
    head = _Head(FOLD_VERSION, covered_bytes, covered, hashlib.sha256(body).hexdigest())
    return [msgspec.json.encode(head), b"\n", body]


def restore_checkpoint(snapshot: Snapshot, checkpoint: BinaryIO, ledger: Callable[[], BinaryIO]) -> int:
    """Let ``snapshot``, an empty one, begin where a checkpoint ends: returns how many bytes that covers.

    0, and nothing happens, where it is not of this ledger, of another version, or not whole.
    """
    try:
        head = _decode_head(checkpoint.readline())
        if head.fold_version != FOLD_VERSION:
            return 0
        body = checkpoint.read()
        if hashlib.sha256(body).hexdigest() != head.body_sha256:
            return 0
        with ledger() as file:
            if _sha256(file, head.covered_bytes) != head.covered_sha256:
                return 0
        snapshot.restore(_decode_body(body))
        snapshot.restored_bytes = head.covered_bytes
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 0
    return head.covered_bytes


def _sha256(file: BinaryIO, size_bytes: int) -> str | None:
    """Of the first ``size_bytes`` of ``file``, in hex; None where it is shorter."""
    digest = hashlib.sha256()
    while size_bytes > 0 and (piece := file.read(min(size_bytes, _PIECE_BYTES))):
        digest.update(piece)
        size_bytes -= len(piece)
    return digest.hexdigest() if not size_bytes else None
