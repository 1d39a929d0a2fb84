"""The sandbox answers every call of the API as the API does."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from batcher.errors import UsageError
from batcher.sandbox.server import Sandbox
from batcher.sandbox.settings import SandboxSettings

KLING = "kling/kling-2-1/master/image-to-video"
EDIT = "bytedance/seedream-4-5/edit"
FLUX_EDIT = "blackforestlabs/flux-1-kontext/pro/edit"
TEXT_TO_IMAGE = "blackforestlabs/flux-1/dev/text-to-image"
SEVERAL = "bytedance/seedream-4/text-to-image"
VIDEO_TO_VIDEO = "runway/gen-4/aleph/video-to-video"
SPEECH = "minimax/speech-02/text-to-speech"
CAT = {"prompt": "a cat jumps over a wall", "image_url": "https://example.com/cat.png"}
START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
LONG_S = 60.0


class FakeClock:
    """Time that passes when told to."""

    pauses = 0

    def __init__(self) -> None:
        self.elapsed_s = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed_s)

    def monotonic(self) -> float:
        return self.elapsed_s

    async def sleep(self, delay_s: float) -> None:
        self.elapsed_s += delay_s


class Caller:
    """A client of one sandbox that keeps no secrets and retries nothing."""

    def __init__(self, sandbox: Sandbox, base: str, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.base = base
        self.session = session

    @property
    def clock(self) -> FakeClock:
        assert isinstance(self.sandbox.settings.clock, FakeClock)
        return self.sandbox.settings.clock

    @property
    def origin(self) -> str:
        return self.base.removesuffix("/v1")

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        options.setdefault("headers", {"Authorization": "Bearer anything"})
        async with self.session.request(method, self.base + path, **options) as answer:
            return answer.status, await answer.json()

    async def submit(self, model: str = KLING, inputs: dict[str, Any] = CAT) -> str:
        status, body = await self.call("POST", f"/models/{model}", json=inputs)
        assert status == 200, body
        return body["request_id"]

    async def result(self, request_id: str, query: str = "") -> dict[str, Any]:
        status, body = await self.call("GET", f"/requests/{request_id}/result{query}")
        assert status == 200, body
        return body

    async def finished(self, model: str = KLING, inputs: dict[str, Any] = CAT) -> dict[str, Any]:
        request_id = await self.submit(model, inputs)
        self.clock.elapsed_s += LONG_S
        return await self.result(request_id, "?include_cost=true")

    async def fetch(
        self, url: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, url, headers=named) as answer:
            return answer.status, dict(answer.headers), await answer.read()


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Caller]:
    """A sandbox under a clock of its own, and somebody to call it."""
    settings.setdefault("clock", FakeClock())
    sandbox = Sandbox(SandboxSettings(**settings))
    async with sandbox as base, aiohttp.ClientSession(auto_decompress=False) as session:
        yield Caller(sandbox, base, session)


async def test_a_post_answers_at_once_with_an_id_and_three_urls():
    async with serving() as caller:
        status, body = await caller.call("POST", f"/models/{KLING}", json=CAT)
        request_id = body.pop("request_id")
        assert status == 200
        assert re.fullmatch(r"[0-9a-f-]{36}", request_id)
        assert body == {
            f"{call}_url": f"{caller.base}/requests/{request_id}/{call}"
            for call in ("status", "result", "cancel")
        }


async def test_a_request_goes_from_the_queue_through_progress_to_completion():
    async with serving() as caller:
        request_id = await caller.submit()
        status, queued = await caller.call("GET", f"/requests/{request_id}/status")
        assert status == 200
        assert queued["status"] == "in_queue"
        assert queued["queue_position"] == 0
        assert queued["result_url"] == f"{caller.base}/requests/{request_id}/result"
        caller.clock.elapsed_s += 1.1
        running = (await caller.call("GET", f"/requests/{request_id}/status"))[1]
        assert running["status"] == "in_progress"
        assert "queue_position" not in running
        caller.clock.elapsed_s += 3.0
        assert (await caller.call("GET", f"/requests/{request_id}/status"))[1]["status"] == "completed"


async def test_the_result_can_be_polled_and_has_no_output_before_the_end():
    async with serving() as caller:
        request_id = await caller.submit()
        early = await caller.result(request_id, "?include_cost=true")
        assert early["status"] == "in_queue"
        assert not {"output", "cost", "created_at"} & early.keys()
        caller.clock.elapsed_s += LONG_S
        late = await caller.result(request_id)
        assert late["status"] == "succeeded"
        assert late["output"]["video"].startswith(f"{caller.origin}/outputs/{request_id}/0.mp4?Expires=")
        assert late["created_at"] == "2026-01-31T09:30:00.000Z"
        assert "2026-01-31T09:30:02" <= late["finished_at"] <= "2026-01-31T09:30:05"
        assert late["input"] == CAT
        assert "cost" not in late


@pytest.mark.parametrize(
    ("model", "inputs", "key", "count", "cost_usd"),
    [
        (KLING, CAT, "video", 1, 1.40),
        (KLING, CAT | {"duration": 10}, "video", 1, 2.80),
        (FLUX_EDIT, {"prompt": "x", "image_url": "https://example.com/a.png"}, "image", 1, 0.04),
        (EDIT, {"prompt": "x", "images": ["https://example.com/a.png"] * 4}, "image", 1, 0.04),
        (TEXT_TO_IMAGE, {"prompt": "x", "guidance_scale": 4}, "image", 1, 0.025),
        (SEVERAL, {"prompt": "x", "num_images": 3}, "images", 3, 0.09),
        (SEVERAL, {"prompt": "x"}, "images", 1, 0.03),
        (VIDEO_TO_VIDEO, {"prompt": "x", "video_url": "https://example.com/a.mp4"}, "videos", 1, 0.75),
        (SPEECH, {"text": "x" * 500}, "audio", 1, 0.05),
    ],
)
async def test_each_model_has_its_shape_of_output_and_its_price(model, inputs, key, count, cost_usd):
    async with serving() as caller:
        ended = await caller.finished(model, inputs)
        assert ended["cost"] == cost_usd
        assert list(ended["output"]) == [key]
        held = ended["output"][key]
        assert len(held) == count if key.endswith("s") else True
        assert caller.sandbox.stats.spent_usd == pytest.approx(cost_usd)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic x"},
        {"Authorization": "Bearer revoked"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/models"), ("POST", f"/models/{KLING}"), ("GET", "/requests/x/result")]
)
async def test_every_call_needs_a_token_that_is_good(headers, method, path):
    async with serving() as caller:
        status, body = await caller.call(method, path, headers=headers)
        assert (status, body["error_code"]) == (401, 400004)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/models/no/such/model"),
        ("GET", "/models/no/such/model"),
        ("GET", "/requests/nothing/status"),
        ("GET", "/requests/nothing/result"),
        ("POST", "/requests/nothing/cancel"),
        ("GET", "/elsewhere"),
    ],
)
async def test_what_is_not_there_is_404_with_its_code(method, path):
    async with serving() as caller:
        status, body = await caller.call(method, path)
        assert (status, body["error_code"]) == (404, 404001)
        assert body["message"]


@pytest.mark.parametrize(
    ("model", "inputs", "field", "rule"),
    [
        (KLING, {"image_url": CAT["image_url"]}, "prompt", "required"),
        (KLING, CAT | {"duration": 7}, "duration", "enum"),
        (KLING, CAT | {"cfg_scale": 1.5}, "cfg_scale", "maximum"),
        (KLING, CAT | {"cfg_scale": "0.5"}, "cfg_scale", "type"),
        (KLING, CAT | {"prompt": "x" * 2501}, "prompt", "maxLength"),
        (KLING, CAT | {"image_url": "http://example.com/cat.png"}, "image_url", "format"),
        (EDIT, {"prompt": "x", "images": []}, "images", "minItems"),
        (FLUX_EDIT, {"prompt": "x", "image_url": ["https://example.com/a.png"]}, "image_url", "type"),
        (EDIT, {"prompt": "x", "images": "https://example.com/a.png"}, "images", "type"),
        (SEVERAL, {"prompt": "x", "num_images": 7}, "num_images", "maximum"),
    ],
)
async def test_inputs_are_held_against_the_schema_and_the_field_is_named(model, inputs, field, rule):
    async with serving() as caller:
        status, body = await caller.call("POST", f"/models/{model}", json=inputs)
        assert (status, body["error_code"]) == (422, 422001)
        assert [(problem["loc"][-1], problem["type"]) for problem in body["detail"]] == [(field, rule)]
        assert caller.sandbox.stats.jobs_created == 0


async def test_a_body_that_is_no_json_or_no_object_is_rejected():
    async with serving() as caller:
        assert (await caller.call("POST", f"/models/{KLING}", data=b"{"))[0] == 400
        status, body = await caller.call("POST", f"/models/{KLING}", data=b"[]")
        assert (status, body["detail"][0]["loc"]) == (422, ["body"])


async def test_local_media_arrive_as_data_uris_and_are_not_echoed_by_the_megabyte():
    async with serving() as caller:
        uri = "data:image/png;base64," + "QUJD" * 500_000
        body = io.BytesIO(json.dumps(CAT | {"image_url": uri}).encode())
        _, submitted = await caller.call("POST", f"/models/{KLING}", data=body)
        caller.clock.elapsed_s += LONG_S
        ended = await caller.result(submitted["request_id"])
        assert ended["input"]["image_url"].keys() == {"path", "sha256"}


async def test_a_body_above_64_mib_is_413_whether_it_says_so_or_not():
    async def chunked() -> AsyncIterator[bytes]:
        for _ in range(65):
            yield b" " * (1 << 20)

    async with serving() as caller:
        for data in (io.BytesIO(b" " * ((64 << 20) + 1)), chunked()):
            assert (await caller.call("POST", f"/models/{KLING}", data=data))[0] == 413
        status, _ = await caller.call("POST", f"/models/{KLING}", data=io.BytesIO(b" " * (64 << 20)))
        assert status == 400


async def test_the_catalogue_is_listed_searched_and_paged():
    async with serving() as caller:
        whole = (await caller.call("GET", "/models"))[1]
        assert whole["total"] == len(whole["models"]) == 7
        assert "input_schema" not in whole["models"][0]
        named = [model["model_id"] for model in whole["models"]]
        assert (await caller.call("GET", "/models?search=KLING"))[1]["total"] == 1
        assert (await caller.call("GET", "/models?search=one%20sentence"))[1]["models"][0][
            "model_id"
        ] == EDIT
        images = (await caller.call("GET", "/models?category=text-to-image&include_schema=true"))[1]
        assert [model["model_id"] for model in images["models"]] == [TEXT_TO_IMAGE, SEVERAL]
        assert images["models"][0]["input_schema"]["properties"]["guidance_scale"]["type"] == "float"
        page = (await caller.call("GET", "/models?limit=2&offset=1"))[1]
        assert [model["model_id"] for model in page["models"]] == named[1:3]
        assert page["total"] == 7
        assert (page["limit"], page["offset"]) == (2, 1)
        assert (await caller.call("GET", "/models?kind=workflow"))[1]["models"] == []
        assert (await caller.call("GET", "/models?limit=-1"))[0] == 422
        assert (await caller.call("GET", f"/models?offset={'9' * 5000}"))[0] == 422


async def test_categories_and_the_balance_are_told():
    async with serving(balance_usd=3.0) as caller:
        categories = (await caller.call("GET", "/models/categories"))[1]["categories"]
        assert categories == sorted(set(categories))
        assert "image-to-video" in categories
        await caller.submit()
        headers = {"Authorization": "Bearer anything"}
        async with caller.session.get(f"{caller.origin}/prod/v2/balance", headers=headers) as answer:
            told = await answer.json()
        assert told == {"balance_usd": 1.6, "balance_microdollars": 1_600_000, "currency": "USD"}
        async with caller.session.get(f"{caller.origin}/prod/v2/balance") as answer:
            assert answer.status == 401


async def test_one_model_is_shown_with_price_and_schema():
    async with serving() as caller:
        status, kling = await caller.call("GET", f"/models/{KLING}")
        assert status == 200
        assert kling["kind"] == "model"
        assert kling["categories"] == ["image-to-video"]
        assert (kling["base_price_usd"], kling["price_unit"]) == (0.28, "second")
        assert kling["input_schema"]["required"] == ["prompt", "image_url"]
        assert len(kling["input_schema"]["properties"]) == 6
        assert "simulation" not in kling


async def test_only_what_is_queued_can_be_cancelled_and_is_refunded():
    async with serving(balance_usd=3.0) as caller:
        first, second = await caller.submit(), await caller.submit()
        answer = await caller.call("POST", f"/requests/{first}/cancel")
        told = {"request_id": first, "status": "completed", "outcome": "cancelled"}
        assert answer == (202, told), "as documented"
        assert caller.sandbox.stats.spent_usd == pytest.approx(1.40)
        ended = await caller.result(first, "?include_cost=true")
        assert (ended["status"], "output" in ended, ended["cost"]) == ("cancelled", False, 0.0)
        again = await caller.call("POST", f"/requests/{first}/cancel")
        assert again == (202, told | {"outcome": "not_cancellable", "status": "cancelled"})
        caller.clock.elapsed_s += 1.1
        running = await caller.call("POST", f"/requests/{second}/cancel")
        assert (running[1]["outcome"], running[1]["status"]) == ("not_cancellable", "in_progress")
        assert caller.sandbox.stats.cancels == 3


async def test_without_balance_a_post_is_400_with_its_code_and_creates_nothing():
    async with serving(balance_usd=2.0) as caller:
        await caller.submit()
        status, body = await caller.call("POST", f"/models/{KLING}", json=CAT)
        assert (status, body["error_code"]) == (400, 400002)
        assert caller.sandbox.stats.jobs_created == 1
        await caller.submit(TEXT_TO_IMAGE, {"prompt": "still cheap enough"})


async def test_calls_above_the_rate_are_429_and_told_when_to_come_back():
    async with serving(rate_per_s=0.5) as caller:
        assert (await caller.call("GET", "/models"))[0] == 200
        headers = {"Authorization": "Bearer x"}
        async with caller.session.get(f"{caller.base}/models", headers=headers) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (429, "2")
        caller.clock.elapsed_s += 2.0
        assert (await caller.call("GET", "/models"))[0] == 200


async def test_few_workers_make_a_queue_with_positions():
    async with serving(workers=1) as caller:
        ids = [await caller.submit() for _ in range(4)]
        places = [(await caller.result(request_id))["queue_position"] for request_id in ids]
        assert places == [0, 1, 2, 3]
        caller.clock.elapsed_s += 1.1
        assert [(await caller.result(i)).get("queue_position") for i in ids] == [None, 0, 1, 2]
        await caller.call("POST", f"/requests/{ids[1]}/cancel")
        assert (await caller.result(ids[3]))["queue_position"] == 1
        assert caller.sandbox.stats.max_unfinished == 4
        caller.clock.elapsed_s += LONG_S
        ends = [(await caller.result(ids[i]))["finished_at"] for i in (0, 2, 3)]
        assert ends == sorted(set(ends))


async def test_speed_divides_all_durations():
    async with serving(speed=100) as caller:
        request_id = await caller.submit()
        caller.clock.elapsed_s += 0.05
        assert (await caller.result(request_id))["status"] == "succeeded"


async def test_results_are_not_kept_for_ever():
    async with serving(retention_s=3600.0) as caller:
        request_id = (await caller.finished())["request_id"]
        caller.clock.elapsed_s += 3600.0
        status, body = await caller.call("GET", f"/requests/{request_id}/result")
        assert (status, body["error_code"]) == (404, 404001)


async def test_the_same_seed_and_calls_give_the_same_answers_in_any_order():
    async def history(seed: int, prompts: list[str]) -> dict[str, Any]:
        async with serving(seed=seed) as caller:
            ends = [await caller.finished(TEXT_TO_IMAGE, {"prompt": prompt}) for prompt in prompts]
            return {end["input"]["prompt"]: (end["request_id"]) for end in ends}

    one = await history(1, ["a", "b"])
    assert one == await history(1, ["b", "a"])
    assert one != await history(2, ["a", "b"])


async def test_samples_of_one_input_are_requests_of_their_own():
    async with serving() as caller:
        assert await caller.submit() != await caller.submit()


async def test_the_server_tells_its_accounts():
    async with serving(balance_usd=10.0) as caller:
        ended = await caller.finished()
        await caller.fetch(ended["output"]["video"])
        await caller.fetch(ended["output"]["video"], "HEAD")
        async with caller.session.get(f"{caller.origin}/sandbox/stats") as answer:
            told = await answer.json()
        assert told == {
            "posts": 1, "polls": 1, "downloads": 1, "cancels": 0, "uploads": 0,
            "jobs_created": 1, "jobs_cancelled": 0, "max_unfinished": 1,
            "charged_usd": 1.4, "refunded_usd": 0.0, "spent_usd": 1.4, "balance_usd": 8.6,
            "redirects_followed": 0, "tokens_leaked": 0, "faults": {},
        }  # fmt: skip


async def test_without_a_balance_the_accounts_name_none():
    async with serving() as caller, caller.session.get(f"{caller.origin}/sandbox/stats") as answer:
        assert (await answer.json())["balance_usd"] is None


async def test_many_can_call_at_once():
    async with serving() as caller:
        ids = await asyncio.gather(
            *(caller.submit(TEXT_TO_IMAGE, {"prompt": str(n)}) for n in range(200))
        )
        assert len(set(ids)) == 200
        assert caller.sandbox.stats.max_unfinished == 200


async def test_a_port_in_use_is_said_so():
    async with serving() as caller:
        port = int(caller.origin.rpartition(":")[2])
        other = Sandbox()
        with pytest.raises(UsageError, match=f"can't listen on 127.0.0.1:{port}"):
            await other.start(port=port)
        await other.stop()


async def test_it_listens_on_ipv6_too():
    sandbox = Sandbox()
    try:
        base = await sandbox.start("::1")
    except UsageError:
        pytest.skip("no IPv6 here")
    assert re.fullmatch(r"http://\[::1\]:\d+/v1", base)
    await sandbox.stop()


@pytest.mark.parametrize(
    "wrong", [{"faults": 1.1}, {"faults": -0.1}, {"speed": 0}, {"workers": 0}, {"rate_per_s": 0}]
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be|share"):
        SandboxSettings(**wrong)
