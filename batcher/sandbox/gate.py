"""Who may call the API, and how often."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from batcher.sandbox.answers import USER_ACCOUNT, Refusal

if TYPE_CHECKING:
    from aiohttp import web

    from batcher.sandbox.settings import SandboxSettings


class AccessCheck:
    """Checks the token of each call, then lets ``rate_per_s`` of them pass (a token bucket)."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._burst = max(1.0, settings.rate_per_s or 0.0)
        self._left = self._burst
        self._counted_at_s = settings.clock.monotonic()

    def admit(self, request: web.Request) -> None:
        """Raises Refusal: 401 without a good token, 429 with ``Retry-After`` above the rate."""
        self._check_token(request.headers.get("Authorization", ""))
        if self._settings.rate_per_s is not None:
            self._check_rate(self._settings.rate_per_s)

    def _check_token(self, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer" and token.strip() not in ("", self._settings.revoked_token):
            return
        raise Refusal(
            401,
            "Missing, expired or invalid API token",
            error_code=USER_ACCOUNT,
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _check_rate(self, rate_per_s: float) -> None:
        now_s = self._settings.clock.monotonic()
        refilled = self._left + (now_s - self._counted_at_s) * rate_per_s
        self._left, self._counted_at_s = min(refilled, self._burst), now_s
        if self._left < 1.0:
            wait_s = ceil((1.0 - self._left) / rate_per_s)
            raise Refusal(429, "Too many requests", headers={"Retry-After": str(wait_s)})
        self._left -= 1.0
