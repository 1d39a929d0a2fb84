"""The sandbox can serve several APIs from one state, each with its own words."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from batcher.sandbox import media, model_api, server
from batcher.sandbox.answers import Refusal, gone_wrong
from batcher.sandbox.backend import Backend
from batcher.sandbox.catalogue import catalogue
from batcher.sandbox.faults import Fault
from batcher.sandbox.gate import Gatekeeper
from tests.sandbox.test_sandbox import LONG_S, TEXT_TO_IMAGE, serving

KEY = {"Authorization": "Key anything"}
JOB = {"prompt": "a lighthouse"}


def other_routes(backend: Backend) -> list[web.RouteDef]:
    """An API that takes ``Key``, answers in ``title`` and ``detail``, and offers one model."""
    model = msgspec.structs.replace(catalogue()[TEXT_TO_IMAGE], api="other")

    async def submit(request: web.Request) -> web.Response:
        made = backend.submit(model, await request.json())
        if made.fault is not None:
            return gone_wrong(request, made.fault, backend.now())
        return web.json_response({"id": made.order.id})

    async def show(request: web.Request) -> web.Response:
        asked = backend.find("other", request.match_info["id"])
        return web.json_response({"phase": asked.phase(backend.store.now_s()).name})

    def says_no(refusal: Refusal) -> web.Response:
        told = {"title": refusal.message, "detail": refusal.detail}
        return web.json_response(told, status=refusal.status, headers=refusal.headers)

    gate = Gatekeeper(backend, "Key", says_no)
    return [
        web.post("/other/jobs", gate.passed(submit, "posts")),
        web.get("/other/jobs/{id}", gate.passed(show, "polls")),
    ]


def two_houses(monkeypatch: Any) -> None:
    monkeypatch.setattr(server, "HOUSES", (model_api.routes, other_routes, media.routes))


async def test_two_apis_share_balance_and_clock_and_not_their_requests(monkeypatch):
    two_houses(monkeypatch)
    async with serving(balance_usd=0.06) as caller:
        url = f"{caller.origin}/other/jobs"
        async with caller.session.post(url, headers=KEY, json=JOB) as answer:
            theirs = (await answer.json())["id"]
        ours = await caller.submit(TEXT_TO_IMAGE, JOB)
        caller.clock.elapsed_s += LONG_S
        async with caller.session.get(f"{url}/{theirs}", headers=KEY) as answer:
            assert await answer.json() == {"phase": "FINISHED"}
        async with caller.session.get(f"{url}/{ours}", headers=KEY) as answer:
            assert answer.status == 404
        assert (await caller.call("GET", f"/requests/{theirs}/result"))[0] == 404
        async with caller.session.post(url, headers=KEY, json=JOB) as answer:
            assert (answer.status, await answer.json()) == (
                400,
                {"title": "Insufficient balance", "detail": None},
            )
        assert caller.sandbox.stats.posts == 3


async def test_each_api_has_its_own_scheme_and_shape_of_errors(monkeypatch):
    two_houses(monkeypatch)
    async with serving(faults=1.0, only_faults=frozenset({Fault.SUBMIT_LIMITED})) as caller:
        url = f"{caller.origin}/other/jobs"
        async with caller.session.post(url, headers={"Authorization": "Bearer x"}, json=JOB) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == "Key"
            assert (await answer.json()).keys() == {"title", "detail"}
        async with caller.session.post(url, headers=KEY, json=JOB) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
            assert (await answer.json()).keys() == {"title", "detail"}
        assert (await caller.call("GET", "/models", headers=KEY))[0] == 401


async def test_a_state_file_tells_requests_of_two_apis_apart(monkeypatch, tmp_path):
    two_houses(monkeypatch)
    state = tmp_path / "sandbox.jsonl"
    async with serving(state=state) as caller:
        url = f"{caller.origin}/other/jobs"
        async with caller.session.post(url, headers=KEY, json=JOB) as answer:
            theirs = (await answer.json())["id"]
        await caller.submit(TEXT_TO_IMAGE, JOB)
    async with serving(state=state) as caller:
        assert (await caller.call("GET", f"/requests/{theirs}/result"))[0] == 404
    first, second = map(msgspec.json.decode, state.read_bytes().splitlines())
    assert (first["api"], "api" in second) == ("other", False)
