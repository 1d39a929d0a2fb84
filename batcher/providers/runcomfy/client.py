"""The Model API over HTTP: one exchange per call, each failure translated here.

What an answer means is decided in ``answers``; here is what it means when there is none
(docs/api.md, "What a failed POST means for money"):

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
(``retry_persistent_connection`` in its client is for idempotent methods); a test holds it to that.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from functools import lru_cache, partial
from io import BytesIO
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from batcher.clock import Deadline
from batcher.errors import CallError, NotSent, OutcomeUnknown, Rejected, Unavailable
from batcher.http.bodies import id_in, is_whole_object, usable_id
from batcher.http.connections import HEADER_LIMITS, OneExchange, ProxyRefused, heard_before
from batcher.http.network import Network
from batcher.http.packing import unpack
from batcher.http.words import clean
from batcher.ports import CancelOutcome, Result
from batcher.providers.runcomfy import answers
from batcher.providers.runcomfy.answers import ApiAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batcher.clock import Clock
    from batcher.providers.runcomfy.credentials import Endpoint, Token

USER_AGENT: Final = "batcher/0.1"
BODY_MAX_BYTES: Final = 4 * 1024 * 1024
ONE_PIECE_BYTES: Final = 64 * 1024
ACCEPT: Final = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": USER_AGENT}
JSON_BODY: Final = CIMultiDict({"Content-Type": "application/json"})
MODEL_ID_MAX_CHARS: Final = 300
MODELS_KEPT: Final = 256

BEFORE_SENDING: Final = (
    aiohttp.ClientConnectorError,  # with its DNS, proxy, TLS and certificate descendants
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    ProxyRefused,
)
"""What aiohttp raises only before the first byte of a request: nothing left this machine."""


@dataclass(frozen=True, slots=True)
class ExchangeTimeouts:
    """How long each part of an exchange may take, in seconds.

    A submission that times out leaves an unknown job, so its time-out is long: it grows with the
    body, which may be 64 MiB, by the slowest line that we accept.
    """

    connect_s: float = 10.0
    get_s: float = 30.0
    post_silence_s: float = 120.0
    post_s: float = 180.0
    slowest_upload_bytes_per_s: float = 64 * 1024.0
    post_reuse_s: float = 1.5
    poll_reuse_s: float = 15.0

    def for_get(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=self.get_s, connect=self.connect_s)

    def for_post(self) -> aiohttp.ClientTimeout:
        """Only the connect time: the rest has a Deadline, which allows for a stopped process."""
        return aiohttp.ClientTimeout(total=None, connect=self.connect_s)

    def post_total_s(self, body_bytes: int) -> float:
        """Total seconds for a submission; ``post_silence_s`` counts from the end of its upload."""
        return self.post_s + body_bytes / self.slowest_upload_bytes_per_s


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request. ``path`` begins with a slash and is quoted; no ``body`` means none is sent."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def url(self, base_url: str) -> URL:
        """The URL, unchanged: yarl's own quoting would undo ours."""
        query = f"?{urlencode(self.query)}" if self.query else ""
        return URL(f"{base_url}{self.path}{query}", encoded=True)


