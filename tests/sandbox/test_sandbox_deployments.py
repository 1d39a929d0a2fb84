"""The sandbox's deployments: their instances, faults and words; and a batch over them, killed and resumed."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from batcher.sandbox.faults import Fault
from batcher.sandbox.server import Sandbox
from batcher.sandbox.settings import SandboxSettings
from tests.sandbox.test_sandbox import LONG_S, Caller, serving
from tests.support.api_server import TOKEN, command, in_background, run_command
from tests.support.faults import wait_for

PORTRAIT, LORA = "demo-portrait", "demo-lora"
WARMING_S = 1.5


class User:
    """Calls the deployments of one sandbox."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        url = path if path.startswith("http") else f"{self.caller.origin}/prod/v1/deployments{path}"
        headers = {"Authorization": "Bearer anything"}
        options.setdefault("headers", headers)
        async with self.caller.session.request(method, url, **options) as answer:
            return answer.status, await answer.json()

    async def submit(self, text: str = "a fox", name: str = PORTRAIT) -> dict[str, Any]:
        body = {"overrides": {"6": {"inputs": {"text": text}}}} if name == PORTRAIT else {"prompt": text}
        status, told = await self.call("POST", f"/{name}/inference", json=body)
        assert status == 200, told
        return told

    async def word(self, made: dict[str, Any]) -> str:
        return (await self.call("GET", made["status_url"]))[1]["status"]

    def wait(self, delay_s: float) -> None:
        self.caller.clock.elapsed_s += delay_s


@asynccontextmanager
async def using(**settings: Any) -> AsyncIterator[User]:
    async with serving(**settings) as caller:
        yield User(caller)


async def test_urls_in_answers_have_another_version_than_the_documented_path():
    async with using() as user:
        made = await user.submit()
        assert "/prod/v2/deployments/demo-portrait/requests/" in made["result_url"]
        documented = made["result_url"].replace("/v2/", "/v1/")
        assert (await user.call("GET", documented))[0] == 200


async def test_outputs_are_by_node_and_channel_and_with_a_preview():
    async with using() as user:
        made = await user.submit()
        user.wait(LONG_S)
        _, told = await user.call("GET", made["result_url"])
        assert (await user.word(made), told["status"]) == ("completed", "succeeded")
        kinds = {
            node: {channel: [one["type"] for one in files] for channel, files in channels.items()}
            for node, channels in told["outputs"].items()
        }
        assert kinds == {
            "10": {"videos": ["output"]},
            "9": {"images": ["output"]},
            "2": {"images": ["temp"]},
        }
        status, _, content = await user.caller.fetch(told["outputs"]["9"]["images"][0]["url"])
        assert (status, content[:4]) == (200, b"\x89PNG")


async def test_an_instance_wakes_up_once_and_what_is_beyond_the_instances_waits():
    async with using() as user:
        made = [await user.submit(f"fox {n}") for n in range(3)]
        user.wait(WARMING_S - 0.1)
        assert [await user.word(one) for one in made] == ["in_queue"] * 3
        user.wait(0.45)
        assert [await user.word(one) for one in made] == ["in_progress", "in_progress", "in_queue"]
        _, waiting = await user.call("GET", made[2]["status_url"])
        assert waiting["queue_position"] == 0
        user.wait(1.2)
        assert [await user.word(one) for one in made] == ["completed", "completed", "in_progress"]
        user.wait(10)
        warm = await user.submit("warm")
        user.wait(0.35)
        assert await user.word(warm) == "in_progress"


async def test_a_busy_deployment_holds_up_no_other():
    async with using() as user:
        for n in range(5):
            await user.submit(f"fox {n}")
        other = await user.submit(name=LORA)
        user.wait(1.5)
        assert await user.word(other) == "completed"


async def test_what_runs_can_be_cancelled_and_its_time_is_paid_for():
    async with using(seed=1) as user:
        running, queued = await user.submit("one"), await user.submit("two")
        user.wait(WARMING_S + 0.35)
        late = await user.submit("three")
        assert await user.word(running) == "in_progress"
        charged_usd = user.caller.sandbox.stats.spent_usd
        told = [(await user.call("POST", one["cancel_url"]))[1]["status"] for one in (running, late)]
        assert told == ["cancellation_requested", "cancelled"]
        assert [await user.word(one) for one in (running, late)] == ["cancelled", "cancelled"]
        assert user.caller.sandbox.stats.spent_usd == pytest.approx(charged_usd - 0.02)
        user.wait(LONG_S)
        assert (await user.call("POST", queued["cancel_url"]))[1]["status"] == "not_cancellable"


async def test_synonyms_spell_cancelled_otherwise():
    only = frozenset({Fault.GENERATE_SYNONYMS})
    async with using(faults=1.0, only_faults=only) as user:
        made = await user.submit()
        await user.call("POST", made["cancel_url"])
        assert await user.word(made) == "canceled"


async def test_a_failure_shows_only_at_the_result_as_a_list():
    async with using(faults=1.0, only_faults=frozenset({Fault.GENERATE_FAILED})) as user:
        made = await user.submit()
        user.wait(LONG_S)
        assert await user.word(made) == "completed"
        _, told = await user.call("GET", made["result_url"])
        assert told["status"] == "failed"
        assert told["error"][0].keys() == {"errorCode", "error", "debugInfo"}


