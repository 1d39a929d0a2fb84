"""RunComfy's Model API at a scripted server, for tests of what goes over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from batcher.clock import Clock
from batcher.http.endpoint import Endpoint
from batcher.http.exchange import Connection, ExchangeTimeouts
from batcher.http.network import Network
from batcher.ports import Handle
from batcher.providers.runcomfy.provider import RunComfy


@asynccontextmanager
async def model_api(
    endpoint: Endpoint,
    clock: Clock,
    limits: ExchangeTimeouts | None = None,
    network: Network | None = None,
) -> AsyncIterator[RunComfy]:
    async with Connection(endpoint, clock, limits, network) as connection:
        yield RunComfy(connection, clock)


def named(request_id: str) -> Handle:
    """A request that is named by its id alone."""
    return Handle("acme/paint", request_id)
