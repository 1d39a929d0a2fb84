"""The Model API's own calls: submit, status, result, cancel, and the catalogue."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from batcher.clock import iso
from batcher.sandbox.answers import INTERNAL, INVALID_INPUT, Refusal, gone_wrong, hang_up, not_found
from batcher.sandbox.backend import origin_of
from batcher.sandbox.catalogue import MODEL_KIND, Model, catalogue, find
from batcher.sandbox.faults import FAILURES, Fault
from batcher.sandbox.gate import MAX_BODY_BYTES, Gatekeeper
from batcher.sandbox.journal import MODEL_API
from batcher.sandbox.outputs import output
from batcher.sandbox.store import Request, RequestPhase

if TYPE_CHECKING:
    from batcher.sandbox.backend import Backend
    from batcher.sandbox.journal import JobCreated

BALANCE_PATH = "/prod/v2/balance"
DEFAULT_PAGE, MAX_PAGE = 50, 500
BOUNDLESS_USD = 1000.0
DIGITS_MAX = 18
ACCEPTED = 202

WORDS = {
    RequestPhase.IN_QUEUE: "in_queue",
    RequestPhase.IN_PROGRESS: "in_progress",
    RequestPhase.FINISHED: "completed",
    RequestPhase.CANCELLED: "cancelled",
}
"""``/status`` says ``completed`` for any request that ran to its end; ``/result`` says how it ended."""
SYNONYMS = {
    RequestPhase.IN_QUEUE: "pending",
    RequestPhase.IN_PROGRESS: "processing",
    RequestPhase.FINISHED: "completed",
    RequestPhase.CANCELLED: "canceled",
}
STRANGE_WORD = "post_processing"

_FAILED, _SUCCEEDED = "failed", "succeeded"
_FAILURE = "The model could not generate anything from this input"
_FAILURE_LIST = [{"errorCode": INTERNAL, "error": _FAILURE, "debugInfo": "worker 7"}]
_FAILURES: dict[str, Any] = dict.fromkeys(FAILURES, _FAILURE) | {
    Fault.GENERATE_ERROR_LIST: _FAILURE_LIST,
    Fault.GENERATE_REFUSED: "The prompt was refused by the content filter",
}
_FAILED_AT_STATUS = (Fault.GENERATE_FAILED, Fault.GENERATE_REFUSED)


def routes(backend: Backend) -> list[web.RouteDef]:
    """The calls of the Model API, at the root of the sandbox."""
    api, gate = ModelApi(backend), Gatekeeper(backend)
    passed = gate.passed
    return [
        web.get("/v1/models", passed(api.models)),
        web.get("/v1/models/categories", passed(api.categories)),
        web.get(BALANCE_PATH, passed(api.balance)),
        web.get("/v1/models/{model_id:.+}", passed(api.model)),
        web.post("/v1/models/{model_id:.+}", passed(api.submit, "posts")),
        web.get(_of_request("status"), passed(api.status, "polls")),
        web.get(_of_request("result"), passed(api.result, "polls")),
        web.post(_of_request("cancel"), passed(api.cancel, "cancels")),
    ]


class ModelApi:
    """Handlers of the calls. Each raises Refusal if the API would refuse the call."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = backend.store

    async def models(self, request: web.Request) -> web.Response:
        """``GET /v1/models``: a page of the catalogue, and the total number of models."""
        query = request.query
        kind = query.get("kind", MODEL_KIND)
        found = (
            find(MODEL_API, query.get("search", ""), query.get("category", ""))
            if kind == MODEL_KIND
            else []
        )
        offset = _whole_number(query, "offset", 0)
        limit = min(_whole_number(query, "limit", DEFAULT_PAGE), MAX_PAGE)
        full = query.get("include_schema", "").lower() in ("true", "1")
        page = [model.listing(include_schema=full) for model in found[offset : offset + limit]]
        told = {"models": page, "total": len(found), "limit": limit, "offset": offset}
        return web.json_response(told)

    async def categories(self, _: web.Request) -> web.Response:
        """``GET /v1/models/categories``."""
        named = {category for model in catalogue().values() for category in model.categories}
        return web.json_response({"categories": sorted(named)})

    async def balance(self, _: web.Request) -> web.Response:
        """``GET /prod/v2/balance``: the rest of the given balance, or of an unlimited one."""
        start_usd = self._backend.settings.balance_usd
        left_usd = BOUNDLESS_USD if start_usd is None else start_usd - self._backend.stats.spent_usd
        amounts = {"balance_usd": round(left_usd, 6), "balance_microdollars": round(left_usd * 1e6)}
        return web.json_response(amounts | {"currency": "USD"})

    async def model(self, request: web.Request) -> web.Response:
        """``GET /v1/models/{model_id}``: one entry, with its schema."""
        return web.json_response(_model(request).listing(include_schema=True))

    async def submit(self, request: web.Request) -> web.Response:
        """``POST /v1/models/{model_id}``: check, charge, enqueue, and only then answer."""
        model = _model(request)
        if self._backend.drops_unread(request):
            return hang_up(request)
        made = self._backend.submit(model, await _inputs(request, model))
        if made.fault is not None:
            return gone_wrong(request, made.fault, self._backend.now())
        return web.json_response({"request_id": made.order.id, **_links(request, made.order.id)})

    async def status(self, request: web.Request) -> web.Response:
        """``GET /v1/requests/{request_id}/status``."""
        asked = self._request(request)
        fault = self._backend.poll_fault(asked)
        if fault is not None:
            return gone_wrong(request, fault, self._backend.now())
        return web.json_response(self._standing(request, asked))

    async def result(self, request: web.Request) -> web.Response:
        """``GET /v1/requests/{request_id}/result``; before the end, the status."""
        asked = self._request(request)
        fault = self._backend.poll_fault(asked)
        if fault is not None:
            return gone_wrong(request, fault, self._backend.now())
        if not asked.phase(self._store.now_s()).terminal:
            return web.json_response(self._standing(request, asked))
        return web.json_response(self._ending(request, asked), dumps=_dumps)

    async def cancel(self, request: web.Request) -> web.Response:
        """``POST /v1/requests/{request_id}/cancel``: only queued requests can be cancelled."""
        asked = self._request(request)
        fault = self._backend.poll_fault(asked)
        if fault is not None:
            return gone_wrong(request, fault, self._backend.now())
        with self._store.alone():
            queued = asked.phase(self._store.now_s()) is RequestPhase.IN_QUEUE
            if queued:
                self._store.cancel(asked)
        # The documented answer to a successful cancel; ``/status`` and ``/result`` then say cancelled.
        word, outcome = ("completed", "cancelled") if queued else (self._word(asked), "not_cancellable")
        if queued and asked.order.fate == Fault.GENERATE_SYNONYMS:
            word = outcome = "cancellation_requested"
        told = {"request_id": asked.order.id, "status": word, "outcome": outcome}
        return web.json_response(told, status=ACCEPTED)

    def _request(self, request: web.Request) -> Request:
        return self._backend.find(MODEL_API, request.match_info["request_id"])

    def _word(self, asked: Request) -> str:
        """The word of ``/status``, and of ``/result`` before the end."""
        phase, fate = asked.phase(self._store.now_s()), asked.order.fate
        if fate == Fault.GENERATE_SYNONYMS:
            return SYNONYMS[phase]
        if fate == Fault.GENERATE_STRANGE_WORD and phase is RequestPhase.IN_PROGRESS:
            return STRANGE_WORD
        failed = fate in _FAILED_AT_STATUS and phase is RequestPhase.FINISHED
        return _FAILED if failed else WORDS[phase]

    def _last_word(self, asked: Request) -> str:
        """The word of ``/result`` once the request is terminal."""
        if asked.cancelled_s is not None or asked.order.fate == Fault.GENERATE_SYNONYMS:
            return self._word(asked)
        return _FAILED if asked.order.fate in _FAILURES else _SUCCEEDED

    def _standing(self, request: web.Request, asked: Request) -> dict[str, Any]:
        """The answer of ``/status``, and of ``/result`` before the end."""
        request_id = asked.order.id
        body: dict[str, Any] = {"request_id": request_id, "status": self._word(asked)}
        if asked.phase(self._store.now_s()) is RequestPhase.IN_QUEUE:
            body["queue_position"] = self._store.queue_position(request_id)
        return body | _links(request, request_id)

    def _ending(self, request: web.Request, asked: Request) -> dict[str, Any]:
        """The answer of ``/result`` once the request is terminal."""
        order, word = asked.order, self._last_word(asked)
        body: dict[str, Any] = {
            "request_id": order.id,
            "status": word,
            "input": order.input,
            "created_at": _iso(order.at),
            "finished_at": _iso(asked.ended_s or order.at),
        }
        if word == _FAILED:
            body["error"] = _FAILURES[order.fate]
        elif asked.cancelled_s is None:
            body["output"] = self._output(request, order)
        if request.query.get("include_cost", "").lower() == "true":
            body["cost"] = 0.0 if asked.cancelled_s is not None else order.price_usd
        return body | _links(request, order.id)

    def _output(self, request: web.Request, order: JobCreated) -> dict[str, Any]:
        if order.fate == Fault.GENERATE_NO_OUTPUT:
            return {}
        return output(order, self._backend.output_urls(request, order))


