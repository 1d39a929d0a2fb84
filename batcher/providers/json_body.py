"""The JSON body of a job's POST; local media are read here, at the last moment, one job at a time."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any

import msgspec

from batcher.jobs.job import Job, LocalMedia

JSON_TYPE = "application/json"
MAX_BODY_BYTES = 64 << 20
QUICK_CHARS = 16 << 10
QUICK_ITEMS = 16


async def prepared_body(job: Job) -> bytes:
    """:func:`request_body`, in a thread if that is slow."""
    return request_body(job) if is_quick(job) else await asyncio.to_thread(request_body, job)


def request_body(job: Job) -> bytes:
    """``job``'s inputs as the API takes them: local media inline, as ``data:`` URIs.

    Blocks while it reads; see :func:`is_quick`. Raises OSError if a file is gone, ValueError if
    it differs from the planned one or the body is over the API's 64 MiB.
    """
    return encoded({name: inline(value) for name, value in job.input.items()})


def encoded(document: dict[str, Any]) -> bytes:
    """A body. Raises ValueError if it is over the API's 64 MiB."""
    body = msgspec.json.encode(document)
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"the request body has {len(body)} bytes, the API takes {MAX_BODY_BYTES}")
    return body


def is_quick(job: Job) -> bool:
    """Whether ``job``'s body is made quickly: no file to read, and no large value in it."""
    return all(map(_is_small, job.input.values()))


def _is_small(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= QUICK_CHARS
    if isinstance(value, list):
        return len(value) <= QUICK_ITEMS and all(map(_is_small, value))
    return not isinstance(value, LocalMedia | dict)


def inline(value: Any) -> Any:
    """``value`` as the API takes it. Raises OSError, ValueError like :func:`request_body`."""
    if isinstance(value, LocalMedia):
        if value.media_type == JSON_TYPE:
            return msgspec.json.decode(content_of(value).removeprefix(b"\xef\xbb\xbf"))
        return data_uri(value)
    if isinstance(value, list):
        return [inline(item) for item in value]
    if isinstance(value, dict):
        return {name: inline(item) for name, item in value.items()}
    return value


def data_uri(media: LocalMedia) -> str:
    """A local file as a ``data:`` URI. Blocks; raises like :func:`content_of`."""
    return f"data:{media.media_type};base64,{base64.b64encode(content_of(media)).decode()}"


def content_of(media: LocalMedia) -> bytes:
    """The bytes of a local file. Blocks. Raises OSError, and ValueError if it is not the planned one."""
    content = Path(media.path).read_bytes()
    if hashlib.sha256(content).hexdigest() != media.sha256:
        raise ValueError(f"{media.shown} changed since the manifest was read; run again")
    return content
