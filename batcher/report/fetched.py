"""Fetches outputs from a bucket when the live page requests them.

They are kept in a temporary folder, which is limited in size and deleted with the server.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from batcher.store.objects.interface import StoreRetries
from batcher.store.objects.opening import open_bucket

if TYPE_CHECKING:
    from batcher.store.objects.interface import Bucket

KEPT_BYTES = 1 << 30
AT_ONCE = 4
PATIENCE = StoreRetries(retries=2, retry_s=10.0, max_backoff_s=2.0, connect_s=5.0, request_s=60.0)
"""Short, because a user is waiting: an early error is better than a spinner for minutes."""


class FetchedOutputs:
    """Local copies of objects of the bucket at ``bucket_url``; the least recently used go first."""

    def __init__(self, bucket_url: str, kept_bytes: int = KEPT_BYTES) -> None:
        self._url, self._kept_bytes = bucket_url, kept_bytes
        self._bucket: Bucket | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="batcher-view-")
        self._sizes: dict[Path, int] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._slots = asyncio.Semaphore(AT_ONCE)

    def close(self) -> None:
        """Delete the copies."""
        self._folder.cleanup()

    async def path_of(self, key: str) -> Path:
        """A copy of the object ``key``. Raises BatcherError as ``Bucket.get_file`` does."""
        name = hashlib.sha256(key.encode()).hexdigest() + PurePosixPath(key).suffix
        path = Path(self._folder.name, name)
        async with self._locks[key], self._slots:
            size_bytes = self._sizes.pop(path, None)
            if size_bytes is None:
                self._bucket = self._bucket or open_bucket(self._url, PATIENCE)
                await self._bucket.get_file(key, path)
                size_bytes = path.stat().st_size
                self._make_room(size_bytes)
            self._sizes[path] = size_bytes  # the last one used
        return path

    def _make_room(self, size_bytes: int) -> None:
        while self._sizes and sum(self._sizes.values()) + size_bytes > self._kept_bytes:
            oldest = next(iter(self._sizes))
            del self._sizes[oldest]
            oldest.unlink(missing_ok=True)
