"""A snapshot kept beside its ledger, so that a million jobs need not be folded again each time.

The ledger stays the only state. A checkpoint says how many of its bytes it covers, and their SHA-256:
it is used only if the ledger still begins with exactly these bytes and the checkpoint is complete.
Otherwise it is ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from batcher.disk import Disk
from batcher.jobs.lifecycle import FORMAT_VERSION
from batcher.layout import CHECKPOINT_NAME, HIDDEN_NAME, LEDGER_NAME
from batcher.ledger.packed import Bulk
from batcher.ledger.saved_snapshot import Saved
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot

FOLD_VERSION = f"{FORMAT_VERSION}.8"
"""Change this whenever the fold keeps something else or computes it differently."""
_PIECE_BYTES = 1 << 20
CHECKPOINT_STEP_BYTES = 32 << 20
"""Folding this many bytes of ledger takes about a second."""


class _Head(msgspec.Struct, array_like=True):
    """What a checkpoint covers, and the hashes that show that its body and bulks are complete."""

    fold_version: str
    covered_bytes: int
    covered_sha256: str
    body_bytes: int
    body_sha256: str
    bulks_sha256: str


_decode_head = msgspec.json.Decoder(_Head).decode


def encode_checkpoint(
    snapshot: Snapshot, ledger: BinaryIO, covered_bytes: int
) -> Iterator[bytes | memoryview]:
    """``snapshot``, the fold of the first ``covered_bytes`` of ``ledger``, as pieces of a file.

    Most of them belong to the snapshot, which must not change before all are written.
    """
    pieces: list[memoryview] = []

    def leave_out(bulk: Bulk) -> int:
        pieces.extend(map(memoryview, bulk.pieces))
        return bulk.size_bytes

    body = msgspec.msgpack.encode(snapshot.saved(), enc_hook=leave_out)
    bulks_sha256 = hashlib.sha256()
    for piece in pieces:
        bulks_sha256.update(piece)
    covered_sha256 = _sha256(ledger, covered_bytes) or ""
    marks = (len(body), hashlib.sha256(body).hexdigest(), bulks_sha256.hexdigest())
    yield msgspec.json.encode(_Head(FOLD_VERSION, covered_bytes, covered_sha256, *marks)) + b"\n"
    yield body
    yield from pieces


def restore_checkpoint(snapshot: Snapshot, checkpoint: BinaryIO, ledger: Callable[[], BinaryIO]) -> int:
    """Fill the empty ``snapshot`` from a checkpoint; returns how many bytes of ledger it covers.

    Returns 0 and changes nothing if it is of another ledger or version, or not complete.
    """
    try:
        head = _decode_head(checkpoint.readline())
        if head.fold_version != FOLD_VERSION:
            return 0
        saved = _read(checkpoint, head)
        if saved is None:
            return 0
        with ledger() as file:
            if _sha256(file, head.covered_bytes) != head.covered_sha256:
                return 0
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 0
    snapshot.restore(saved)
    snapshot.restored_bytes = head.covered_bytes
    return head.covered_bytes


def _read(checkpoint: BinaryIO, head: _Head) -> Saved | None:
    """What was saved; None if any byte differs. Bulks are read when the body refers to them."""
    bulks_sha256 = hashlib.sha256()

    def read_bulk(_: type, size_bytes: int) -> Bulk:
        whole = bytearray()
        for piece in _pieces(checkpoint, size_bytes):
            whole += piece
            bulks_sha256.update(piece)
        return Bulk([whole])

    body = b"".join(_pieces(checkpoint, head.body_bytes))
    if len(body) != head.body_bytes or hashlib.sha256(body).hexdigest() != head.body_sha256:
        return None
    saved = msgspec.msgpack.decode(body, type=Saved, dec_hook=read_bulk)
    whole = bulks_sha256.hexdigest() == head.bulks_sha256 and not checkpoint.read(1)
    return saved if whole and saved.is_sound else None


def _sha256(file: BinaryIO, size_bytes: int) -> str | None:
    """SHA-256 of the first ``size_bytes`` of ``file``, in hex; None if it is shorter."""
    digest, left_bytes = hashlib.sha256(), size_bytes
    for piece in _pieces(file, size_bytes):
        digest.update(piece)
        left_bytes -= len(piece)
    return digest.hexdigest() if not left_bytes else None


def _pieces(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    """The next ``size_bytes`` of ``file``, or fewer at its end, a megabyte at a time."""
    while size_bytes > 0 and (piece := file.read(min(size_bytes, _PIECE_BYTES))):
        yield piece
        size_bytes -= len(piece)


def restored_bytes(snapshot: Snapshot, run_dir: Path, disk: Disk) -> int:
    """Fill ``snapshot`` from the checkpoint, if there is one; returns how many bytes it covers."""
    path = run_dir / HIDDEN_NAME / CHECKPOINT_NAME
    if not snapshot.may_restore or snapshot.spent_by_shard_usd or disk.size(path) is None:
        return 0
    try:
        with disk.open_read(path) as file:
            return restore_checkpoint(snapshot, file, lambda: disk.open_read(run_dir / LEDGER_NAME))
    except OSError:
        return 0


def keep_checkpoint(snapshot: Snapshot, run_dir: Path, disk: Disk, size_bytes: int) -> None:
    """Save ``snapshot``, the fold of a ledger of ``size_bytes`` that is all on disk.

    Optional: if it can't be written, nothing happens.
    """
    if segments_in(run_dir, disk) != [LEDGER_NAME]:
        return
    with suppress(OSError), disk.open_read(run_dir / LEDGER_NAME) as ledger:
        pieces = encode_checkpoint(snapshot, ledger, size_bytes)
        disk.write_whole(run_dir / HIDDEN_NAME / CHECKPOINT_NAME, pieces)
