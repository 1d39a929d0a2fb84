"""fal's provider on the wire: what it sends, where its key goes, and what it makes of lost requests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.errors import (
    AuthRefused,
    BalanceExhausted,
    CallError,
    CredentialsError,
    NotFound,
    OutcomeUnknown,
    Rejected,
    Unavailable,
    UsageError,
)
from batcher.jobs.job import Job, LocalMedia, Source, recorded
from batcher.ports import CancelOutcome, Handle, Lost, Phase
from batcher.providers.fal import Fal, app_path, endpoint_path, find_key, open_fal, places
from batcher.providers.fal_platform import input_schema
from batcher.providers.fal_storage import INLINE_MAX_BYTES
from batcher.providers.fal_trace import found_among
from batcher.providers.registry import vendor_of
from batcher.providers.vendor import Surroundings, Vendor
from batcher.schema.spec import ModelSpec
from tests.support.scripted import Peer, Request, ScriptedServer, answer, broken_off, drop, json_answer

SECRET = "0123abcd-key-id:s3cr3t-0123456789abcdef"
MODEL = "fal:fal-ai/flux/dev"
BODY = b'{"prompt": "a cat"}'
SENT = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
DONE = {"images": [{"url": "https://v3.fal.media/a.png", "content_type": "image/png"}], "seed": 1}
LOCKED = {"detail": "User is locked. Reason: Exhausted balance."}
DATA_URI = "data:image/png;base64,aGk="

NO_HOME = Path("/dev/null")
"""Nothing can be cached there: ports come back, and with them the catalogues of other tests."""


@dataclass
class Api:
    """A stand-in whose answers are looked up by method and path, else by ``otherwise``."""

    server: ScriptedServer
    vendor: Vendor
    answers: dict[str, Any] = field(default_factory=dict)

    @property
    def provider(self) -> Fal:
        assert isinstance(self.vendor.provider, Fal)
        return self.vendor.provider

    @property
    def asked(self) -> list[str]:
        return [f"{request.method} {request.path}" for request in self.server.requests]

    async def submitted(self) -> Handle:
        self.answers.setdefault("POST /x/queue/fal-ai/flux/dev", {"request_id": "r1"})
        return await self.provider.submit(MODEL, BODY)


@asynccontextmanager
async def fal(answers: dict[str, Any] | None = None) -> AsyncIterator[Api]:
    """A stand-in with ``answers``: JSON, bytes as they go over the wire, a step, or a function."""
    answers = answers or {}

    async def step(request: Request, peer: Peer) -> None:
        made = answers.get(f"{request.method} {request.path}", {"detail": "not scripted"})
        if callable(made) and not asyncio.iscoroutinefunction(made) and "peer" not in names_of(made):
            made = made(request)
        if callable(made):
            await made(request, peer)
        else:
            await peer.send(made if isinstance(made, bytes) else json_answer(made))

    async with ScriptedServer(step) as server:
        env = {"FAL_KEY": SECRET, "FAL_QUEUE_RUN_HOST": f"{server.origin}/x/queue"}
        around = Surroundings(env, NO_HOME, SystemClock(), LocalDisk())
        async with open_fal(around) as vendor:
            yield Api(server, vendor, answers)


def names_of(function: Any) -> tuple[str, ...]:
    code = getattr(function, "__code__", None)
    return code.co_varnames[: code.co_argcount] if code else ()


AT = "/x/queue/fal-ai/flux/requests/r1"


# --- submit, result, cancel --------------------------------------------------------------------------


async def test_a_submission_carries_the_key_and_asks_the_server_not_to_retry():
    async with fal() as api:
        assert await api.submitted() == Handle(MODEL, "r1")
        sent = api.server.requests[0]
        assert (sent.method, sent.path) == ("POST", "/x/queue/fal-ai/flux/dev")
        assert sent.headers["authorization"] == f"Key {SECRET}"
        assert sent.headers["x-fal-no-retry"] == "1"
        assert sent.body == BODY


@pytest.mark.parametrize(
    "step", [drop, answer(502, b"<html>nginx</html>"), broken_off(b"HTTP/1.1 200 OK\r\n")]
)
async def test_a_submission_without_an_answer_is_never_sent_again(step):
    async with fal({"POST /x/queue/fal-ai/flux/dev": step}) as api:
        with pytest.raises(OutcomeUnknown):
            await api.submitted()
        assert len(api.server.requests) == 1


async def test_an_id_in_an_answer_that_http_refuses_still_counts():
    torn = b"HTTP/1.1 200 OK\r\nContent-Length: zz\r\n\r\n" + b'{"request_id": "r1"}'
    async with fal({"POST /x/queue/fal-ai/flux/dev": broken_off(torn)}) as api:
        assert await api.submitted() == Handle(MODEL, "r1")


async def test_a_result_asks_the_status_until_the_end_and_then_the_result():
    queued = json_answer({"status": "IN_QUEUE", "queue_position": 2}, 202)
    async with fal({f"GET {AT}/status": queued}) as api:
        handle = await api.submitted()
        first = await api.provider.result(handle)
        assert (first.phase, first.queue_position) == (Phase.QUEUED, 2)
        api.answers[f"GET {AT}/status"] = {"status": "COMPLETED"}
        api.answers[f"GET {AT}"] = DONE
        last = await api.provider.result(handle)
        assert (last.phase, last.urls) == (Phase.SUCCEEDED, ("https://v3.fal.media/a.png",))
        assert api.asked[1:] == [f"GET {AT}/status", f"GET {AT}/status", f"GET {AT}"]


async def test_the_urls_of_the_answer_are_used_and_those_of_elsewhere_are_not():
    async with fal() as api, ScriptedServer(json_answer({"status": "COMPLETED"})) as elsewhere:
        odd = f"{api.server.origin}/x/queue/odd/requests/r1"
        urls = {"status": f"{odd}/s", "result": f"{elsewhere.origin}/requests/r1"}
        api.answers |= {"GET /x/queue/odd/requests/r1/s": {"status": "COMPLETED"}, f"GET {AT}": DONE}
        assert (await api.provider.result(Handle(MODEL, "r1", urls))).phase is Phase.SUCCEEDED
        assert elsewhere.requests == []
        assert api.asked[:2] == ["GET /x/queue/odd/requests/r1/s", f"GET {AT}"]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("fal:fal-ai/flux/dev/image-to-image", "fal-ai/flux"),
        ("fal:fal-ai/fast-sdxl", "fal-ai/fast-sdxl"),
        ("fal:workflows/me/my-flow", "workflows/me/my-flow"),
        ("fal:comfy/me/my-flow/run", "comfy/me/my-flow"),
    ],
)
def test_requests_are_under_owner_and_app(model, path):
    assert app_path(model) == path


@pytest.mark.parametrize("model", ["fal:", "fal:x", "fal:a//b", "fal:a/../b", "fal:a/b\n", "fal:/a/b"])
def test_a_name_that_would_be_another_path_is_refused(model):
    with pytest.raises(Rejected):
        endpoint_path(model)


def test_a_name_is_quoted():
    assert endpoint_path("fal:a/b?c#d/é") == "a/b%3Fc%23d/%C3%A9"


async def test_an_id_of_an_edited_ledger_makes_no_other_path():
    async with fal() as api:
        with pytest.raises(Rejected):
            await api.provider.result(Handle(MODEL, "../../secret"))
        assert api.asked == []


async def test_a_cancel_is_a_put_and_only_a_request():
    async with fal({f"PUT {AT}/cancel": json_answer({"status": "CANCELLATION_REQUESTED"}, 202)}) as api:
        assert await api.provider.cancel(Handle(MODEL, "r1")) is CancelOutcome.REQUESTED
        api.answers[f"PUT {AT}/cancel"] = json_answer({"status": "ALREADY_COMPLETED"}, 400)
        assert await api.provider.cancel(Handle(MODEL, "r1")) is CancelOutcome.NOT_CANCELLABLE
        api.answers[f"PUT {AT}/cancel"] = json_answer({"status": "NOT_FOUND"}, 404)
        with pytest.raises(NotFound):
            await api.provider.cancel(Handle(MODEL, "r1"))


async def test_a_locked_account_buys_nothing_and_what_runs_is_collected():
    async with fal({f"GET {AT}/status": {"status": "COMPLETED"}, f"GET {AT}": DONE}) as api:
        handle = await api.submitted()
        api.answers["POST /x/queue/fal-ai/flux/dev"] = json_answer(LOCKED, 403)
        with pytest.raises(BalanceExhausted, match="Reason: Exhausted balance"):
            await api.provider.submit(MODEL, BODY)
        assert (await api.provider.result(handle)).urls


async def test_the_key_is_in_no_message_even_if_the_server_echoes_it():
    told = json_answer({"detail": f"no such key: {SECRET}"}, 401)
    async with fal({"POST /x/queue/fal-ai/flux/dev": told}) as api:
        with pytest.raises(AuthRefused) as caught:
            await api.submitted()
        assert "s3cr3t" not in str(caught.value)


async def test_a_body_over_the_limit_is_no_result():
    async with fal({f"GET {AT}/status": {"status": "COMPLETED"}}) as api:
        api.answers[f"GET {AT}"] = json_answer({"images": ["A" * (5 << 20)]})
        with pytest.raises(Unavailable):
            await api.provider.result(Handle(MODEL, "r1"))


# --- costs -------------------------------------------------------------------------------------------

EVENTS = "GET /x/api/v1/models/billing-events"


def ended(ids: list[str]) -> dict[str, Any]:
    base = "/x/queue/fal-ai/flux/requests"
    told: dict[str, Any] = {f"GET {base}/{one}/status": {"status": "COMPLETED"} for one in ids}
    return told | {f"GET {base}/{one}": DONE for one in ids}


def billed(request: Request) -> Any:
    from urllib.parse import parse_qs

    ids = parse_qs(request.query)["request_id"][0].split(",")
    assert len(ids) <= 50
    return {"billing_events": [{"request_id": one, "cost_total": 0.025} for one in ids]}


async def test_a_new_result_does_not_wait_for_its_cost_which_is_asked_for_again():
    async with fal(ended(["r1"]) | {EVENTS: billed}) as api:
        request = await api.submitted()
        assert (await api.provider.result(request)).cost_usd is None
        assert EVENTS not in api.asked
        assert (await api.provider.result(request)).cost_usd == 0.025


async def test_the_cost_of_an_earlier_runs_request_comes_with_its_result():
    async with fal(ended(["r1"]) | {EVENTS: billed}) as api:
        assert (await api.provider.result(Handle(MODEL, "r1"))).cost_usd == 0.025


async def test_costs_are_asked_for_together_fifty_at_a_time():
    ids = [f"r{n}" for n in range(80)]
    async with fal(ended(ids) | {EVENTS: billed}) as api:
        results = await asyncio.gather(*(api.provider.result(Handle(MODEL, one)) for one in ids))
        assert {one.cost_usd for one in results} == {0.025}
        assert api.asked.count(EVENTS) < 20


async def test_a_cost_that_is_not_billed_yet_is_unknown_and_asked_for_again():
    async with fal(ended(["r1"]) | {EVENTS: {"billing_events": []}}) as api:
        assert (await api.provider.result(Handle(MODEL, "r1"))).cost_usd is None
        api.answers[EVENTS] = billed
        assert (await api.provider.result(Handle(MODEL, "r1"))).cost_usd == 0.025


@pytest.mark.parametrize(("status", "times"), [(403, 1), (401, 1), (404, 1), (429, 3), (500, 3)])
async def test_a_key_that_may_not_ask_for_costs_asks_once(status, times):
    error = json_answer({"error": {"type": "authorization_error", "message": "no"}}, status)
    async with fal(ended(["r1"]) | {EVENTS: error}) as api:
        for _ in range(3):
            assert (await api.provider.result(Handle(MODEL, "r1"))).cost_usd is None
        assert api.asked.count(EVENTS) == times


@pytest.mark.parametrize("cost", [-1, "0.1", True, None, [], 1e300, 1e400])
async def test_a_cost_that_is_no_amount_is_unknown(cost):
    event = json.dumps({"billing_events": [{"request_id": "r1", "cost_total": cost}]})
    async with fal(ended(["r1"]) | {EVENTS: answer(200, event.encode())}) as api:
        assert (await api.provider.result(Handle(MODEL, "r1"))).cost_usd is None


# --- the catalogue and the balance -------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string"},
        "num_images": {"type": "integer", "default": 1, "minimum": 1},
        "image_size": {"anyOf": [{"$ref": "#/components/schemas/Size"}, {"type": "string"}]},
    },
}
SIZE = {"type": "object", "properties": {"width": {"type": "integer"}}}
OPENAPI = {
    "paths": {
        "/fal-ai/flux/dev/requests/{request_id}": {"get": {}},
        "/fal-ai/flux/dev": {
            "post": {
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/In"}}}
                }
            }
        },
    },
    "components": {"schemas": {"In": SCHEMA, "Size": SIZE, "Out": {"type": "object"}}},
}
ITEM = {
    "endpoint_id": "fal-ai/flux/dev",
    "metadata": {"display_name": "FLUX", "category": "text-to-image"},
    "openapi": OPENAPI,
}
PRICE = {"endpoint_id": "fal-ai/flux/dev", "unit_price": 0.025, "unit": "images", "currency": "USD"}
MODELS, PRICES = "GET /x/api/v1/models", "GET /x/api/v1/models/pricing"


async def test_a_model_is_an_entry_with_its_schema_and_the_price_of_this_account():
    async with fal({MODELS: {"models": [ITEM]}, PRICES: {"prices": [PRICE]}}) as api:
        found = await api.vendor.catalog.specs([MODEL])
        spec = found.by_model[MODEL]
        assert spec.price_usd({"prompt": "x", "num_images": 3}) == 0.075
        assert [name for name, _ in spec.problems({"num_images": 0})] == ["prompt", "num_images"]
        assert spec.problems({"prompt": "x", "image_size": {"width": "wide"}})
        assert not spec.problems({"prompt": "x", "image_size": {"width": 512}})
        assert api.server.requests[0].query == "endpoint_id=fal-ai%2Fflux%2Fdev&expand=openapi-3.0"


@pytest.mark.parametrize(
    "prices",
    [
        {"prices": []},
        {"prices": [PRICE | {"currency": "EUR"}]},
        {"prices": [PRICE | {"endpoint_id": "other"}]},
        {"prices": [PRICE | {"unit_price": "cheap"}]},
        {"prices": [PRICE | {"unit": None}]},
        json_answer({"error": {"type": "authorization_error"}}, 403),
    ],
)
async def test_a_price_that_is_not_clear_is_unknown(prices):
    async with fal({MODELS: {"models": [ITEM]}, PRICES: prices}) as api:
        spec = (await api.vendor.catalog.specs([MODEL])).by_model[MODEL]
        assert spec.price_usd({"prompt": "x"}) is None


async def test_a_price_by_megapixels_is_not_one_by_images():
    by_size = {"prices": [PRICE | {"unit": "megapixels"}]}
    async with fal({MODELS: {"models": [ITEM]}, PRICES: by_size}) as api:
        spec = (await api.vendor.catalog.specs([MODEL])).by_model[MODEL]
        assert spec.price_usd({"prompt": "x"}) is None


@pytest.mark.parametrize("told", [{"models": []}, json_answer({"error": {"type": "not_found"}}, 404)])
async def test_a_model_that_is_not_listed_is_unknown(told):
    async with fal({MODELS: told}) as api:
        assert (await api.vendor.catalog.specs([MODEL])).unknown == (MODEL,)


@pytest.mark.parametrize(
    "document", [None, {}, {"paths": []}, {"paths": {"/x": {"post": 7}}}, {"paths": {"/x": 7}}, "x"]
)
def test_an_openapi_document_without_inputs_has_no_schema(document):
    assert input_schema(document, "fal-ai/flux/dev") is None


def test_a_schema_that_refers_to_itself_is_taken_once():
    schemas = {"In": {"properties": {"next": {"$ref": "#/components/schemas/In"}}}}
    found = input_schema({**OPENAPI, "components": {"schemas": schemas}}, "fal-ai/flux/dev")
    assert found["properties"]["next"] == {"$ref": "#/$defs/In"}
    assert found["$defs"].keys() == {"In"}
    ModelSpec.from_catalogue({"model_id": MODEL, "input_schema": found}).problems({})


async def test_a_listing_has_prices_asked_for_fifty_at_a_time():
    items = [{"endpoint_id": f"fal-ai/m{n}"} for n in range(60)]

    def prices(request: Request) -> Any:
        asked = [one.partition("=")[2].replace("%2F", "/") for one in request.query.split("&")]
        assert len(asked) <= 50
        return {"prices": [PRICE | {"endpoint_id": one} for one in asked]}

    async with fal({MODELS: {"models": items}, PRICES: prices}) as api:
        found = await api.vendor.catalog.search()
        assert {(one["base_price_usd"], one["price_unit"]) for one in found} == {(0.025, "image")}
        assert len(found) == 60
        assert api.asked.count(PRICES) == 2


async def test_the_catalogue_is_searched_page_by_page():
    def page(request: Request) -> Any:
        first = "cursor" not in request.query
        named = "fal-ai/a" if first else "fal-ai/b"
        return {"models": [{"endpoint_id": named}], "has_more": first, "next_cursor": "2"}

    async with fal({MODELS: page}) as api:
        found = await api.vendor.catalog.search("fal:fal-ai")
        assert [one["model_id"] for one in found] == ["fal:fal-ai/a", "fal:fal-ai/b"]
        assert "q=fal-ai&" in api.server.requests[0].query


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"credits": {"current_balance": 12.5, "currency": "USD"}}, 12.5),
        ({"credits": {"current_balance": -1, "currency": "USD"}}, -1.0),
        ({"credits": {"current_balance": 12.5, "currency": "EUR"}}, None),
        ({"credits": 5}, None),
        ({}, None),
        (json_answer({"error": {"type": "authorization_error"}}, 403), None),
        (answer(500, b"<html>"), None),
    ],
)
async def test_the_balance_or_that_it_is_unknown(told, expected):
    async with fal({"GET /x/api/v1/account/billing": told}) as api:
        assert await api.vendor.balance_usd() == expected


# --- local media -------------------------------------------------------------------------------------

INITIATE = "POST /x/rest/storage/upload/initiate"


def media(folder: Path, size: int, name: str = "cat.png") -> LocalMedia:
    content = b"\x89PNG" + b"x" * size
    (folder / name).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return LocalMedia(str(folder / name), name, sha256, len(content), "image/png")


def job(**inputs: Any) -> Job:
    return Job("j", MODEL, inputs, {}, Source("m.yaml", 1), "d")


async def test_a_small_file_goes_inline_wherever_it_stands(tmp_path):
    async with fal() as api:
        small = media(tmp_path, 10)
        body = json.loads(await api.provider.prepare(job(image_url=small, more=[{"url": small}])))
        assert body["image_url"].startswith("data:image/png;base64,")
        assert body["more"] == [{"url": body["image_url"]}]
        assert api.asked == []


async def test_a_large_file_is_uploaded_once_and_its_host_never_gets_the_key(tmp_path):
    async with fal() as api, ScriptedServer(answer(200)) as bucket:
        # At the stand-in's own origin, but no call of the API: no key either.
        api.answers[INITIATE] = {
            "upload_url": f"{api.server.origin}/bucket/a?X-Signature=abc%2F",
            "file_url": "https://v3.fal.media/files/a.png",
        }
        api.answers["PUT /bucket/a"] = answer(200)
        large = media(tmp_path, INLINE_MAX_BYTES)
        bodies = await asyncio.gather(*(api.provider.prepare(job(image_url=large)) for _ in range(5)))
        assert {json.loads(one)["image_url"] for one in bodies} == {"https://v3.fal.media/files/a.png"}
        assert api.asked == [INITIATE, "PUT /bucket/a"]
        assert api.server.requests[0].json()["file_name"] == f"{large.sha256}.png"
        put = api.server.requests[1]
        assert put.target.endswith("?X-Signature=abc%2F")
        assert "authorization" not in put.headers
        assert put.headers["content-type"] == "image/png"
        assert put.body == Path(large.path).read_bytes()
        assert bucket.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/elsewhere",
        "http://evil.example/x",
        "file:///etc/passwd",
        "https://user@evil.example/x",
        "https:///x",
        "https://[/x",
        "https://a.example/\n",
        7,
        None,
    ],
)
@pytest.mark.parametrize("name", ["upload_url", "file_url"])
async def test_an_address_that_is_not_safe_gets_no_file(tmp_path, url, name):
    async with fal() as api:
        good = {"upload_url": f"{api.server.origin}/b", "file_url": "https://v3.fal.media/a.png"}
        api.answers[INITIATE] = good | {name: url}
        with pytest.raises(CallError):
            await api.provider.prepare(job(image_url=media(tmp_path, INLINE_MAX_BYTES)))
        assert api.asked == [INITIATE]


@pytest.mark.parametrize(("status", "error"), [(403, Rejected), (413, Rejected), (503, Unavailable)])
async def test_what_a_bucket_says_is_no_verdict_on_the_key(tmp_path, status, error):
    async with fal() as api:
        told = {"upload_url": f"{api.server.origin}/b", "file_url": "https://v3.fal.media/a.png"}
        api.answers |= {INITIATE: told, "PUT /b": answer(status, b"<Error>AccessDenied</Error>")}
        with pytest.raises(error):
            await api.provider.prepare(job(image_url=media(tmp_path, INLINE_MAX_BYTES)))


@pytest.mark.parametrize("size", [10, INLINE_MAX_BYTES])
async def test_a_file_that_changed_is_not_sent(tmp_path, size):
    async with fal() as api:
        changed = media(tmp_path, size)
        Path(changed.path).write_bytes(b"other")
        with pytest.raises(ValueError, match="changed"):
            await api.provider.prepare(job(image_url=changed))
        assert api.asked == []


# --- lost submissions --------------------------------------------------------------------------------

LIST = "GET /x/api/v1/models/requests/by-endpoint"


def lost(job_id: str = "cat", sent_s: float = 0.0, **inputs: Any) -> Lost:
    inputs = inputs or {"prompt": "a cat"}
    return Lost(job_id, MODEL, recorded(inputs), SENT + timedelta(seconds=sent_s))


def item(request_id: str = "r1", sent_s: float = 1.0, **inputs: Any) -> dict[str, Any]:
    sent_at = (SENT + timedelta(seconds=sent_s)).isoformat().replace("+00:00", "Z")
    inputs = inputs or {"prompt": "a cat"}
    return {"request_id": request_id, "sent_at": sent_at, "json_input": inputs}


async def found(items: list[Any], *ones: Lost, known: tuple[str, ...] = ()) -> dict[str, str]:
    """Request ids by job, with a catalogue that knows the model's defaults."""
    schema = {"properties": {"num_images": {"default": 1}, "guidance": {"default": 3.5}}}
    document = {**OPENAPI, "components": {"schemas": {"In": schema}}}
    models = {"models": [ITEM | {"openapi": document}]}
    async with fal({LIST: {"items": items}, MODELS: models, PRICES: {"prices": []}}) as api:
        traces = await api.provider.trace(ones or (lost(),), lambda one: one in known)
        assert all(trace.request is not None for trace in traces.values()), "none is never certain"
        return {job_id: trace.request.id for job_id, trace in traces.items() if trace.request}


