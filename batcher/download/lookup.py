"""Asking about a file on a public web server without fetching it: HEAD, else one byte by GET."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from yarl import URL

from batcher.download.answer import whole_number
from batcher.download.trust import TrustPolicy
from batcher.download.way import Way
from batcher.errors import BatcherError
from batcher.http.connections import HEADER_LIMITS
from batcher.http.words import error_text

USER_AGENT: Final = "batcher"
GONE: Final = frozenset({404, 410})
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
NOT_THERE: Final = "does not exist (404)"
ONE_BYTE: Final = {"Range": "bytes=0-0"}


@dataclass(frozen=True, slots=True)
class LookupLimits:
    """Timeouts and concurrency: at most ``per_host`` requests at a time to one host."""

    timeout_s: float = 20.0
    connect_s: float = 10.0
    at_once: int = 32
    per_host: int = 4
    max_redirects: int = 5


@dataclass(frozen=True, slots=True)
class Looked:
    """A server's answer about a file. ``problem`` is why it can't be fetched, None if it can.

    ``media_type`` and ``size_bytes`` are None if the server doesn't say.
    """

    problem: str | None = None
    media_type: str | None = None
    size_bytes: int | None = None


class Lookup:
    """Asks about URLs. An async context manager; knows no token and no cookies.

    ``allowed`` says whether a URL, or a redirect's, may be requested. Names that resolve to an address
    that is not public are also refused, as for downloads.
    """

    def __init__(
        self,
        policy: TrustPolicy,
        allowed: Callable[[str], bool],
        limits: LookupLimits | None = None,
        way: Way | None = None,
    ) -> None:
        self._policy = policy
        self._allowed = allowed
        self._limits = limits or LookupLimits()
        self._way = way or Way()
        self._hosts: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(self._limits.per_host)
        )
        self._held = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._guard = guard = self._way.guard(self._policy)
        self._held.push_async_callback(guard.close)
        self._session = await self._held.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._limits.at_once, resolver=guard),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(
                    total=self._limits.timeout_s, connect=self._limits.connect_s
                ),
                trust_env=False,
                **HEADER_LIMITS,
            )
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._held.aclose()

    async def look(self, url: str) -> Looked:
        """Ask about ``url``. Raises nothing: an error becomes the answer's ``problem``.

        A URL signed for GET refuses HEAD (S3 answers 403), and some servers have no HEAD: unless the
        file is clearly gone, one byte is requested before it counts as unreachable.
        """
        looked = await self._ask("HEAD", url)
        if looked.problem is None and looked.media_type is not None:
            return looked
        return looked if looked.problem == NOT_THERE else await self._ask("GET", url)

    async def _ask(self, method: str, url: str) -> Looked:
        try:
            for _ in range(self._limits.max_redirects + 1):
                answer = await self._exchange(method, url)
                if isinstance(answer, Looked):
                    return answer
                url = answer
        except (aiohttp.ClientError, BatcherError, OSError, ValueError) as error:
            return Looked(_told(error))
        return Looked("redirects without an end")

    async def _exchange(self, method: str, url: str) -> Looked | str:
        """One request: the server's answer about the file, or the URL of its redirect."""
        if not self._allowed(url):
            return Looked("is not, or leads to what is not, a public HTTPS URL")
        target = URL(url, encoded=url.isascii() and " " not in url)
        asking: dict[str, Any] = {
            "headers": ONE_BYTE if method == "GET" else {},
            "allow_redirects": False,
        }
        asking |= await self._way.arguments(target, self._guard)
        async with (
            self._hosts[target.raw_host or ""],
            self._session.request(method, target, **asking) as response,
        ):
            location = response.headers.get("Location")
            if response.status in REDIRECTS and location is not None:
                return str(target.join(URL(location)))
            looked = _read(response)
            response.close()  # a server that ignores Range would send it all
            return looked


def _read(response: aiohttp.ClientResponse) -> Looked:
    if response.status not in (200, 206):
        refusal = f"can't be fetched: the server answers {response.status}"
        return Looked(NOT_THERE if response.status in GONE else refusal)
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return Looked(None, media_type or None, _size_bytes(response))


def _size_bytes(response: aiohttp.ClientResponse) -> int | None:
    """The whole file's size: after the slash of Content-Range (RFC 9110 section 14.4), or its length."""
    if response.status == 206:
        _, _, total = response.headers.get("Content-Range", "").rpartition("/")
    else:
        total = response.headers.get("Content-Length", "")
    return whole_number(total)


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "can't be reached: no answer in time"
    return f"can't be reached: {error_text(error) or type(error).__name__}".partition("\n")[0]
