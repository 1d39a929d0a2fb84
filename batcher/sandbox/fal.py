"""fal's queue API: submit, status, result, cancel, under ``/fal/queue``, with fal's own habits.

- The URLs of a request hold owner and app only, not the rest of the model's path.
- The status is 202 until the end and then 200 ``COMPLETED``, also after a failure. A failure shows only
  in the result: its HTTP status and body are those of the failure. It is not charged.
- The queue takes everything; as many requests run at once as there are workers.
- A cancel is only ever requested: what is queued then ends as cancelled, what runs ends well anyway.
- A gateway's error is a page of nginx, before fal: it has no ``x-fal-request-id``.
- Inputs that the model doesn't take are refused at once (at the real queue, perhaps at the result).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from batcher.clock import iso
from batcher.sandbox.answers import INSUFFICIENT_RESOURCES, RETRY_AFTER_S, Refusal, gone_wrong, hang_up
from batcher.sandbox.backend import origin_of
from batcher.sandbox.catalogue import Model, catalogue
from batcher.sandbox.faults import Fault
from batcher.sandbox.gate import Gatekeeper
from batcher.sandbox.outputs import MEDIA_TYPES, names
from batcher.sandbox.store import Request, RequestPhase

if TYPE_CHECKING:
    from batcher.sandbox.backend import Backend
    from batcher.sandbox.journal import JobCreated

FAL = "fal"
SCHEME = "Key"
QUEUE = "/fal/queue"
LOCKED = "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."

_OURS = {"x-fal-request-id": "sandbox"}
_NGINX = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1>"
    "</center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


def routes(backend: Backend) -> list[web.RouteDef]:
    """The calls of the queue."""
    queue, gate = Queue(backend), Gatekeeper(backend, SCHEME, says_no)
    passed = gate.passed
    request = QUEUE + "/{owner}/{app}/requests/{request_id}"
    return [
        web.post(QUEUE + "/{model_id:.+}", passed(queue.submit, "posts")),
        web.get(f"{request}/status", passed(queue.status, "polls")),
        web.get(request, passed(queue.result, "polls")),
        web.put(f"{request}/cancel", passed(queue.cancel, "cancels")),
    ]


def says_no(refusal: Refusal) -> web.Response:
    """A refusal as fal words it."""
    if refusal.error_code == INSUFFICIENT_RESOURCES:
        return answer({"detail": LOCKED}, 403)
    status = 429 if refusal.status == 503 else refusal.status  # fal's queue is never busy
    detail = refusal.detail if isinstance(refusal.detail, list) else refusal.message
    return answer({"detail": detail}, status, refusal.headers)


def answer(body: Any, status: int = 200, headers: Any = None) -> web.Response:
    """An answer of fal itself."""
    return web.json_response(body, status=status, headers={**(headers or {}), **_OURS}, dumps=_dumps)


def _dumps(body: Any) -> str:
    return msgspec.json.encode(body).decode()


class Queue:
    """Handlers of the calls. Each raises Refusal if fal would refuse the call."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = backend.store

    async def submit(self, request: web.Request) -> web.Response:
        """``POST /{model}``: check, charge, enqueue, and only then answer."""
        model = _model(request.match_info["model_id"])
        if self._backend.drops_unread(request):
            return hang_up(request)
        inputs = await _inputs(request, model)
        made = self._backend.submit(model, inputs, charges_failures=False)
        if made.fault is not None:
            return self._wrong(request, made.fault)
        order = made.order
        told = {"status": "IN_QUEUE", "request_id": order.id, **_links(request, order)}
        return answer(told | {"queue_position": 0})

    async def status(self, request: web.Request) -> web.Response:
        """``GET /{owner}/{app}/requests/{id}/status``: 202 until the end, then 200."""
        asked = self._request(request)
        if (fault := self._backend.poll_fault(asked)) is not None:
            return self._wrong(request, fault)
        phase, order = asked.phase(self._store.now_s()), asked.order
        told: dict[str, Any] = {"request_id": order.id, **_links(request, order)}
        match phase:
            case RequestPhase.IN_QUEUE:
                place = self._store.queue_position(order.id)
                return answer({"status": "IN_QUEUE", "queue_position": place} | told, 202)
            case RequestPhase.IN_PROGRESS:
                return answer({"status": "IN_PROGRESS", "logs": None} | told, 202)
        metrics = {"inference_time": round(order.run_s, 3)}
        return answer({"status": "COMPLETED", "logs": None, "metrics": metrics} | told)

    async def result(self, request: web.Request) -> web.Response:
        """``GET /{owner}/{app}/requests/{id}``: the model's bare JSON, or what the failure was."""
        asked = self._request(request)
        if (fault := self._backend.poll_fault(asked)) is not None:
            return self._wrong(request, fault)
        phase = asked.phase(self._store.now_s())
        if phase is RequestPhase.CANCELLED:
            return failed(499, {"detail": "Request was cancelled"}, "client_cancelled")
        if not phase.terminal:
            return answer({"detail": "Request is still in progress"}, 400)
        return _FAILURES.get(asked.order.fate, lambda: answer(self._output(request, asked.order)))()

    async def cancel(self, request: web.Request) -> web.Response:
        """``PUT /{owner}/{app}/requests/{id}/cancel``."""
        try:
            asked = self._request(request)
        except Refusal:
            return answer({"status": "NOT_FOUND"}, 404)
        if (fault := self._backend.poll_fault(asked)) is not None:
            return self._wrong(request, fault)
        with self._store.alone():
            phase = asked.phase(self._store.now_s())
            if phase is RequestPhase.IN_QUEUE:
                self._store.cancel(asked)
        if phase.terminal:
            return answer({"status": "ALREADY_COMPLETED"}, 400)
        return answer({"status": "CANCELLATION_REQUESTED"}, 202)

    def _request(self, request: web.Request) -> Request:
        return self._backend.find(FAL, request.match_info["request_id"])

    def _wrong(self, request: web.Request, fault: Fault) -> web.Response:
        """A call that goes wrong on purpose, as it would at fal."""
        match fault:
            case Fault.SUBMIT_GATEWAY | Fault.POLL_GATEWAY | Fault.POLL_ERROR_CODE:
                return web.Response(text=_NGINX, status=502, content_type="text/html")
            case Fault.SUBMIT_ERROR_CODE:
                return _refused("content_policy_violation", _REFUSED)
            case Fault.POLL_NOT_READY:
                return answer({"status": "IN_PROGRESS", "logs": None}, 202)
            case Fault.SUBMIT_BUSY | Fault.POLL_BUSY:
                wait = {"Retry-After": str(RETRY_AFTER_S)}
                return answer({"detail": "Too many requests"}, 429, wait)
        return gone_wrong(request, fault, self._backend.now())

    def _output(self, request: web.Request, order: JobCreated) -> dict[str, Any]:
        """The model's JSON. It echoes the prompt, as some do."""
        inputs = msgspec.json.decode(order.input)
        echo = {"prompt": inputs.get("prompt", ""), "seed": inputs.get("seed", 42)}
        if order.fate == Fault.GENERATE_NO_OUTPUT:
            return echo
        urls = self._backend.output_urls(request, order)
        files = [_file(url, name) for url, name in zip(urls, names(order), strict=True)]
        kind = _model(order.model).simulation.output
        return {kind: files if kind in ("images", "videos") else files[0], **echo}