async def test_a_lost_submission_is_found_by_its_inputs():
    assert await found([item(), item("r2", prompt="a dog")]) == {"cat": "r1"}


async def test_defaults_that_fal_filled_in_are_no_difference():
    assert await found([item(prompt="a cat", num_images=1, guidance=3.5, seed=None)]) == {"cat": "r1"}


async def test_an_input_more_that_is_no_default_is_another_job():
    assert await found([item(prompt="a cat", seed=7)]) == {}


async def test_local_media_are_compared_by_their_content(tmp_path):
    file = media(tmp_path, 10)
    import base64

    uri = "data:image/png;base64," + base64.b64encode(Path(file.path).read_bytes()).decode()
    ours = lost(prompt="x", image_url=file)
    assert await found([item(prompt="x", image_url=uri)], ours) == {"cat": "r1"}
    assert await found([item(prompt="x", image_url=DATA_URI)], ours) == {}
    assert await found([item(prompt="x", image_url="https://v3.fal.media/a.png")], ours) == {}
    uploaded = f"https://v3.fal.media/files/panda/Xy_{file.sha256}.png"
    assert await found([item(prompt="x", image_url=uploaded)], ours) == {"cat": "r1"}
    for other in (
        f"https://v3.fal.media/files/panda/Xy_{'0' * 64}.png",
        f"https://v3.fal.media/files/panda/Xy_a{file.sha256}.png",
        f"https://evil.example/files/{file.sha256}.png",
        f"https://fal.media.example/{file.sha256}",
    ):
        assert await found([item(prompt="x", image_url=other)], ours) == {}


