"""A run directory whose outputs lie in a bucket.

The ledger, while it is written, and everything that is ours lie in a *state directory* on a local or
shared disk; each output goes to ``media/`` in the bucket before its job is ``done``, and its local copy
is let go afterwards. When a run ends, ledger and metadata go to the bucket as well, so that another
machine can take the batch up from there. While a run is under way, an object in the bucket says so: what
a lost disk held can't be guessed from what the bucket holds, and guessing would buy it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path, PurePosixPath

import msgspec

from batcher.bucket.interface import Bucket
from batcher.bucket.opening import open_bucket
from batcher.disk import Disk
from batcher.errors import BatcherError, LedgerError, LockedError, UsageError
from batcher.jobs import Artifact, Probed
from batcher.ledger import HIDDEN_NAME, is_held, is_segment, segment_name, segments_in
from batcher.lifecycle import Replaced
from batcher.packed import PackedMap
from batcher.rundir import MEDIA_NAME, METADATA_NAME, RunDir, superseded_name
from batcher.shards import Shard
from batcher.snapshot import JobRecord

HOLDER_KEY = f"{HIDDEN_NAME}/holder.json"
BUCKET_NAME = "bucket.json"
_JSON_LINES = "application/x-ndjson"


class Holder(msgspec.Struct, frozen=True):
    """Who may write to a bucket: the state directory with these words in it, and nobody else."""

    host: str
    state_dir: str
    token: str


class BucketRunDir(RunDir):
    """A state directory and the bucket that its outputs go to."""

    def __init__(self, root: Path, disk: Disk, shard: Shard | None, bucket: Bucket) -> None:
        super().__init__(root, disk, shard)
        self.bucket = bucket
        self._sizes = PackedMap()

    async def look(self) -> None:
        """Take note of which outputs are there. Raises LockedError, RunDirError, CredentialsError.

        Once the ledger is held: a shard that ended just now may have thought that it was the last.
        """
        await _claim(self.bucket, self.root, self._disk)
        self._sizes = PackedMap()
        async for key, size_bytes in self.bucket.list(MEDIA_NAME):
            self._sizes.setdefault(key, size_bytes)

    async def keep(self, files: tuple[Artifact, ...]) -> None:
        for file in files:
            media_type = file.media_type if isinstance(file, Probed) else None
            await self.bucket.put_file(self.root / file.path, file.path, file.sha256, media_type)
            self._sizes.drop(file.path)
            self._sizes.setdefault(file.path, file.bytes)

    def let_go(self, files: tuple[Artifact, ...]) -> None:
        for file in files:
            self._disk.remove(self.root / file.path)

    def missing(self, record: JobRecord) -> list[int]:
        """All of a job's files where one is missing: those that are there can't be looked into."""
        files = record.files
        gone = any(self._sizes.get(file.path) != file.bytes for file in files)
        return list(range(len(files))) if gone else []

    async def set_aside(self, replaced: Replaced) -> None:
        for file in replaced.files:
            target = superseded_name(PurePosixPath(file.path).name, replaced.attempt)
            there, moved = await self.bucket.size(file.path), await self.bucket.size(target)
            if there is not None and moved is None:
                await self.bucket.move(file.path, target)
            self._sizes.drop(file.path)

    async def wrong(self, artifact: Artifact) -> str | None:
        size_bytes = await self.bucket.size(artifact.path)
        if size_bytes is None:
            return f"missing in {self.bucket.url}"
        if size_bytes != artifact.bytes:
            return f"{size_bytes} bytes instead of {artifact.bytes}"
        same = await self.bucket.sha256(artifact.path) == artifact.sha256
        return None if same else "its bytes have changed (SHA-256 differs)"


@asynccontextmanager
async def claimed(run_dir: RunDir, shard: Shard | None, disk: Disk) -> AsyncIterator[None]:
    """Hold the bucket, if there is one, for as long as a run lasts, and leave it the ledger at the end.

    Raises LockedError where another state directory holds it, LedgerError where the ledger there and the
    one here are not the same one, RunDirError, CredentialsError.
    """
    if not isinstance(run_dir, BucketRunDir):
        yield
        return
    await _claim(run_dir.bucket, run_dir.root, disk)
    await _bring(run_dir.bucket, run_dir.root, disk)
    try:
        yield
    except LockedError:
        raise
    except BatcherError:
        with suppress(BatcherError):
            await _hand_over(run_dir.bucket, run_dir.root, shard, disk)
        raise
    await _hand_over(run_dir.bucket, run_dir.root, shard, disk)


async def _hand_over(bucket: Bucket, root: Path, shard: Shard | None, disk: Disk) -> None:
    """Leave ledger and metadata to the bucket, and let go of it if no other shard is at work."""
    busy = is_held(root / HIDDEN_NAME, disk)
    names = [segment_name(shard)] if busy else [*segments_in(root, disk), METADATA_NAME]
    for name in names:
        if disk.size(root / name):
            await _send(bucket, root, name)
    if not busy:
        await bucket.delete(HOLDER_KEY)
        disk.remove(root / HOLDER_KEY)


@asynccontextmanager
async def ledger_to_read(run_dir: RunDir, disk: Disk) -> AsyncIterator[Path]:
    """A folder with the ledger as a run would find it, for reading only."""
    if not isinstance(run_dir, BucketRunDir) or not await _is_behind(run_dir.bucket, run_dir.root, disk):
        yield run_dir.root
        return
    with tempfile.TemporaryDirectory(prefix="batcher-") as folder:
        await _bring(run_dir.bucket, Path(folder), disk)
        yield Path(folder)


async def _claim(bucket: Bucket, root: Path, disk: Disk) -> None:
    """Say that this state directory writes to the bucket now. Raises LockedError where another does."""
    path = root / HOLDER_KEY
    disk.make_dirs(path.parent)
    if disk.size(path) is None:
        ours = Holder(socket.gethostname(), str(root.resolve()), uuid.uuid4().hex)
        disk.write_whole(path, [msgspec.json.encode(ours)])
        disk.write_whole(path.with_name(BUCKET_NAME), [msgspec.json.encode({"url": bucket.url})])
    if not await bucket.put_new(HOLDER_KEY, path.read_bytes()):
        await _refuse(bucket, path)


async def _refuse(bucket: Bucket, path: Path) -> None:
    path.unlink()
    for folder in (path.parent / BUCKET_NAME, path.parent, path.parent.parent):
        with suppress(OSError):  # it was there before, and holds something
            folder.unlink() if folder.name == BUCKET_NAME else folder.rmdir()
    try:
        holder = msgspec.json.decode(await bucket.get_bytes(HOLDER_KEY) or b"", type=Holder)
        whose = f"{holder.host}:{holder.state_dir}"
    except msgspec.MsgspecError:
        whose = "an unknown state directory"
    raise LockedError(
        f"{bucket.url}: a run with the state directory {whose} holds it, or died holding it; go on "
        f"there. If that disk is lost for good, delete the object {HOLDER_KEY}: what was bought since "
        "that run began is then unknown here, and would be bought again"
    )


async def _is_behind(bucket: Bucket, root: Path, disk: Disk) -> bool:
    """Whether the bucket holds more of the ledger than the state directory."""
    there = await _segments(bucket)
    return any(size > (disk.size(root / name) or 0) for name, size in there.items())


async def _bring(bucket: Bucket, root: Path, disk: Disk) -> None:
    """Take up the ledger from the bucket, where it went on elsewhere."""
    there = await _segments(bucket)
    for name, size_bytes in there.items():
        here_bytes = disk.size(root / name) or 0
        if size_bytes > here_bytes:
            await _replace(bucket, root / name, disk)
        elif size_bytes < here_bytes and not await asyncio.to_thread(
            _begins_with, root / name, await bucket.sha256(name), size_bytes
        ):
            raise _diverged(bucket, root / name)
    if not there and not segments_in(root, disk):
        async for key, _ in bucket.list(MEDIA_NAME):
            raise LedgerError(
                f"{bucket.url}: {key} is there, but no ledger, neither there nor in {root}: it was "
                "lost, and a run would buy again what was paid for. Put it back from a backup, or "
                "choose another place with -o"
            )


async def _segments(bucket: Bucket) -> dict[str, int]:
    return {key: size async for key, size in bucket.list() if is_segment(key)}


async def _replace(bucket: Bucket, path: Path, disk: Disk) -> None:
    """Fetch a segment that went on elsewhere: what is here must be how it begins."""
    fetched = path.with_name(f".{path.name}.{os.getpid()}.fetched")
    await bucket.get_file(path.name, fetched)
    try:
        if (size_bytes := disk.size(path)) is not None:
            ours = await asyncio.to_thread(_sha256, path, size_bytes)
            if not await asyncio.to_thread(_begins_with, fetched, ours, size_bytes):
                raise _diverged(bucket, path)
        disk.rename(fetched, path)
        disk.sync_dir(path.parent)
    finally:
        disk.remove(fetched)


def _diverged(bucket: Bucket, path: Path) -> LedgerError:
    return LedgerError(
        f"{path}: and {path.name} in {bucket.url} have gone separate ways: two runs wrote them without "
        "knowing of each other. Keep both, and choose another place with -o"
    )


def _begins_with(path: Path, sha256_hex: str | None, size_bytes: int) -> bool:
    return _sha256(path, size_bytes) == sha256_hex


def _sha256(path: Path, size_bytes: int) -> str:
    """Of the first ``size_bytes`` of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size_bytes > 0 and (piece := file.read(min(size_bytes, 1 << 20))):
            digest.update(piece)
            size_bytes -= len(piece)
    return digest.hexdigest()