def _file(url: str, name: str) -> dict[str, Any]:
    return {"url": url, "content_type": MEDIA_TYPES[name.partition(".")[2]], "file_name": name}


def failed(
    status: int, body: dict[str, Any], error_type: str = "", *, retryable: bool | None = None
) -> web.Response:
    """The answer at the result of a request that failed."""
    headers = {"X-Fal-Error-Type": error_type} if error_type else {}
    if retryable is not None:
        headers["X-Fal-Retryable"] = str(retryable).lower()
    return answer(body | ({"error_type": error_type} if error_type else {}), status, headers)


def _refused(kind: str, message: str, *, retryable: bool = False) -> web.Response:
    item = {"loc": ["body", "prompt"], "msg": message, "type": kind, "input": "..."}
    return failed(422, {"detail": [item]}, retryable=retryable)


_REFUSED = "The content could not be processed because it was flagged by a content checker."
_FAILURES: dict[str, Callable[[], web.Response]] = {
    Fault.GENERATE_REFUSED: lambda: _refused("content_policy_violation", _REFUSED),
    Fault.GENERATE_FAILED: lambda: failed(
        500, {"detail": "The runner raised an exception"}, "runner_server_error"
    ),
    Fault.GENERATE_FAILED_RESULT: lambda: failed(
        503, {"detail": "The runner was disconnected"}, "runner_disconnected", retryable=True
    ),
    Fault.GENERATE_ERROR_LIST: lambda: _refused(
        "downstream_service_error", "The downstream service failed", retryable=True
    ),
}


def iso_of(epoch_s: float | None) -> str | None:
    """A time as fal writes it."""
    return None if epoch_s is None else iso(datetime.fromtimestamp(epoch_s, UTC))


def _links(request: web.Request, order: JobCreated) -> dict[str, str]:
    app = "/".join(order.model.split("/")[:2])
    base = f"{origin_of(request)}{QUEUE}/{app}/requests/{order.id}"
    return {"response_url": base, "status_url": f"{base}/status", "cancel_url": f"{base}/cancel"}


def _model(model_id: str) -> Model:
    model = catalogue(FAL).get(model_id)
    if model is None:
        raise Refusal(404, f"Application '{model_id.rpartition('/')[2]}' not found")
    return model


async def _inputs(request: web.Request, model: Model) -> dict[str, Any]:
    """The body, checked by the model's schema. Raises Refusal: 422."""
    try:
        inputs = msgspec.json.decode(await request.read())
    except msgspec.DecodeError as error:
        raise Refusal(422, f"Invalid JSON: {error}") from error
    if problems := model.problems(inputs):
        raise Refusal(422, "Input validation failed", detail=problems)
    return dict(inputs)
