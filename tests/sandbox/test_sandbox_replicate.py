"""The sandbox speaks Replicate's API: its doors, words and habits, by the clock alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from batcher.sandbox.faults import Fault
from batcher.sandbox.replicate_models import version_of
from tests.sandbox.test_sandbox import Caller, serving

FLUX = "/models/black-forest-labs/flux-schnell/predictions"
KLING = "/models/kwaivgi/kling-v2.1/predictions"
CAT = {"input": {"prompt": "a cat"}}
CLIP = {"input": {"prompt": "a cat", "start_image": "https://example.com/cat.png"}}
LONG_S = 60.0


class Replicates(Caller):
    """A client of the sandbox's Replicate."""

    async def made(self, path: str = FLUX, body: Any = CAT, **headers: str) -> dict[str, Any]:
        bearer = {"Authorization": "Bearer anything"}
        status, made = await self.call("POST", path, json=body, headers={**bearer, **headers})
        assert status == 201, made
        return made

    async def get(self, path: str) -> dict[str, Any]:
        status, found = await self.call("GET", path)
        assert status == 200, found
        return found


@asynccontextmanager
async def replicate(**settings: Any) -> AsyncIterator[Replicates]:
    async with serving(**settings) as caller:
        yield Replicates(caller.sandbox, f"{caller.origin}/replicate/v1", caller.session)


async def test_a_prediction_goes_its_way_by_the_clock():
    async with replicate() as caller:
        made = await caller.made()
        assert (made["status"], made["output"], made["version"]) == ("starting", None, "hidden")
        assert made["input"] == {"prompt": "a cat"}
        path = f"/predictions/{made['id']}"
        assert made["urls"]["get"] == caller.base + path
        caller.clock.elapsed_s += 0.5
        assert (await caller.get(path))["status"] == "processing"
        caller.clock.elapsed_s += LONG_S
        ended = await caller.get(path)
        assert ended["status"] == "succeeded"
        assert ended["completed_at"] > ended["started_at"] > ended["created_at"]
        assert ended["metrics"]["predict_time"] > 0


@pytest.mark.parametrize(
    ("path", "body", "shape"),
    [
        (KLING, CLIP, str),
        (FLUX, {"input": {"prompt": "x", "num_outputs": 3}}, list),
        ("/predictions", {"version": version_of("suno-ai/bark"), "input": {}}, dict),
        ("/predictions", {"version": f"suno-ai/bark:{version_of('suno-ai/bark')}", "input": {}}, dict),
        ("/predictions", {"version": "black-forest-labs/flux-schnell", **CAT}, list),
        ("/deployments/acme/flux/predictions", CAT, list),
    ],
)
async def test_each_door_opens_and_outputs_have_their_shapes(path, body, shape):
    async with replicate() as caller:
        made = await caller.made(path, body)
        caller.clock.elapsed_s += LONG_S
        ended = await caller.get(f"/predictions/{made['id']}")
        assert type(ended["output"]) is shape
        assert len(ended["output"]) == 3 or body.get("input") != {"prompt": "x", "num_outputs": 3}
        assert ended["deployment"] == ("acme/flux" if "deployments" in path else None)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/models/stability-ai/sdxl/predictions", CAT, 404),
        ("/models/no/such/predictions", CAT, 404),
        ("/predictions", {"version": "a" * 64, **CAT}, 422),
        ("/predictions", {"version": "stability-ai/sdxl", **CAT}, 422),
        (FLUX, {"input": {"prompt": 5}}, 422),
        (FLUX, {"prompt": "x"}, 422),
        (FLUX, {**CAT, "seed": 5}, 422),
        (FLUX, [], 400),
    ],
)
async def test_what_is_wrong_is_told_in_title_and_detail(path, body, status):
    async with replicate() as caller:
        code, told = await caller.call("POST", path, json=body)
        assert (code, told["status"]) == (status, status)
        assert told["title"]
        assert told["detail"]
        assert caller.sandbox.stats.jobs_created == 0


async def test_everything_is_deleted_an_hour_after_its_end():
    async with replicate() as caller:
        made = await caller.made()
        caller.clock.elapsed_s += 3595
        assert (await caller.get(f"/predictions/{made['id']}"))["output"]
        assert len((await caller.get("/predictions"))["results"]) == 1
        caller.clock.elapsed_s += 10
        gone = await caller.get(f"/predictions/{made['id']}")
        assert (gone["status"], gone["data_removed"]) == ("succeeded", True)
        assert (gone["input"], gone["output"]) == (None, None)
        assert (await caller.get("/predictions"))["results"] == []