class HttpService:
    """The Model API behind one endpoint: :class:`batcher.ports.Service`, and the catalogue's calls.

    An async context manager; calls outside of it raise NotSent. Submissions and all other calls have
    separate connections. A submission reuses one only within 1.5 s of its last use: a server
    closes idle connections after 5 s or more, and if it does so during a POST, that POST is
    ambiguous.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        limits: ExchangeTimeouts | None = None,
        network: Network | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._network = network or Network()
        self._clock = clock
        self._limits = limits or ExchangeTimeouts()
        self._submitting: aiohttp.ClientSession | None = None
        self._asking: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        base = URL(self._endpoint.base_url)
        self._way = self._network.arguments(base)
        trusted = self._network.trusted() if base.scheme == "https" else True
        self._submitting = _session(self._limits.post_reuse_s, trusted)
        self._asking = _session(self._limits.poll_reuse_s, trusted)
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

    @property
    def origin(self) -> str:
        """The API's scheme, host and port."""
        return self._endpoint.origin

    async def submit(self, model: str, body: bytes) -> str:
        """See :meth:`batcher.ports.Service.submit`. ``body`` is JSON, sent as it is."""
        call = Call("POST", f"/models/{_model_path(model)}", body=body)
        total_s = self._limits.post_total_s(len(body))
        try:
            async with Deadline(self._clock, total_s) as deadline:
                sent = partial(deadline.shorten, self._limits.post_silence_s)
                timeout = self._limits.for_post()
                answer = await self._exchange(self._submitting, call, timeout, sent)
        except BEFORE_SENDING as error:
            raise NotSent(self._told(error)) from error
        except CallError:
            raise
        except Exception as error:
            request_id = id_in(heard_before(error), self._redact)
            if request_id is not None:
                return request_id
            raise OutcomeUnknown(self._told(error)) from error
        return answers.submission(answer, self._clock.now())

    async def result(self, request_id: str) -> Result:
        """See :meth:`batcher.ports.Service.result`. Asks for the cost too."""
        call = Call("GET", f"/requests/{_request_path(request_id)}/result", {"include_cost": "true"})
        return answers.result(await self._ask(call), self._clock.now(), request_id)

    async def status(self, request_id: str) -> Result:
        """A request's state without its outputs. Only ``result``'s word is final. May be repeated."""
        call = Call("GET", f"/requests/{_request_path(request_id)}/status")
        return answers.result(await self._ask(call), self._clock.now(), request_id)

    async def cancel(self, request_id: str) -> CancelOutcome:
        """See :meth:`batcher.ports.Service.cancel`."""
        call = Call("POST", f"/requests/{_request_path(request_id)}/cancel")
        return answers.cancellation(await self._ask(call), self._clock.now(), request_id)

    async def model(self, model_id: str) -> dict[str, Any]:
        """A model's catalogue entry as the API gives it. May be repeated. Raises like ``result``."""
        call = Call("GET", f"/models/{_model_path(model_id)}")
        return answers.catalogue_object(await self._ask(call), self._clock.now())

    async def models(
        self, search: str = "", category: str = "", *, limit: int, offset: int = 0
    ) -> dict[str, Any]:
        """A page of the catalogue: ``{"models": [...], "total"}``, unchecked. Raises like ``result``."""
        named = {"search": search, "category": category, "limit": str(limit), "offset": str(offset)}
        call = Call("GET", "/models", {key: value for key, value in named.items() if value})
        return answers.catalogue_object(await self._ask(call), self._clock.now())

    async def _ask(self, call: Call) -> ApiAnswer:
        """An exchange that may be repeated. Raises NotSent or Unavailable."""
        try:
            return await self._exchange(self._asking, call, self._limits.for_get())
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
        timeout: aiohttp.ClientTimeout,
        sent: Callable[[], None] = lambda: None,
    ) -> ApiAnswer:
        """Send ``call`` once and read its answer. Raises what aiohttp raises, and NotSent.

        ``sent`` is called when all of the body has gone out.
        """
        if session is None or session.closed:
            raise NotSent("the connection to the API is not open")
        async with session.request(
            call.method,
            call.url(self._endpoint.base_url),
            data=_data(call.body, sent),
            headers=_headers(self._endpoint.token, call),
            timeout=timeout,
            allow_redirects=False,
            **self._way,
        ) as response:
            body = await _bounded_body(response)
            return ApiAnswer(
                status=response.status,
                body=body,
                retry_after=response.headers.get("Retry-After"),
                redact=self._redact,
            )

    def _redact(self, text: str) -> str:
        token = self._endpoint.token
        return token.redact(text) if token else text

    def _told(self, error: Exception) -> str:
        """An exception in one line: its message, or a replacement for an empty one."""
        unworded = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        told = clean(self._redact(str(error))) or unworded
        advice = ""
        if isinstance(error, BEFORE_SENDING):
            advice = self._network.advice(error, URL(self._endpoint.base_url))
        return f"{told} ({advice})" if advice else told


def _session(reuse_s: float, trusted: ssl.SSLContext | bool) -> aiohttp.ClientSession:
    """A session without cookies and redirects. The engine limits the calls.

    A proxy also sees the session's headers, so the token is not one of them.
    """
    return aiohttp.ClientSession(
        headers=ACCEPT,
        skip_auto_headers=("Content-Type",),
        connector=OneExchange(limit=0, keepalive_timeout=reuse_s, ssl=trusted),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        raise_for_status=False,
        auto_decompress=False,
        **HEADER_LIMITS,
    )


def _headers(token: Token | None, call: Call) -> CIMultiDict[str]:
    headers = CIMultiDict(JSON_BODY if call.body is not None else {})
    if token is not None:
        headers["Authorization"] = token.authorization()
    return headers


class _Upload(BytesIO):
    """A body that says when it has been read to its end."""

    def __init__(self, body: bytes, sent: Callable[[], None]) -> None:
        super().__init__(body)
        self._size, self._sent = len(body), sent

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        if self.tell() == self._size:
            self._sent()
        return piece


def _data(body: bytes | None, sent: Callable[[], None]) -> bytes | BytesIO | None:
    """A file-like body goes out in pieces; bytes go in one, with the headers, which blocks the loop."""
    if body is not None and len(body) > ONE_PIECE_BYTES:
        return _Upload(body, sent)
    sent()
    return body


async def _bounded_body(response: aiohttp.ClientResponse) -> bytes | None:
    """The whole body, unpacked; None if it broke off or is over 4 MiB.

    A body that ends after a whole JSON object, with a wrong length, is that object.
    """
    body, broke_off = bytearray(), False
    try:
        while chunk := await response.content.readany():
            body += chunk
            if len(body) > BODY_MAX_BYTES:
                response.close()
                return None
    except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
        broke_off = True
    unpacked = unpack(bytes(body), BODY_MAX_BYTES)
    if broke_off and (unpacked is None or not is_whole_object(unpacked)):
        return None
    return unpacked


@lru_cache(MODELS_KEPT)
def _model_path(model: str) -> str:
    """A model id as a path below ``/models``. Raises Rejected if it would name another path."""
    segments = model.split("/")
    unsafe = any(part in ("", ".", "..") for part in segments) or not model.isprintable()
    if unsafe or len(model) > MODEL_ID_MAX_CHARS:
        raise Rejected(f"not a usable model id: {clean(model)!r}")
    return "/".join(quote(part, safe="") for part in segments)


def _request_path(request_id: str) -> str:
    """A request id as a path segment. Ids also come from the ledger, which may have been edited."""
    if usable_id(request_id) is None:
        raise Rejected(f"not a usable request id: {clean(request_id)!r}")
    return request_id
