"""Checks before every handler: counts the call, and checks its token and the rate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import ceil
from typing import TYPE_CHECKING

from aiohttp import web

from batcher.sandbox.answers import USER_ACCOUNT, Refusal

if TYPE_CHECKING:
    from batcher.sandbox.backend import Backend

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY_BYTES = 64 << 20


class Gatekeeper:
    """Checks the calls of one API.

    ``scheme`` is the word before the token in its ``Authorization`` headers. ``says_no`` turns a
    refusal into an answer, in the shape of the API's errors. Each gatekeeper allows ``rate_per_s`` of
    the settings (a token bucket).
    """

    def __init__(
        self,
        backend: Backend,
        scheme: str = "Bearer",
        says_no: Callable[[Refusal], web.Response] = Refusal.response,
    ) -> None:
        self._settings = backend.settings
        self._stats = backend.stats
        self._scheme = scheme
        self._says_no = says_no
        self._burst = max(1.0, self._settings.rate_per_s or 0.0)
        self._left = self._burst
        self._counted_at_s = self._settings.clock.monotonic()

    def passed(self, handler: Handler, account: str | None = None) -> Handler:
        """``handler`` with checks of token and rate: 401 without a valid token, 429 above the rate."""

        async def serve(request: web.Request) -> web.StreamResponse:
            self._check_token(request.headers.get("Authorization", ""))
            if self._settings.rate_per_s is not None:
                self._check_rate(self._settings.rate_per_s)
            return await handler(request)

        return self.open(serve, account)

    def open(self, handler: Handler, account: str | None = None) -> Handler:
        """``handler`` without a token, its refusals turned into answers.

        Each arrival is counted in the field ``account`` of the stats; HEAD never.
        """

        async def serve(request: web.Request) -> web.StreamResponse:
            if account is not None and request.method != "HEAD":
                setattr(self._stats, account, getattr(self._stats, account) + 1)
            try:
                return await handler(request)
            except Refusal as refusal:
                return self._says_no(refusal)

        return serve

    def _check_token(self, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        good = token.strip() not in ("", self._settings.revoked_token)
        if scheme.lower() == self._scheme.lower() and good:
            return
        raise Refusal(
            401,
            "Missing, expired or invalid API token",
            error_code=USER_ACCOUNT,
            headers={"WWW-Authenticate": self._scheme},
        )

    def _check_rate(self, rate_per_s: float) -> None:
        now_s = self._settings.clock.monotonic()
        refilled = self._left + (now_s - self._counted_at_s) * rate_per_s
        self._left, self._counted_at_s = min(refilled, self._burst), now_s
        if self._left < 1.0:
            wait_s = ceil((1.0 - self._left) / rate_per_s)
            raise Refusal(429, "Too many requests", headers={"Retry-After": str(wait_s)})
        self._left -= 1.0
