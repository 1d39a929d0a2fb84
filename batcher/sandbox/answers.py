"""The API's answers that are not a plain success: refusals, and calls that go wrong on purpose."""

from __future__ import annotations

from datetime import timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from batcher.sandbox.faults import Fault

INSUFFICIENT_RESOURCES = 400002
USER_ACCOUNT = 400004
NOT_READY = 400005
RESOURCE_NOT_FOUND = 404001
INVALID_INPUT = 422001
GENERATION_ERROR = 500001

RETRY_AFTER_S = 1
ELSEWHERE = "/sandbox/elsewhere"

_ERROR_PAGE = "<!DOCTYPE html>\n<html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
_HTML = "text/html"


class Refusal(Exception):
    """Raised where the API says no; becomes the answer with the API's error body."""

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
        self._status = status
        self._headers = headers
        body = {"error_code": error_code, "message": message, "detail": detail}
        self._body = {key: value for key, value in body.items() if value is not None}

    def response(self) -> web.Response:
        return web.json_response(self._body, status=self._status, headers=self._headers)


def not_found(what: str) -> Refusal:
    """404 with the code that goes with it."""
    return Refusal(404, f"{what} not found", error_code=RESOURCE_NOT_FOUND)


def hang_up(request: web.Request) -> web.Response:
    """Close the connection at once, without an answer. What is returned goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def error_page(title: str, status: int) -> web.Response:
    """An HTML page, as proxies in front of a server give."""
    return web.Response(text=_ERROR_PAGE.format(title), status=status, content_type=_HTML)


def gone_wrong(request: web.Request, fault: Fault, now: datetime) -> web.Response:
    """The answer to a POST or a poll that meets ``fault``."""
    if fault.kind == "dropped":
        return hang_up(request)
    return _ANSWERS[fault.kind](now)


def _retry_after(now: datetime) -> dict[str, str]:
    # One second more: an HTTP date has no fractions, and its wait must not round to nothing.
    moment = now.replace(microsecond=0) + timedelta(seconds=RETRY_AFTER_S + 1)
    return {"Retry-After": format_datetime(moment, usegmt=True)}


_SECONDS = {"Retry-After": str(RETRY_AFTER_S)}
_UNREADABLE = b'{"request_id": "'

_ANSWERS: dict[str, Callable[[datetime], web.Response]] = {
    "internal": lambda _: Refusal(500, "Internal server error").response(),
    "gateway": lambda _: error_page("502 Bad Gateway", 502),
    "unavailable": lambda _: error_page("503 Service Unavailable", 503),
    "busy": lambda _: Refusal(503, "Server is busy", headers=_SECONDS).response(),
    "limited": lambda _: Refusal(429, "Too many requests", headers=_SECONDS).response(),
    "limited-date": lambda now: Refusal(429, "Too many requests", headers=_retry_after(now)).response(),
    "not-ready": lambda _: Refusal(400, "Request is not ready", error_code=NOT_READY).response(),
    "error-code": lambda _: Refusal(
        200, "The prompt was refused by the content filter", error_code=INVALID_INPUT
    ).response(),
    "unreadable": lambda _: web.Response(body=_UNREADABLE, content_type="application/json"),
    "no-id": lambda _: web.json_response({"message": "accepted"}),
    "redirect": lambda _: web.Response(status=307, headers={"Location": ELSEWHERE}),
    "lost": lambda _: not_found("request").response(),
}
