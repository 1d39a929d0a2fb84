"""Which APIs the sandbox serves, side by side on one port.

An API is a module with a function ``routes``: it takes the :class:`Backend`, which has the requests,
their clock, the balance and the faults, and returns its routes, each under a path of its own. Its models
are data in ``catalogues/``, in a file with the name under which its requests are recorded. A further API
is those two files and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiohttp import web

from batcher.sandbox import deployments, fal, fal_platform, media, model_api, replicate
from batcher.sandbox.backend import Backend

HOUSES: tuple[Callable[[Backend], Iterable[web.RouteDef]], ...] = (
    model_api.routes,
    deployments.routes,
    replicate.routes,
    fal.routes,
    fal_platform.routes,
    media.routes,
)
