"""Calls to one API: one exchange each, never retried here, each failure translated.

Each provider decides what an answer means. If there is no answer:

==============================================  ==============  ===========
seen                                            a submission    other calls
==============================================  ==============  ===========
no connection: refused, DNS, TLS, proxy, time-  NotSent         NotSent
out
anything else once the request could be going   OutcomeUnknown  Unavailable
out: time-out, lost connection, garbage, a bug
==============================================  ==============  ===========

The second row is the catch-all: an unknown exception of aiohttp must never count as "nothing was
sent". aiohttp repeats a GET if a kept connection is dead, but never a POST
(``retry_persistent_connection`` in its client is for idempotent methods); a test checks that.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlencode

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from batcher.clock import Deadline
from batcher.errors import CallError, NotSent, OutcomeUnknown, Rejected, Unavailable
from batcher.http.bodies import as_it_is, id_in, is_whole_object
from batcher.http.connections import HEADER_LIMITS, OneExchange, ProxyRefused, heard_before
from batcher.http.endpoint import Endpoint, origin_of
from batcher.http.network import Network
from batcher.http.words import clean, error_text

if TYPE_CHECKING:
    from batcher.clock import Clock

USER_AGENT: Final = "batcher/0.1"
BODY_MAX_BYTES: Final = 4 * 1024 * 1024
ONE_PIECE_BYTES: Final = 64 * 1024
ACCEPT: Final = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": USER_AGENT}
JSON_BODY: Final = {"Content-Type": "application/json"}
GZIP: Final = b"\x1f\x8b\x08"
LAYERS_MAX: Final = 3
_GZIP_OR_ZLIB_WINDOW: Final = 32 + zlib.MAX_WBITS

BEFORE_SENDING: Final = (
    aiohttp.ClientConnectorError,  # with its DNS, proxy, TLS and certificate descendants
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    ProxyRefused,
)
"""What aiohttp raises only before the first byte of a request is sent."""


@dataclass(frozen=True, slots=True)
class ExchangeTimeouts:
    """How long each part of an exchange may take, in seconds.

    A submission that times out leaves an unknown job, so its time-out is long: it grows with the body,
    which may be 64 MiB, at the slowest upload rate that we accept.
    """

    connect_s: float = 10.0
    get_s: float = 30.0
    post_silence_s: float = 120.0
    post_s: float = 180.0
    slowest_upload_bytes_per_s: float = 64 * 1024.0
    post_reuse_s: float = 1.5
    poll_reuse_s: float = 15.0

    def for_get(self, body_bytes: int = 0) -> aiohttp.ClientTimeout:
        total_s = self.get_s + body_bytes / self.slowest_upload_bytes_per_s
        return aiohttp.ClientTimeout(total=total_s, connect=self.connect_s)

    def for_post(self) -> aiohttp.ClientTimeout:
        """Only the connect time: a Deadline, which allows for a suspended process, covers the rest."""
        return aiohttp.ClientTimeout(total=None, connect=self.connect_s)

    def post_total_s(self, body_bytes: int) -> float:
        """Total seconds for a submission; ``post_silence_s`` counts from the end of its upload."""
        return self.post_s + body_bytes / self.slowest_upload_bytes_per_s


class Call(msgspec.Struct, frozen=True):
    """One HTTP request.

    ``path`` is already quoted: either it begins with a slash and is below the base URL, or it is a full
    URL at the API's origin, as an answer gave it. If ``body`` is None, none is sent.
    """

    method: str
    path: str
    query: Mapping[str, str] = {}
    body: bytes | None = None
    headers: Mapping[str, str] = {}
    answer_max_bytes: int = BODY_MAX_BYTES
    """A larger answer is not read."""

    def url(self, base_url: str) -> URL:
        """The URL, unchanged: yarl's own quoting would undo ours.

        Raises Rejected for a URL of another origin: the token must not go there.
        """
        query = f"?{urlencode(self.query)}" if self.query else ""
        if self.path.startswith("/"):
            return URL(f"{base_url}{self.path}{query}", encoded=True)
        if not is_at(base_url, self.path):
            raise Rejected(f"not a URL of this API: {clean(self.path)}")
        return URL(f"{self.path}{query}", encoded=True)


def is_at(base_url: str, url: str) -> bool:
    """Whether ``url`` is at the origin of ``base_url``, and can be requested unchanged."""
    plain = url.isascii() and url.isprintable() and not {" ", "\\", "@", "#", "?"} & set(url)
    try:
        return plain and origin_of(url) == origin_of(base_url)
    except ValueError:
        return False


class ApiAnswer(msgspec.Struct, frozen=True):
    """One HTTP answer. ``body`` is None if it could not be read completely, or was too large.

    ``retry_after`` is the raw header. ``redact`` hides the token in the server's text: a server may
    echo it.
    """

    status: int
    body: bytes | None
    retry_after: str | None = None
    redact: Callable[[str], str] = as_it_is
    headers: Mapping[str, str] = {}

    @property
    def ok(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300


class Connection:
    """The connections to one API. An async context manager; calls outside of it raise NotSent.

    Submissions and all other calls have separate connections. A submission reuses one only within
    1.5 s of its last use: a server closes idle connections after 5 s or more, and if it does so during
    a POST, that POST is ambiguous.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        limits: ExchangeTimeouts | None = None,
        network: Network | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._network = network or Network()
        self._clock = clock
        self._limits = limits or ExchangeTimeouts()
        self._get_timeout, self._post_timeout = self._limits.for_get(), self._limits.for_post()
        self._submitting: aiohttp.ClientSession | None = None
        self._asking: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        base = URL(self.endpoint.base_url)
        self._way = self._network.arguments(base)
        self._submitting = _session(self._limits.post_reuse_s)
        self._asking = _session(self._limits.poll_reuse_s)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sessions, self._submitting, self._asking = (self._submitting, self._asking), None, None
        for session in filter(None, sessions):
            await session.close()

    async def submit(self, call: Call) -> ApiAnswer:
        """An exchange that may cost money. Raises NotSent, OutcomeUnknown.

        The cause of an OutcomeUnknown holds the bytes received: see ``id_told``.
        """
        data, limit_s = _data(call.body), self._limits.post_total_s(len(call.body or b""))
        if not isinstance(data, _Upload):  # it goes out with the headers: the silence begins now
            limit_s = min(limit_s, self._limits.post_silence_s)
        try:
            async with Deadline(self._clock, limit_s) as deadline:
                if isinstance(data, _Upload):
                    data.sent = partial(deadline.shorten, self._limits.post_silence_s)
                return await self._exchange(self._submitting, call, data, self._post_timeout)
        except BEFORE_SENDING as error:
            raise NotSent(self._told(error)) from error
        except CallError:
            raise
        except Exception as error:
            raise OutcomeUnknown(self._told(error)) from error

    def id_told(self, error: OutcomeUnknown) -> str:
        """The request id in an answer to ``submit`` that could not be read as HTTP.

        Raises ``error`` if there is none.
        """
        found = id_in(heard_before(error), self.endpoint.redact)
        if found is None:
            raise error
        return found

    async def ask(self, call: Call) -> ApiAnswer:
        """An exchange that may be repeated. Raises NotSent or Unavailable."""
        try:
            timeout = self._limits.for_get(len(call.body)) if call.body else self._get_timeout
            return await self._exchange(self._asking, call, _data(call.body), timeout)
        except BEFORE_SENDING as error:
            raise NotSent(self._told(error)) from error
        except CallError:
            raise
        except Exception as error:
            raise Unavailable(self._told(error)) from error

    async def _exchange(
        self,
        session: aiohttp.ClientSession | None,
        call: Call,
        data: bytes | _Upload | None,
        timeout: aiohttp.ClientTimeout,
    ) -> ApiAnswer:
        """Send ``call`` once and read its answer. Raises what aiohttp raises, NotSent, Rejected."""
        if session is None or session.closed:
            raise NotSent("the connection to the API is not open")
        async with session.request(
            call.method,
            call.url(self.endpoint.base_url),
            data=data,
            headers=self._headers(call),
            timeout=timeout,
            allow_redirects=False,
            **self._way,
        ) as response:
            return ApiAnswer(
                status=response.status,
                body=await _bounded_body(response, call.answer_max_bytes),
                retry_after=response.headers.get("Retry-After"),
                redact=self.endpoint.redact,
                headers=response.headers,
            )

    def _headers(self, call: Call) -> dict[str, str] | CIMultiDict[str]:
        fixed = JSON_BODY if call.body is not None else {}
        if not call.headers:
            return {**fixed, **self.endpoint.authorization()}
        headers = CIMultiDict(fixed)
        headers.update(call.headers)
        headers.update(self.endpoint.authorization())
        return headers

    def _told(self, error: Exception) -> str:
        """An exception's message in one line; a substitute if it is empty."""
        unworded = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        text = error_text(error)
        if isinstance(error, aiohttp.ClientResponseError):  # its own text shows "400", which nobody sent
            said = getattr(error, "message", "")
            text = f"an answer that is not HTTP: {said}" if said else ""
        told = clean(self.endpoint.redact(text)) or unworded
        advice = ""
        if isinstance(error, BEFORE_SENDING):
            advice = self._network.advice(error, URL(self.endpoint.base_url))
        return f"{told} ({advice})" if advice else told