@pytest.mark.parametrize(
    ("queue_first", "word", "charged"), [(True, "aborted", False), (False, "canceled", True)]
)
async def test_cancel_after_ends_what_waits_for_nothing_and_what_runs_for_its_price(
    queue_first, word, charged
):
    async with replicate(workers=1, speed=0.1) as caller:
        if queue_first:
            await caller.made(KLING, CLIP)
        before_usd = caller.sandbox.stats.spent_usd
        made = await caller.made(KLING, CLIP, **{"Cancel-After": "12s"})
        assert made["deadline"] > made["created_at"]
        caller.clock.elapsed_s += 13
        assert (await caller.get(f"/predictions/{made['id']}"))["status"] == word
        assert (caller.sandbox.stats.spent_usd > before_usd) is charged
        status, _ = await caller.call(
            "POST", FLUX, json=CAT, headers={"Authorization": "Bearer x", "Cancel-After": "4s"}
        )
        assert status == 422


async def test_what_runs_can_be_cancelled_and_is_charged():
    async with replicate() as caller:
        queued, running = await caller.made(), await caller.made()
        for made, wait_s, left_usd in ((queued, 0.0, 0.003), (running, 0.5, 0.003)):
            caller.clock.elapsed_s += wait_s
            status, ended = await caller.call("POST", f"/predictions/{made['id']}/cancel")
            assert (status, ended["status"]) == (200, "canceled")
            assert caller.sandbox.stats.spent_usd == pytest.approx(left_usd)


async def test_the_list_has_pages_newest_first_and_bounds():
    async with replicate() as caller:
        ids = []
        for _ in range(103):
            ids.append((await caller.made())["id"])
            caller.clock.elapsed_s += 1
        first = await caller.get("/predictions")
        assert [one["id"] for one in first["results"]] == ids[:2:-1]
        last = await caller.get(first["next"].removeprefix(caller.base))
        assert [one["id"] for one in last["results"]] == ids[2::-1]
        assert last["next"] is None
        after, before = (first["results"][at]["created_at"] for at in (5, 3))
        some = await caller.get(f"/predictions?created_after={after}&created_before={before}")
        assert [one["id"] for one in some["results"]] == [ids[98], ids[97]]


async def test_a_429_says_in_a_sentence_alone_how_long_to_wait():
    async with replicate(rate_per_s=1.0) as caller:
        await caller.made()
        headers = {"Authorization": "Bearer x"}
        async with caller.session.post(caller.base + FLUX, json=CAT, headers=headers) as answer:
            assert (answer.status, answer.headers.get("Retry-After")) == (429, None)
            assert (await answer.json())["detail"].endswith("Your rate limit resets in ~1s.")


async def test_no_credit_and_no_token():
    async with replicate(balance_usd=0.0) as caller:
        status, told = await caller.call("POST", FLUX, json=CAT)
        assert (status, told["title"]) == (402, "Insufficient credit")
        status, told = await caller.call("POST", FLUX, json=CAT, headers={})
        assert (status, told["title"]) == (401, "Unauthenticated")


@pytest.mark.parametrize(("fault", "listed"), [(Fault.SUBMIT_DROPPED, 1), (Fault.CONNECT_DROPPED, 0)])
async def test_an_answer_that_is_lost_may_stand_for_a_prediction_or_not(fault, listed):
    async with replicate(faults=1.0, only_faults=frozenset({fault})) as caller:
        with pytest.raises(aiohttp.ClientError):
            await caller.call("POST", FLUX, json=CAT)
        found = (await caller.get("/predictions"))["results"]
        assert [one["input"] for one in found] == [CAT["input"]] * listed


async def test_files_are_known_by_their_content():
    async with replicate() as caller:
        form = aiohttp.FormData()
        form.add_field("content", b"a picture", filename="a.png", content_type="image/png")
        status, made = await caller.call("POST", "/files", data=form)
        assert (status, made["size"], made["content_type"]) == (201, 9, "image/png")
        assert made["expires_at"] > made["created_at"]
        again = await caller.get(made["urls"]["get"].removeprefix(caller.base))
        assert again["checksums"] == {"sha256": made["id"]}
        assert [one["id"] for one in (await caller.get("/files"))["results"]] == [made["id"]]


async def test_models_are_found_with_the_schemas_of_their_versions():
    async with replicate() as caller:
        listed = (await caller.get("/models"))["results"]
        assert "black-forest-labs/flux-schnell" in {f"{one['owner']}/{one['name']}" for one in listed}
        status, found = await caller.call("QUERY", "/models", data="audio")
        assert (status, [one["name"] for one in found["results"]]) == (200, ["bark"])
        one = await caller.get(f"/models/suno-ai/bark/versions/{version_of('suno-ai/bark')}")
        assert "Input" in one["openapi_schema"]["components"]["schemas"]
        assert (await caller.call("GET", "/models/suno-ai/bark/versions/x"))[0] == 404
