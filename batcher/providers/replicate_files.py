"""Uploads of local media to Replicate: once per content, and again before the upload expires."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes
from uuid import uuid4

from batcher.errors import Unavailable
from batcher.http.exchange import Call
from batcher.jobs.job import LocalMedia, is_data_uri

if TYPE_CHECKING:
    from batcher.clock import Clock

INLINE_MAX_CHARS: Final = 64 << 10
"""Longer ``data:`` URIs are uploaded too. The API advises 256 kB at most, and a POST must be quick."""
SPARE: Final = timedelta(minutes=10)
"""An upload that expires sooner is not used again: a prediction may wait before it reads its inputs."""
KEPT: Final = timedelta(hours=1)
"""How long an upload is taken to be kept if the answer doesn't say."""

Ask = Callable[[Call], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Upload:
    """The URL of an uploaded content, and when it expires."""

    url: str
    expires_at: datetime


@dataclass(slots=True)
class Uploads:
    """The uploads of one process, by the SHA-256 of their content."""

    ask: Ask
    clock: Clock
    _by_sha256: dict[str, Upload] = field(default_factory=dict)
    _locks: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    async def sent(self, value: Any) -> Any:
        """``value`` as it is sent, with media uploaded.

        Raises OSError if a file is gone, ValueError if it changed, CallErrors.
        """
        if isinstance(value, LocalMedia):
            return await self._url(value.sha256, lambda: _content_of(value))
        if isinstance(value, list):
            return [await self.sent(item) for item in value]
        if isinstance(value, dict):
            return {key: await self.sent(item) for key, item in value.items()}
        if isinstance(value, str) and len(value) > INLINE_MAX_CHARS and is_data_uri(value):
            name, content = await asyncio.to_thread(_decoded, value)
            sha256 = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
            return await self._url(sha256, lambda: (name, content))
        return value

    async def _url(self, sha256: str, read: Callable[[], tuple[str, bytes]]) -> str:
        """The URL of a content; two jobs that need the same one upload it once."""
        async with self._locks[sha256]:
            known = self._by_sha256.get(sha256)
            if known is None or known.expires_at - self.clock.now() < SPARE:
                media_type, content = await asyncio.to_thread(read)
                known = await self._upload(sha256, media_type, content)
                self._by_sha256[sha256] = known
            return known.url

    async def _upload(self, sha256: str, media_type: str, content: bytes) -> Upload:
        boundary = uuid4().hex
        kind = (
            "".join(char for char in media_type if char.isalnum() or char in "/+.-")
            or "application/octet-stream"
        )
        head = (
            f"--{boundary}\r\nContent-Type: {kind}\r\n"
            f'Content-Disposition: form-data; name="content"; filename="{sha256[:16]}"\r\n\r\n'
        )
        body = b"".join([head.encode(), content, f"\r\n--{boundary}--\r\n".encode()])
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        document = await self.ask(Call("POST", "/files", body=body, headers=headers))
        urls = document.get("urls")
        url = urls.get("get") if isinstance(urls, dict) else None
        if not isinstance(url, str) or not url.startswith(("https://", "http://")):
            raise Unavailable("an upload was answered without a URL", http_status=HTTPStatus.OK)
        return Upload(url, _moment(document.get("expires_at")) or self.clock.now() + KEPT)


def _content_of(media: LocalMedia) -> tuple[str, bytes]:
    """The type and content of a local file. Raises OSError, ValueError if it changed."""
    content = Path(media.path).read_bytes()
    if hashlib.sha256(content).hexdigest() != media.sha256:
        raise ValueError(f"{media.shown} changed since the manifest was read; run again")
    return media.media_type, content


def _decoded(uri: str) -> tuple[str, bytes]:
    head, _, payload = uri.partition(",")
    media_type = head.removeprefix("data:").partition(";")[0]
    if head.endswith(";base64"):
        return media_type, base64.b64decode(payload)
    return media_type, unquote_to_bytes(payload)


def _moment(text: Any) -> datetime | None:
    """A time in an answer, in ISO 8601 with its zone; None if it is not one."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None
