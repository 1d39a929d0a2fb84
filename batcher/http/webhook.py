"""One POST to a URL that the user configured."""

from __future__ import annotations

import os

import aiohttp
from yarl import URL

from batcher.errors import UsageError
from batcher.http.network import Network

TIMEOUT_S = 10.0


async def post(url: str, body: bytes, media_type: str) -> str | None:
    """Send ``body``. Returns the error, without the URL, or None. Follows no redirects."""
    try:
        target = URL(url)
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session,
            session.post(
                target,
                data=body,
                headers={"Content-Type": media_type},
                allow_redirects=False,
                **Network(os.environ).arguments(target),
            ) as response,
        ):
            return None if response.status < 300 else f"answered {response.status}"
    except TimeoutError:
        return "no answer in time"
    except (aiohttp.ClientError, OSError, ValueError, UsageError) as error:
        return f"can't be reached ({type(error).__name__})"