def _session(reuse_s: float) -> aiohttp.ClientSession:
    """A session without cookies and redirects. The engine limits the number of calls.

    A proxy also sees the session's headers, so the token is not one of them.
    """
    return aiohttp.ClientSession(
        headers=ACCEPT,
        skip_auto_headers=("Content-Type",),
        connector=OneExchange(limit=0, keepalive_timeout=reuse_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        raise_for_status=False,
        auto_decompress=False,
        **HEADER_LIMITS,
    )


class _Upload(BytesIO):
    """A body that is sent in pieces. ``sent`` is called when all of it has gone out."""

    sent: Callable[[], None] | None = None

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        if self.sent is not None and self.tell() == self._size:
            self.sent()
        return piece


def _data(body: bytes | None) -> bytes | _Upload | None:
    """Bytes are sent at once with the headers and block the loop, so a long body is sent in pieces."""
    return _Upload(body) if body is not None and len(body) > ONE_PIECE_BYTES else body


async def _bounded_body(response: aiohttp.ClientResponse, most_bytes: int) -> bytes | None:
    """The complete body, decompressed; None if it was cut short or is over ``most_bytes``.

    If the body is a complete JSON object, a wrong Content-Length is ignored.
    """
    body, broke_off = bytearray(), False
    try:
        while not response.content.at_eof():
            body += await response.content.readany()
            if len(body) > most_bytes:
                response.close()
                return None
    except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
        broke_off = True
    unpacked = unpack(bytes(body), most_bytes)
    if broke_off and (unpacked is None or not is_whole_object(unpacked)):
        return None
    return unpacked


def unpack(body: bytes, most_bytes: int) -> bytes | None:
    """``body`` without its gzip or zlib layers; None if it decompresses to more than ``most_bytes``.

    Compression is detected from the bytes, because headers are often wrong. Data that is cut short is
    decompressed as far as possible; invalid data is returned unchanged.
    """
    for _ in range(LAYERS_MAX):
        if not (body.startswith(GZIP) or _is_zlib(body)):
            break
        opener = zlib.decompressobj(_GZIP_OR_ZLIB_WINDOW)
        try:
            opened = opener.decompress(body, most_bytes + 1)
        except zlib.error:
            break
        if len(opened) > most_bytes:
            return None
        body = opened
    return body


def _is_zlib(body: bytes) -> bool:
    """RFC 1950 section 2.2: deflate with a window of up to 32 KiB, and a check of both bytes."""
    return len(body) > 2 and body[0] & 0x8F == 0x08 and (body[0] << 8 | body[1]) % 31 == 0