UNDECIDED: dict[str, tuple[list[Any], list[Lost], tuple[str, ...]]] = {
    "none is listed": ([], [lost()], ()),
    "none fits": ([item(prompt="a dog")], [lost()], ()),
    "two fit": ([item(), item("r2")], [lost()], ()),
    "another attempt's": ([item()], [lost()], ("r1",)),
    "one of two equal ones": ([item()], [lost(), lost("dog")], ()),
    "sent before": ([item(sent_s=-60)], [lost()], ()),
    "sent long after": ([item(sent_s=3600)], [lost()], ()),
    "one has no inputs": ([item(), item("r2") | {"json_input": None}], [lost()], ()),
    "one has no time": ([item(), item("r2") | {"sent_at": "soon"}], [lost()], ()),
    "it has no usable id": ([item("../r1")], [lost()], ()),
    "no object": (["r1", None], [lost()], ()),
}


@pytest.mark.parametrize(("items", "ones", "known"), UNDECIDED.values(), ids=UNDECIDED)
async def test_what_is_not_certain_is_left_undecided(items, ones, known):
    assert await found(items, *ones, known=known) == {}


async def test_equal_jobs_are_found_if_all_of_them_are_listed():
    ones = [lost("a", 0), lost("b", 20)]
    assert await found([item("r2", 21), item("r1", 1)], *ones) == {"a": "r1", "b": "r2"}


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(0, 4), st.floats(0, 1))
def test_no_verdict_on_a_lost_submission_is_ever_wrong(seed, jobs, strangers, share):
    """Some POSTs created a request, some did not; strangers buy alike; the list has what it has."""
    rng = random.Random(seed)
    schema = {"properties": {"num_images": {"default": 1}}}
    ones = [
        lost(f"j{n}", rng.uniform(0, 60), prompt=rng.choice("ab"), **rng.choice([{}, {"seed": n % 2}]))
        for n in range(jobs)
    ]
    truth, items = {}, []
    for one in ones:
        if rng.random() < 0.6:
            truth[f"r-{one.job_id}"] = one.input
            sent_s = (one.sent_at - SENT).total_seconds() + rng.uniform(0, 200)
            filled = rng.choice([{}, {"num_images": 1}])
            items.append(item(f"r-{one.job_id}", sent_s, **one.input, **filled))
    for n in range(strangers):  # with an input more: theirs are no job of this ledger
        items.append(item(f"s{n}", rng.uniform(-60, 300), prompt=rng.choice("ab"), num_images=2))
    listed = [one for one in items if rng.random() < share]
    rng.shuffle(listed)
    traces = found_among(ones, listed, schema) if listed else {}
    adopted = {job_id: trace.request.id for job_id, trace in traces.items() if trace.request}
    assert len(adopted) == len(traces), "that nothing was created is never certain"
    assert len(set(adopted.values())) == len(adopted)
    inputs = {one.job_id: one.input for one in ones}
    for job_id, request_id in adopted.items():
        assert truth[request_id] == inputs[job_id]


