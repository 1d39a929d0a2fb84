"""The API's time: if the local clock differs much, signed URLs and reports by day are wrong."""

from __future__ import annotations

from datetime import datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from batcher.errors import UsageError
from batcher.http.endpoint import Endpoint
from batcher.http.network import Network

ASK_S = 10.0


async def server_time(endpoint: Endpoint, network: Network) -> datetime | None:
    """The ``Date`` of an answer, exact to a second; None if there is none. Sends no token."""
    url = URL(endpoint.origin)
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S)) as session,
            session.head(url, allow_redirects=False, **network.arguments(url)) as response,
        ):
            return parsedate_to_datetime(response.headers["Date"])
    except (aiohttp.ClientError, OSError, KeyError, ValueError, UsageError):
        return None
