"""The API's answers other than success: refusals, and simulated faults."""

from __future__ import annotations

from datetime import timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from batcher.sandbox.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

INSUFFICIENT_RESOURCES = 400002
USER_ACCOUNT = 400004
NOT_READY = 400005
RESOURCE_NOT_FOUND = 404001
INVALID_INPUT = 422001
INTERNAL = 500001

RETRY_AFTER_S = 1
ELSEWHERE = "/sandbox/elsewhere"

_ERROR_PAGE = "<!DOCTYPE html>\n<html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
_HTML = "text/html"


class Refusal(Exception):
    """Raised if an API refuses a call. :meth:`response` is the Model API's form; others have their
    own shapes for the same facts. ``error_code`` is the Model API's number."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        error_code: int | None = None,
        detail: str | list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.error_code = error_code
        self.detail = detail
        self.headers = headers

    def response(self) -> web.Response:
        """The answer with the Model API's error body."""
        body = {"error_code": self.error_code, "message": self.message, "detail": self.detail}
        told = {key: value for key, value in body.items() if value is not None}
        return web.json_response(told, status=self.status, headers=self.headers)


def not_found(what: str) -> Refusal:
    """404 with the code that goes with it."""
    return Refusal(404, f"{what} not found", error_code=RESOURCE_NOT_FOUND)


def hang_up(request: web.Request) -> web.Response:
    """Close the connection at once, without an answer. The returned response is never sent."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def error_page(title: str, status: int) -> web.Response:
    """An HTML page, like those of a proxy in front of a server."""
    return web.Response(text=_ERROR_PAGE.format(title), status=status, content_type=_HTML)


def gone_wrong(request: web.Request, fault: Fault, now: datetime) -> web.Response:
    """The answer to a POST or a poll that meets ``fault``. Raises Refusal if it is an error body."""
    if fault.kind == "dropped":
        return hang_up(request)
    answer = _ANSWERS.get(fault, _ANSWERS[fault.kind])(now)
    if isinstance(answer, Refusal):
        raise answer
    return answer


def _retry_after(now: datetime) -> dict[str, str]:
    # One second more: an HTTP date has no fractions, and the wait must not be rounded to zero.
    moment = now.replace(microsecond=0) + timedelta(seconds=RETRY_AFTER_S + 1)
    return {"Retry-After": format_datetime(moment, usegmt=True)}


_SECONDS = {"Retry-After": str(RETRY_AFTER_S)}
_UNREADABLE = b'{"request_id": "'

_ANSWERS: dict[str, Callable[[datetime], web.Response | Refusal]] = {
    "internal": lambda _: Refusal(500, "Internal server error", error_code=INTERNAL),
    "gateway": lambda _: web.json_response({"http_code": 502, "message": "Bad Gateway"}, status=502),
    "unavailable": lambda _: error_page("503 Service Unavailable", 503),
    "busy": lambda _: Refusal(503, "Server is busy", headers=_SECONDS),
    "limited": lambda _: Refusal(429, "Too many requests", headers=_SECONDS),
    "limited-date": lambda now: Refusal(429, "Too many requests", headers=_retry_after(now)),
    "not-ready": lambda _: Refusal(400, "Request is not ready", error_code=NOT_READY),
    "error-code": lambda _: Refusal(
        200, "The prompt was refused by the content filter", error_code=INVALID_INPUT
    ),
    Fault.POLL_ERROR_CODE: lambda _: Refusal(200, "Upstream error, try again", error_code=INTERNAL),
    "unreadable": lambda _: web.Response(body=_UNREADABLE, content_type="application/json"),
    "no-id": lambda _: web.json_response({"message": "accepted"}),
    "redirect": lambda _: web.Response(status=307, headers={"Location": ELSEWHERE}),
    "lost": lambda _: not_found("request"),
}