async def test_without_the_schema_only_equal_inputs_are_certain():
    async with fal({LIST: {"items": [item(prompt="a cat", num_images=1)]}}) as api:
        assert await api.provider.trace([lost()], lambda _: False) == {}
        api.answers[LIST] = {"items": [item()]}
        assert (await api.provider.trace([lost()], lambda _: False)).keys() == {"cat"}


async def test_every_page_is_read_and_an_endless_list_decides_nothing():
    def pages(request: Request) -> Any:
        cursor = "cursor" in request.query
        return {"items": [item("r2" if cursor else "r1")], "next_cursor": None if cursor else "c"}

    async with fal({LIST: pages}) as api:
        assert await api.provider.trace([lost()], lambda _: False) == {}  # both fit
        api.answers[LIST] = {"items": [item()], "next_cursor": "again"}
        assert await api.provider.trace([lost()], lambda _: False) == {}
        query = api.server.requests[0].query
        assert "start=2026-01-31T11%3A59%3A55" in query
        assert "expand=payloads" in query


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"rows": []}, 'it has no list "items"'),
        ({"items": {"r1": {}}}, 'it has no list "items"'),
        ([item()], "it is no JSON object"),
    ],
)
async def test_a_list_of_another_shape_is_told_as_not_understood(odd, why):
    async with fal({LIST: json_answer(odd, 200)}) as api:
        with pytest.raises(Unavailable, match="was not understood") as raised:
            await api.provider.trace([lost()], lambda _: False)
        assert raised.value.message == f"the answer of fal's Platform API was not understood: {why}"
        assert raised.value.http_status == 200


