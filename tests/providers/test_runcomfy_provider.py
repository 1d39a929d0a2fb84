"""The client on the wire: what each way for an exchange to go wrong means, against a scripted server."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import pytest
from aiohttp import client_exceptions

from batcher.clock import SystemClock
from batcher.errors import (
    CallError,
    NotFound,
    NotSent,
    OutcomeUnknown,
    Rejected,
    TurnedAway,
    Unavailable,
)
from batcher.http.endpoint import Endpoint, Token
from batcher.http.exchange import BEFORE_SENDING, BODY_MAX_BYTES, Connection, ExchangeTimeouts
from batcher.ports import CancelOutcome, Phase
from batcher.providers.runcomfy.provider import RunComfy
from tests.support.model_api import model_api, named
from tests.support.scripted import (
    Peer,
    Request,
    ScriptedServer,
    answer,
    broken_off,
    drop,
    hang,
    json_answer,
    reset,
    stalled,
)

SECRET = "s3cr3t-Token-0123456789abcdef"
TOKEN = Token(SECRET)
MODEL = "kling/kling-2-1/master/image-to-video"
BODY = b'{"prompt": "a cat"}'
ACCEPTED = json_answer({"request_id": "r1", "status_url": "..."})
DONE = json_answer(
    {"status": "completed", "output": {"video": "https://a.runcomfy.net/v.mp4"}, "cost": 1.4}
)
HASTY = ExchangeTimeouts(connect_s=0.2, get_s=0.05, post_silence_s=0.05, post_s=0.2)


def service_at(
    url: str, limits: ExchangeTimeouts | None = None
) -> AbstractAsyncContextManager[RunComfy]:
    return model_api(Endpoint(url, TOKEN), SystemClock(), limits)


Call = Callable[[RunComfy], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "submit": lambda service: service.submit(MODEL, BODY),
    "result": lambda service: service.result(named("r1")),
    "cancel": lambda service: service.cancel(named("r1")),
    "model": lambda service: service.model(MODEL),
    "models": lambda service: service.models(limit=10),
}
each_call = pytest.mark.parametrize("name", CALLS)


async def error_of(name: str, service: RunComfy) -> CallError:
    with pytest.raises(CallError) as caught:
        await CALLS[name](service)
    assert SECRET not in f"{caught.value} {caught.value!r}"
    return caught.value


def lost(name: str) -> type[CallError]:
    """What a failure after sending began means to a call."""
    return OutcomeUnknown if name == "submit" else Unavailable


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


# --- what goes out --------------------------------------------------------------------------------


async def test_a_submission_on_the_wire() -> None:
    async with ScriptedServer(ACCEPTED) as server, service_at(server.url) as service:
        assert (await service.submit(MODEL, BODY)).id == "r1"
    [request] = server.requests
    assert (request.method, request.target) == ("POST", f"/v1/models/{MODEL}")
    assert request.body == BODY
    assert request.headers["content-length"] == str(len(BODY))
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert request.headers["user-agent"].startswith("batcher/")


async def test_a_result_is_asked_for_with_its_cost() -> None:
    async with ScriptedServer(DONE) as server, service_at(server.url) as service:
        found = await service.result(named("r1"))
    assert (found.phase, found.cost_usd) == (Phase.SUCCEEDED, 1.4)
    assert found.urls == ("https://a.runcomfy.net/v.mp4",)
    assert server.requests[0].target == "/v1/requests/r1/result?include_cost=true"


async def test_a_place_in_the_queue_on_the_wire() -> None:
    queued = json_answer({"status": "in_queue", "queue_position": 2})
    async with ScriptedServer(queued) as server, service_at(server.url) as service:
        found = await service.result(named("r1"))
    assert (found.phase, found.queue_position) == (Phase.QUEUED, 2)
    assert (server.requests[0].method, server.requests[0].target) == (
        "GET",
        "/v1/requests/r1/result?include_cost=true",
    )


async def test_a_cancel_on_the_wire() -> None:
    gone = json_answer({"outcome": "cancelled", "status": "cancelled"})
    async with ScriptedServer(gone) as server, service_at(server.url) as service:
        assert await service.cancel(named("r1")) is CancelOutcome.CANCELLED
    [request] = server.requests
    assert (request.method, request.target) == ("POST", "/v1/requests/r1/cancel")
    assert (request.headers["content-length"], request.body) == ("0", b"")
    assert "content-type" not in request.headers


async def test_the_catalogue_on_the_wire() -> None:
    page = json_answer({"models": [], "total": 0})
    async with ScriptedServer(page) as server, service_at(server.url) as service:
        assert await service.models("cat & dog", "image-to-video", limit=5, offset=10) == {
            "models": [],
            "total": 0,
        }
        await service.models(limit=5)
        await service.model(MODEL)
    assert [request.target for request in server.requests] == [
        "/v1/models?search=cat+%26+dog&category=image-to-video&limit=5&offset=10",
        "/v1/models?limit=5&offset=0",
        f"/v1/models/{MODEL}",
    ]


async def test_a_large_body_arrives_whole() -> None:
    body = b'{"image": "data:' + b"A" * (3 << 20) + b'"}'
    async with ScriptedServer(ACCEPTED) as server, service_at(server.url) as service:
        assert (await service.submit(MODEL, body)).id == "r1"
    assert server.requests[0].body == body


async def test_without_a_token_no_authorization_is_sent() -> None:
    async with (
        ScriptedServer(DONE) as server,
        model_api(Endpoint(server.url), SystemClock()) as service,
    ):
        await service.result(named("r1"))
    assert "authorization" not in server.requests[0].headers


async def test_odd_letters_of_a_model_id_stay_within_its_path() -> None:
    async with ScriptedServer(ACCEPTED) as server, service_at(server.url) as service:
        await service.submit("a b/c?d=1#e%2F", BODY)
    assert server.requests[0].target == "/v1/models/a%20b/c%3Fd%3D1%23e%252F"


@pytest.mark.parametrize(
    "model", ["", "/a", "a//b", "a/", "../requests", "a/./b", "a\nb", "a\ud800", "a" * 400]
)
async def test_a_model_id_that_would_name_another_path_is_rejected_unsent(model: str) -> None:
    async with ScriptedServer(ACCEPTED) as server, service_at(server.url) as service:
        with pytest.raises(Rejected, match="not a usable model id"):
            await service.submit(model, BODY)
    assert server.connections == 0


@pytest.mark.parametrize("request_id", ["", "..", "a/b", "a?b", "a b"])
async def test_a_request_id_that_would_name_another_path_is_rejected_unsent(request_id: str) -> None:
    async with ScriptedServer(DONE) as server, service_at(server.url) as service:
        for ask in (service.result, service.cancel):
            with pytest.raises(Rejected, match="not a usable request id"):
                await ask(named(request_id))
    assert server.connections == 0


@each_call
async def test_outside_of_its_context_nothing_is_sent(name: str) -> None:
    connection = Connection(Endpoint("http://localhost:1/v1", TOKEN), SystemClock())
    error = await error_of(name, RunComfy(connection, SystemClock()))
    assert (type(error), error.message) == (NotSent, "the connection to the API is not open")


async def test_a_closed_client_sends_nothing() -> None:
    async with ScriptedServer(ACCEPTED) as server:
        async with service_at(server.url) as service:
            pass
        assert type(await error_of("submit", service)) is NotSent
    assert server.connections == 0


async def test_its_origin_is_the_apis() -> None:
    assert Endpoint("https://API.example.com/v1/").origin == "https://api.example.com"


# --- nothing was sent -----------------------------------------------------------------------------


@each_call
async def test_a_refused_connection_means_not_sent(name: str) -> None:
    async with service_at(f"http://127.0.0.1:{free_port()}/v1") as service:
        assert type(await error_of(name, service)) is NotSent


@each_call
async def test_a_name_that_does_not_resolve_means_not_sent(name: str) -> None:
    async with service_at("https://no-such-host.invalid/v1", ExchangeTimeouts(connect_s=5)) as service:
        assert type(await error_of(name, service)) is NotSent


@each_call
async def test_a_server_that_speaks_no_tls_means_not_sent(name: str) -> None:
    async def plain(peer: Peer) -> bool:
        await peer.reader.read(1)
        await peer.send(answer(400))
        return False

    async with (
        ScriptedServer(welcome=plain) as server,
        service_at(f"https://127.0.0.1:{server.port}/v1") as service,
    ):
        assert type(await error_of(name, service)) is NotSent


@each_call
async def test_a_certificate_that_nobody_signed_means_not_sent(name: str) -> None:
    # A server context without a certificate can't complete any handshake.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's own complaint
    async with service_at(f"https://127.0.0.1:{port}/v1") as service:
        assert type(await error_of(name, service)) is NotSent
    server.close()


@each_call
async def test_a_handshake_that_never_ends_means_not_sent(name: str) -> None:
    async def silent(peer: Peer) -> bool:
        await asyncio.Event().wait()
        return False

    async with (
        ScriptedServer(welcome=silent) as server,
        service_at(f"https://127.0.0.1:{server.port}/v1", ExchangeTimeouts(connect_s=0.05)) as service,
    ):
        assert type(await error_of(name, service)) is NotSent


# --- something may have been sent -----------------------------------------------------------------


async def at_once(peer: Peer) -> bool:
    return False


async def resets_at_once(peer: Peer) -> bool:
    peer.reset()
    return False


@pytest.mark.parametrize("welcome", [at_once, resets_at_once])
@each_call
async def test_a_connection_closed_before_the_request_was_read(name: str, welcome: Any) -> None:
    async with ScriptedServer(welcome=welcome) as server, service_at(server.url) as service:
        assert type(await error_of(name, service)) is lost(name)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n"
BROKEN = {
    "closed without a word": drop,
    "reset without a word": reset,
    "half a status line": broken_off(b"HTTP/1.1 20"),
    "half the headers": broken_off(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "headers and no body": broken_off(HEAD),
    "half a body": broken_off(HEAD + b'{"request_id": "r1"'),
    "half a chunk": broken_off(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{"),
    "no HTTP at all": broken_off(b"\x00\xff\x00garbage\r\n\r\n"),
    "a status that is none": broken_off(b"HTTP/1.1 banana OK\r\n\r\n"),
    "two lengths": broken_off(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "a gzip that is none": broken_off(answer(200, b"nonsense", {"Content-Encoding": "gzip"})),
    "a switch of protocols": broken_off(
        b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"
    ),
}


@pytest.mark.parametrize("step", BROKEN.values(), ids=BROKEN)
@each_call
async def test_an_answer_that_breaks_off(name: str, step: Any) -> None:
    async with ScriptedServer(step) as server, service_at(server.url) as service:
        assert type(await error_of(name, service)) is lost(name)
        assert name not in ("submit", "cancel") or len(server.requests) == 1


async def test_what_is_not_http_is_told_without_a_status_that_nobody_sent() -> None:
    async with (
        ScriptedServer(broken_off(b"\x00garbage\r\n\r\n")) as server,
        service_at(server.url) as service,
    ):
        error = await error_of("submit", service)
        assert error.message.startswith("an answer that is not HTTP: ")
        assert "400" not in error.message
        assert server.url not in error.message


async def test_a_connection_lost_in_the_middle_of_an_upload_is_unknown() -> None:
    async def reads_a_little(peer: Peer) -> bool:
        await peer.reader.read(1000)
        peer.reset()
        return False

    async with ScriptedServer(welcome=reads_a_little) as server, service_at(server.url) as service:
        with pytest.raises(OutcomeUnknown):
            await service.submit(MODEL, b"x" * (8 << 20))
    assert server.connections == 1


SLOW = {
    "no answer": hang,
    "half a status line": stalled(b"HTTP/1.1 20"),
    "headers without end": stalled(b"HTTP/1.1 200 OK\r\nX: y\r\n"),
    "half a body": stalled(HEAD + b'{"request_id": "r1"'),
}


@pytest.mark.parametrize("step", SLOW.values(), ids=SLOW)
@each_call
async def test_a_server_that_falls_silent(name: str, step: Any) -> None:
    async with ScriptedServer(step) as server, service_at(server.url, HASTY) as service:
        assert type(await error_of(name, service)) is lost(name)
        assert len(server.requests) <= 1  # on a slow machine the time is over before it arrives


@each_call
async def test_a_server_that_drips_runs_into_the_total_time_out(name: str) -> None:
    async def drips(request: Request, peer: Peer) -> None:
        while True:
            await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await asyncio.sleep(0.01)

    hasty = ExchangeTimeouts(get_s=0.05, post_silence_s=5, post_s=0.05)
    async with ScriptedServer(drips) as server, service_at(server.url, hasty) as service:
        assert type(await error_of(name, service)) is lost(name)


async def test_a_clear_status_counts_even_where_its_body_breaks_off() -> None:
    head = b"HTTP/1.1 %s\r\nContent-Length: 40\r\nRetry-After: 3\r\n\r\n{"
    async with (
        ScriptedServer(broken_off(head % b"429 Slow")) as server,
        service_at(server.url) as service,
    ):
        error = await error_of("submit", service)
        assert isinstance(error, TurnedAway)
        assert error.retry_after_s == 3.0
        server.then(broken_off(head % b"400 Bad"))
        assert type(await error_of("submit", service)) is Rejected


# --- bounds ---------------------------------------------------------------------------------------


@each_call
async def test_a_body_over_the_bound_is_not_read_on(name: str) -> None:
    sent_bytes = 0

    async def floods(request: Request, peer: Peer) -> None:
        nonlocal sent_bytes
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n")
        while not peer.writer.is_closing():
            await peer.send(b"x" * (1 << 16))
            sent_bytes += 1 << 16

    async with ScriptedServer(floods) as server, service_at(server.url) as service:
        assert type(await error_of(name, service)) is lost(name)
    assert sent_bytes < 8 * BODY_MAX_BYTES


async def test_a_small_body_that_unpacks_to_a_huge_one_is_bounded() -> None:
    bomb = answer(200, gzip.compress(b" " * (64 << 20)), {"Content-Encoding": "gzip"})
    async with ScriptedServer(bomb) as server, service_at(server.url) as service:
        assert type(await error_of("result", service)) is Unavailable


async def test_a_packed_body_is_read() -> None:
    packed = answer(200, gzip.compress(b'{"status": "in_queue"}'), {"Content-Encoding": "gzip"})
    async with ScriptedServer(packed) as server, service_at(server.url) as service:
        assert (await service.result(named("r1"))).phase is Phase.QUEUED


def test_the_time_for_a_submission_grows_with_its_body() -> None:
    limits = ExchangeTimeouts()
    assert limits.post_total_s(0) == limits.post_s
    assert limits.post_total_s(64 << 20) == limits.post_s + 1024


# --- redirects, cookies, the environment ----------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@each_call
async def test_a_redirect_is_not_followed_and_the_token_goes_nowhere(name: str, status: int) -> None:
    async with ScriptedServer(ACCEPTED) as elsewhere:
        away = answer(status, headers={"Location": f"{elsewhere.url}/trap"})
        async with ScriptedServer(away) as server, service_at(server.url) as service:
            assert type(await error_of(name, service)) is Rejected
            assert len(server.requests) == 1
        assert elsewhere.connections == 0


async def test_a_redirect_within_the_origin_is_not_followed_either() -> None:
    async with (
        ScriptedServer(answer(307, headers={"Location": "/v1/other"})) as server,
        service_at(server.url) as service,
    ):
        assert type(await error_of("submit", service)) is Rejected
        assert len(server.requests) == 1


async def test_cookies_are_not_kept() -> None:
    sets = json_answer({"status": "in_queue"}, headers={"Set-Cookie": "a=b; Path=/"})
    async with ScriptedServer(sets) as server, service_at(server.url) as service:
        await service.result(named("r1"))
        await service.result(named("r1"))
    assert all("cookie" not in request.headers for request in server.requests)


async def test_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    async with ScriptedServer(ACCEPTED) as server, service_at(server.url) as service:
        assert (await service.submit(MODEL, BODY)).id == "r1"


async def test_an_echoed_token_is_not_repeated() -> None:
    echo = json_answer(
        {"message": f"Bearer {SECRET} is unknown", "detail": f"starts with {SECRET[:12]}"}, status=401
    )
    async with ScriptedServer(echo) as server, service_at(server.url) as service:
        for name in CALLS:
            error = await error_of(name, service)
            assert error.message == "HTTP 401: Bearer *** is unknown: starts with ***"


async def test_errors_of_the_api_pass_as_they_are() -> None:
    async with (
        ScriptedServer(json_answer({"error_code": 404001}, 404)) as server,
        service_at(server.url) as service,
    ):
        for name in CALLS:
            assert type(await error_of(name, service)) is NotFound


# --- connections ----------------------------------------------------------------------------------


async def test_submissions_in_a_row_share_a_connection() -> None:
    async with ScriptedServer(ACCEPTED) as server, service_at(server.url) as service:
        for _ in range(3):
            await service.submit(MODEL, BODY)
    assert [request.connection for request in server.requests] == [0, 0, 0]


async def test_a_submission_never_reuses_a_connection_that_has_been_idle() -> None:
    async with (
        ScriptedServer(ACCEPTED) as server,
        service_at(server.url, ExchangeTimeouts(post_reuse_s=0.02)) as service,
    ):
        await service.submit(MODEL, BODY)
        await asyncio.sleep(0.04)
        await service.submit(MODEL, BODY)
    assert [request.connection for request in server.requests] == [0, 1]


async def test_submissions_and_polls_have_connections_of_their_own() -> None:
    async with ScriptedServer(ACCEPTED) as server, service_at(server.url) as service:
        await service.submit(MODEL, BODY)
        await CALLS["cancel"](service)
        await service.submit(MODEL, BODY)
        await CALLS["cancel"](service)
    assert [request.connection for request in server.requests] == [0, 1, 0, 1]


async def test_a_submission_on_a_kept_connection_that_dies_is_unknown_and_not_sent_again() -> None:
    async with ScriptedServer(ACCEPTED, drop, ACCEPTED) as server, service_at(server.url) as service:
        await service.submit(MODEL, BODY)
        assert type(await error_of("submit", service)) is OutcomeUnknown
        assert len(server.posts) == 2


async def test_a_poll_on_a_kept_connection_that_dies_is_repeated_unnoticed() -> None:
    async with ScriptedServer(DONE, drop, DONE) as server, service_at(server.url) as service:
        await service.result(named("r1"))
        assert (await service.result(named("r1"))).phase is Phase.SUCCEEDED
        assert len(server.requests) == 3


async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    closing = json_answer({"request_id": "r1"}, headers={"Connection": "close"})
    async with ScriptedServer(closing) as server, service_at(server.url) as service:
        await service.submit(MODEL, BODY)
        await service.submit(MODEL, BODY)
    assert [request.connection for request in server.requests] == [0, 1]


# --- cancellation and exceptions nobody mapped ----------------------------------------------------


@each_call
async def test_a_cancelled_task_is_cancelled_and_nothing_else(name: str) -> None:
    async with ScriptedServer(hang) as server, service_at(server.url) as service:
        task = asyncio.ensure_future(CALLS[name](service))
        while not server.requests:
            await asyncio.sleep(0)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task


SAFE = {
    "ClientConnectorError",
    "ClientConnectorDNSError",
    "ClientConnectorSSLError",
    "ClientConnectorCertificateError",
    "ClientProxyConnectionError",
    "ClientSSLError",
    "UnixClientConnectorError",
    "ConnectionTimeoutError",
    "ServerFingerprintMismatch",
}
UNSAFE = {
    "ClientError",
    "ClientConnectionError",
    "ClientConnectionResetError",
    "ClientOSError",
    "ClientHttpProxyError",
    "ClientPayloadError",
    "ClientResponseError",
    "ContentTypeError",
    "InvalidURL",
    "InvalidUrlClientError",
    "InvalidUrlRedirectClientError",
    "NonHttpUrlClientError",
    "NonHttpUrlRedirectClientError",
    "RedirectClientError",
    "ServerConnectionError",
    "ServerDisconnectedError",
    "ServerTimeoutError",
    "SocketTimeoutError",
    "TooManyRedirects",
    "UploadAbortedError",
    "WSMessageTypeError",
    "WSServerHandshakeError",
}
EXCEPTIONS = {
    name: kind
    for name, kind in vars(client_exceptions).items()
    if inspect.isclass(kind)
    and issubclass(kind, Exception)
    and kind.__module__ == client_exceptions.__name__
}


def test_every_exception_of_aiohttp_has_been_looked_at() -> None:
    assert set(EXCEPTIONS) - SAFE - UNSAFE == set(), (
        "new in this aiohttp: can it come after sending began?"
    )


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_only_what_comes_before_sending_is_called_safe(name: str) -> None:
    assert issubclass(EXCEPTIONS[name], BEFORE_SENDING) == (name in SAFE)


class Novelty(Exception):
    """What a later aiohttp may raise."""


@pytest.mark.parametrize(
    "kind", [*EXCEPTIONS.values(), Novelty, OSError, TimeoutError, ValueError, RuntimeError]
)
@each_call
async def test_any_exception_is_translated_and_never_called_safe_without_reason(
    name: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Their constructors want what only aiohttp has, so the instance is made without one.
    wordless = type(kind.__name__, (kind,), {"__init__": lambda _: None, "__str__": lambda _: ""})

    def fails(*_: object, **__: object) -> None:
        raise wordless()

    async with service_at("http://127.0.0.1:1/v1") as service:
        monkeypatch.setattr(aiohttp.ClientSession, "request", fails)
        error = await error_of(name, service)
    safe = kind.__name__ in SAFE
    assert type(error) is (NotSent if safe else lost(name))
    unworded = "no answer in time" if issubclass(kind, TimeoutError) else kind.__name__
    advised = issubclass(kind, aiohttp.ClientConnectorCertificateError)
    assert error.message.partition(" (")[0] == unworded
    assert ("SSL_CERT_FILE" in error.message) == advised
