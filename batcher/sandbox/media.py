"""Serves the outputs like a storage host: signed URLs, ranges, entity tags, and failures."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING

from aiohttp import web

from batcher.sandbox.answers import RETRY_AFTER_S, Refusal, error_page, hang_up, not_found
from batcher.sandbox.faults import Fault
from batcher.sandbox.gate import Gatekeeper
from batcher.sandbox.outputs import MEDIA_TYPES, content, names
from batcher.sandbox.store import RequestPhase

if TYPE_CHECKING:
    from batcher.sandbox.backend import Backend
    from batcher.sandbox.store import Request

EXCESS_BYTES = 1000
"""How much more than the file a wrong Content-Length promises."""

_DENIED = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
)


def routes(backend: Backend) -> list[web.RouteDef]:
    """The routes of the outputs of all APIs."""
    host, gate = MediaHost(backend), Gatekeeper(backend)
    return [web.get("/outputs/{request_id}/{name}", gate.open(host.serve, "downloads"))]


class MediaHost:
    """The handler of ``/outputs/{request_id}/{name}``."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = backend.store

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """GET or HEAD of one output. Raises Refusal: 400 for a token, 404 for no such output."""
        if "Authorization" in request.headers:
            self._backend.stats.tokens_leaked += 1
            raise Refusal(400, "This host takes no Authorization: the token is not for it")
        made = self._made(request)
        query = request.query
        expires_s, signature = query.get("Expires", ""), query.get("Signature", "")
        if not self._backend.signer.allows(request.path, expires_s, signature, self._store.now_s()):
            return _denied()
        asks = request.method == "GET"
        fault = self._backend.download_fault(request.path) if asks else None
        return await _answer(request, made, fault)

    def _made(self, request: web.Request) -> Request:
        """The finished request of this output."""
        made = self._store.get(request.match_info["request_id"])
        if (
            made is None
            or made.phase(self._store.now_s()) is not RequestPhase.FINISHED
            or request.match_info["name"] not in names(made.order)
        ):
            raise not_found("output")
        return made


def _denied() -> web.Response:
    return web.Response(status=403, text=_DENIED, content_type="application/xml")


async def _answer(request: web.Request, made: Request, fault: Fault | None) -> web.StreamResponse:
    match fault:
        case Fault.DOWNLOAD_DROPPED:
            return hang_up(request)
        case Fault.DOWNLOAD_INTERNAL:
            return error_page("500 Internal Server Error", 500)
        case Fault.DOWNLOAD_BUSY:
            raise Refusal(503, "Slow down", headers={"Retry-After": str(RETRY_AFTER_S)})
        case Fault.DOWNLOAD_HTML:
            return error_page("We'll be right back", 200)
        case Fault.DOWNLOAD_EXPIRED:
            return _denied()
    whole = _file(request, made, ranged=fault is not Fault.DOWNLOAD_RANGE_IGNORED)
    body = whole.body if isinstance(whole.body, bytes) else b""
    match fault:
        case Fault.DOWNLOAD_EMPTY:
            whole.body = b""
        case Fault.DOWNLOAD_TRUNCATED:
            return await _broken_off(request, whole, body[: len(body) // 2], len(body))
        case Fault.DOWNLOAD_WRONG_LENGTH:
            return await _broken_off(request, whole, body, len(body) + EXCESS_BYTES)
    return whole


def _file(request: web.Request, made: Request, *, ranged: bool) -> web.Response:
    """The file, or the requested range of it (RFC 9110, 14.2)."""
    name = request.match_info["name"]
    data = content(made.order, name)
    headers = {
        "ETag": f'"{hashlib.sha256(data).hexdigest()[:32]}"',
        "Last-Modified": _http_date(made.ended_s or made.order.at),
        "Accept-Ranges": "bytes",
        "Content-Type": MEDIA_TYPES[name.partition(".")[2]],
    }
    if request.method == "HEAD":
        return web.Response(headers=headers | {"Content-Length": str(len(data))})
    wanted = _wanted(request, headers) if ranged else None
    if wanted is None:
        return web.Response(body=data, headers=headers)
    start, stop, _ = wanted.indices(len(data))
    if start >= stop:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return web.Response(status=206, body=data[start:stop], headers=headers)


def _wanted(request: web.Request, headers: dict[str, str]) -> slice | None:
    """The range to serve; None for the whole file, also for several ranges or another ``If-Range``."""
    version = request.headers.get("If-Range")
    current = (None, headers["ETag"], headers["Last-Modified"])
    if "Range" not in request.headers or version not in current:
        return None
    try:
        return request.http_range
    except ValueError:
        return None


async def _broken_off(
    request: web.Request, like: web.Response, body: bytes, promised_bytes: int
) -> web.StreamResponse:
    """Promise ``promised_bytes``, send ``body``, close the connection."""
    response = web.StreamResponse(status=like.status, headers=like.headers)
    response.content_length = promised_bytes
    await response.prepare(request)
    await response.write(body)
    if request.transport is not None:
        request.transport.close()
    return response


def _http_date(epoch_s: float) -> str:
    return format_datetime(datetime.fromtimestamp(epoch_s, UTC), usegmt=True)
