"""Run directories that version 0.1 began keep their ids: nothing in them is bought again."""

import msgspec
import pytest

from batcher.app import plan
from batcher.disk import LocalDisk
from batcher.errors import LedgerError
from batcher.ledger import Ledger, read_snapshot
from batcher.manifest import Overrides, Tally, open_manifest
from batcher.options import Host, Options, SandboxOptions
from batcher.schema import KLING
from tests.engine import FakeClock
from tests.manifest_files import write

OSS = "https://media.example.com/v.mp4?x-oss-process=video/snapshot,t_"
ROWS = (
    '{"prompt": "3.0", "image_url": "https://example.com/a.png"}',
    '{"prompt": "一只猫", "image_url": "https://example.com/b.png?token=1"}',
    '{"prompt": "two\\r\\nlines", "image_url": "https://example.com/c.png", "duration": "5"}',
    f'{{"prompt": "frame", "image_url": "{OSS}1000"}}',
    '{"id": "hero", "prompt": "1e3", "image_url": "https://example.com/d.png"}',
)
IDS = (  # as version 0.1 made them of these rows
    "3-0f1d5a3d8de39e5c",
    "job-3f7de0ee2d0ee4d5",
    "two-lines-1bfb1ff97a1b9d10",
    "frame-2f4cbf7e6c0e4c11",
    "hero",
)
HERO = "0" * 16
"""The digest of the fifth row."""


def old_ledger(run_dir, identity=None):
    run_dir.mkdir(parents=True)
    opening = {"event": "run", "at": "2026-01-01T00:00:00.000Z", "run": "a", "manifest": "m.jsonl"}
    opening |= {"version": 1, "total": 5} | ({} if identity is None else {"identity": identity})
    lines = [opening]
    for job in IDS:
        at = {"at": "2026-01-01T00:00:01.000Z", "job": job, "attempt": 1}
        lines.append({"event": "submitting", **at, "model": KLING.model_id, "digest": HERO, "input": {}})
        lines.append({"event": "submitted", **at, "request_id": f"r-{job}"})
    (run_dir / "ledger.jsonl").write_bytes(b"".join(msgspec.json.encode(x) + b"\n" for x in lines))


async def planned(tmp_path):
    manifest = write(tmp_path, "m.jsonl", "\n".join(ROWS))
    options = Options(
        manifest=manifest,
        output=tmp_path / "run",
        overrides=Overrides(model=KLING.model_id),
        sandbox=SandboxOptions(),
    )
    return (await plan(options, Host(env={}, home=tmp_path))).prepared.plan


async def test_the_rows_of_an_old_run_directory_are_its_jobs(tmp_path):
    old_ledger(tmp_path / "run")
    made = await planned(tmp_path)
    assert (made.total, made.to_buy, made.gone.count) == (5, 0, 0)
