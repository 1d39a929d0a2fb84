"""One transfer: an attempt to get a file, or the rest of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import aiohttp
import msgspec

from batcher.download.answer import read_answer
from batcher.download.coding import Broken, is_packed, is_unreadable, unpack
from batcher.download.patience import Endless, NotMedia, ServerBusy
from batcher.download.trust import shown
from batcher.errors import DownloadInterrupted, DownloadRefused, UrlExpired
from batcher.http.words import error_text
from batcher.media.file_types import HEAD_BYTES, identify, path_extension
from batcher.media.wholeness import is_whole

if TYPE_CHECKING:
    from yarl import URL

    from batcher.clock import Clock
    from batcher.download.answer import MediaAnswer
    from batcher.download.patience import DownloadLimits, Patience
    from batcher.download.sink import PartialFile
    from batcher.download.trust import TrustedResolver, TrustPolicy
    from batcher.download.way import Way
    from batcher.media.file_types import FileType

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_LATER: Final = frozenset({408, 425, 429})
_REASON_MAX_CHARS: Final = 200


class Fetched(msgspec.Struct, frozen=True):
    """A complete and durable file: its size, SHA-256 in hex, extension (".mp4") and type."""

    bytes: int
    sha256: str
    extension: str
    media_type: str


@dataclass(frozen=True, slots=True)
class Wire:
    """What all transfers share."""

    session: aiohttp.ClientSession
    policy: TrustPolicy
    limits: DownloadLimits
    clock: Clock
    way: Way
    guard: TrustedResolver


@dataclass(frozen=True, slots=True)
class Received:
    """A body that has arrived to its end.

    ``tells_its_end`` if a length or a last chunk showed that; ``is_in_memory`` if nothing of it is
    written yet.
    """

    final_url: URL
    answer: MediaAnswer
    tells_its_end: bool
    is_in_memory: bool


class Transfer:
    """One download over several attempts; received bytes are kept between them."""

    def __init__(self, wire: Wire, sink: PartialFile, patience: Patience) -> None:
        self._wire = wire
        self._sink = sink
        self._patience = patience
        self._resource = self._shown = ""
        self._validator: str | None = None
        self._total_bytes: int | None = None
        self._format: FileType | None = None
        self._packed = False

    async def receive(self, url: str) -> Received:
        """Get the file, or continue where the last attempt stopped. :meth:`finish` must follow.

        Raises DownloadRefused for content that must not be accepted, another DownloadError if another
        attempt may succeed (UrlExpired: with a fresh URL), and RunDirError if a write fails.
        """
        await self._keep_or_restart(url)
        try:
            response, answer = await self._open(url)
            async with response:
                await self._accept(answer)
                await self._receive(response, answer)
                tells_its_end = self._total_bytes is not None or _is_chunked(response)
        except (aiohttp.ClientError, OSError) as error:
            raise DownloadInterrupted(f"{self._shown}: {_reason(error)}") from error
        return Received(response.url, answer, tells_its_end, self._sink.is_in_memory)

    async def finish(self, received: Received) -> Fetched:
        """Make the file durable and check it, without a connection. Raises what :meth:`receive` does."""
        sha256 = await self._sink.finish()
        size_bytes = self._sink.size_bytes
        if self._packed:
            return await self._unpacked(received)
        assert self._format is not None
        extension = self._format.extension
        is_complete = received.tells_its_end or await self._sink.look(
            partial(is_whole, extension=extension)
        )
        if not is_complete:
            await self._restart()
            raise Endless(
                f"{self._shown}: came without a length, and its format ({extension}) does not say that "
                "it is whole"
            )
        return Fetched(size_bytes, sha256, extension, self._format.media_type)

    async def _keep_or_restart(self, url: str) -> None:
        """Keep the received bytes only if the rest can be requested by name and version.

        An entity tag is about one resource (RFC 9110 section 8.8.3): a fresh signature on the same
        path means the same one, another path does not.
        """
        resource = url.partition("#")[0].partition("?")[0]
        if self._validator is None or resource != self._resource:
            await self._restart()
        self._resource, self._shown = resource, shown(resource)

    async def _restart(self) -> None:
        self._validator = self._total_bytes = self._format = None
        self._packed = False
        if self._sink.size_bytes:
            await self._sink.restart()

    async def _open(self, url: str) -> tuple[aiohttp.ClientResponse, MediaAnswer]:
        """The answer at the end of the redirects, each of them checked like the first URL.

        The caller closes the response.
        """
        target = self._wire.policy.check(url)
        for _ in range(self._wire.limits.max_redirects + 1):
            way = await self._wire.way.arguments(target, self._wire.guard)
            response = await self._wire.session.get(
                target, headers=self._range_headers(), allow_redirects=False, **way
            )
            answer = read_answer(response.status, response.headers, self._wire.clock.now())
            if answer.status not in _REDIRECTS or answer.location is None:
                return response, answer
            async with response:
                target = self._wire.policy.follow(target, answer.location)
        raise DownloadRefused(f"{self._shown}: redirected too often", "redirects")

    def _range_headers(self) -> dict[str, str]:
        """Request the rest, if it is still the same file (RFC 9110 sections 13.1.5 and 14.2)."""
        if not self._sink.size_bytes or self._validator is None:
            return {}
        return {"Range": f"bytes={self._sink.size_bytes}-", "If-Range": self._validator}

    async def _accept(self, answer: MediaAnswer) -> None:
        """Prepare for the body, or raise the error that the answer means."""
        match answer.status:
            case HTTPStatus.OK:
                await self._restart()
                self._validator = answer.validator
                self._total_bytes = answer.length
            case HTTPStatus.PARTIAL_CONTENT:
                await self._accept_rest(answer)
            case _:
                await self._decline(answer)
        self._check_size(self._total_bytes or 0)

    async def _accept_rest(self, answer: MediaAnswer) -> None:
        """A 206 must have been requested, and must continue our file (RFC 9110 section 15.3.7)."""
        rest = answer.range
        if (
            rest is None
            or not self._sink.size_bytes
            or rest.first != self._sink.size_bytes
            or self._total_bytes not in (None, rest.total)
            or answer.length not in (None, rest.last - rest.first + 1)
            or (answer.validator is not None and answer.validator != self._validator)
        ):
            await self._restart()
            raise DownloadInterrupted(f"{self._shown}: answered with a range that does not fit")
        self._total_bytes = rest.total

    async def _decline(self, answer: MediaAnswer) -> None:
        status = answer.status
        message = f"{self._shown}: answered HTTP {status}"
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            await self._restart()
            raise DownloadInterrupted(message)
        if status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ServerBusy(message, answer.retry_after_s)
        raise UrlExpired(message)

    async def _receive(self, response: aiohttp.ClientResponse, answer: MediaAnswer) -> None:
        body, may_be_crumbs = response.content, _is_chunked(response)
        while not body.at_eof():
            # To join what has arrived copies it; a chunked body may be a million short pieces.
            chunk = await body.readany() if may_be_crumbs else (await body.readchunk())[0]
            size_bytes = self._sink.size_bytes + len(chunk)
            self._check_size(size_bytes)
            await self._check_total(size_bytes)
            await self._sink.add(chunk)
            self._patience.arrived(size_bytes)
            if not self._known and len(self._sink.head) == HEAD_BYTES:
                await self._look(response.url, answer)
        if self._total_bytes is not None and self._sink.size_bytes < self._total_bytes:
            raise DownloadInterrupted(f"{self._shown}: the body ended early")
        if not self._known:
            await self._look(response.url, answer)

    @property
    def _known(self) -> bool:
        return self._packed or self._format is not None

    async def _look(self, final_url: URL, answer: MediaAnswer) -> None:
        """Decide by the first bytes whether this is gzip, a known format, or not an output."""
        head = self._sink.head
        extension = path_extension(unquote(self._resource))
        self._packed = is_packed(head, extension, answer.media_type)
        if self._packed:
            return
        if is_unreadable(head, answer.encoding):
            raise DownloadRefused(
                f"{self._shown}: encoded as {answer.encoding[:20]!r} though identity was asked for",
                "encoding",
            )
        await self._identify(head, final_url, answer.media_type)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._wire.limits.max_file_bytes:
            raise DownloadRefused(
                f"{self._shown}: larger than {self._wire.limits.max_file_bytes} bytes "
                "(--max-file-size sets the limit)",
                "too_large",
            )

    async def _check_total(self, size_bytes: int) -> None:
        if self._total_bytes is not None and size_bytes > self._total_bytes:
            await self._restart()
            raise DownloadInterrupted(f"{self._shown}: sent more than it announced")

    async def _identify(self, head: bytes, final_url: URL, media_type: str) -> None:
        paths = (unquote(self._resource), final_url.path)
        self._format = identify(head, paths, media_type) if head else None
        if self._format is None:
            await self._restart()
            kind = media_type.partition(";")[0][:60] or "no type"
            what = f"a page or a message ({kind})" if head else "an empty body"
            raise NotMedia(f"{self._shown}: answered with {what} instead of media")

    async def _unpacked(self, received: Received) -> Fetched:
        """The content of a gzip body; its checksum shows that it is complete."""
        limit = self._wire.limits.max_file_bytes
        try:
            found = await self._sink.look(partial(unpack, max_bytes=limit))
        except Broken as error:
            await self._restart()
            raise DownloadInterrupted(f"{self._shown}: gzip that can't be unpacked: {error}") from error
        if found is None:
            self._check_size(limit + 1)
        assert found is not None
        await self._identify(found.head, received.final_url, received.answer.media_type)
        assert self._format is not None
        return Fetched(found.size_bytes, found.sha256, self._format.extension, self._format.media_type)


def _is_chunked(response: aiohttp.ClientResponse) -> bool:
    """Whether the body ends with a last chunk; aiohttp raises if that is missing."""
    return "chunked" in response.headers.get("Transfer-Encoding", "").lower()


def _reason(error: Exception) -> str:
    """An exception in one short line. Some have no text, and some show the URL with its signature."""
    text = error.message if isinstance(error, aiohttp.ClientResponseError) else error_text(error)
    return " ".join((text or type(error).__name__).split())[:_REASON_MAX_CHARS]
