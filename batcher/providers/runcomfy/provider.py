"""RunComfy's Model API as a provider."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from batcher.errors import CredentialsError
from batcher.http.endpoint import Endpoint, Token
from batcher.jobs.job import Job
from batcher.ports import CancelOutcome, Handle, Lost, Result, Trace, Traits
from batcher.providers.catalog import Catalog
from batcher.providers.registry import RUNCOMFY
from batcher.providers.runcomfy.balance import WALLET, balance_usd
from batcher.providers.runcomfy.body import prepared_body
from batcher.providers.runcomfy.client import HttpService
from batcher.providers.runcomfy.credentials import base_url, find_token
from batcher.providers.vendor import Surroundings, Vendor, no_balance

WEEK_S: Final = 7 * 86_400.0


class RunComfy:
    """The Model API: :class:`batcher.ports.Provider`. A model's name is its id, without a prefix."""

    name = RUNCOMFY
    traits = Traits(output_domains=("runcomfy.net", "runcomfy.com"), results_kept_s=WEEK_S)

    def __init__(self, api: HttpService) -> None:
        self._api = api

    async def prepare(self, job: Job) -> bytes:
        """The inputs as JSON, local media inline as ``data:`` URIs."""
        return await prepared_body(job)

    async def submit(self, model: str, body: bytes) -> Handle:
        return Handle(model, await self._api.submit(model, body))

    async def result(self, request: Handle) -> Result:
        return await self._api.result(request.id)

    async def cancel(self, request: Handle) -> CancelOutcome:
        return await self._api.cancel(request.id)

    async def trace(self, lost: Sequence[Lost], known: Callable[[str], bool]) -> dict[str, Trace]:
        """Nothing: the API lists no requests."""
        return {}


@asynccontextmanager
async def open_runcomfy(around: Surroundings) -> AsyncIterator[Vendor]:
    """The Model API, or the sandbox's. Raises CredentialsError, UsageError."""
    endpoint = _sandboxed(around.sandbox) if around.sandbox else _real(around)
    async with HttpService(endpoint, around.clock, network=around.network) as api:
        catalog = Catalog(api, around.cache(endpoint.origin), around.clock)

        async def ask_balance() -> float | None:
            return await balance_usd(endpoint, around.env)

        balance = no_balance if around.sandbox else ask_balance
        yield Vendor(endpoint.base_url, RunComfy(api), catalog, endpoint, balance, WALLET)


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
