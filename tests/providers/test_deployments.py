"""RunComfy's deployments as a provider: what goes out, what each answer means, where the token goes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batcher.app.connect import Site
from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.engine.systemic import whole_run
from batcher.errors import (
    AuthRefused,
    BalanceExhausted,
    CallError,
    InputError,
    NotFound,
    OutcomeUnknown,
    Rejected,
    TurnedAway,
    Unavailable,
    Unusable,
    UsageError,
)
from batcher.http.exchange import BODY_MAX_BYTES, ApiAnswer
from batcher.http.network import Network
from batcher.jobs.job import Job, Source
from batcher.ports import CancelOutcome, Handle, Phase
from batcher.providers import deployments_answers as meaning
from batcher.providers.deployments import body_of, is_vendors, open_deployments
from batcher.providers.vendor import Surroundings, Vendor
from tests.support.scripted import ScriptedServer, answer, drop, json_answer

SECRET = "s3cr3t-Token-0123456789abcdef"
PARTNER = "comfyui-9876543210-partner"
MODEL = "deployment/d1"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
BODY = b'{"overrides":{"6":{"inputs":{"text":"a cat"}}}}'
BELOW = "/prod/v2/deployments/d1/requests/r1"


@asynccontextmanager
async def vendor_at(server: ScriptedServer, **env: str) -> AsyncIterator[Vendor]:
    named = {"RUNCOMFY_TOKEN": SECRET, "RUNCOMFY_SERVERLESS_API_BASE": f"{server.origin}/prod/v2", **env}
    around = Surroundings(named, Path("/nowhere"), SystemClock(), LocalDisk())
    async with open_deployments(around) as vendor:
        yield vendor


def job(**inputs: Any) -> Job:
    return Job("cat", MODEL, inputs, {}, Source("m.yaml", 1), "0")


def heard(document: Any, status: int = 200) -> ApiAnswer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return ApiAnswer(status, body)


# --- what goes out --------------------------------------------------------------------------------


def test_overrides_go_out_by_node():
    sent = body_of(
        job(
            **{
                "overrides.6.inputs.text": "a cat",
                "overrides.3.inputs.seed": 7,
                "overrides.3.inputs.cfg.scale": 1.5,
                "overrides.57:8.inputs.image": ["10", 0],
            }
        )
    )
    assert json.loads(sent) == {
        "overrides": {
            "6": {"inputs": {"text": "a cat"}},
            "3": {"inputs": {"seed": 7, "cfg.scale": 1.5}},
            "57:8": {"inputs": {"image": ["10", 0]}},
        }
    }


def test_flat_inputs_go_out_flat():
    assert json.loads(body_of(job(prompt="a cat", seed=1))) == {"prompt": "a cat", "seed": 1}


def test_a_workflow_takes_the_overrides_in_and_goes_out_alone():
    graph = {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": "old", "clip": ["4", 1]}}}
    sent = body_of(job(workflow_api_json=graph, **{"overrides.6.inputs.text": "new"}))
    graph["6"]["inputs"]["text"] = "new"
    assert json.loads(sent) == {"workflow_api_json": graph}
    with pytest.raises(ValueError, match="no node '9'"):
        body_of(job(workflow_api_json=graph, **{"overrides.9.inputs.text": "new"}))


async def test_a_submission_on_the_wire_and_the_urls_of_the_answer():
    urls = {f"{call}_url": f"{BELOW}/{call}" for call in ("status", "result", "cancel")}
    async with ScriptedServer(b"") as server, vendor_at(server) as vendor:
        told = {"request_id": "r1", **{name: server.origin + path for name, path in urls.items()}}
        server.then(json_answer(told, 202), json_answer({"status": "in_progress"}))
        handle = await vendor.provider.submit(MODEL, BODY)
        await vendor.provider.result(handle)
        await vendor.provider.cancel(handle)
        await vendor.provider.result(Handle(MODEL, "r1"))
    assert handle == Handle(MODEL, "r1", {c: f"{BELOW}/{c}" for c in ("status", "result", "cancel")})
    assert [(one.method, one.target) for one in server.requests] == [
        ("POST", "/prod/v1/deployments/d1/inference"),
        ("GET", f"{BELOW}/result"),
        ("POST", f"{BELOW}/cancel"),
        ("GET", "/prod/v1/deployments/d1/requests/r1/result"),
    ]
    assert server.requests[0].body == BODY
    assert {one.headers["authorization"] for one in server.requests} == {f"Bearer {SECRET}"}


@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.example/prod/v2/deployments/d1/requests/r1/result",
        "http://127.0.0.1:1/prod/v2/deployments/d1/requests/r1/result",
        "{origin}@elsewhere.example/requests/r1/result",
        "{origin}/prod/v2/deployments/d1/requests/other/result",
        "{origin}/prod/../requests/r1/result",
        "{origin}/requests/r1/result?next=1",
        "/prod/v2/deployments/d1/requests/r1/result",
        "{origin}/a b/r1/result",
        7,
        None,
        ["{origin}/r1"],
    ],
)
async def test_a_url_elsewhere_is_not_kept_and_the_documented_one_is_asked(url):
    async with ScriptedServer(b"") as server, vendor_at(server) as vendor:
        named = url.format(origin=server.origin) if isinstance(url, str) else url
        server.then(
            json_answer({"request_id": "r1", "result_url": named}), json_answer({"status": "failed"})
        )
        handle = await vendor.provider.submit(MODEL, BODY)
        await vendor.provider.result(handle)
    assert handle.urls is None
    assert server.requests[1].target == "/prod/v1/deployments/d1/requests/r1/result"


@pytest.mark.parametrize(
    "path", ["//evil.example/r1/result", ".evil.example/r1/x", "@evil.example/r1/", "/x/r1/../y", ""]
)
async def test_an_edited_ledger_sends_the_token_nowhere_else(path):
    async with (
        ScriptedServer(json_answer({"status": "in_queue"})) as server,
        vendor_at(server) as vendor,
    ):
        await vendor.provider.result(Handle(MODEL, "r1", {"result": path}))
    [request] = server.requests
    assert "r1" in request.target


@pytest.mark.parametrize("name", ["", "..", "a/b", "a?b", "a b", "é"])
async def test_a_name_that_would_be_another_path_is_rejected_unsent(name):
    async with ScriptedServer(drop) as server, vendor_at(server) as vendor:
        with pytest.raises(Rejected):
            await vendor.provider.submit(f"deployment/{name}", BODY)
        with pytest.raises(Rejected):
            await vendor.provider.result(Handle(MODEL, name or "."))
        with pytest.raises(Rejected):
            await vendor.catalog.service.model(f"deployment/{name}")
    assert server.requests == []


async def test_a_lost_answer_is_unknown_and_not_sent_again():
    async with ScriptedServer(drop) as server, vendor_at(server) as vendor:
        with pytest.raises(OutcomeUnknown):
            await vendor.provider.submit(MODEL, BODY)
    assert len(server.requests) == 1


async def test_a_huge_answer_to_a_submission_is_unknown():
    huge = json_answer({"request_id": "r1", "filler": "x" * (BODY_MAX_BYTES + 1)})
    async with ScriptedServer(huge) as server, vendor_at(server) as vendor:
        with pytest.raises(OutcomeUnknown):
            await vendor.provider.submit(MODEL, BODY)


async def test_the_key_of_partner_nodes_goes_into_the_post_alone_and_is_never_repeated():
    echo = json_answer({"message": f"bad key {PARTNER}"}, 422)
    async with (
        ScriptedServer(echo) as server,
        vendor_at(server, COMFY_ORG_API_KEY=PARTNER) as vendor,
    ):
        prepared = await vendor.provider.prepare(job(**{"overrides.6.inputs.text": "a cat"}))
        with pytest.raises(Rejected) as caught:
            await vendor.provider.submit(MODEL, prepared)
        with pytest.raises(Rejected):
            await vendor.provider.submit(MODEL, b"{}")
    assert prepared == BODY
    assert server.requests[0].json() == {
        **json.loads(BODY),
        "extra_data": {"api_key_comfy_org": PARTNER},
    }
    assert server.requests[1].json() == {"extra_data": {"api_key_comfy_org": PARTNER}}
    assert PARTNER not in str(caught.value)


# --- where the token goes -------------------------------------------------------------------------


async def opened(**env: str) -> str:
    around = Surroundings(
        {"RUNCOMFY_TOKEN": SECRET, **env}, Path("/nowhere"), SystemClock(), LocalDisk()
    )
    async with open_deployments(around) as vendor:
        return vendor.api


async def test_the_token_goes_to_the_vendor_by_default_and_else_only_where_it_was_told_to():
    assert await opened() == "https://api.runcomfy.net/prod"
    told = "https://proxy.example/prod/v1/"
    assert await opened(RUNCOMFY_SERVERLESS_API_BASE=told) == "https://proxy.example/prod"
    with pytest.raises(UsageError, match="set RUNCOMFY_SERVERLESS_API_BASE as well"):
        await opened(RUNCOMFY_MODEL_API_BASE="http://127.0.0.1:1/v1")


@pytest.mark.parametrize("base", ["http://plain.example/v2", "https://x.example/prod", "nonsense"])
async def test_a_base_that_is_none_is_said_with_its_variable(base):
    with pytest.raises(UsageError, match=r"^RUNCOMFY_SERVERLESS_API_BASE: "):
        await opened(RUNCOMFY_SERVERLESS_API_BASE=base)


async def asks() -> float:
    return 7.5


async def test_one_wallet_pays_for_deployments_and_models():
    ours, other = SimpleNamespace(wallet="runcomfy", balance_usd=asks), SimpleNamespace(wallet="")
    vendors: Any = {"runcomfy": ours, "deployments": ours, "replicate": other}
    site = Site("sandbox", vendors, Network(), None, AsyncExitStack())  # type: ignore[arg-type]
    assert await site.balance_usd(["kling/x", "deployment/d1"]) == 7.5
    assert await site.balance_usd(["deployment/d1", "replicate:a/b"]) is None


# --- what answers mean ----------------------------------------------------------------------------

SUBMISSIONS: list[tuple[Any, int, type[CallError]]] = [
    ({"error_code": 10001, "message": "insufficient funds"}, 400, BalanceExhausted),
    ({"error_code": 10001}, 200, BalanceExhausted),
    ({"error_code": 10002}, 400, Unusable),
    ({"error_code": "10002"}, 403, Unusable),
    ({"code": 10003}, 404, Unusable),
    ({"error": [{"errorCode": 10003, "error": "deleted"}]}, 200, Unusable),
    ({"error_code": 401001}, 401, AuthRefused),
    ({"error_code": 403003}, 403, AuthRefused),
    ({"error_code": 404001}, 404, NotFound),
    ({"error_code": 422001, "detail": [{"loc": ["body"], "msg": "no"}]}, 422, Rejected),
    ({"error_code": 500001}, 500, OutcomeUnknown),
    ({"message": "slow down"}, 429, TurnedAway),
    ({"request_id": "a/b"}, 200, OutcomeUnknown),
    ({"request_id": True}, 200, OutcomeUnknown),
    (b"<html>hello", 200, OutcomeUnknown),
    (b"[1, 2]", 200, OutcomeUnknown),
    (b"", 502, OutcomeUnknown),
    (b"", 302, Rejected),
]


@pytest.mark.parametrize(("document", "status", "kind"), SUBMISSIONS)
def test_what_an_answer_to_a_submission_means(document, status, kind):
    with pytest.raises(CallError) as caught:
        meaning.submission(heard(document, status), NOW, MODEL, "https://api.runcomfy.net")
    assert type(caught.value) is kind


def test_an_id_counts_whatever_stands_beside_it():
    told = {"request_id": "r1", "error_code": 10002}
    assert meaning.submission(heard(told), NOW, MODEL, "https://a").id == "r1"


def test_a_deployment_that_is_switched_off_stops_the_run_as_a_fault_of_the_configuration():
    with pytest.raises(Unusable) as caught:
        meaning.submission(heard({"error_code": 10002}, 403), NOW, MODEL, "https://a")
    reason = whole_run(caught.value, MODEL)
    assert isinstance(reason, InputError)
    assert reason.exit_code == 65
    assert "the deployment is disabled" in str(reason)


@pytest.mark.parametrize(
    ("word", "phase"),
    [
        ("in_queue", Phase.QUEUED),
        ("in_progress", Phase.RUNNING),
        ("uploading", Phase.UNRECOGNISED),
        ("cancelled", Phase.CANCELLED),
        ("canceled", Phase.CANCELLED),
        ("failed", Phase.FAILED),
        ("succeeded", Phase.SUCCEEDED),
    ],
)
def test_the_status_word_decides(word, phase):
    found = meaning.result(heard({"status": word, "request_id": "r1"}), NOW, "r1")
    assert found.phase is phase
    assert found.may_cost is (phase is Phase.CANCELLED), "what was cancelled may have run"


def test_the_first_error_of_the_list_is_told():
    errors = [{"errorCode": 500123, "error": "Node 3 failed", "debugInfo": "oom"}, {"errorCode": 1}]
    found = meaning.result(heard({"status": "failed", "error": errors}), NOW, "r1")
    assert found.error_code == 500123
    assert "Node 3 failed: oom" in found.message


@pytest.mark.parametrize(
    ("document", "status", "kind"),
    [
        ({"error_code": 10003}, 404, Unavailable),
        ({"error_code": 500001}, 200, Unavailable),
        ({"request_id": "other", "status": "succeeded"}, 200, Unavailable),
        ({"error_code": 404001}, 404, NotFound),
        ({}, 401, AuthRefused),
        (b"nonsense", 200, Unavailable),
        ({"status": 7}, 200, Unavailable),
    ],
)
def test_what_else_an_answer_to_a_poll_means(document, status, kind):
    with pytest.raises(CallError) as caught:
        meaning.result(heard(document, status), NOW, "r1")
    assert type(caught.value) is kind


def file(name: str, kind: str | None = "output") -> dict[str, Any]:
    typed = {"type": kind} if kind else {}
    return {
        "filename": name,
        "subfolder": "",
        "url": f"https://serverless-api-storage.runcomfy.net/{name}",
        **typed,
    }


def outputs_of(outputs: Any) -> Any:
    return meaning.result(heard({"status": "succeeded", "outputs": outputs}), NOW, "r1")


def test_outputs_come_by_node_then_channel_then_position_without_previews():
    found = outputs_of(
        {
            "10": {"videos": [file("c.mp4")], "gifs": [file("b.gif", None)]},
            "9": {"images": [file("z.png"), file("a.png")], "audio": [file("s.wav")]},
            "2": {"images": [file("preview.png", "temp")], "text": ["a caption", " "]},
            "57:8": {"images": [file("late.png")]},
            "57:3": {"images": [file("early.png")]},
            "x": {"images": [file("last.png")]},
        }
    )
    names = [url.rpartition("/")[2] for url in found.urls]
    assert names == ["s.wav", "z.png", "a.png", "b.gif", "c.mp4", "early.png", "late.png", "last.png"]
    assert found.texts == ("a caption",)
    assert found.output["2"]["images"][0]["type"] == "temp"


def test_a_workflow_that_saves_nothing_says_so():
    found = outputs_of({"2": {"images": [file("p.png", "temp"), file("q.png", "temp")]}})
    assert (found.urls, found.texts) == ((), ())
    assert found.message == "the workflow saved nothing, it only made 2 previews: add a node that saves"


@pytest.mark.parametrize(
    "outputs",
    [
        None,
        [],
        "x",
        {"1": None},
        {"1": {"images": {"url": "https://a.runcomfy.net/x"}}},
        {"1": {"images": [7, None, {"url": 7}, {"url": "file:///etc/passwd"}, {"url": "x" * 9000}]}},
        {"9" * 5000: {"images": [{"type": 7, "url": "https://a.runcomfy.net/x"}]}},
    ],
)
def test_odd_outputs_are_none(outputs):
    assert outputs_of(outputs).urls == ()


def test_numbers_that_are_none_do_no_harm():
    body = b'{"status": "succeeded", "outputs": {"1": {"images": [{"url": NaN}]}}}'
    assert meaning.result(heard(body), NOW, "r1").urls == ()


@pytest.mark.parametrize(
    ("document", "status", "outcome"),
    [
        ({"status": "cancelled"}, 200, CancelOutcome.CANCELLED),
        ({"status": "canceled"}, 200, CancelOutcome.CANCELLED),
        ({"status": "cancellation_requested"}, 200, CancelOutcome.REQUESTED),
        ({"status": "in_progress"}, 200, CancelOutcome.REQUESTED),
        ({"status": "in_progress", "outcome": "not_cancellable"}, 200, CancelOutcome.NOT_CANCELLABLE),
        ({"status": "not_cancellable"}, 200, CancelOutcome.NOT_CANCELLABLE),
        ({"status": "not_cancellable"}, 409, CancelOutcome.NOT_CANCELLABLE),
        ({"status": "succeeded"}, 200, CancelOutcome.NOT_CANCELLABLE),
    ],
)
def test_a_cancel_of_a_running_request_is_accepted_and_no_end(document, status, outcome):
    assert meaning.cancellation(heard(document, status), NOW, "r1") is outcome


# --- the catalogue --------------------------------------------------------------------------------

GRAPH = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 1, "steps": 20, "cfg": 7, "sampler_name": "euler", "model": ["4", 0]},
    },
    "6": {"class_type": "Mine", "inputs": {"text": "x", "on": True, "scale": 1}},
    "12": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
}
INFO = {
    "KSampler": {
        "input": {
            "required": {
                "seed": ["INT", {"min": 0, "max": 2**64 - 1}],
                "steps": ["INT", {"min": 1, "max": 100}],
                "cfg": ["FLOAT", {"min": 0.0, "max": 30.0}],
                "sampler_name": [["euler", "uni_pc"]],
                "model": ["MODEL"],
            },
            "optional": {"mode": ["COMBO", {"options": ["a", "b"]}]},
        }
    },
    "LoadImage": {"input": {"required": {"image": [["example.png"], {"image_upload": True}]}}},
}


async def entry_from(*steps: Any, payload: dict[str, Any]) -> tuple[dict[str, Any], ScriptedServer]:
    async with ScriptedServer(b"") as server, vendor_at(server) as vendor:
        named = {
            key: value.format(origin=server.origin) if isinstance(value, str) else value
            for key, value in payload.items()
        }
        server.then(json_answer({"id": "d1", "name": "Mine", "payload": named}), *steps)
        return await vendor.catalog.service.model(MODEL), server


async def test_an_entry_has_the_inputs_of_all_nodes_with_their_types():
    entry, server = await entry_from(
        json_answer(INFO),
        payload={"workflow_api_json": GRAPH, "object_info_url": "{origin}/prod/v2/info"},
    )
    fields = entry["input_schema"]["properties"]
    assert fields["overrides.3.inputs.steps"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 100,
        "default": 20,
        "description": "KSampler",
    }
    assert fields["overrides.3.inputs.sampler_name"]["enum"] == ["euler", "uni_pc"]
    assert fields["overrides.3.inputs.mode"]["enum"] == ["a", "b"]
    assert fields["overrides.12.inputs.image"]["format"] == "image_uri"
    assert fields["overrides.3.inputs.model"]["default"] == ["4", 0]
    assert fields["overrides.3.inputs.model"]["description"] == "KSampler, fed by node 4"
    assert fields["overrides.6.inputs.on"]["type"] == "boolean"
    assert fields["overrides.6.inputs.scale"]["type"] == "number"
    assert "base_price_usd" not in entry
    assert "--assume-price" in entry["pricing_note"]
    assert [one.target for one in server.requests] == [
        "/prod/v2/deployments/d1?includes=payload&includes=readme",
        "/prod/v2/info",
    ]


async def test_a_description_on_another_host_is_not_asked_for_even_without_the_token():
    async with ScriptedServer(json_answer(INFO)) as elsewhere:
        url = f"{elsewhere.origin}/info"
        await entry_from(payload={"workflow_api_json": GRAPH, "object_info_url": url})
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("url", "is_ours"),
    [
        ("https://storage.runcomfy.net/info.json?Signature=x", True),
        ("http://storage.runcomfy.net/info.json", False),
        ("https://runcomfy.net.evil.example/info", False),
        ("https://evilruncomfy.net/info", False),
        ("https://x@storage.runcomfy.net/info", False),
        ("https://[", False),
    ],
)
def test_descriptions_are_fetched_from_the_vendors_hosts(url, is_ours):
    assert is_vendors(url) is is_ours


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/info", "https://elsewhere.example/info", "file:///etc/passwd", 7, None]
)
async def test_a_description_elsewhere_is_not_asked_for_and_names_are_known_all_the_same(url):
    entry, server = await entry_from(payload={"workflow_api_json": GRAPH, "object_info_url": url})
    fields = entry["input_schema"]["properties"]
    assert fields["overrides.3.inputs.steps"]["type"] == "number"
    assert len(server.requests) == 1


async def test_a_long_description_is_read():
    many = {f"Node{n}": {"input": {}, "description": "x" * 1000} for n in range(5000)}
    entry, _ = await entry_from(
        json_answer(INFO | many),
        payload={"workflow_api_json": GRAPH, "object_info_url": "{origin}/prod/v2/info"},
    )
    assert entry["input_schema"]["properties"]["overrides.3.inputs.steps"]["type"] == "integer"


@pytest.mark.parametrize("step", [answer(500), answer(200, b"nonsense"), drop])
async def test_a_description_that_can_not_be_had_leaves_names_and_the_values_types(step):
    entry, _ = await entry_from(
        step, payload={"workflow_api_json": GRAPH, "object_info_url": "{origin}/prod/v2/info"}
    )
    assert entry["input_schema"]["properties"]["overrides.3.inputs.steps"]["type"] == "number"


async def test_a_deployment_that_shows_no_workflow_has_no_schema():
    assert "input_schema" not in (await entry_from(payload={"readme": "hello"}))[0]


async def test_a_disabled_deployment_is_not_found_before_anything_is_sent():
    async with (
        ScriptedServer(json_answer({"id": "d1", "is_enabled": False})) as server,
        vendor_at(server) as vendor,
    ):
        with pytest.raises(NotFound, match="disabled"):
            await vendor.catalog.service.model(MODEL)


@pytest.mark.parametrize("wrap", [lambda listed: listed, lambda listed: {"deployments": listed}])
async def test_deployments_are_listed_and_searched(wrap):
    listed = [{"id": "d1", "name": "Cats"}, {"id": "d2", "name": "Dogs"}, {"id": "a/b"}, 7]
    async with ScriptedServer(json_answer(wrap(listed))) as server, vendor_at(server) as vendor:
        found = await vendor.catalog.search("dogs")
    assert [one["model_id"] for one in found] == ["deployment/d2"]
