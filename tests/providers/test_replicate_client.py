"""The sandbox is no picture of our own wishes: Replicate's own Python client works with it, unmodified."""

from __future__ import annotations

import asyncio
import io

import pytest

from batcher.sandbox.replicate_models import version_of
from batcher.sandbox.server import Sandbox
from batcher.sandbox.settings import SandboxSettings

replicate = pytest.importorskip("replicate")
httpx = pytest.importorskip("httpx")
FLUX = "black-forest-labs/flux-schnell"
BARK = f"suno-ai/bark:{version_of('suno-ai/bark')}"


async def test_replicates_client_submits_polls_cancels_lists_and_fetches(monkeypatch):
    monkeypatch.setenv("REPLICATE_POLL_INTERVAL", "0.02")
    sandbox = Sandbox(SandboxSettings(speed=50))
    async with sandbox as base_url:
        origin = base_url.removesuffix("/v1")
        client = replicate.Client(api_token="anything", base_url=f"{origin}/replicate")

        made = await client.predictions.async_create(model=FLUX, input={"prompt": "a cat"})
        assert made.model == FLUX
        assert made.status in {"starting", "processing", "succeeded"}  # by how soon the answer is read
        await made.async_wait()
        assert made.status == "succeeded"
        assert len(made.output) == 1

        audio = await client.async_run(BARK, input={"prompt": "hello"})
        async with httpx.AsyncClient() as plain:
            fetched = [(await plain.get(url)).content[:4] for url in (audio["audio_out"], *made.output)]
        assert fetched == [b"RIFF", b"\x89PNG"]

        picture = await client.files.async_create(io.BytesIO(b"a picture"), filename="a.png")
        slow = await client.predictions.async_create(
            model="kwaivgi/kling-v2.1", input={"prompt": "x", "start_image": picture.urls["get"]}
        )
        await slow.async_cancel()
        assert slow.status == "canceled"
        listed = await client.predictions.async_list()
        assert [one.id for one in listed.results][-1] == made.id
        assert len(listed.results) == sandbox.stats.jobs_created == 3

        model = await client.models.async_get("stability-ai/sdxl")
        assert model.latest_version.openapi_schema["components"]["schemas"]["Input"]
        deployed = await client.deployments.predictions.async_create(
            ("acme", "flux"), input={"prompt": "a dog"}
        )
        async with asyncio.timeout(10):
            await deployed.async_wait()
        assert deployed.status == "succeeded"
        with pytest.raises(replicate.exceptions.ReplicateError, match=r"input\.prompt"):
            await client.predictions.async_create(model=FLUX, input={"prompt": 5})
        assert sandbox.stats.jobs_created == 4
        await client._async_client.aclose()  # it has no method for this