async def test_a_catalogue_that_is_not_understood_does_not_say_that_there_is_no_such_model():
    async with fal({MODELS: {"rows": []}}) as api:
        specs = await api.vendor.catalog.specs([MODEL])
        assert specs.unknown == ()
        assert 'it has no list "models"' in specs.sources[MODEL].problem


async def test_a_key_that_may_not_list_requests_finds_nothing_and_says_so():
    error = json_answer({"error": {"type": "authorization_error", "message": "admin only"}}, 403)
    async with fal({LIST: error}) as api:
        with pytest.raises(AuthRefused, match="admin only"):
            await api.provider.trace([lost()], lambda _: False)


# --- keys and places ---------------------------------------------------------------------------------


def test_models_with_the_prefix_are_fals():
    assert vendor_of(MODEL) == "fal"
    assert vendor_of("fal-ai/flux/dev") == "runcomfy"


@pytest.mark.parametrize(
    ("env", "key"),
    [
        ({"FAL_KEY": " abc:def "}, "abc:def"),
        ({"FAL_KEY_ID": "abc", "FAL_KEY_SECRET": "def"}, "abc:def"),
        ({"FAL_KEY": "one", "FAL_KEY_ID": "abc", "FAL_KEY_SECRET": "def"}, "one"),
    ],
)
def test_the_key_is_found_as_the_vendors_client_finds_it(env, key):
    assert find_key(env).reveal() == key


