"""RunComfy's Model API as a provider."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from batcher.clock import Clock
from batcher.errors import CredentialsError, OutcomeUnknown, Rejected
from batcher.http.bodies import usable_id
from batcher.http.endpoint import Endpoint, Token
from batcher.http.exchange import Call, Connection
from batcher.http.words import clean
from batcher.jobs.job import Job
from batcher.ports import CancelOutcome, Handle, Lost, Result, Trace, Traits
from batcher.providers.catalog import Catalog
from batcher.providers.json_body import prepared_body
from batcher.providers.registry import RUNCOMFY
from batcher.providers.runcomfy import answers
from batcher.providers.runcomfy.balance import WALLET, balance_usd
from batcher.providers.runcomfy.credentials import base_url, find_token
from batcher.providers.vendor import Surroundings, Vendor, no_balance

WEEK_S: Final = 7 * 86_400.0
MODEL_ID_MAX_CHARS: Final = 300
MODELS_KEPT: Final = 256


class RunComfy:
    """The Model API: :class:`batcher.ports.Provider`, and the service behind its catalogue.

    A model's name is its id, without a prefix. What an answer means is decided in ``answers``.
    """

    name = RUNCOMFY
    traits = Traits(output_domains=("runcomfy.net", "runcomfy.com"), results_kept_s=WEEK_S)

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    async def prepare(self, job: Job) -> bytes:
        """The inputs as JSON, local media inline as ``data:`` URIs."""
        return await prepared_body(job)

    async def submit(self, model: str, body: bytes) -> Handle:
        """POST one job. An answer that HTTP readers refuse still counts if its id can be read."""
        call = Call("POST", f"/models/{_model_path(model)}", body=body)
        try:
            answer = await self._connection.submit(call)
        except OutcomeUnknown as error:
            return Handle(model, self._connection.id_told(error))
        return Handle(model, answers.submission(answer, self._clock.now()))

    async def result(self, request: Handle) -> Result:
        """See :meth:`batcher.ports.Provider.result`. Asks for the cost too."""
        call = Call("GET", f"{_request_path(request.id)}/result?include_cost=true")
        return answers.result(await self._connection.ask(call), self._clock.now(), request.id)

    async def cancel(self, request: Handle) -> CancelOutcome:
        """See :meth:`batcher.ports.Provider.cancel`."""
        call = Call("POST", f"{_request_path(request.id)}/cancel")
        return answers.cancellation(await self._connection.ask(call), self._clock.now(), request.id)

    async def trace(self, lost: Sequence[Lost], known: Callable[[str], bool]) -> dict[str, Trace]:
        """Nothing: the API lists no requests."""
        return {}

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
    """The path of a request. Ids also come from the ledger, which may have been edited."""
    if usable_id(request_id) is None:
        raise Rejected(f"not a usable request id: {clean(request_id)!r}")
    return f"/requests/{request_id}"


@asynccontextmanager
async def open_runcomfy(around: Surroundings) -> AsyncIterator[Vendor]:
    """The Model API, or the sandbox's. Raises CredentialsError, UsageError."""
    endpoint = _sandboxed(around.sandbox) if around.sandbox else _real(around)
    async with Connection(endpoint, around.clock, network=around.network) as connection:
        provider = RunComfy(connection, around.clock)
        catalog = Catalog(provider, around.cache(endpoint.origin), around.clock)

        async def ask_balance() -> float | None:
            return await balance_usd(endpoint, around.env)

        balance = no_balance if around.sandbox else ask_balance
        yield Vendor(endpoint.base_url, provider, catalog, endpoint, balance, WALLET)


def _sandboxed(origin: str) -> Endpoint:
    return Endpoint(f"{origin}/v1", Token(uuid.uuid4().hex))


def _real(around: Surroundings) -> Endpoint:
    try:
        found = find_token(around.env, around.home)
    except CredentialsError:
        if around.needs_token:
            raise
        return Endpoint(base_url(around.env))
    for warning in found.warnings:
        around.warn(warning)
    return Endpoint(base_url(around.env), found.token)
