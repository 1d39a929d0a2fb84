"""A snapshot kept beside its ledger, so that a million jobs need not be folded again each time.

The ledger stays the only state. A checkpoint says how many of its bytes it covers, and their SHA-256:
it is used only if the ledger still begins with exactly these bytes and the checkpoint is complete.
Otherwise it is ignored.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from batcher.disk import Disk
from batcher.errors import BatcherError, RunDirError
from batcher.jobs.lifecycle import FORMAT_VERSION
from batcher.layout import CHECKPOINT_NAME, HIDDEN_NAME, LEDGER_NAME
from batcher.ledger.packed import Bulk
from batcher.ledger.saved_snapshot import Saved
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot

FOLD_VERSION = f"{FORMAT_VERSION}.8"
"""Change this whenever the fold keeps something else or computes it differently."""
CHECKPOINT_STEP_BYTES = 32 << 20
"""Folding this many bytes of ledger takes half a second."""
GROWTH = 4
"""A checkpoint covers at least one part in so many more than the one before."""
OPEN_MAX = 20_000
"""More jobs that are not packed than this take too long to copy while a run goes on."""
_PIECE_BYTES = 1 << 20
_HASHED_AT_ONCE_BYTES = 16 << 20
"""Takes about ten milliseconds."""


class _Head(msgspec.Struct, array_like=True):
    """What a checkpoint covers, and the hashes that show that its body and bulks are complete."""

    fold_version: str
    covered_bytes: int
    covered_sha256: str
    body_bytes: int
    body_sha256: str
    bulks_sha256: str


_decode_head = msgspec.json.Decoder(_Head).decode


class Checkpoint:
    """A snapshot as it is when this is made: the fold of the first ``covered_bytes`` of its ledger.

    The snapshot may change while this is written. ``release`` when that is done.
    """

    def __init__(self, snapshot: Snapshot, covered_bytes: int) -> None:
        self.covered_bytes = covered_bytes
        self.release = snapshot.release_saved
        self._bulks: list[Bulk] = []
        self._body = msgspec.msgpack.encode(snapshot.saved(), enc_hook=self._leave_out)

    def _leave_out(self, bulk: Bulk) -> int:
        self._bulks.append(bulk)
        return bulk.size_bytes

    def _pieces(self) -> Iterator[bytes]:
        for bulk in self._bulks:
            yield from bulk.pieces()

    def encoded(self, covered_sha256: str) -> Iterator[bytes]:
        """The pieces of the file, one after the other."""
        bulks_sha256 = hashlib.sha256()
        for piece in self._pieces():
            bulks_sha256.update(piece)
        marks = (len(self._body), hashlib.sha256(self._body).hexdigest(), bulks_sha256.hexdigest())
        head = _Head(FOLD_VERSION, self.covered_bytes, covered_sha256, *marks)
        yield msgspec.json.encode(head) + b"\n"
        yield self._body
        yield from self._pieces()


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
        return Bulk.of(whole)

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


class Checkpoints:
    """Keeps a checkpoint of a ledger that is being written, as it grows.

    A run that is killed leaves little to fold. What they cost is bounded by what is written: each covers
    at least a quarter more than the one before. Optional: if one can't be written, nothing happens.
    """

    def __init__(self, snapshot: Snapshot, run_dir: Path, disk: Disk) -> None:
        self._snapshot = snapshot
        self._run_dir = run_dir
        self._disk = disk
        self._kept_bytes = self._tried_bytes = snapshot.restored_bytes
        self._hashed_bytes = 0
        self._sha256 = hashlib.sha256()
        self._next: Checkpoint | None = None
        self._writing: asyncio.Task[None] | None = None

    def committed(self, durable_bytes: int, end_bytes: int) -> None:
        """The ledger is on disk up to ``durable_bytes``; the snapshot is the fold of ``end_bytes``."""
        if self._next is None:
            step_bytes = max(CHECKPOINT_STEP_BYTES, self._tried_bytes // GROWTH)
            if durable_bytes - self._tried_bytes < step_bytes:
                return
            self._tried_bytes = end_bytes
            if len(self._snapshot.records.open) > OPEN_MAX:
                return
            self._next = Checkpoint(self._snapshot, end_bytes)
        if self._writing is None and durable_bytes >= self._next.covered_bytes:
            self._writing = asyncio.create_task(self._write(self._next))

    async def settled(self) -> None:
        """Wait for one that is being written."""
        if self._writing is not None:
            await self._writing

    async def finish(self, size_bytes: int) -> None:
        """Write the last one, of a ledger of ``size_bytes`` that is all on disk, if it is worth it."""
        if size_bytes - self._kept_bytes >= CHECKPOINT_STEP_BYTES:
            await self._write(Checkpoint(self._snapshot, size_bytes))

    async def _write(self, checkpoint: Checkpoint) -> None:
        """In the thread that writes the ledger, whose lines wait no longer than each step takes."""
        with suppress(OSError, BatcherError):
            if segments_in(self._run_dir, self._disk) == [LEDGER_NAME]:
                while self._hashed_bytes < checkpoint.covered_bytes:
                    await self._disk.run(partial(self._hash_more, checkpoint.covered_bytes))
                pieces = checkpoint.encoded(self._sha256.hexdigest())
                path = self._run_dir / HIDDEN_NAME / CHECKPOINT_NAME
                await self._disk.run(lambda: self._disk.write_whole(path, pieces))
                self._kept_bytes = checkpoint.covered_bytes
        checkpoint.release()
        self._next = self._writing = None

    def _hash_more(self, end_bytes: int) -> None:
        size_bytes = min(end_bytes - self._hashed_bytes, _HASHED_AT_ONCE_BYTES)
        with self._disk.open_read(self._run_dir / LEDGER_NAME) as file:
            file.seek(self._hashed_bytes)
            for piece in _pieces(file, size_bytes):
                self._sha256.update(piece)
                self._hashed_bytes += len(piece)
                size_bytes -= len(piece)
        if size_bytes:
            raise RunDirError(f"{self._run_dir / LEDGER_NAME}: is shorter than it was")
