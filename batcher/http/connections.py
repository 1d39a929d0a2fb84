"""Connections for calls that may cost money: one request, one answer, no unsolicited bytes.

Bytes that arrive on a kept connection while it is idle (a late time-out, a stray answer) would be read
as the answer to the next request. A connection that has anything to read is therefore never reused.
"""

from __future__ import annotations

import asyncio
import select
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler

from batcher.http.words import error_text

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.tracing import Trace

HEADER_MAX_BYTES: Final = 256 * 1024
"""What browsers accept for all headers together; aiohttp's default limit is 8 KiB per line."""
HEADERS_MAX: Final = 10_000
HEARD_MAX_BYTES: Final = 2 * HEADER_MAX_BYTES

HEADER_LIMITS: Final[dict[str, Any]] = {
    "max_line_size": HEADER_MAX_BYTES,
    "max_field_size": HEADER_MAX_BYTES,
    "max_headers": HEADERS_MAX,
}
"""Arguments of every ``ClientSession``."""


class Unheard(ResponseHandler):
    """One connection. Bytes that arrive while it is idle make it unusable.

    Keeps the first bytes of each answer, and attaches them to the error if the answer can't be parsed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._asked = False
        self._heard = bytearray()
        self._poll: select.poll | None = None

    def set_response_params(self, **params: Any) -> None:
        self._asked = True
        self._heard.clear()
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        if data and not self._asked:
            self.force_close()
            if self.transport is not None:
                self.transport.close()
            return
        self._heard += data[: max(0, HEARD_MAX_BYTES - len(self._heard))]
        super().data_received(data)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        exc.__dict__.setdefault("heard", bytes(self._heard))
        super().set_exception(exc, *cause)

    def is_connected(self) -> bool:
        """Whether it can take a request. Checked when it is taken from the pool of idle connections."""
        return super().is_connected() and not self.should_close and not self._has_bytes()

    def rest(self) -> None:
        """The exchange is over: any bytes from now on are unsolicited."""
        self._asked = False
        self._heard.clear()

    def _has_bytes(self) -> bool:
        """Whether the kernel has bytes, or the end of the stream, that the loop has not read yet."""
        socket = None if self.transport is None else self.transport.get_extra_info("socket")
        if self._asked or socket is None or socket.fileno() < 0:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(socket.fileno(), select.POLLIN)
        return bool(self._poll.poll(0))


class OneExchange(aiohttp.TCPConnector):
    """Makes :class:`Unheard` connections, and reports a proxy's failure as "nothing was sent"."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._factory: Any = partial(Unheard, loop=self._loop)

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        if isinstance(protocol, Unheard):
            protocol.rest()

    async def _create_proxy_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout
    ) -> tuple[asyncio.BaseTransport, ResponseHandler]:
        try:
            return await super()._create_proxy_connection(req, traces, timeout)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientError, ConnectionError) as error:
            raise ProxyRefused(_told(error)) from error


class ProxyRefused(aiohttp.ClientConnectionError):
    """A proxy opened no tunnel: nothing of the request itself has left this machine."""


def heard_before(error: BaseException | None) -> bytes:
    """The first bytes of the answer that could not be parsed because of ``error``."""
    while error is not None:
        heard = getattr(error, "heard", None)
        if heard:
            return bytes(heard)
        error = error.__cause__
    return b""


def _told(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the proxy answered HTTP {error.status} {error.message}".rstrip()
    return f"the proxy made no tunnel: {error_text(error) or type(error).__name__}"
