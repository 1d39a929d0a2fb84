"""A run directory whose outputs are in a bucket.

The ledger, while it is written, and all our other files are in a *state directory* on a local or shared
disk. Each output goes to ``media/`` in the bucket before its job is ``done``; its local copy is deleted
afterwards. When a run ends, it copies ledger and metadata to the bucket, so that another machine can
resume the batch. During a run, an object in the bucket says so: if the disk is lost, the bucket does not
show what it held, and guessing would buy it again.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path, PurePosixPath

import msgspec

from batcher.disk import Disk, writing
from batcher.errors import BatcherError
from batcher.jobs.job import Artifact, Probed
from batcher.jobs.lifecycle import Replaced
from batcher.jobs.shard import Shard
from batcher.layout import (
    BUCKET_NAME,
    CARD_NAME,
    HIDDEN_NAME,
    MEDIA_NAME,
    METADATA_NAME,
    SUPERSEDED_NAME,
)
from batcher.ledger.finished import JobRecord
from batcher.ledger.packed import PackedMap
from batcher.ledger.segments import is_segment, segment_name, segments_in
from batcher.store.claim import Presence, claim, is_ours, release
from batcher.store.ledger_copy import bring, hand_over, is_behind
from batcher.store.local import RunDir, superseded_name
from batcher.store.objects.interface import Bucket

UPLOADS_AT_ONCE = 8
"""Each has up to four parts of 8 MiB in memory."""


class _Passing(type(Path())):  # type: ignore[misc]
    """A folder that is deleted when its last reference is gone.

    A snapshot keeps a reference, because it reads lines of the ledger when needed.
    """


class BucketRunDir(RunDir):
    """A state directory and the bucket for its outputs: the bucket records its state directory."""

    may_be_a_copy = False

    def __init__(self, root: Path, disk: Disk, shard: Shard | None, bucket: Bucket) -> None:
        super().__init__(root, disk, shard)
        self.bucket = bucket
        self.at_work = False
        """Whether a run held the ledger and started its work."""
        self.store_failed = False
        """Whether the store failed during the work, after all retries."""
        self._sizes = PackedMap()
        self._left_here: frozenset[str] = frozenset()
        self._uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        await is_ours(self.bucket, self.root)  # before anything is made here
        with writing(self.hidden):
            self._disk.make_dirs(self.hidden)
        presence = Presence(self.hidden, self._shard, self._disk)
        with ExitStack() as held:
            async with presence.settling():
                held.callback(presence.enter())
                anew = await self._begin()
            try:
                yield
            except BatcherError:
                with suppress(BatcherError):
                    await self._end(presence, anew=anew)
                raise
            await self._end(presence, anew=anew)

    async def _begin(self) -> bool:
        """Claim the bucket and fetch its ledger; returns whether it was unclaimed before."""
        anew = await claim(self.bucket, self.root, self._disk)
        try:
            if bucket_url_of(self.root) != self.bucket.url:
                named = [msgspec.json.encode({"url": self.bucket.url})]
                self._disk.write_whole(self.hidden / BUCKET_NAME, named)
            await bring(self.bucket, self.root, self._disk)
        except BatcherError:
            if anew:
                with suppress(BatcherError):
                    await release(self.bucket, self.root, self._disk)
            raise
        return anew

    async def _end(self, presence: Presence, *, anew: bool) -> None:
        """Copy ledger and metadata to the bucket, and release it if no other shard is running.

        A run that never started its work changes nothing. If the store fails, we keep the claim.
        """
        if self.store_failed:
            return
        async with presence.settling():
            alone = presence.is_alone()
            if self.at_work:
                if await claim(self.bucket, self.root, self._disk):  # our claim was deleted by hand
                    await bring(self.bucket, self.root, self._disk)
                names = [segment_name(presence.shard)]
                if alone:
                    names = [*segments_in(self.root, self._disk), METADATA_NAME, CARD_NAME]
                await hand_over(self.bucket, self.root, names, self._disk)
            if alone and (anew or self.at_work):
                await release(self.bucket, self.root, self._disk)

    @asynccontextmanager
    async def ledger_folder(self) -> AsyncIterator[Path]:
        await is_ours(self.bucket, self.root)
        if not await is_behind(self.bucket, self.root, self._disk):
            await bring(self.bucket, self.root, self._disk)  # which only compares
            yield self.root
            return
        folder = _Passing(tempfile.mkdtemp(prefix="batcher-"))
        weakref.finalize(folder, shutil.rmtree, str(folder), ignore_errors=True)
        for name in segments_in(self.root, self._disk):
            (folder / name).symlink_to((self.root / name).resolve())
        await bring(self.bucket, folder, self._disk)
        yield folder

    async def segments_elsewhere(self) -> dict[str, int]:
        sizes = await self.bucket.sizes()
        return {name: sizes[name] for name in filter(is_segment, sizes)}

    async def fetch_output(self, path: str, folder: Path) -> tuple[Path, str]:
        copy = folder / PurePosixPath(path).name
        return copy, await self.bucket.get_file(path, copy)

    def obstacle(self, path: str, size_bytes: int) -> str | None:
        return None

    def place(self, path: str) -> str:
        return f"{self.bucket.url}/{path}"

    async def look(self) -> None:
        """List the outputs that are there. Raises RunDirError, CredentialsError."""
        self.at_work = True
        self._left_here = frozenset(self._disk.list_dir(self.root / MEDIA_NAME))
        self._sizes = PackedMap()
        with self._noticing():
            async for key, size_bytes in self.bucket.list(MEDIA_NAME):
                self._sizes.setdefault(key, size_bytes)

    def namesakes(self, name: str) -> list[str]:
        return [name] if self._sizes.get(f"{MEDIA_NAME}/{name}") is not None else []

    async def outputs(self) -> AsyncIterator[str]:
        for folder in (MEDIA_NAME, SUPERSEDED_NAME):
            async for key, _ in self.bucket.list(folder):
                yield key

    async def keep(self, files: tuple[Artifact, ...]) -> None:
        for file in files:
            media_type = file.media_type if isinstance(file, Probed) else None
            async with self._uploads:
                with self._noticing():
                    await self.bucket.put_file(self.root / file.path, file.path, file.sha256, media_type)
            self._sizes.drop(file.path)
            self._sizes.setdefault(file.path, file.bytes)

    def discard_local_copies(self, files: tuple[Artifact, ...]) -> None:
        for file in files:
            self._disk.remove(self.root / file.path)

    def missing(self, record: JobRecord) -> list[int]:
        """All of a job's files if one is missing: the others can't be read here.

        If none is, local copies that a dead run left are deleted.
        """
        files = record.files
        if any(self._sizes.get(file.path) != file.bytes for file in files):
            return list(range(len(files)))
        if self._left_here:
            self.discard_local_copies(
                tuple(f for f in files if PurePosixPath(f.path).name in self._left_here)
            )
        return []

    async def set_aside(self, replaced: Replaced) -> None:
        for file in replaced.files:
            target = superseded_name(PurePosixPath(file.path).name, replaced.attempt)
            with self._noticing():
                there, moved = await self.bucket.size(file.path), await self.bucket.size(target)
                if there is not None and moved is None:
                    await self.bucket.move(file.path, target)
            self._sizes.drop(file.path)

    async def problem_with(self, artifact: Artifact) -> str | None:
        size_bytes = await self.bucket.size(artifact.path)
        if size_bytes is None:
            return f"missing in {self.bucket.url}"
        if size_bytes != artifact.bytes:
            return f"{size_bytes} bytes instead of {artifact.bytes}"
        same = await self.bucket.sha256(artifact.path) == artifact.sha256
        return None if same else "its bytes have changed (SHA-256 differs)"

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except BatcherError:
            self.store_failed = True
            raise


def bucket_url_of(root: Path) -> str | None:
    """The bucket URL of a state directory; None for a run directory that holds its own outputs."""
    try:
        found = msgspec.json.decode((root / HIDDEN_NAME / BUCKET_NAME).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return found.get("url")
