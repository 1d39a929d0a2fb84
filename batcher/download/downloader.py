"""The downloader: attempts, retries and fresh URLs, until a file is complete or has failed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, Protocol, Self

import aiohttp

from batcher.download.patience import Patience
from batcher.download.sink import GROUP_FILES, PIECE_BYTES, PartialFile, Writers
from batcher.download.transfer import Transfer, Wire
from batcher.download.way import Way
from batcher.errors import DownloadError, DownloadRefused, UrlExpired
from batcher.http.connections import HEADER_LIMITS
from batcher.thread_batches import Threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from random import Random
    from types import TracebackType

    from aiohttp.abc import AbstractResolver

    from batcher.clock import Clock
    from batcher.download.patience import DownloadLimits
    from batcher.download.transfer import Fetched
    from batcher.download.trust import TrustPolicy

    Refresh = Callable[[], Awaitable[str]]

THREADS_MAX: Final = 16
USER_AGENT: Final = "batcher"


class Fetcher(Protocol):
    """What the runner needs of a downloader."""

    async def fetch(self, url: str, partial: Path, refresh: Refresh) -> Fetched:
        """Download ``url`` into the file ``partial``, whole and fsynced on return.

        ``partial`` is overwritten (its folder must exist) and removed if the download fails or is
        cancelled. ``refresh`` gives a fresh URL of the same file; what it raises passes through.
        Retries within; raises DownloadRefused or DownloadStalled in the end, RunDirError if the
        disk refuses.
        """
        ...


class Downloader:
    """A :class:`Fetcher` over HTTP. An async context manager; needs one event loop for its life.

    It has its own connections and no token: no cookies, no ``netrc``. ``way`` is the route to servers;
    its resolver is closed with the downloader.
    """

    def __init__(
        self,
        policy: TrustPolicy,
        limits: DownloadLimits,
        clock: Clock,
        rng: Random,
        way: Way | None = None,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._clock = clock
        self._rng = rng
        self._way = way or Way()
        # A transfer that waits to retry holds no slot, nor does a small file that waits for the disk:
        # as many as one group may wait. A large file keeps its slot until it is durable: more of them
        # at once are hardly faster and take CPU from submissions.
        self._slots = asyncio.Semaphore(limits.downloads)
        self._unfinished = asyncio.Semaphore(limits.downloads + GROUP_FILES)
        self._held = AsyncExitStack()

    async def __aenter__(self) -> Self:
        threads = min(self._limits.downloads + 1, THREADS_MAX)
        self._writers = Writers(Threads(threads, thread_name_prefix="batcher-download"))
        self._held.callback(self._writers.threads.shutdown)
        guard = self._way.guard(self._policy)
        self._held.push_async_callback(guard.close)
        session = await self._held.enter_async_context(self._session(guard))
        self._wire = Wire(session, self._policy, self._limits, self._clock, self._way, guard)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._held.aclose()

    async def fetch(self, url: str, partial: Path, refresh: Refresh) -> Fetched:
        """See :meth:`Fetcher.fetch`."""
        patience = Patience(self._limits, self._clock, self._rng)
        sink = PartialFile(partial, self._writers)
        transfer = Transfer(self._wire, sink, patience)
        try:
            while True:
                try:
                    return await self._in_turn(transfer, url, patience)
                except DownloadRefused:
                    raise
                except DownloadError as error:
                    wait_s = patience.wait_s(error)
                    expired = isinstance(error, UrlExpired)
                await self._clock.sleep(wait_s)
                if expired:
                    url = await refresh()
        except BaseException as error:
            await sink.abandon()
            if isinstance(error, DownloadError):
                error.args = (self._way.redact(str(error)),)
            raise

    async def _in_turn(self, transfer: Transfer, url: str, patience: Patience) -> Fetched:
        queued_at_s = self._clock.monotonic()
        async with self._unfinished:
            async with self._slots:
                patience.forgive(self._clock.monotonic() - queued_at_s)
                received = await transfer.receive(url)
                if not received.is_in_memory:
                    return await transfer.finish(received)
            return await transfer.finish(received)

    def _session(self, resolver: AbstractResolver) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._limits.downloads, resolver=resolver),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT},
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=self._limits.connect_timeout_s,
                sock_read=self._limits.read_timeout_s,
            ),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=PIECE_BYTES,
            **HEADER_LIMITS,
        )