@pytest.mark.parametrize("env", [{}, {"FAL_KEY": " "}, {"FAL_KEY_ID": "abc"}, {"FAL_KEY_SECRET": "x"}])
def test_no_key_is_none(env):
    assert find_key(env) is None


async def test_a_run_without_a_key_says_which_variable_to_set():
    around = Surroundings({}, NO_HOME, SystemClock(), LocalDisk())
    with pytest.raises(CredentialsError, match="set FAL_KEY"):
        async with open_fal(around):
            pass


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown():
    with pytest.raises(CredentialsError) as caught:
        find_key({"FAL_KEY": "abc\ndef"})
    assert "abc" not in str(caught.value)


def test_the_places_are_the_vendors_or_a_stand_ins():
    assert places({}).queue == "https://queue.fal.run"
    backup = places({"FAL_QUEUE_RUN_HOST": "queue.falrun.com"})
    assert (backup.queue, backup.platform) == ("https://queue.falrun.com", "https://api.fal.ai/v1")
    own = places({"FAL_QUEUE_RUN_HOST": "http://127.0.0.1:8787/fal/queue/"})
    assert own.platform == "http://127.0.0.1:8787/fal/api/v1"
    assert own.storage == "http://127.0.0.1:8787/fal/rest"


@pytest.mark.parametrize(
    "host", ["evil.example", "queue.fal.run.evil.example", "http://queue.fal.run", "https://[", "x@y"]
)
def test_a_place_that_is_no_stand_in_does_not_get_the_key(host):
    with pytest.raises(UsageError, match="FAL_QUEUE_RUN_HOST"):
        places({"FAL_QUEUE_RUN_HOST": host})