@pytest.mark.parametrize(
    ("name", "settings", "code"),
    [
        ("demo-disabled", {}, 10002),
        ("demo-deleted", {}, 10003),
        (PORTRAIT, {"balance_usd": 0.0}, 10001),
    ],
)
async def test_gates_refuse_and_create_nothing(name, settings, code):
    async with using(**settings) as user:
        body: dict[str, Any] = {"overrides": {}}
        status, told = await user.call("POST", f"/{name}/inference", json=body)
        assert status >= 400
        assert told["error_code"] == code
        assert user.caller.sandbox.stats.jobs_created == 0


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        (PORTRAIT, b"[]", 400),
        (PORTRAIT, b'{"overrides": {"99": {"inputs": {}}}}', 422),
        (PORTRAIT, b'{"overrides": {"12": {"inputs": {"image": "nowhere.png"}}}}', 422),
        (PORTRAIT, b'{"overrides": 7}', 422),
        (PORTRAIT, b'{"overrides": {"6": {"text": "hi"}}}', 422),
        (PORTRAIT, b'{"overrides": {}, "workflow_api_json": {"1": {"class_type": "X"}}}', 422),
        (PORTRAIT, b'{"workflow_api_json": []}', 422),
        (LORA, b'{"seed": 1}', 422),
        ("nowhere", b"{}", 404),
    ],
)
async def test_bodies_that_are_none_are_refused(name, body, status):
    async with using() as user:
        found, told = await user.call("POST", f"/{name}/inference", data=body)
        assert (found, "error_code" in told or status == 400) == (status, True)


async def test_a_request_belongs_to_its_own_deployment_and_needs_a_token():
    async with using() as user:
        made = await user.submit()
        elsewhere = made["result_url"].replace(PORTRAIT, LORA)
        assert (await user.call("GET", elsewhere))[0] == 404
        status, told = await user.call("GET", made["result_url"], headers={})
        assert (status, told["error_code"]) == (401, 401001)


# --- batches --------------------------------------------------------------------------------------

FAST = ("--sandbox", "--sandbox-speed", 20, "--poll", 0.05)
MANIFEST = """
name: portraits
model: deployment/demo-portrait
matrix: {overrides.3.inputs.seed: [1, 2, 3, 4, 5, 6, 7, 8]}
defaults: {overrides.6.inputs.text: "{{ who }} in a garden"}
jobs:
  - vars: {who: a fox}
  - vars: {who: a cat}
"""


def journal(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / ".batcher" / "sandbox.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def killed_on_the_way(cwd: Path, run_dir: Path, *words: object) -> None:
    ledger = run_dir / "ledger.jsonl"
    process = in_background(None, cwd, command(*words))
    wait_for(lambda: ledger.exists() and ledger.read_bytes().count(b'"event":"submitted"') > 4)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_a_batch_is_killed_and_resumed_and_nothing_is_bought_twice(tmp_path):
    (tmp_path / "m.yaml").write_text(MANIFEST)
    run_dir = tmp_path / "output" / "portraits-sandbox"
    killed_on_the_way(tmp_path, run_dir, "run", "m.yaml", *FAST, "-c", 4)
    before = len(journal(run_dir))
    assert 4 < before < 16
    again = run_command(None, tmp_path, "run", "m.yaml", *FAST, "-c", 8, "--json")
    told = json.loads(again.stdout)
    made = Counter(entry["key"] for entry in journal(run_dir))
    assert max(made.values()) == 1, "bought twice"
    assert told["done"] + told["unknown"] == 16
    assert 16 - told["unknown"] <= len(made) <= 16
    rows = [json.loads(line) for line in (run_dir / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * told["done"], "an image and a clip each, and no preview"
    names = sorted(row["file_name"].rpartition(".")[2] for row in rows)
    assert Counter(names) == {"png": told["done"], "mp4": told["done"]}


def test_a_deployment_that_is_off_ends_the_run_with_65_and_one_refused_post(tmp_path):
    (tmp_path / "m.csv").write_text("prompt\n" + "".join(f"fox {n}\n" for n in range(5)))
    off = ("run", "m.csv", "--model", "deployment/demo-disabled", "--extra", "prompt", *FAST, "-c", 1)
    result = run_command(None, tmp_path, *off, "--json")
    assert result.returncode == 65
    told = json.loads(result.stdout)
    assert (told["pending"], told["failed"], told["submitted_now"]) == (5, 0, 0)
    assert "the deployment is disabled" in result.stderr


async def test_a_run_directory_stays_with_the_address_that_its_requests_were_made_at(tmp_path):
    """Also if its requests to deployments are all that is left of them: the rows have another model now."""
    deployed = ("--model", "deployment/demo-lora", "--max-runtime", 1)
    drawn = ("--model", "blackforestlabs/flux-1/dev/text-to-image")
    (tmp_path / "m.csv").write_text("prompt,seed\na fox,1\n")
    slow = SandboxSettings(speed=0.001)
    async with Sandbox(slow) as one, Sandbox(SandboxSettings()) as other:
        bases = [base.removesuffix("/v1") + "/prod/v2" for base in (one, other, other)]
        ended = [
            await asyncio.to_thread(
                run_command,
                None,
                tmp_path,
                *("run", "m.csv", *words, "--poll", 0.05),
                RUNCOMFY_TOKEN=TOKEN,
                RUNCOMFY_MODEL_API_BASE=one,
                RUNCOMFY_SERVERLESS_API_BASE=base,
            )
            for words, base in zip((deployed, deployed, drawn), bases, strict=True)
        ]
    assert [result.returncode for result in ended] == [3, 65, 65], ended[0].stderr
    for result in ended[1:]:
        assert "its requests to deployments were made at" in result.stderr
