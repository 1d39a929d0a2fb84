"""Batches at Replicate, against its sandbox over HTTP: killed, resumed, and nothing paid for twice."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from batcher.clock import iso
from batcher.sandbox.faults import Fault
from batcher.sandbox.pictures import draw_png
from batcher.sandbox.server import Sandbox
from batcher.sandbox.settings import SandboxSettings
from tests.support.api_server import run_command
from tests.support.faults import ledger, started

LOST = frozenset({Fault.SUBMIT_DROPPED, Fault.CONNECT_DROPPED})
AGE = timedelta(minutes=4)
FLUX = "replicate:black-forest-labs/flux-schnell"
KLING = "replicate:kwaivgi/kling-v2.1"
JOBS = 12
OPTIONS = ("m.json", "-o", "out", "--poll", "0.05")


def write_batch(folder: Path) -> None:
    """Pictures and clips: each prompt twice, so that lost submissions are alike."""
    (folder / "a.png").write_bytes(draw_png(random.Random(1), (64, 64), "", ""))
    clip = {"model": KLING, "start_image": "a.png"}
    jobs = [
        {"id": f"job-{n}", "prompt": f"number {n // 2}", **(clip if n < 4 else {"model": FLUX})}
        for n in range(JOBS)
    ]
    (folder / "m.json").write_text(json.dumps({"jobs": jobs}))


def grow_older(folder: Path) -> None:
    """Let everything in the ledger have happened some minutes earlier."""

    def earlier(match: re.Match[str]) -> str:
        return iso(datetime.fromisoformat(match[0]) - AGE)

    path = folder / "out" / "ledger.jsonl"
    path.write_text(re.sub(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", earlier, path.read_text()))


class Vendor:
    """The sandbox that stands in for Replicate, and the command that buys there."""

    def __init__(self, sandbox: Sandbox, base: str, folder: Path) -> None:
        self.stats = sandbox.stats
        self.folder = folder
        origin = base.removesuffix("/v1")
        self.env = {"REPLICATE_API_BASE_URL": f"{origin}/replicate", "REPLICATE_API_TOKEN": "r8_any"}

    async def run(self, *arguments: object) -> Any:
        ended = await asyncio.to_thread(run_command, None, self.folder, *arguments, **self.env)
        assert "Traceback" not in ended.stdout + ended.stderr
        return ended

    async def run_for_a_while(self, *arguments: object) -> None:
        """Run, and kill it once nothing more happens: it would wait until what is lost is certain."""
        ledger_path = self.folder / "out" / "ledger.jsonl"
        size_bytes, quiet = -1, 0
        with started(None, self.folder, "run", *arguments, env=self.env) as process:
            while process.poll() is None and quiet < 15:
                await asyncio.sleep(0.1)
                now_bytes = ledger_path.stat().st_size if ledger_path.exists() else -1
                quiet = quiet + 1 if now_bytes == size_bytes > 1000 else 0
                size_bytes = now_bytes

    def check(self) -> None:
        """Every job is done, and each was paid for once."""
        lines = ledger(self.folder / "out")
        done = [line["job"] for line in lines if line["event"] == "done"]
        assert sorted(done) == sorted(f"job-{n}" for n in range(JOBS))
        owners = {line["request_id"]: line["job"] for line in lines if line["event"] == "submitted"}
        assert len(owners) == len(set(owners.values())) == self.stats.jobs_created == JOBS


@asynccontextmanager
async def vendor(folder: Path, **settings: Any) -> AsyncIterator[Vendor]:
    write_batch(folder)
    sandbox = Sandbox(SandboxSettings(speed=20, **settings))
    async with sandbox as base:
        yield Vendor(sandbox, base, folder)


async def test_a_batch_that_is_killed_resumes_and_pays_for_nothing_twice(tmp_path):
    async with vendor(tmp_path) as here:
        with started(None, tmp_path, "run", *OPTIONS, "-c", 4, env=here.env) as process:
            while here.stats.jobs_created < 5:
                assert process.poll() is None
                await asyncio.sleep(0.005)
            process.kill()
            process.wait()
        grow_older(tmp_path)
        again = await here.run("run", *OPTIONS, "--json")
        assert again.returncode == 0, again.stderr
        here.check()
        assert here.stats.uploads <= 2  # once in each run: the files have one content


async def test_lost_submissions_are_resolved_without_a_double_purchase(tmp_path):
    async with vendor(tmp_path, faults=0.6, only_faults=LOST, seed=3) as here:
        await here.run_for_a_while(*OPTIONS, "-c", 24)
        assert [line["job"] for line in ledger(tmp_path / "out") if line["event"] == "unanswered"]
        early = await here.run("resolve", "out", "--auto")
        assert "had created nothing" not in early.stdout + early.stderr  # it is too early
        for _ in range(8):
            grow_older(tmp_path)
            resolved = await here.run("resolve", "out", "--auto")
            assert resolved.returncode == 0, resolved.stderr
            assert "stay unknown" not in resolved.stdout + resolved.stderr
            await here.run_for_a_while(*OPTIONS, "-c", 24)
            if len([line for line in ledger(tmp_path / "out") if line["event"] == "done"]) == JOBS:
                break
        here.check()