async def _send(bucket: Bucket, root: Path, name: str) -> None:
    path = root / name
    sha256_hex = await asyncio.to_thread(_sha256, path, path.stat().st_size)
    await bucket.put_file(path, name, sha256_hex, _JSON_LINES)


def open_run_dir(
    root: Path, disk: Disk, shard: Shard | None = None, bucket_url: str | None = None
) -> RunDir:
    """The run directory at ``root``, with its bucket if its outputs lie in one.

    Raises UsageError where they lie in another one than ``bucket_url``, and what ``open_bucket`` does.
    """
    known_url = _bucket_url_of(root)
    if bucket_url is None and known_url is None:
        return RunDir(root, disk, shard)
    if known_url is None and segments_in(root, disk):
        raise UsageError(
            f"{root}: holds a batch with its outputs beside it; choose another --state-dir for "
            f"{bucket_url}"
        )
    bucket = open_bucket(bucket_url or known_url or "")
    if known_url is not None and bucket.url != known_url:
        raise UsageError(f"{root}: its outputs lie in {known_url}, not in {bucket.url}")
    return BucketRunDir(root, disk, shard, bucket)


def outputs_place(root: Path) -> str:
    """Where the outputs of a run directory lie, for people."""
    bucket_url = _bucket_url_of(root)
    return f"{bucket_url}/{MEDIA_NAME}" if bucket_url is not None else str(root / MEDIA_NAME)


def _bucket_url_of(root: Path) -> str | None:
    """Where the outputs of a state directory lie; None for a run directory that has its own."""
    try:
        found = msgspec.json.decode((root / HIDDEN_NAME / BUCKET_NAME).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError):
        return None
    return found.get("url")
