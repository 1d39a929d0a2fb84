"""Batches from fal against the sandbox over HTTP: killed and resumed, with answers lost, without a key."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batcher.sandbox.faults import Fault
from batcher.sandbox.journal import JobCreated, read_entries
from batcher.sandbox.server import Sandbox
from batcher.sandbox.settings import SandboxSettings
from tests import forked
from tests.support.api_server import command, environment, in_background

KEY = "0123abcd-key:s3cr3t-0123456789abcdef"
FAST = ("--poll", "0.1")
PROMPTS = [f"cat number {number}" for number in range(16)]
MANIFEST = "jobs.csv"
LISTED_S = 0.5
"""More than it takes the sandbox, at thirty times its speed, to list a request that has ended."""


class Bench:
    """A sandbox behind HTTP and commands that use it as if it were fal."""

    def __init__(self, folder: Path, sandbox: Sandbox, origin: str) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.env = {"FAL_KEY": KEY, "FAL_QUEUE_RUN_HOST": f"{origin}/fal/queue"}

    async def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        env = environment(None, self.folder, **self.env)
        return await asyncio.to_thread(
            forked.run,
            command(*arguments),
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=60,
        )

    async def killed_after(self, posts: int, *arguments: object) -> None:
        """Start a command and kill it once the sandbox has seen so many more POSTs."""
        before = self.sandbox.stats.posts
        process = in_background(None, self.folder, command(*arguments), env=self.env)
        try:
            while self.sandbox.stats.posts < before + posts:
                assert process.poll() is None, "it ended before it was killed"
                await asyncio.sleep(0.002)
        finally:
            process.kill()
            assert await asyncio.to_thread(process.wait) == -signal.SIGKILL

    def created(self) -> list[dict[str, Any]]:
        """The inputs of each request that was bought, and its id."""
        entries = read_entries(self.folder / "sandbox.jsonl")
        made = [entry for entry in entries if isinstance(entry, JobCreated)]
        return [{"id": entry.id, **json.loads(bytes(entry.input))} for entry in made]

    def jobs(self) -> dict[str, str]:
        """The prompt of each job that was submitted, by its id."""
        return {line["job"]: line["input"]["prompt"] for line in self.ledger() if "input" in line}

    def ledger(self) -> list[dict[str, Any]]:
        text = (self.folder / "output/jobs/ledger.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


@asynccontextmanager
async def bench(folder: Path, **settings: Any) -> AsyncIterator[Bench]:
    rows = [f"fal:fal-ai/flux/dev,{prompt}" for prompt in PROMPTS]
    (folder / MANIFEST).write_text("\n".join(["model,prompt", *rows]) + "\n")
    sandbox = Sandbox(SandboxSettings(state=folder / "sandbox.jsonl", **settings))
    async with sandbox as base:
        yield Bench(folder, sandbox, base.removesuffix("/v1"))


async def test_a_batch_that_is_killed_and_resumed_buys_nothing_twice(tmp_path):
    async with bench(tmp_path, speed=30) as at:
        for slots in (4, 8):  # those killed before an answer keep theirs
            await at.killed_after(2, "run", MANIFEST, *FAST, "-c", slots)
        await asyncio.sleep(LISTED_S)  # then those killed between POST and answer can be found
        done = await at.run("run", MANIFEST, *FAST, "-c", 16, "--json")
        summary = json.loads(done.stdout)
        bought = [one["prompt"] for one in at.created()]
        assert len(set(bought)) == len(bought)
        assert summary["done"] == len(bought), done.stderr
        assert summary["unknown"] == len(PROMPTS) - len(bought)
        assert at.sandbox.stats.tokens_leaked == 0
        files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        assert not any(KEY.encode() in content for content in files)
        assert KEY not in done.stdout + done.stderr


SHORT = ("--max-runtime", "4s")
"""Before a run asks what became of its lost submissions, which may go on for minutes."""


async def test_requests_whose_answers_were_lost_are_found_again(tmp_path):
    lost = {"faults": 0.4, "only_faults": frozenset({Fault.SUBMIT_DROPPED, Fault.CONNECT_DROPPED})}
    async with bench(tmp_path, speed=50, **lost) as at:
        first = await at.run("run", MANIFEST, *FAST, "-c", 16, "--json", *SHORT)
        unknown = json.loads(first.stdout)["unknown"]
        created = {one["prompt"]: one["id"] for one in at.created()}
        never = len([job for job in at.jobs().values() if job not in created])
        assert unknown > never > 0, "some were created and some were not"
        await asyncio.sleep(LISTED_S)
        auto = await at.run("resolve", "output/jobs", "--auto")
        assert (
            f"{unknown - never} unknown jobs were found at their provider" in auto.stdout + auto.stderr
        )
        last = await at.run("run", MANIFEST, *FAST, "-c", 16, "--json", *SHORT)
        bought = [one["prompt"] for one in at.created()]
        assert len(set(bought)) == len(bought) >= len(created)
        assert json.loads(last.stdout)["unknown"] >= never
        created = {one["prompt"]: one["id"] for one in at.created()}
        submitted = [line for line in at.ledger() if line["event"] == "submitted"]
        assert all(created[at.jobs()[line["job"]]] == line["request_id"] for line in submitted)


async def test_jobs_with_an_uploaded_file_are_found_again_too(tmp_path):
    picture = Image.frombytes("RGB", (400, 300), random.Random(1).randbytes(400 * 300 * 3))
    picture.save(tmp_path / "cat.png")
    rows = [f"fal:fal-ai/flux-pro/kontext,{prompt},cat.png" for prompt in PROMPTS[:3]]
    lost = {"faults": 1.0, "only_faults": frozenset({Fault.SUBMIT_DROPPED})}
    async with bench(tmp_path, speed=50, **lost) as at:
        (tmp_path / MANIFEST).write_text("\n".join(["model,prompt,image_url", *rows]) + "\n")
        await at.run("run", MANIFEST, *FAST, "-c", 16)
        assert (at.sandbox.stats.uploads, at.sandbox.stats.tokens_leaked) == (1, 0)
        assert len(at.created()) == 3
        await asyncio.sleep(LISTED_S)
        last = await at.run("run", MANIFEST, *FAST, "--json")
        assert json.loads(last.stdout)["done"] == 3, last.stderr
        assert len(at.created()) == 3
        created = {one["prompt"]: one["id"] for one in at.created()}
        submitted = [line for line in at.ledger() if line["event"] == "submitted"]
        assert all(created[at.jobs()[line["job"]]] == line["request_id"] for line in submitted)


async def test_a_locked_account_stops_the_run_with_the_reason(tmp_path):
    async with bench(tmp_path, speed=50, balance_usd=0.06) as at:
        told = await at.run("run", MANIFEST, *FAST, "-c", 1)
        assert told.returncode == 3
        assert "Reason: Exhausted balance" in told.stdout
        assert len(at.created()) == 2


async def test_without_a_key_nothing_is_asked(tmp_path):
    async with bench(tmp_path) as at:
        del at.env["FAL_KEY"]
        told = await at.run("run", MANIFEST)
        assert told.returncode == 77
        assert "set FAL_KEY" in told.stderr
        assert at.sandbox.stats.posts == 0


async def test_a_plan_checks_and_prices_rows_by_fals_schema(tmp_path):
    async with bench(tmp_path) as at:
        planned = await at.run("plan", MANIFEST, "--set", "num_images=2")
        assert "$0.80" in planned.stdout, planned.stderr
        wrong = await at.run("plan", MANIFEST, "--set", "num_images=9")
        assert wrong.returncode == 65
        assert "num_images" in wrong.stderr


async def test_the_cost_of_each_job_is_what_was_billed(tmp_path):
    async with bench(tmp_path, speed=50) as at:
        told = await at.run("run", MANIFEST, *FAST, "--max-cost", "5", "--json")
        assert told.returncode == 0, told.stderr
        costs = [line["cost_usd"] for line in at.ledger() if line["event"] == "cost"]
        assert costs == [0.025] * len(PROMPTS)


@pytest.mark.parametrize("faults", [Fault.GENERATE_REFUSED, Fault.GENERATE_FAILED])
async def test_refusals_are_told_apart_from_failures(tmp_path, faults):
    async with bench(tmp_path, speed=50, faults=1.0, only_faults=frozenset({faults})) as at:
        told = await at.run("run", MANIFEST, *FAST)
        assert told.returncode == 1
        refused = faults is Fault.GENERATE_REFUSED
        assert ("refused for their inputs" in told.stdout) is refused
