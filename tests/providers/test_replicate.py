"""Replicate on the wire: what each answer means, where the token goes, and what is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

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
    TurnedAway,
    Unavailable,
    UsageError,
)
from batcher.http.endpoint import Endpoint, Token
from batcher.http.exchange import Connection, ExchangeTimeouts
from batcher.jobs.job import Job, LocalMedia, Source
from batcher.ports import CancelOutcome, Handle, Phase
from batcher.providers.registry import opener_of, vendor_of
from batcher.providers.replicate import Replicate
from batcher.providers.vendor import Surroundings
from tests.sandbox.test_sandbox import FakeClock
from tests.support.scripted import ScriptedServer, answer, drop, hang, json_answer

SECRET = "r8_s3cr3tToken0123456789abcdef"
FLUX = "replicate:black-forest-labs/flux-schnell"
VERSION = "a" * 64
SDXL = f"replicate:stability-ai/sdxl:{VERSION}"
DEPLOYED = "replicate:deployments/acme/flux"
BODY = b'{"input":{"prompt":"a cat"}}'
HASTY = ExchangeTimeouts(connect_s=0.5, get_s=0.3, post_silence_s=0.1, post_s=0.3)
MADE = json_answer({"id": "p1", "status": "starting"}, 201)
ASKED = Handle(FLUX, "p1")


@asynccontextmanager
async def replicate_at(server: ScriptedServer, clock: Any = None) -> AsyncIterator[Replicate]:
    endpoint = Endpoint(server.url, Token(SECRET))
    async with Connection(endpoint, SystemClock(), HASTY) as connection:
        yield Replicate(connection, clock or SystemClock())


async def met(step: Any, call: str = "submit") -> Any:
    """What a call makes of an answer: its value, or the error."""
    async with ScriptedServer(step) as server, replicate_at(server) as provider:
        try:
            if call == "submit":
                return await provider.submit(FLUX, BODY)
            return await getattr(provider, call)(ASKED)
        except CallError as error:
            return error


def job(inputs: dict[str, Any], model: str = FLUX) -> Job:
    return Job("cat", model, inputs, {}, Source("m.yaml", 1), "0" * 16)


def prediction(**fields: Any) -> bytes:
    return json_answer({"id": "p1", "status": "succeeded", **fields})


CREDIT = {"title": "Insufficient credit", "detail": "You have insufficient credit to run this model."}
REFUSALS = {
    "402": (json_answer(CREDIT, 402), BalanceExhausted, BalanceExhausted),
    "401": (json_answer({"title": "Unauthenticated"}, 401), AuthRefused, AuthRefused),
    "403": (json_answer({"title": "Forbidden"}, 403), AuthRefused, AuthRefused),
    "404": (json_answer({"title": "Not found", "detail": "gone"}, 404), NotFound, NotFound),
    "422": (json_answer({"title": "Invalid version", "detail": "no"}, 422), Rejected, Rejected),
    "400": (answer(400, b"no"), Rejected, Rejected),
    "a redirect": (answer(307, b"", {"Location": "https://evil.example/"}), Rejected, Rejected),
    "503 with a wait": (answer(503, b"", {"Retry-After": "7"}), TurnedAway, TurnedAway),
    "503": (answer(503, b"<html>"), OutcomeUnknown, Unavailable),
    "500": (json_answer({"id": "p1"}, 500), OutcomeUnknown, Unavailable),
    "408": (answer(408), OutcomeUnknown, Unavailable),
    "201 without an id": (json_answer({"status": "starting"}, 201), OutcomeUnknown, None),
    "201 with an id that is a path": (json_answer({"id": "../files"}, 201), OutcomeUnknown, Unavailable),
    "201 with an id that is the token": (json_answer({"id": SECRET}, 201), OutcomeUnknown, Unavailable),
    "not JSON": (answer(200, b"\xff\x00{"), OutcomeUnknown, Unavailable),
    "a list": (json_answer([1, 2]), OutcomeUnknown, Unavailable),
    "a huge body": (answer(201, b" " * (5 << 20)), OutcomeUnknown, Unavailable),
    "no answer": (hang, OutcomeUnknown, Unavailable),
    "a dropped connection": (drop, OutcomeUnknown, Unavailable),
}


@pytest.mark.parametrize(("step", "of_submit", "of_result"), REFUSALS.values(), ids=REFUSALS)
async def test_each_refusal_means_one_thing(step, of_submit, of_result):
    assert type(await met(step)) is of_submit
    if of_result is not None:
        assert type(await met(step, "result")) is of_result


@pytest.mark.parametrize(
    ("step", "wait_s"),
    [
        (json_answer({"detail": "Request was throttled. Your rate limit resets in ~30s."}, 429), 30.0),
        (json_answer({"detail": "Your rate limit resets in ~30s."}, 429, {"Retry-After": "4"}), 4.0),
        (json_answer({"detail": "Slow down"}, 429), None),
        (answer(429, b"<html>"), None),
    ],
)
async def test_a_429_says_in_its_sentence_how_long_to_wait(step, wait_s):
    error = await met(step)
    assert type(error) is TurnedAway
    assert error.retry_after_s == wait_s


@pytest.mark.parametrize("status", [200, 201, 202])
async def test_any_2xx_with_an_id_is_that_prediction(status):
    assert await met(json_answer({"id": "p1", "status": "starting"}, status)) == ASKED


async def test_even_an_odd_object_with_an_id_is_a_prediction_that_exists():
    whole = b'{"id": "p1", "metrics": {"predict_time": NaN}, "title": "Error", "urls": 5}'
    assert await met(answer(201, whole)) == ASKED


@pytest.mark.parametrize(
    ("model", "path", "sent"),
    [
        (FLUX, "/v1/models/black-forest-labs/flux-schnell/predictions", {"input": {"prompt": "x"}}),
        (SDXL, "/v1/predictions", {"version": VERSION, "input": {"prompt": "x"}}),
        (DEPLOYED, "/v1/deployments/acme/flux/predictions", {"input": {"prompt": "x"}}),
    ],
)
async def test_each_kind_of_model_has_its_door_and_is_never_waited_for(model, path, sent):
    async with ScriptedServer(MADE) as server, replicate_at(server) as provider:
        body = await provider.prepare(job({"prompt": "x"}, model))
        assert await provider.submit(model, body) == Handle(model, "p1")
        request = server.requests[0]
        assert (request.method, request.target, request.json()) == ("POST", path, sent)
        assert request.headers["authorization"] == f"Bearer {SECRET}"
        assert "prefer" not in request.headers


@pytest.mark.parametrize(
    "model",
    [
        "replicate:",
        "replicate:flux",
        "replicate:a/b/c",
        "replicate:a/../b",
        "replicate:a/b\n",
        "replicate:a/b:1",
        "replicate:a/b:" + "g" * 64,
        f"replicate:deployments/a/b:{VERSION}",
    ],
)
async def test_what_can_be_no_models_name_is_not_asked_for(model):
    async with ScriptedServer(MADE) as server, replicate_at(server) as provider:
        for call in (
            provider.submit(model, BODY),
            provider.model(model),
            provider.prepare(job({}, model)),
        ):
            with pytest.raises(NotFound, match="replicate:owner/name"):
                await call
        assert server.requests == []


async def test_a_model_that_needs_a_version_is_told_so():
    error = await met(json_answer({"detail": "The requested resource could not be found."}, 404))
    assert "replicate:black-forest-labs/flux-schnell:VERSION" in str(error)


WORDS = {
    "starting": Phase.QUEUED,
    "processing": Phase.RUNNING,
    "succeeded": Phase.SUCCEEDED,
    "failed": Phase.FAILED,
    "canceled": Phase.CANCELLED,
    "aborted": Phase.CANCELLED,
    "post_processing": Phase.UNRECOGNISED,
}


@pytest.mark.parametrize(("word", "phase"), WORDS.items())
async def test_each_status_is_a_phase(word, phase):
    found = await met(prediction(status=word), "result")
    assert (found.phase, found.word) == (phase, word)


async def test_what_ended_before_it_ran_cost_nothing_and_of_what_ran_that_is_unknown():
    began = {"started_at": "2026-01-31T09:30:00Z"}
    for fields in ({"status": "aborted"}, {"status": "aborted", **began}, {"status": "canceled"}):
        found = await met(prediction(**fields), "result")
        assert (found.cost_usd, found.may_cost) == (0.0, False)
    found = await met(prediction(status="canceled", **began), "result")
    assert (found.cost_usd, found.may_cost) == (None, True)
    assert (await met(prediction(metrics={"predict_time": 2.5}), "result")).cost_usd is None


CDN = "https://replicate.delivery/x/out"
OUTPUTS = {
    "a string": (f"{CDN}.mp4", (f"{CDN}.mp4",), ()),
    "a list": ([f"{CDN}0.png", f"{CDN}1.png"], (f"{CDN}0.png", f"{CDN}1.png"), ()),
    "an object": ({"audio_out": f"{CDN}.wav", "prompt_npz": None}, (f"{CDN}.wav",), ()),
    "an echo of an input": (
        {"source": "https://example.com/cat.png", "video": f"{CDN}.mp4"},
        (f"{CDN}.mp4",),
        (),
    ),
    "elsewhere": ("https://example.com/a.png", ("https://example.com/a.png",), ()),
    "words in pieces": (["Once", " upon", " a time"], (), ("Once upon a time",)),
    "a sentence": ("a cat", (), ("a cat",)),
    "a data URI": ("data:image/png;base64,AAAA", (), ("data:image/png;base64,AAAA",)),
    "data URIs": (["data:image/png;base64,AAAA", "data:image/png;base64,BBBB"], (), 2),
    "nothing": (None, (), ()),
    "a number": (4.5, (), ()),
}


@pytest.mark.parametrize(("output", "urls", "texts"), OUTPUTS.values(), ids=OUTPUTS)
async def test_outputs_come_in_many_shapes(output, urls, texts):
    found = await met(prediction(output=output), "result")
    assert found.urls == urls
    assert len(found.texts) == texts if isinstance(texts, int) else found.texts == texts


async def test_a_failure_says_why_and_never_shows_the_token():
    found = await met(prediction(status="failed", error=f"NSFW content; token {SECRET}"), "result")
    assert found.message is not None
    assert found.message.startswith("NSFW content")
    assert SECRET not in found.message


async def test_a_result_that_was_removed_is_paid_and_lost():
    found = await met(prediction(output=None, data_removed=True), "result")
    assert (found.phase, found.removed) == (Phase.SUCCEEDED, True)
    assert found.message is not None
    assert "paid, result lost" in found.message
    assert not (await met(prediction(output=CDN, data_removed=True), "result")).removed
    assert not (await met(prediction(status="failed", data_removed=True), "result")).removed


async def test_an_answer_about_another_prediction_is_none():
    error = await met(json_answer({"id": "p2", "status": "succeeded"}), "result")
    assert type(error) is Unavailable


CANCELS = {
    "canceled": CancelOutcome.CANCELLED,
    "aborted": CancelOutcome.CANCELLED,
    "processing": CancelOutcome.REQUESTED,
    "starting": CancelOutcome.REQUESTED,
    "succeeded": CancelOutcome.NOT_CANCELLABLE,
    "failed": CancelOutcome.NOT_CANCELLABLE,
    "strange": CancelOutcome.REQUESTED,
}


@pytest.mark.parametrize(("word", "outcome"), CANCELS.items())
async def test_a_cancel_is_answered_with_the_prediction(word, outcome):
    assert await met(json_answer({"id": "p1", "status": word}), "cancel") is outcome


async def test_urls_of_the_answer_are_used_at_this_api_only():
    async with ScriptedServer(MADE) as server, replicate_at(server) as provider:
        base = server.url
        usual = {"get": f"{base}/predictions/p1", "cancel": f"{base}/predictions/p1/cancel"}
        elsewhere = {"get": "https://evil.example/p1", "cancel": f"{server.origin}.evil.example/p1"}
        other = {"get": f"{base}/p/1", "cancel": f"{base}/p/1/stop", "stream": "https://s.example/"}
        server.then(
            *(json_answer({"id": "p1", "urls": urls}, 201) for urls in (usual, elsewhere, other))
        )
        assert (await provider.submit(FLUX, BODY)).urls is None
        assert (await provider.submit(FLUX, BODY)).urls is None
        made = await provider.submit(FLUX, BODY)
        assert made.urls == {"result": f"{base}/p/1", "cancel": f"{base}/p/1/stop"}
        server.then(prediction())
        await provider.result(made)
        await provider.cancel(made)
        assert [request.path for request in server.requests[3:]] == ["/v1/p/1", "/v1/p/1/stop"]


@pytest.mark.parametrize(
    "urls", [{"result": "https://evil.example/x", "cancel": "https://evil.example/x"}]
)
async def test_a_ledger_that_was_edited_does_not_send_the_token_elsewhere(urls):
    async with ScriptedServer(prediction()) as server, replicate_at(server) as provider:
        for call in (provider.result, provider.cancel):
            with pytest.raises(Rejected):
                await call(Handle(FLUX, "p1", urls))
            with pytest.raises(Rejected):
                await call(Handle(FLUX, "../account"))
        assert server.requests == []


def media(tmp_path: Any, name: str, content: bytes) -> LocalMedia:
    (tmp_path / name).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return LocalMedia(str(tmp_path / name), name, sha256, len(content), "image/png")


def uploaded(url: str, expires_at: datetime | None) -> bytes:
    return json_answer(
        {"id": "f1", "urls": {"get": url}, "expires_at": expires_at and expires_at.isoformat()}, 201
    )


async def test_local_media_are_uploaded_once_per_content_until_they_expire(tmp_path):
    clock = FakeClock()
    url = "https://api.replicate.com/v1/files/f1"
    expires_at = clock.now() + timedelta(hours=1)
    async with (
        ScriptedServer(uploaded(url, expires_at)) as server,
        replicate_at(server, clock) as provider,
    ):
        one, same = media(tmp_path, "a.png", b"cat"), media(tmp_path, "b.png", b"cat")
        body = json.loads(await provider.prepare(job({"image": one, "more": [same, "x"]})))
        assert body == {"input": {"image": url, "more": [url, "x"]}}
        assert len(server.requests) == 1
        request = server.requests[0]
        assert request.path == "/v1/files"
        assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert b"\r\n\r\ncat\r\n--" in request.body
        clock.elapsed_s += 51 * 60
        await provider.prepare(job({"image": one}))
        assert len(server.requests) == 2
        server.then(uploaded(url, None))
        await provider.prepare(job({"image": media(tmp_path, "c.png", b"dog")}))
        assert len(server.requests) == 3


async def test_long_data_uris_are_uploaded_too_and_short_ones_are_sent():
    url = "https://api.replicate.com/v1/files/f1"
    async with ScriptedServer(uploaded(url, None)) as server, replicate_at(server) as provider:
        short, long = "data:image/png;base64,AAAA", "data:image/png;base64," + "AAAA" * (100 << 10)
        body = json.loads(await provider.prepare(job({"image": short, "mask": long})))
        assert body["input"] == {"image": short, "mask": url}


async def test_a_file_that_changed_and_an_upload_that_fails_are_told(tmp_path):
    async with (
        ScriptedServer(json_answer({"id": "f1"}, 201)) as server,
        replicate_at(server) as provider,
    ):
        one = media(tmp_path, "a.png", b"cat")
        with pytest.raises(Unavailable, match="without a URL"):
            await provider.prepare(job({"image": one}))
        server.then(answer(413, b"too large"))
        with pytest.raises(Rejected):
            await provider.prepare(job({"image": one}))
        (tmp_path / "a.png").write_bytes(b"dog")
        with pytest.raises(ValueError, match=r"a\.png changed"):
            await provider.prepare(job({"image": one}))
        with pytest.raises(ValueError, match="at most"):
            await provider.prepare(job({"prompt": "x" * (1 << 20)}))


SCHEMAS = {
    "Input": {
        "type": "object",
        "required": ["prompt"],
        "properties": {
            "prompt": {"type": "string"},
            "ratio": {"allOf": [{"$ref": "#/components/schemas/ratio"}], "default": "1:1"},
        },
    },
    "ratio": {"enum": ["1:1", "16:9"], "type": "string"},
    "Output": {"type": "nonsense"},
}
LATEST = {"openapi_schema": {"components": {"schemas": SCHEMAS}}}


async def test_a_models_schema_types_and_checks_its_inputs_and_no_price_is_known():
    from batcher.schema.spec import ModelSpec

    described = json_answer({"owner": "a", "name": "paint", "latest_version": LATEST})
    async with ScriptedServer(described) as server, replicate_at(server) as provider:
        spec = ModelSpec.from_catalogue(await provider.model("replicate:a/paint"))
        assert spec.model_id == "replicate:a/paint"
        assert spec.problems({"prompt": "x", "ratio": "16:9"}) == []
        assert [name for name, _ in spec.problems({"ratio": "2:1", "promt": "x"})] != []
        assert spec.price_usd({"prompt": "x"}) is None
        server.then(described, json_answer(LATEST))
        await provider.model(SDXL)
        assert server.requests[-1].path == f"/v1/models/stability-ai/sdxl/versions/{VERSION}"
        server.then(
            json_answer({"current_release": {"model": "a/paint", "version": VERSION}}),
            described,
            json_answer(LATEST),
        )
        assert (await provider.model(DEPLOYED))["model_id"] == DEPLOYED


@pytest.mark.parametrize(
    "latest",
    [
        None,
        5,
        {"openapi_schema": None},
        {"openapi_schema": {"components": {"schemas": {"Input": 5}}}},
        {"openapi_schema": {"components": []}},
    ],
)
async def test_a_model_without_a_schema_has_none(latest):
    described = json_answer({"owner": "a", "name": "paint", "latest_version": latest})
    async with ScriptedServer(described) as server, replicate_at(server) as provider:
        assert "input_schema" not in await provider.model("replicate:a/paint")


def surroundings(tmp_path: Any, env: dict[str, str], **other: Any) -> Surroundings:
    return Surroundings(env, tmp_path, SystemClock(), LocalDisk(), **other)


async def test_token_and_base_url_come_from_the_variables_of_replicates_own_client(tmp_path):
    opened = opener_of(vendor_of(FLUX))
    with pytest.raises(CredentialsError, match="REPLICATE_API_TOKEN"):
        async with opened(surroundings(tmp_path, {"RUNCOMFY_TOKEN": SECRET})):
            pass
    async with opened(surroundings(tmp_path, {}, needs_token=False)) as vendor:
        assert (vendor.api, vendor.endpoint.token) == ("https://api.replicate.com/v1", None)
    env = {"REPLICATE_API_TOKEN": SECRET, "REPLICATE_API_BASE_URL": "http://127.0.0.1:1/x/"}
    async with opened(surroundings(tmp_path, env)) as vendor:
        assert vendor.api == "http://127.0.0.1:1/x/v1"
        assert vendor.endpoint.token == Token(SECRET)
        assert await vendor.balance_usd() is None
    with pytest.raises(UsageError, match="REPLICATE_API_BASE_URL"):
        async with opened(
            surroundings(tmp_path, {**env, "REPLICATE_API_BASE_URL": "http://evil.example"})
        ):
            pass
    with pytest.raises(CredentialsError, match="REPLICATE_API_TOKEN"):
        async with opened(surroundings(tmp_path, {"REPLICATE_API_TOKEN": "a b"})):
            pass
