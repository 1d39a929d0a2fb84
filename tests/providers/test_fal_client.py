"""The sandbox is no picture of our own wishes: fal's own Python client works with it, unmodified.

It insists on https and takes its hosts from the environment when it is imported: so the sandbox gets a
second door, behind TLS of the test's own CA.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from batcher.sandbox.faults import Fault
from batcher.sandbox.server import Sandbox
from batcher.sandbox.settings import SandboxSettings
from tests.http.test_network import authority
from tests.sandbox.test_sandbox import LONG_S, FakeClock

pytest.importorskip("fal_client")
FLUX = "fal-ai/flux/dev"
KLING = "fal-ai/kling-video/v2.1/master/image-to-video"
SOON_S = 0.02


@asynccontextmanager
async def client_of(
    folder: Path, monkeypatch: Any, **settings: Any
) -> AsyncIterator[tuple[Any, Sandbox]]:
    """fal's client, freshly imported, and the sandbox that its environment leads to."""
    ca = authority(folder, "IP:127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(ca, folder / "key.pem")
    sandbox = Sandbox(SandboxSettings(clock=FakeClock(), **settings))
    async with sandbox:
        assert sandbox._runner is not None
        await web.TCPSite(sandbox._runner, "127.0.0.1", 0, ssl_context=context).start()
        host, port = sandbox._runner.addresses[-1][:2]
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        monkeypatch.setenv("FAL_KEY", "anything")
        monkeypatch.setenv("FAL_QUEUE_RUN_HOST", f"{host}:{port}/fal/queue")
        for name in [name for name in sys.modules if name.partition(".")[0] == "fal_client"]:
            monkeypatch.delitem(sys.modules, name)
        client = importlib.import_module("fal_client").AsyncClient()
        try:
            yield client, sandbox
        finally:
            await (await client._client).aclose()  # it has no method for this


def pass_time(sandbox: Sandbox) -> None:
    assert isinstance(sandbox.settings.clock, FakeClock)
    sandbox.settings.clock.elapsed_s += LONG_S


async def test_fals_client_submits_polls_cancels_and_fetches(tmp_path, monkeypatch):
    async with client_of(tmp_path, monkeypatch, workers=1) as (client, sandbox):
        fal_client = sys.modules["fal_client"]
        made = await client.submit(FLUX, {"prompt": "a cat", "num_images": 2})
        waiting = await client.submit(FLUX, {"prompt": "a dog"})
        assert isinstance(await waiting.status(), fal_client.Queued)
        await waiting.cancel()
        pass_time(sandbox)
        with pytest.raises(fal_client.FalClientHTTPError) as caught:
            await waiting.get(interval=SOON_S)
        assert caught.value.status_code == 499

        result = await made.get(interval=SOON_S)
        assert isinstance(await made.status(), fal_client.Completed)
        assert [one["content_type"] for one in result["images"]] == ["image/png"] * 2
        again = await client.get_handle(FLUX, made.request_id)
        assert (await again.get())["images"][0]["file_name"] == "0.png"
        http = await client._client  # its own session, for its CA
        assert (await http.get(result["images"][0]["url"], headers={"Authorization": ""})).content
        with pytest.raises(fal_client.FalClientHTTPError):
            await made.cancel()

        video = {"prompt": "jump", "image_url": "https://example.com/cat.png"}
        asyncio.get_running_loop().call_later(2 * SOON_S, pass_time, sandbox)
        told = await client.subscribe(KLING, video)
        assert told["video"]["content_type"] == "video/mp4"
        assert (sandbox.stats.posts, sandbox.stats.jobs_created) == (3, 3)


async def test_fals_client_sees_a_failure_only_at_the_result(tmp_path, monkeypatch):
    refused = {"faults": 1.0, "only_faults": frozenset({Fault.GENERATE_REFUSED})}
    async with client_of(tmp_path, monkeypatch, **refused) as (client, sandbox):
        fal_client = sys.modules["fal_client"]
        made = await client.submit(FLUX, {"prompt": "a cat"})
        asyncio.get_running_loop().call_later(2 * SOON_S, pass_time, sandbox)
        async for status in made.iter_events(interval=SOON_S):
            last = status
        assert isinstance(last, fal_client.Completed)
        with pytest.raises(fal_client.FalClientHTTPError, match="content_policy_violation") as caught:
            await made.get()
        assert caught.value.status_code == 422
