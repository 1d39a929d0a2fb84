"""fal's Platform API under ``/fal/api/v1``, and the storage of uploads under ``/fal/rest``.

The list of requests and the billing events lag: a request is in them some seconds after its end.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from batcher.sandbox.answers import Refusal
from batcher.sandbox.backend import origin_of
from batcher.sandbox.catalogue import Model, catalogue, find, json_schema
from batcher.sandbox.fal import FAL, SCHEME, answer, iso_of
from batcher.sandbox.gate import Gatekeeper
from batcher.sandbox.store import Request, RequestPhase

if TYPE_CHECKING:
    from batcher.sandbox.backend import Backend

PLATFORM = "/fal/api/v1"
STORAGE = "/fal/rest"
UPLOADS = "/fal/uploads"
LAG_S = 5.0
"""Seconds from a request's end until it is listed and billed, divided by the settings' ``speed``."""
BOUNDLESS_USD = 1000.0
PAGE = 100

_UNITS = {"second": "seconds", "output": "images", "thousand_characters": "1000 characters"}
_TYPES = {401: "authorization_error", 403: "authorization_error", 404: "not_found", 429: "rate_limited"}


def routes(backend: Backend) -> list[web.RouteDef]:
    """The calls of the Platform API, and of the storage."""
    platform, gate = PlatformApi(backend), Gatekeeper(backend, SCHEME, _says_no)
    passed = gate.passed
    return [
        web.get(f"{PLATFORM}/models", passed(platform.models)),
        web.get(f"{PLATFORM}/models/pricing", passed(platform.pricing)),
        web.get(f"{PLATFORM}/models/billing-events", passed(platform.billing_events)),
        web.get(f"{PLATFORM}/models/requests/by-endpoint", passed(platform.requests)),
        web.get(f"{PLATFORM}/account/billing", passed(platform.billing)),
        web.post(f"{STORAGE}/storage/upload/initiate", passed(platform.initiate)),
        web.put(UPLOADS + "/{name}", gate.open(platform.upload, "uploads")),
    ]


def _says_no(refusal: Refusal) -> web.Response:
    kind = _TYPES.get(refusal.status, "validation_error")
    told = {"error": {"type": kind, "message": refusal.message}}
    return answer(told, refusal.status, refusal.headers)


class PlatformApi:
    """Handlers of the calls. Each raises Refusal if fal would refuse the call."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = backend.store
        self._lag_s = LAG_S / backend.settings.speed

    async def models(self, request: web.Request) -> web.Response:
        """``GET /models``: one by ``endpoint_id``, or a page of those that match ``q``."""
        query = request.query
        if "endpoint_id" in query:
            found = [_known(one) for one in query.getall("endpoint_id")]
        else:
            found = find(FAL, query.get("q", ""), query.get("category", ""))
        start, size = int(query.get("cursor") or 0), int(query.get("limit", PAGE))
        end = start + size
        full = query.get("expand") == "openapi-3.0"
        told = [_listed(model, full=full) for model in found[start:end]]
        more = end < len(found)
        return answer({"models": told, "has_more": more, "next_cursor": str(end) if more else None})

    async def pricing(self, request: web.Request) -> web.Response:
        """``GET /models/pricing``: the price of a unit."""
        models = [_known(one) for one in request.query.getall("endpoint_id", [])]
        prices = [
            {
                "endpoint_id": model.model_id,
                "unit_price": model.base_price_usd,
                "unit": _UNITS[model.price_unit],
                "currency": "USD",
            }
            for model in models
        ]
        return answer({"prices": prices, "has_more": False, "next_cursor": None})

    async def billing_events(self, request: web.Request) -> web.Response:
        """``GET /models/billing-events``: what requests have cost, failures nothing."""
        wanted = set(request.query.get("request_id", "").split(","))
        told = [
            {
                "request_id": ended.order.id,
                "endpoint_id": ended.order.model,
                "timestamp": iso_of(ended.ended_s),
                "cost_total": ended.order.price_usd,
            }
            for ended in self._ended()
            if ended.order.id in wanted and ended.order.price_usd
        ]
        return answer({"billing_events": told, "has_more": False, "next_cursor": None})

    async def requests(self, request: web.Request) -> web.Response:
        """``GET /models/requests/by-endpoint``: those that have ended, with their inputs."""
        query = request.query
        start, end = (datetime.fromisoformat(query[name]).timestamp() for name in ("start", "end"))
        model = _known(query.get("endpoint_id", ""))
        items = [
            self._item(ended)
            for ended in self._ended()
            if ended.order.model == model.model_id and start <= ended.order.at <= end
        ]
        first = int(query.get("cursor") or 0)
        last = first + int(query.get("limit", PAGE))
        more = last < len(items)
        told = {"has_more": more, "next_cursor": str(last) if more else None}
        return answer({"items": items[first:last]} | told)

    def _ended(self) -> list[Request]:
        """The requests that ended long enough ago, the newest first."""
        now_s = self._store.now_s()
        return [
            one
            for one in reversed(self._store.all())
            if one.order.api == FAL
            and one.phase(now_s) is RequestPhase.FINISHED
            and (one.ended_s or now_s) + self._lag_s <= now_s
        ]

    def _item(self, ended: Request) -> dict[str, Any]:
        return {
            "request_id": ended.order.id,
            "endpoint_id": ended.order.model,
            "sent_at": iso_of(ended.order.at),
            "started_at": iso_of(ended.started_s),
            "ended_at": iso_of(ended.ended_s),
            "json_input": msgspec.json.decode(ended.order.input),
        }

    async def billing(self, _: web.Request) -> web.Response:
        """``GET /account/billing``: the balance."""
        start_usd = self._backend.settings.balance_usd
        left_usd = BOUNDLESS_USD if start_usd is None else start_usd - self._backend.stats.spent_usd
        told = {"current_balance": round(left_usd, 6), "currency": "USD"}
        return answer({"username": "sandbox", "credits": told})

    async def initiate(self, request: web.Request) -> web.Response:
        """``POST /storage/upload/initiate``: a signed address to send a file to, and its URL."""
        asked = await request.json()
        name = f"{uuid.uuid4().hex}_{asked['file_name']}"
        upload_url = f"{origin_of(request)}{UPLOADS}/{name}?X-Goog-Signature=sandbox"
        file_url = f"https://v3.fal.media/files/sandbox/{name}"
        return answer({"upload_url": upload_url, "file_url": file_url})

    async def upload(self, request: web.Request) -> web.Response:
        """``PUT`` of a file's bytes. Raises Refusal: 400 for a key, which is not for this host."""
        if "Authorization" in request.headers:
            self._backend.stats.tokens_leaked += 1
            raise Refusal(400, "This host takes no Authorization")
        await request.read()
        return web.Response()


def _known(endpoint: str) -> Model:
    model = catalogue(FAL).get(endpoint)
    if model is None:
        raise Refusal(404, f"Model {endpoint!r} not found")
    return model


def _listed(model: Model, *, full: bool) -> dict[str, Any]:
    meta = {"display_name": model.display_name, "description": model.description}
    meta |= {"category": model.categories[0], "status": "active"}
    listed: dict[str, Any] = {"endpoint_id": model.model_id, "metadata": meta}
    return listed | ({"openapi": _openapi(model)} if full else {})


def _openapi(model: Model) -> dict[str, Any]:
    """The model's OpenAPI document: the inputs by reference, the calls about a request beside them."""
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/Input"}}}
    return {
        "openapi": "3.0.4",
        "paths": {
            f"/{model.model_id}/requests/{{request_id}}/status": {"get": {}},
            f"/{model.model_id}": {"post": {"requestBody": {"required": True, "content": body}}},
        },
        "components": {"schemas": {"Input": json_schema(model.input_schema)}},
    }
