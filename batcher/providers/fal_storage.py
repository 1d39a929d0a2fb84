"""Local media as fal takes them: small files inline, larger ones uploaded once for each content.

Files are sent to signed URLs on other hosts, which never get the key.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from batcher.clock import Clock
from batcher.errors import Rejected, Unavailable, UsageError
from batcher.http.endpoint import Endpoint, origin_of
from batcher.http.exchange import ApiAnswer, Call, Connection
from batcher.http.network import Network
from batcher.jobs.job import Job, LocalMedia
from batcher.providers.fal_answers import URL_MAX_CHARS, checked
from batcher.providers.json_body import content_of, data_uri

INLINE_MAX_BYTES: Final = 256 << 10
"""Larger files are uploaded. A ``data:`` URI can be compared with what fal lists of a request later."""
UPLOAD_MAX_BYTES: Final = 100_000_000
"""fal takes larger files in parts only."""
MAY_PASS: Final = frozenset({408, 425, 429})
_UPLOADED = re.compile(r"^https://[\w.-]+\.fal\.media/\S*?(?<![0-9a-f])([0-9a-f]{64})(?:\.\w+)?$")


def content_in(url: str) -> str | None:
    """The SHA-256 of the uploaded content that ``url`` is of, if its name tells: see ``_upload``."""
    named = _UPLOADED.search(url) if url.startswith("https://") else None
    return named[1] if named else None


class Storage:
    """fal's file storage. ``connection`` leads to the host that issues the URLs for uploads."""

    def __init__(self, connection: Connection, clock: Clock, network: Network) -> None:
        self._connection = connection
        self._clock = clock
        self._network = network
        self._urls: dict[str, str] = {}
        """The URL of each uploaded content, by its SHA-256."""
        self._turns: dict[str, asyncio.Lock] = {}

    async def body(self, job: Job) -> bytes:
        """The body of a job's POST, after its files are uploaded.

        Raises OSError or ValueError for files that can't be sent, and CallErrors.
        """
        placed: dict[str, str] = {}
        for media in _media_in(job.input):
            if media.sha256 not in placed:
                placed[media.sha256] = await self._placed(media)
        return msgspec.json.encode(_with_addresses(job.input, placed))

    async def _placed(self, media: LocalMedia) -> str:
        if media.bytes <= INLINE_MAX_BYTES:
            return await asyncio.to_thread(data_uri, media)
        if media.bytes > UPLOAD_MAX_BYTES:
            size, limit = media.bytes, UPLOAD_MAX_BYTES
            raise ValueError(
                f"{media.shown} has {size} bytes, and at most {limit} can be uploaded to fal"
            )
        async with self._turns.setdefault(media.sha256, asyncio.Lock()):
            if media.sha256 not in self._urls:
                self._urls[media.sha256] = await self._upload(media)
        return self._urls[media.sha256]

    async def _upload(self, media: LocalMedia) -> str:
        """Store a file under its hash: fal keeps names in URLs, so that a later run knows it again."""
        content = await asyncio.to_thread(content_of, media)
        name = f"{media.sha256}{PurePath(media.path).suffix}"
        asked = msgspec.json.encode({"file_name": name, "content_type": media.media_type})
        call = Call("POST", "/storage/upload/initiate", {"storage_type": "gcs"}, body=asked)
        answer = await self._connection.ask(call)
        document = checked(answer, self._clock.now())
        file_url, upload_url = document.get("file_url"), document.get("upload_url")
        if not self._is_usable(file_url) or not self._is_usable(upload_url):
            told = "fal named no usable address for an upload"
            raise Unavailable(told, http_status=answer.status)
        await self._put(str(upload_url), content, media.media_type)
        return str(file_url)

    async def _put(self, url: str, content: bytes, media_type: str) -> None:
        origin = origin_of(url)
        call = Call("PUT", url[len(origin) :] or "/", body=content, headers={"Content-Type": media_type})
        try:
            endpoint = Endpoint(origin)
        except UsageError:
            raise Rejected("fal named no usable address for an upload") from None
        async with Connection(endpoint, self._clock, network=self._network) as connection:
            _check_stored(await connection.ask(call))

    def _is_usable(self, url: Any) -> bool:
        """Whether a file may go to ``url``: https, or a stand-in's own origin."""
        if not isinstance(url, str) or len(url) > URL_MAX_CHARS or not url.isascii():
            return False
        if not url.isprintable() or {" ", "\\", "@", "#"} & set(url):
            return False
        try:
            parts = urlsplit(url)
            own = origin_of(url) == self._connection.endpoint.origin
        except ValueError:
            return False
        return bool(parts.hostname) and (parts.scheme == "https" or own)


def _check_stored(answer: ApiAnswer) -> None:
    """Raises Unavailable or Rejected: a storage host's answer does not tell whether the key is valid."""
    if answer.ok:
        return
    told = f"HTTP {answer.status}: the file was not stored"
    if answer.status >= 500 or answer.status in MAY_PASS:
        raise Unavailable(told, http_status=answer.status)
    raise Rejected(told, http_status=answer.status)


def _media_in(value: Any) -> Iterator[LocalMedia]:
    if isinstance(value, LocalMedia):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _media_in(item)


def _with_addresses(value: Any, placed: dict[str, str]) -> Any:
    if isinstance(value, LocalMedia):
        return placed[value.sha256]
    if isinstance(value, list):
        return [_with_addresses(item, placed) for item in value]
    if isinstance(value, dict):
        return {key: _with_addresses(item, placed) for key, item in value.items()}
    return value
