"""Replicate's API: predictions by three doors, their list, files, and models with their schemas."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from batcher.clock import iso
from batcher.sandbox.answers import (
    INSUFFICIENT_RESOURCES,
    INVALID_INPUT,
    RETRY_AFTER_S,
    Refusal,
    gone_wrong,
    hang_up,
    not_found,
)
from batcher.sandbox.catalogue import catalogue
from batcher.sandbox.faults import FAILURES, Fault
from batcher.sandbox.gate import Gatekeeper
from batcher.sandbox.replicate_models import (
    API,
    BASE,
    DEPLOYMENT,
    OFFICIAL,
    RELEASED,
    Files,
    base_url,
    listed_models,
    model_of_version,
    named_model,
    one_deployment,
    one_model,
    one_version,
    version_of,
)
from batcher.sandbox.store import Request, RequestPhase

if TYPE_CHECKING:
    from multidict import MultiMapping

    from batcher.sandbox.backend import Backend
    from batcher.sandbox.journal import JobCreated

KEPT_S = 3600.0
PAGE = 100
TOP_LEVEL = {"input", "version", "webhook", "webhook_events_filter", "stream"}

TITLES = {
    401: "Unauthenticated",
    402: "Insufficient credit",
    404: "Not found",
    422: "Input validation failed",
}
_CREDIT = (
    "You have insufficient credit to run this model. Go to "
    "https://replicate.com/account/billing#billing to purchase credit."
)
_THROTTLED = "Request was throttled. Your rate limit resets in ~{}s."
_FAILURE = "The model could not generate anything from this input"
_REFUSED = "NSFW content detected. Try running it again, or try a different prompt."
_UNIT_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]{1,6})([smh]?)")
_FILE_URL = re.compile(r"https?://[^\s/]+" + BASE + r"(/files/[0-9a-f]{64})")


def routes(backend: Backend) -> list[web.RouteDef]:
    """The calls of Replicate's API, below ``/replicate/v1``."""
    api, gate = Predictions(backend), Gatekeeper(backend, says_no=says_no)
    files, passed = Files(backend), gate.passed
    deployment = BASE + "/deployments/{owner}/{name}"
    model = BASE + "/models/{owner}/{name}"
    return [
        web.post(f"{BASE}/predictions", passed(api.submit, "posts")),
        web.post(f"{model}/predictions", passed(partial(api.submit, official=True), "posts")),
        web.post(f"{deployment}/predictions", passed(partial(api.submit, official=True), "posts")),
        web.get(f"{BASE}/predictions", passed(api.listed)),
        web.get(BASE + "/predictions/{id}", passed(api.get, "polls")),
        web.post(BASE + "/predictions/{id}/cancel", passed(api.cancel, "cancels")),
        web.get(f"{BASE}/models", passed(listed_models)),
        web.route("QUERY", f"{BASE}/models", passed(listed_models)),
        web.get(model, passed(one_model)),
        web.get(model + "/versions/{version}", passed(one_version)),
        web.get(deployment, passed(one_deployment)),
        web.post(f"{BASE}/files", passed(files.create)),
        web.get(f"{BASE}/files", passed(files.listed)),
        web.get(BASE + "/files/{id}", passed(files.get)),
    ]


def says_no(refusal: Refusal) -> web.Response:
    """A refusal in Replicate's words. How long to wait is in the sentence of a 429, in no header."""
    status, detail = refusal.status, refusal.message
    headers = dict(refusal.headers or {})
    if refusal.error_code == INSUFFICIENT_RESOURCES:
        status, detail = 402, _CREDIT
    elif status == 200:
        status = 422 if refusal.error_code == INVALID_INPUT else 500
    if status == 429:
        wait_s = headers.pop("Retry-After", "")
        told = _THROTTLED.format(wait_s if wait_s.isdigit() else RETRY_AFTER_S)
        return web.json_response({"detail": told, "status": 429}, status=429)
    if isinstance(refusal.detail, list):
        problems = (f"- input.{one['loc'][-1]}: {one['msg']}" for one in refusal.detail)
        detail = "\n".join(problems)
    body = {"title": TITLES.get(status, "Error"), "detail": detail, "status": status}
    return web.json_response(body, status=status, headers=headers)


