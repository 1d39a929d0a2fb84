"""Run directories that version 0.1 began keep their ids: nothing in them is bought again."""

import msgspec
import pytest

from batcher.app.plan import plan
from batcher.app.run import run
from batcher.disk import LocalDisk
from batcher.engine.host import Host
from batcher.errors import LedgerError, ManifestError
from batcher.jobs.identity import FIRST_RULE, RULE
from batcher.ledger.ledger import Ledger, read_snapshot
from batcher.ledger.snapshot import Snapshot
from batcher.options.facts import Overrides, SandboxOptions
from batcher.options.run import Options
from batcher.schema.spec import KLING
from tests.support.engine import FakeClock
from tests.support.manifest_files import write

OSS = "https://media.example.com/v.mp4?x-oss-process=video/snapshot,t_"
ROWS = (
    '{"prompt": "3.0", "image_url": "https://example.com/a.png"}',
    '{"prompt": "一只猫", "image_url": "https://example.com/b.png?token=1"}',
    '{"prompt": "two\\r\\nlines", "image_url": "https://example.com/c.png", "duration": "5"}',
    f'{{"prompt": "frame", "image_url": "{OSS}1000"}}',
    '{"id": "hero", "prompt": "1e3", "image_url": "https://example.com/d.png"}',
)
IDS = (  # as version 0.1 made them of these rows
    "3-7e3100e5fc70cf72",
    "job-d85b76c058b2e817",
    "two-lines-f397df9659642df4",
    "frame-5cd6be4bfed3e590",
    "hero",
)
HERO = "f9daf512a6457910"
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


async def test_a_run_directory_of_this_version_has_the_new_ids(tmp_path):
    old_ledger(tmp_path / "run", RULE)
    with pytest.raises(ManifestError, match="'hero' changed"):  # 1e3 and 1000 are two prompts
        await planned(tmp_path)


async def test_the_first_line_of_a_ledger_names_the_rule_of_its_ids(tmp_path):
    manifest = write(tmp_path, "m.jsonl", ROWS[0])
    options = Options(
        manifest=manifest,
        output=tmp_path / "run",
        overrides=Overrides(model=KLING.model_id),
        sandbox=SandboxOptions(speed=1000.0),
    )
    assert (await run(options, Host(env={}, home=tmp_path))).exit_code == 0
    first = (tmp_path / "run" / "ledger.jsonl").read_bytes().partition(b"\n")[0]
    assert msgspec.json.decode(first)["identity"] == RULE
    assert read_snapshot(tmp_path / "run", LocalDisk()).rule == RULE


@pytest.mark.parametrize(("first", "then", "rule"), [(1, 2, 1), (2, 1, 2), (2, 2, 2)])
def test_the_first_line_decides_also_if_another_version_went_on(tmp_path, first, then, rule):
    lines = [{"event": "run", "at": "x", "run": str(n), "identity": n} for n in (first, then)]
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(msgspec.json.encode(x) + b"\n" for x in lines))
    assert read_snapshot(tmp_path, LocalDisk()).rule == rule


def test_a_ledger_without_any_opening_line_is_an_old_one_and_none_at_all_is_new(tmp_path):
    assert Snapshot().rule == RULE
    line = {"event": "submitting", "at": "x", "job": "a", "attempt": 1}
    (tmp_path / "ledger.jsonl").write_bytes(msgspec.json.encode(line) + b"\n")
    assert read_snapshot(tmp_path, LocalDisk()).rule == FIRST_RULE


def test_a_rule_that_this_version_does_not_know_is_refused(tmp_path):
    old_ledger(tmp_path / "run", RULE + 1)
    with pytest.raises(LedgerError, match="newer batcher"):
        Ledger(tmp_path / "run", LocalDisk(), FakeClock())
