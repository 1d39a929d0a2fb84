"""The ledger's copy in the bucket: fetched when a run begins, stored when it ends.

The ledger only grows, so the shorter of two copies must be a prefix of the longer.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from batcher.disk import Disk, reading, writing
from batcher.errors import LedgerError
from batcher.layout import HIDDEN_NAME, MEDIA_NAME
from batcher.ledger.segments import is_segment, segments_in
from batcher.store.objects.interface import Bucket

PIECE_BYTES = 1 << 20
_JSON_LINES = "application/x-ndjson"


async def is_behind(bucket: Bucket, root: Path, disk: Disk) -> bool:
    """Whether the bucket holds more of the ledger than the state directory."""
    there = await _segments(bucket)
    return any(size > (disk.size(root / name) or 0) for name, size in there.items())


async def bring(bucket: Bucket, root: Path, disk: Disk) -> None:
    """Fetch the ledger from the bucket if another machine continued it.

    Raises LedgerError if the two copies have diverged, or if there are outputs but no ledger.
    """
    there = await _segments(bucket)
    for name, size_bytes in there.items():
        here_bytes = disk.size(root / name) or 0
        if size_bytes > here_bytes:
            await _replace(bucket, root / name, disk)
        elif await bucket.sha256(name) != await asyncio.to_thread(_sha256, root / name, size_bytes):
            raise _diverged(bucket, root / name)
    if not there and not segments_in(root, disk):
        await _check_nothing_lost(bucket, root)


async def hand_over(bucket: Bucket, root: Path, names: list[str], disk: Disk) -> None:
    """Store ``names``, segments without a writer and files derived from them, in the bucket.

    A file that has the same length there is skipped: segments only grow, and ``bring`` compared them;
    the metadata depends on them.
    """
    there, grew = await bucket.sizes(), False
    for name in names:
        size_bytes = await asyncio.to_thread(_whole_bytes, root / name)
        is_there = there.get(name) == size_bytes and (is_segment(name) or not grew)
        if size_bytes and not is_there:
            await _send(bucket, root / name, size_bytes, disk)
            grew = True


async def _send(bucket: Bucket, path: Path, size_bytes: int, disk: Disk) -> None:
    """Store the first ``size_bytes`` of a file under its name.

    A partial last line after a crash must not become part of a copy: the next run drops it.
    """
    sha256_hex = await asyncio.to_thread(_sha256, path, size_bytes)
    if disk.size(path) == size_bytes:
        await bucket.put_file(path, path.name, sha256_hex, _JSON_LINES)
        return
    whole = path.parent / HIDDEN_NAME / f"{path.name}.whole"
    try:
        with writing(whole), path.open("rb") as file:
            disk.write_whole(whole, _pieces(file, size_bytes))
        await bucket.put_file(whole, path.name, sha256_hex, _JSON_LINES)
    finally:
        disk.remove(whole)


async def _segments(bucket: Bucket) -> dict[str, int]:
    return {name: size for name, size in (await bucket.sizes()).items() if is_segment(name)}


async def _check_nothing_lost(bucket: Bucket, root: Path) -> None:
    async for key, _ in bucket.list(MEDIA_NAME):
        raise LedgerError(
            f"{bucket.url}: {key} is there, but no ledger, neither there nor in {root}: it was "
            "lost, and a run would buy again what was paid for. Put it back from a backup, or "
            "choose another place with -o"
        )


async def _replace(bucket: Bucket, path: Path, disk: Disk) -> None:
    """Fetch a segment that was continued elsewhere: the local one must be a prefix of it."""
    fetched = path.with_name(f".{path.name}.{os.getpid()}.fetched")
    try:
        await bucket.get_file(path.name, fetched)
        if (size_bytes := disk.size(path)) is not None:
            ours = await asyncio.to_thread(_sha256, path, size_bytes)
            if await asyncio.to_thread(_sha256, fetched, size_bytes) != ours:
                raise _diverged(bucket, path)
        with writing(path):
            disk.rename(fetched, path)
            disk.sync_dir(path.parent)
    finally:
        disk.remove(fetched)


def _diverged(bucket: Bucket, path: Path) -> LedgerError:
    return LedgerError(
        f"{path}: and {path.name} in {bucket.url} have gone separate ways: two runs wrote them without "
        "knowing of each other. Keep both, and choose another place with -o"
    )


def _sha256(path: Path, size_bytes: int) -> str:
    """SHA-256 of the first ``size_bytes`` of a file, in hex."""
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        for piece in _pieces(file, size_bytes):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    while size_bytes > 0 and (piece := file.read(min(size_bytes, PIECE_BYTES))):
        yield piece
        size_bytes -= len(piece)


def _whole_bytes(path: Path) -> int:
    """The bytes of a file up to the end of its last whole line; 0 if there is no such file."""
    if not path.is_file():
        return 0
    with reading(path), path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(end - PIECE_BYTES, 0)
            file.seek(begin)
            cut = file.read(end - begin).rfind(b"\n")
            if cut >= 0:
                return begin + cut + 1
            end = begin
    return 0
