"""One batch over several vendors: from one file, killed and resumed, with nothing bought twice."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
from collections import Counter
from pathlib import Path

from batcher.app.connect import models_to_ask
from batcher.jobs.lifecycle import EventName, Stage
from batcher.ledger.ledger import read_snapshot
from tests.support.api_server import command, in_background
from tests.support.engine import Batch, bought, in_virtual_time, job
from tests.support.faults import wait_for

MODELS = {
    "own": "blackforestlabs/flux-1/dev/text-to-image",
    "replicate": "replicate:black-forest-labs/flux-schnell",
    "fal": "fal:fal-ai/flux/dev",
    "deployment": "deployment/demo-lora",
}
OF_EACH = 5


def write_batch(path: Path) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "model", "prompt"])
        for number in range(OF_EACH):
            rows.writerows(
                [f"{name}-{number}", model, f"a cat, {number}"] for name, model in MODELS.items()
            )


def start(cwd: Path) -> subprocess.Popen[str]:
    words = ("--sandbox", "--sandbox-speed", 20, "--poll", 0.05, "--yes", "--assume-price", 0.1, "-c", 6)
    return in_background(None, cwd, command("run", "all.csv", *words, "-o", "out"))


def test_a_batch_over_four_vendors_is_killed_and_resumed_and_nothing_is_bought_twice(tmp_path):
    write_batch(tmp_path / "all.csv")
    ledger = tmp_path / "out" / "ledger.jsonl"
    for enough in (3, 9):
        run = start(tmp_path)
        wait_for(
            lambda: ledger.exists() and ledger.read_bytes().count(b'"event":"submitted"') >= enough  # noqa: B023
        )
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    for _ in range(3):  # a request whose answer was lost is found once its vendor lists it
        run = start(tmp_path)
        run.wait(60)
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [line for line in lines if line["event"] == "failed"] == []
    done = {line["job"] for line in lines if line["event"] == "done"}
    vendors = Counter(job.partition("-")[0] for job in done)
    made = (tmp_path / "out" / ".batcher" / "sandbox.jsonl").read_text().splitlines()
    keys = Counter(json.loads(line).get("key") for line in made if '"key"' in line)
    assert max(keys.values()) == 1, "bought twice"
    unknown = OF_EACH * len(MODELS) - len(done)
    assert unknown <= 12, "at most what was in flight when it was killed"
    assert set(vendors) == set(MODELS)
    assert len(made) <= OF_EACH * len(MODELS)


@in_virtual_time
async def test_a_vendor_is_reached_for_what_is_to_be_asked_of_it_and_for_nothing_else(tmp_path):
    """Its token may be gone once its rows have left the manifest."""
    batch = Batch(tmp_path)
    names = (
        "unknown",
        "submitted",
        "completed",
        "download",
        "generate",
        "submit",
        "deferred",
        "cancelled",
    )
    bought_of = {name: bought(job(name, model=f"{name}/m"), f"r-{name}") for name in names}
    ends = {
        "completed": (EventName.COMPLETED, {}),
        "generate": (EventName.FAILED, {"stage": Stage.GENERATE}),
        "deferred": (EventName.DEFERRED, {"reason": "401"}),
        "cancelled": (EventName.CANCELLED, {}),
    }
    lines = [line for one in bought_of.values() for line in one]
    lines.remove(bought_of["unknown"][1])
    lines.remove(bought_of["submit"][1])
    lines += [(event, name, fields) for name, (event, fields) in ends.items()]
    lines += [(EventName.FAILED, "submit", {"stage": Stage.SUBMIT})]
    lines += [
        (EventName.COMPLETED, "download", {}),
        (EventName.FAILED, "download", {"stage": Stage.DOWNLOAD}),
    ]
    await batch.hold(*lines)
    asked = models_to_ask(read_snapshot(tmp_path, batch.disk))
    assert asked == {"unknown/m", "submitted/m", "completed/m", "download/m"}
