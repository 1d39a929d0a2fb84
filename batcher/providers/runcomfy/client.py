"""The Model API over HTTP: which call asks what. What an answer means is decided in ``answers``."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from batcher.errors import OutcomeUnknown, Rejected
from batcher.http.bodies import id_in, usable_id
from batcher.http.connections import heard_before
from batcher.http.exchange import Call, Connection
from batcher.http.words import clean
from batcher.providers.runcomfy import answers

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from batcher.clock import Clock
    from batcher.http.endpoint import Endpoint
    from batcher.http.exchange import ExchangeTimeouts
    from batcher.http.network import Network
    from batcher.ports import CancelOutcome, Result

MODEL_ID_MAX_CHARS: Final = 300
MODELS_KEPT: Final = 256


class HttpService:
    """The Model API behind one endpoint. Each call is one exchange; none is repeated.

    An async context manager; calls outside of it raise NotSent.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        limits: ExchangeTimeouts | None = None,
        network: Network | None = None,
    ) -> None:
        self._connection = Connection(endpoint, clock, limits, network)
        self._clock = clock

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._connection.__aexit__(kind, error, trace)

    @property
    def origin(self) -> str:
        """The API's scheme, host and port."""
        return self._connection.endpoint.origin

    async def submit(self, model: str, body: bytes) -> str:
        """POST one job; its request id. See :meth:`batcher.ports.Provider.submit`.

        An answer that HTTP readers refuse still counts if its id can be read.
        """
        call = Call("POST", f"/models/{_model_path(model)}", body=body)
        try:
            answer = await self._connection.submit(call)
        except OutcomeUnknown as error:
            request_id = id_in(heard_before(error), self._connection.endpoint.redact)
            if request_id is None:
                raise
            return request_id
        return answers.submission(answer, self._clock.now())

    async def result(self, request_id: str) -> Result:
        """See :meth:`batcher.ports.Provider.result`. Asks for the cost too."""
        call = Call("GET", f"/requests/{_request_path(request_id)}/result", {"include_cost": "true"})
        return answers.result(await self._connection.ask(call), self._clock.now(), request_id)

    async def status(self, request_id: str) -> Result:
        """A request's state without its outputs. Only ``result``'s word is final. May be repeated."""
        call = Call("GET", f"/requests/{_request_path(request_id)}/status")
        return answers.result(await self._connection.ask(call), self._clock.now(), request_id)

    async def cancel(self, request_id: str) -> CancelOutcome:
        """See :meth:`batcher.ports.Provider.cancel`."""
        call = Call("POST", f"/requests/{_request_path(request_id)}/cancel")
        return answers.cancellation(await self._connection.ask(call), self._clock.now(), request_id)

    async def model(self, model_id: str) -> dict[str, Any]:
        """A model's catalogue entry as the API gives it. May be repeated. Raises like ``result``."""
        call = Call("GET", f"/models/{_model_path(model_id)}")
        return answers.catalogue_object(await self._connection.ask(call), self._clock.now())

    async def models(
        self, search: str = "", category: str = "", *, limit: int, offset: int = 0
    ) -> dict[str, Any]:
        """A page of the catalogue: ``{"models": [...], "total"}``, unchecked. Raises like ``result``."""
        named = {"search": search, "category": category, "limit": str(limit), "offset": str(offset)}
        call = Call("GET", "/models", {key: value for key, value in named.items() if value})
        return answers.catalogue_object(await self._connection.ask(call), self._clock.now())


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
