"""Downloads, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from batcher.disk import cannot_write
from batcher.download.transfer import Fetched
from batcher.errors import DownloadRefused, DownloadStalled

from .disk import SimDisk
from .server import Server


class SimFetcher:
    """See :class:`batcher.download.downloader.Fetcher`."""

    def __init__(self, server: Server, disk: SimDisk) -> None:
        self._server = server
        self._world = server.world
        self._disk = disk
        self._rng = server.world.rng("fetcher")

    async def fetch(self, url: str, partial: Path, refresh: Callable[[], Awaitable[str]]) -> Fetched:
        try:
            return await self._fetch(url, partial, refresh)
        except BaseException:
            if not self._world.dead:
                self._disk.remove(partial)
            raise

    async def _fetch(self, url: str, partial: Path, refresh: Callable[[], Awaitable[str]]) -> Fetched:
        self._world.step(f"download {url}")
        await self._wait(self._rng.uniform(0.0, 5.0))
        await self._trouble(partial)
        expired = self._rng.random() < self._server.climate.fetch
        while expired or self._world.now_s() > float(url.split("/")[2]):
            self._world.seen["fetch: expired"] += 1
            url, expired = await refresh(), False
        request_id, index, _ = url.split("/")
        content = self._server.requests[request_id].content(int(index))
        try:
            self._disk.put(partial, content)
        except OSError as error:
            raise cannot_write(partial, error) from error
        digest = hashlib.sha256(content).hexdigest()
        return Fetched(len(content), digest, ".mp4", "video/mp4")

    async def _trouble(self, partial: Path) -> None:
        if self._rng.random() >= self._server.climate.fetch:
            return
        trouble = self._rng.choice(["slow", "breaks off", "stalled", "refused", "not media"])
        self._world.seen[f"fetch: {trouble}"] += 1
        match trouble:
            case "slow":
                await self._wait(self._rng.uniform(10.0, 900.0))
            case "breaks off":
                self._disk.put(partial, b"half a fi")
                await self._wait(1.0)
            case "stalled":
                await self._wait(120.0)
                raise DownloadStalled("no progress for 120 s")
            case "refused":
                raise DownloadRefused("a host that is not allowed", "host")
            case _:
                raise DownloadRefused("a page instead of media", "not_media")

    async def _wait(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if self._world.dead:
            raise asyncio.CancelledError
