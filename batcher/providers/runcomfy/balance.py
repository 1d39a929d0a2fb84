"""The account's balance, if available, so that a run can say in advance when it would stop.

All of the vendor's products share one wallet, at a separate address (docs/api.md). The token goes there
only if the user set that address, or if it and the API's address are the vendor's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from batcher.http.endpoint import Endpoint
from batcher.http.network import is_loopback
from batcher.providers.runcomfy.credentials import DEFAULT_BASE_URL, base_url

WALLET: Final = "runcomfy"
BALANCE_VARIABLE: Final = "RUNCOMFY_SERVERLESS_API_BASE"
DEFAULT_BALANCE_BASE: Final = "https://api.runcomfy.net/prod/v2"
ASK_S: Final = 5.0
BODY_MAX_BYTES: Final = 64 * 1024
MICRODOLLARS: Final = 1_000_000


def balance_base(env: Mapping[str, str]) -> str | None:
    """The base URL for the balance; None if the token must not go there."""
    named = env.get(BALANCE_VARIABLE, "").strip().rstrip("/")
    if not named:
        return DEFAULT_BALANCE_BASE if base_url(env) == DEFAULT_BASE_URL else None
    try:
        parts = urlsplit(named)
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    except ValueError:
        return None
    return named if safe and parts.hostname and "@" not in parts.netloc else None


async def balance_usd(endpoint: Endpoint, env: Mapping[str, str]) -> float | None:
    """The balance in USD, which may be 0 or negative; None if unavailable. Raises nothing."""
    base = balance_base(env)
    if base is None or endpoint.token is None:
        return None
    try:
        async with (
            _session(endpoint) as session,
            session.get(f"{base}/balance", allow_redirects=False) as response,
        ):
            body = await response.content.read(BODY_MAX_BYTES)
            return balance_in(body) if response.status == 200 else None
    except (aiohttp.ClientError, OSError, ValueError):  # TimeoutError is an OSError
        return None


def _session(endpoint: Endpoint) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={"Accept": "application/json", **endpoint.authorization()},
        timeout=aiohttp.ClientTimeout(total=ASK_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def balance_in(body: bytes) -> float | None:
    """The balance in USD that an answer names; None if it names none, or another currency."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or str(document.get("currency") or "USD").upper() != "USD":
        return None
    usd = _number(document.get("balance_usd"))
    if usd is not None:
        return usd
    micro = _number(document.get("balance_microdollars"))
    return None if micro is None else micro / MICRODOLLARS


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