class Predictions:
    """Handlers of the calls about predictions."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = backend.store
        self._deadlines_s: dict[str, float] = {}

    async def submit(self, request: web.Request, *, official: bool = False) -> web.Response:
        """The three doors: by version, by an official model's name, by a deployment's."""
        if self._backend.drops_unread(request):
            return hang_up(request)
        body = await _body(request)
        model = named_model(request) if official else model_of_version(body.get("version"))
        if official and not set(model.categories) & {OFFICIAL, "deployment"}:
            raise not_found("model")
        inputs = body.get("input")
        if not isinstance(inputs, dict):
            raise Refusal(422, "input is required", error_code=INVALID_INPUT)
        if problems := model.problems(inputs):
            raise Refusal(422, "invalid input", error_code=INVALID_INPUT, detail=problems)
        ends_s = _cancel_after_s(request)
        made = self._backend.submit(model, inputs)
        if ends_s is not None:
            self._deadlines_s[made.order.id] = made.order.at + ends_s
        if made.fault is not None:
            return gone_wrong(request, made.fault, self._backend.now())
        asked = self._backend.find(API, made.order.id)
        return web.json_response(self._shown(request, asked), status=201)

    async def get(self, request: web.Request) -> web.Response:
        """``GET /predictions/{id}``."""
        asked = self._asked(request)
        fault = self._backend.poll_fault(asked)
        if fault is not None and fault is not Fault.POLL_NOT_READY:
            return gone_wrong(request, fault, self._backend.now())
        return web.json_response(self._shown(request, asked))

    async def cancel(self, request: web.Request) -> web.Response:
        """``POST /predictions/{id}/cancel``: also while it runs, and then its time is charged."""
        asked = self._asked(request)
        fault = self._backend.poll_fault(asked)
        if fault is not None and fault is not Fault.POLL_NOT_READY:
            return gone_wrong(request, fault, self._backend.now())
        self._end(asked)
        return web.json_response(self._shown(request, asked))

    async def listed(self, request: web.Request) -> web.Response:
        """``GET /predictions``: newest first, a hundred a page; what was removed is not listed."""
        query = dict(request.query)
        if cursor := query.get("cursor"):
            query = msgspec.json.decode(base64.urlsafe_b64decode(cursor), type=dict[str, str])
        found = [one for one in reversed(self._store.all()) if one.order.api == API]
        found = [one for one in found if _is_between(one.order.at, query) and not self._is_removed(one)]
        begin = int(query.get("offset", "0"))
        page, more = found[begin : begin + PAGE], len(found) > begin + PAGE
        following = base64.urlsafe_b64encode(msgspec.json.encode({**query, "offset": str(begin + PAGE)}))
        told = {
            "next": f"{base_url(request)}/predictions?cursor={following.decode()}" if more else None,
            "previous": None,
            "results": [self._shown(request, one) for one in page],
        }
        return web.json_response(told, headers={"Date": _http_date(self._backend.now())})

    def _asked(self, request: web.Request) -> Request:
        return self._backend.find(API, request.match_info["id"])

    def _end(self, asked: Request) -> None:
        """Cancel what has not ended; charged if it has started."""
        with self._store.alone():
            phase = asked.phase(self._store.now_s())
            if not phase.terminal:
                self._store.cancel(asked, charged=phase is RequestPhase.IN_PROGRESS)

    def _is_removed(self, asked: Request) -> bool:
        ended_s = asked.ended_s
        return ended_s is not None and self._store.now_s() >= ended_s + KEPT_S

    def _is_overdue(self, asked: Request) -> bool:
        """Whether a deadline ended it before it started: it is ``aborted`` then."""
        deadline_s, cancelled_s = self._deadlines_s.get(asked.order.id), asked.cancelled_s
        ended = deadline_s is not None and cancelled_s is not None and cancelled_s >= deadline_s
        return ended and asked.started_s is None

    def _word(self, asked: Request) -> str:
        phase, fate = asked.phase(self._store.now_s()), asked.order.fate
        match phase:
            case RequestPhase.IN_QUEUE:
                return "starting"
            case RequestPhase.IN_PROGRESS:
                return "post_processing" if fate == Fault.GENERATE_STRANGE_WORD else "processing"
            case RequestPhase.CANCELLED:
                return "aborted" if self._is_overdue(asked) else "canceled"
            case _:
                return "failed" if fate in FAILURES else "succeeded"

    def _shown(self, request: web.Request, asked: Request) -> dict[str, Any]:
        """The object of a prediction, as every call answers it."""
        order, deadline_s = asked.order, self._deadlines_s.get(asked.order.id)
        if deadline_s is not None and self._store.now_s() >= deadline_s:
            self._end(asked)
        word, removed = self._word(asked), self._is_removed(asked)
        url = f"{base_url(request)}/predictions/{order.id}"
        ended_s = asked.ended_s if asked.phase(self._store.now_s()).terminal else None
        deployment = order.model.removeprefix(DEPLOYMENT) if order.model.startswith(DEPLOYMENT) else None
        model = RELEASED if deployment else order.model
        shown: dict[str, Any] = {
            "id": order.id,
            "model": model,
            "version": "hidden" if OFFICIAL in catalogue(API)[model].categories else version_of(model),
            "input": None if removed else _input(request, order),
            "output": None,
            "error": None,
            "logs": "",
            "status": word,
            "source": "api",
            "created_at": _iso(order.at),
            "started_at": _iso(asked.started_s),
            "completed_at": _iso(ended_s),
            "data_removed": removed,
            "deadline": _iso(deadline_s),
            "deployment": deployment,
            "urls": {
                "get": url,
                "cancel": f"{url}/cancel",
                "web": f"https://replicate.com/p/{order.id}",
            },
        }
        if word == "failed" and not removed:
            shown["error"] = _REFUSED if order.fate == Fault.GENERATE_REFUSED else _FAILURE
        if word == "succeeded":
            shown["metrics"] = {
                "predict_time": round(order.run_s, 3),
                "total_time": round(order.run_s, 3),
            }
            shown["output"] = None if removed else self._output(request, order)
        return shown

    def _output(self, request: web.Request, order: JobCreated) -> Any:
        """A string, a list of strings, or an object: by the model's habit."""
        if order.fate == Fault.GENERATE_NO_OUTPUT:
            return None
        urls = self._backend.output_urls(request, order)
        match catalogue(API)[order.model].simulation.output:
            case "audio":
                return {"audio_out": urls[0], "prompt_npz": None}
            case "images" | "videos":
                return urls
            case _:
                return urls[0]


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(await request.read(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Refusal(400, f"Body is not an object: {error}") from error
    if unknown := body.keys() - TOP_LEVEL:
        raise Refusal(422, f"unknown: {', '.join(sorted(unknown))}", error_code=INVALID_INPUT)
    return body


def _cancel_after_s(request: web.Request) -> float | None:
    """Seconds that ``Cancel-After: 5m`` allows."""
    text = request.headers.get("Cancel-After")
    if text is None:
        return None
    match = _DURATION.fullmatch(text.strip())
    after_s = float(match[1]) * _UNIT_S[match[2]] if match else 0.0
    if after_s < 5:
        raise Refusal(422, "Cancel-After: at least 5 seconds", error_code=INVALID_INPUT)
    return after_s


def _is_between(at_s: float, query: MultiMapping[str] | dict[str, str]) -> bool:
    after, before = query.get("created_after"), query.get("created_before")
    return (after is None or at_s >= datetime.fromisoformat(after).timestamp()) and (
        before is None or at_s < datetime.fromisoformat(before).timestamp()
    )


def _input(request: web.Request, order: JobCreated) -> Any:
    """The inputs as they came; a ``data:`` URI as the file that was made of it."""
    return _with_files(msgspec.json.decode(order.input), base_url(request))


def _with_files(value: Any, base: str) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"path", "sha256"}:
            return f"{base}/files/{value['sha256']}"
        return {key: _with_files(item, base) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_files(item, base) for item in value]
    return _FILE_URL.sub(lambda match: base + match[1], value) if isinstance(value, str) else value


def _iso(epoch_s: float | None) -> str | None:
    return None if epoch_s is None else iso(datetime.fromtimestamp(epoch_s, UTC))


def _http_date(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
