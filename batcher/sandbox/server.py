"""The sandbox as a server: start and stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from aiohttp import web

from batcher.errors import UsageError
from batcher.sandbox import deployments, fal, fal_platform, media, model_api, replicate
from batcher.sandbox.answers import ELSEWHERE, not_found
from batcher.sandbox.backend import Backend
from batcher.sandbox.gate import MAX_BODY_BYTES, Gatekeeper
from batcher.sandbox.settings import SandboxSettings, SandboxStats
from batcher.sandbox.store import Store

if TYPE_CHECKING:
    from types import TracebackType

HOUSES: tuple[Callable[[Backend], Iterable[web.RouteDef]], ...] = (
    model_api.routes,
    deployments.routes,
    replicate.routes,
    fal.routes,
    fal_platform.routes,
    media.routes,
)
LOOPBACK = "127.0.0.1"
KEEPALIVE_S = 20.0
SHUTDOWN_S = 1.0


class Sandbox:
    """A local stand-in for the Model API: ``async with Sandbox(settings) as base_url``.

    May be started again after a stop; with a state file it then still has its requests.
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self.settings = settings or SandboxSettings()
        self.stats = SandboxStats()
        self._store: Store | None = None
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = LOOPBACK, port: int = 0) -> str:
        """Listen, and return the base URL with ``/v1``. Port 0 means any free one.

        Raises RunDirError or InputError if the state file can't be used, UsageError if the address can't
        be used.
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
        backend = Backend(self.settings, store, self.stats)
        gate = Gatekeeper(backend)
        # aiohttp refuses bodies that reach its limit, not only those above it.
        app = web.Application(client_max_size=MAX_BODY_BYTES + 1)
        for routes in HOUSES:
            app.add_routes(routes(backend))
        app.add_routes(
            [
                web.get("/sandbox/stats", self._tell),
                web.route("*", ELSEWHERE, gate.open(_nowhere, "redirects_followed")),
                web.route("*", "/{path:.*}", gate.open(_nowhere)),
            ]
        )
        return app

    async def _tell(self, _: web.Request) -> web.Response:
        balance_usd = self.settings.balance_usd
        spent_usd = round(self.stats.spent_usd, 6)
        left_usd = None if balance_usd is None else round(balance_usd - spent_usd, 6)
        told = asdict(self.stats) | {"spent_usd": spent_usd, "balance_usd": left_usd}
        return web.json_response(told)


async def _nowhere(_: web.Request) -> web.Response:
    raise not_found("resource")
