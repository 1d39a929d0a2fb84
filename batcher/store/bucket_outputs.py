"""The run directory whose ``media/`` is in a bucket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from batcher.disk import Disk
from batcher.errors import BatcherError
from batcher.jobs.job import Artifact, Probed
from batcher.jobs.lifecycle import Replaced
from batcher.jobs.shard import Shard
from batcher.layout import MEDIA_NAME, SUPERSEDED_NAME
from batcher.ledger.finished import JobRecord
from batcher.ledger.packed import PackedMap
from batcher.store.local import RunDir, superseded_name
from batcher.store.objects.interface import Bucket

UPLOADS_AT_ONCE = 8
"""Each has up to four parts of 8 MiB in memory."""


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

    def let_go(self, files: tuple[Artifact, ...]) -> None:
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
            self.let_go(tuple(f for f in files if PurePosixPath(f.path).name in self._left_here))
        return []

    async def set_aside(self, replaced: Replaced) -> None:
        for file in replaced.files:
            target = superseded_name(PurePosixPath(file.path).name, replaced.attempt)
            with self._noticing():
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

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except BatcherError:
            self.store_failed = True
            raise