def _dumps(body: dict[str, Any]) -> str:
    return msgspec.json.encode(body).decode()


def _iso(epoch_s: float) -> str:
    return iso(datetime.fromtimestamp(epoch_s, UTC))


def _links(request: web.Request, request_id: str) -> dict[str, str]:
    base = f"{origin_of(request)}/v1/requests/{request_id}"
    return {f"{call}_url": f"{base}/{call}" for call in ("status", "result", "cancel")}


def _of_request(call: str) -> str:
    return "/v1/requests/{request_id}/" + call


def _model(request: web.Request) -> Model:
    model = catalogue().get(request.match_info["model_id"])
    if model is None:
        raise not_found("model")
    return model


def _whole_number(query: Any, name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX):
        problem = {"loc": ["query", name], "msg": "not a whole number", "type": "int_parsing"}
        raise Refusal(422, "Validation failed", error_code=INVALID_INPUT, detail=[problem])
    return int(text)


async def _inputs(request: web.Request, model: Model) -> dict[str, Any]:
    """The body, checked by the model's schema. Raises Refusal: 413, 400 (not JSON), 422."""
    try:
        inputs = msgspec.json.decode(await _body(request))
    except msgspec.DecodeError as error:
        raise Refusal(400, "Body is not JSON", detail=str(error)) from error
    problems = model.problems(inputs)
    if problems:
        raise Refusal(422, "Input validation failed", error_code=INVALID_INPUT, detail=problems)
    return dict(inputs)


async def _body(request: web.Request) -> bytes:
    too_large = Refusal(413, f"Body is larger than {MAX_BODY_BYTES} bytes")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise too_large
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large from error
