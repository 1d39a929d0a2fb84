"""The sandbox as a server: which call goes where, and its life from start to stop."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from aiohttp import web

from batcher.errors import UsageError
from batcher.sandbox.answers import ELSEWHERE, Refusal, not_found
from batcher.sandbox.api import MAX_BODY_BYTES, ModelApi
from batcher.sandbox.gate import AccessCheck
from batcher.sandbox.media import MediaHost
from batcher.sandbox.outputs import Signer
from batcher.sandbox.settings import SandboxSettings, SandboxStats
from batcher.sandbox.store import Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOPBACK = "127.0.0.1"
BALANCE_PATH = "/prod/v2/balance"
KEEPALIVE_S = 20.0
SHUTDOWN_S = 1.0


class Sandbox:
    """A local stand-in for the Model API: ``async with Sandbox(settings) as base_url``.

    May be started again after a stop; with a state file it then knows its requests.
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self.settings = settings or SandboxSettings()
        self.stats = SandboxStats()
        self._store: Store | None = None
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = LOOPBACK, port: int = 0) -> str:
        """Listen, and return the base URL with ``/v1``. Port 0 takes a free one.

        Raises RunDirError or InputError where the state file can't be used, UsageError where
        the address can't.
        """
        self.stats = SandboxStats()
        self._store = Store(self.settings, self.stats)
        self._runner = web.AppRunner(
            self._app(self._store),
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=SHUTDOWN_S,
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self.stop()
            raise UsageError(f"can't listen on {host}:{port}: {error.strerror}") from error
        bound_port = self._runner.addresses[0][1]
        return f"http://{f'[{host}]' if ':' in host else host}:{bound_port}/v1"

    async def stop(self) -> None:
        """Close all connections and the state file. May be repeated."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._store is not None:
            self._store.close()
            self._store = None

    async def __aenter__(self) -> str:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def _app(self, store: Store) -> web.Application:
        signer = Signer(self.settings.seed, self.settings.url_ttl_s)
        api = ModelApi(self.settings, store, self.stats, signer)
        media = MediaHost(self.settings, store, self.stats, signer)
        gate, count = AccessCheck(self.settings), self._counted
        # aiohttp refuses bodies that reach its limit, not only those above it.
        app = web.Application(client_max_size=MAX_BODY_BYTES + 1)
        app.add_routes(
            [
                web.get("/v1/models", _guarded(gate, api.models)),
                web.get("/v1/models/categories", _guarded(gate, api.categories)),
                web.get(BALANCE_PATH, _guarded(gate, api.balance)),
                web.get("/v1/models/{model_id:.+}", _guarded(gate, api.model)),
                web.post("/v1/models/{model_id:.+}", count("posts", _guarded(gate, api.submit))),
                web.get(_of_request("status"), count("polls", _guarded(gate, api.status))),
                web.get(_of_request("result"), count("polls", _guarded(gate, api.result))),
                web.post(_of_request("cancel"), count("cancels", _guarded(gate, api.cancel))),
                web.get("/outputs/{request_id}/{name}", count("downloads", _answered(media.serve))),
                web.get("/sandbox/stats", self._tell),
                web.route("*", ELSEWHERE, count("redirects_followed", _answered(_nowhere))),
                web.route("*", "/{path:.*}", _answered(_nowhere)),
            ]
        )
        return app

    def _counted(self, account: str, handler: Handler) -> Handler:
        """``handler``, each arrival counted in the stats field ``account`` (HEAD never)."""

        async def serve(request: web.Request) -> web.StreamResponse:
            if request.method != "HEAD":
                setattr(self.stats, account, getattr(self.stats, account) + 1)
            return await handler(request)

        return serve

    async def _tell(self, _: web.Request) -> web.Response:
        balance_usd = self.settings.balance_usd
        spent_usd = round(self.stats.spent_usd, 6)
        left_usd = None if balance_usd is None else round(balance_usd - spent_usd, 6)
        told = asdict(self.stats) | {"spent_usd": spent_usd, "balance_usd": left_usd}
        return web.json_response(told)


def _of_request(call: str) -> str:
    return "/v1/requests/{request_id}/" + call


def _guarded(gate: AccessCheck, handler: Handler) -> Handler:
    """``handler`` behind the token and the rate limit."""

    async def serve(request: web.Request) -> web.StreamResponse:
        gate.admit(request)
        return await handler(request)

    return _answered(serve)


def _answered(handler: Handler) -> Handler:
    """``handler`` with its refusals turned into answers."""

    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as refusal:
            return refusal.response()

    return serve


async def _nowhere(_: web.Request) -> web.Response:
    raise not_found("resource")
