"""``ls``, ``status`` of several, ``doctor``: what there is, and what a run would meet."""

import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from batcher.app.doctor import checks
from batcher.app.overview import overviews, run_dirs
from batcher.cli.entry import cli
from batcher.disk import LocalDisk
from batcher.engine.host import Host
from batcher.errors import LedgerError
from batcher.sandbox.server import Sandbox
from batcher.sandbox.settings import SandboxSettings
from tests.support.api_server import TOKEN, served
from tests.support.engine import FakeClock

BATCHER = Path(sys.executable).with_name("batcher")
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


class Noon(FakeClock):
    def now(self):
        return NOW


@pytest.fixture
def server():
    with served(balance={"balance_usd": 12.5}) as server:
        yield server


@pytest.fixture
def called(tmp_path, monkeypatch):
    """Runs a command in process: its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RUNCOMFY_TOKEN", "RUNCOMFY_TOKEN_FILE", "RUNCOMFY_MODEL_API_BASE"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments):
        result = CliRunner().invoke(cli, [str(word) for word in arguments], standalone_mode=False)
        code = result.return_value if result.exception is None else result.exception.exit_code
        return code, result.stdout, result.stderr

    return call


def write_ledger(run_dir, *events, exit_code=0):
    run_dir.mkdir(parents=True)
    opening = {"event": "run", "run": "r1", "at": "2026-11-27T09:00:00.000Z", "total": 2, "selected": 2}
    closing = {
        "event": "run",
        "run": "r1",
        "at": "2026-11-27T10:30:00.000Z",
        "ended": True,
        "exit_code": exit_code,
    }
    at, lines = 0, []
    for event in (opening, *events, closing):
        lines.append(json.dumps({**event, "group": at}, separators=(",", ":")) + "\n")
        at += len(lines[-1])
    (run_dir / "ledger.jsonl").write_text("".join(lines))
    return run_dir


def job_events(job, day, usd, file=None):
    at = f"2026-11-{day}T09:00:01.000Z"
    about = {"job": job, "attempt": 1, "at": at}
    yield {"event": "submitting", **about, "model": "m", "input": {}, "price_usd": usd}
    yield {"event": "submitted", **about, "request_id": f"req-{job}"}
    if file is not None:
        yield {"event": "completed", **about, "cost_usd": usd}
        yield {"event": "done", **about, "files": [{"path": file, "bytes": 5, "sha256": "00"}]}


def test_run_directories_are_found_at_any_depth_and_what_lies_in_them_is_not(tmp_path):
    for name in ("b", "deep/er/a", "b/media/c", ".hidden"):
        write_ledger(tmp_path / name)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in run_dirs(tmp_path, LocalDisk())] == [
        "b",
        "deep/er/a",
    ]


def test_an_overview_counts_what_was_spent_today_and_tells_how_the_last_run_ended(tmp_path):
    events = [*job_events("old", 26, 1.0, "media/old.mp4"), *job_events("new", 27, 0.25)]
    run_dir = write_ledger(tmp_path / "a", *events, exit_code=1)
    os.utime(run_dir / "ledger.jsonl", (NOW.timestamp(), NOW.timestamp()))
    (row,) = overviews(tmp_path, LocalDisk(), Noon())
    assert (row.state, row.done, row.total, row.cost_usd, row.bytes) == ("open", 1, 2, 1.25, 5)
    assert (row.cost_today_usd, row.exit_code, row.last_run_at) == (0.25, 1, "2026-11-27T10:30:00.000Z")


def test_a_ledger_that_was_not_written_to_today_cost_nothing_today(tmp_path):
    run_dir = write_ledger(tmp_path / "a", *job_events("new", 27, 0.25))
    yesterday = (NOW - timedelta(days=2)).timestamp()
    os.utime(run_dir / "ledger.jsonl", (yesterday, yesterday))
    (row,) = overviews(tmp_path, LocalDisk(), Noon())
    assert (row.cost_usd, row.cost_today_usd) == (0.25, 0)


def test_a_live_run_is_known_by_its_lock_and_has_no_exit_code_yet(tmp_path, called):
    run_dir = write_ledger(tmp_path / "output/a")
    ledger = run_dir / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:-1]))
    (run_dir / ".batcher").mkdir()
    disk = LocalDisk()
    release = disk.lock(run_dir / ".batcher/lock")
    disk.lock(run_dir / ".batcher/start")()
    row = json.loads(called("ls", "--json")[1])
    assert (row["state"], row["exit_code"]) == ("live", None)
    release()
    assert json.loads(called("ls", "--json")[1])["state"] == "open"


def test_ls_shows_a_line_each_and_fails_for_a_ledger_that_can_not_be_read(tmp_path, called):
    write_ledger(tmp_path / "output/a")
    assert called("ls")[0] == 0
    (tmp_path / "output/b").mkdir()
    (tmp_path / "output/b/ledger.jsonl").write_text("{}\n{}\n")
    code, shown, problems = called("ls")
    assert (code, [line.split()[0] for line in shown.splitlines()]) == (65, ["state", "open", "damaged"])
    assert "output/b" in problems
    assert called("ls", tmp_path / "none")[:2] == (0, f"{tmp_path / 'none'}: no run directories\n")


def test_ls_shows_the_last_run_in_the_time_zone_of_the_machine(tmp_path, called, monkeypatch):
    monkeypatch.setenv("TZ", "XST-3")
    time.tzset()
    write_ledger(tmp_path / "output/a")
    at = json.loads(called("ls", "--json")[1])["last_run_at"]
    there = datetime.fromisoformat(at) + timedelta(hours=3)
    assert f"  {there:%Y-%m-%d %H:%M}  " in called("ls")[1]
    monkeypatch.undo()
    time.tzset()


def test_status_takes_several_directories_and_manifests(tmp_path, called):
    write_ledger(tmp_path / "output/clips")
    write_ledger(tmp_path / "other")
    (tmp_path / "clips.yaml").write_text("model: m\njobs: [{prompt: a cat}]\n")
    code, shown, _ = called("status", "clips.yaml", "other")
    assert (code, [line for line in shown.splitlines() if "jobs done" in line]) == (
        0, ["clips: 0 of 2 jobs done", "other: 0 of 2 jobs done"],
    )  # fmt: skip
    _, lines, _ = called("status", "clips.yaml", "other", "--json")
    assert [json.loads(line)["run_dir"] for line in lines.splitlines()] == ["output/clips", "other"]


def test_status_of_a_manifest_without_a_run_says_so_and_names_that_of_the_sandbox(tmp_path, called):
    (tmp_path / "my clips.yaml").write_text("model: m\njobs: [{prompt: a cat}]\n")
    none = "my clips.yaml: no run yet, its run directory would be output/my clips"
    with pytest.raises(LedgerError) as refused:
        cli.main(["status", "my clips.yaml"], standalone_mode=False)
    assert str(refused.value) == none
    write_ledger(tmp_path / "output/my clips-sandbox")
    with pytest.raises(LedgerError) as refused:
        cli.main(["status", "my clips.yaml"], standalone_mode=False)
    assert str(refused.value) == f"{none}; the sandbox's: batcher status 'output/my clips-sandbox'"


def test_cancel_says_that_there_is_nothing_to_cancel(tmp_path, called):
    write_ledger(tmp_path / "a", *job_events("old", 26, 1.0, "media/old.mp4"))
    told = "nothing to cancel: no job of this run directory is at the API\n"
    assert called("cancel", tmp_path / "a")[:2] == (0, told)


def look(called, *arguments):
    code, shown, _ = called("doctor", *arguments, "--json")
    told = json.loads(shown)
    assert told["exit_code"] == code
    return code, {check["check"]: (check["is"], check["found"]) for check in told["checks"]}


def test_the_doctor_finds_a_sound_place_sound(tmp_path, called, server, monkeypatch):
    monkeypatch.setenv("RUNCOMFY_TOKEN", TOKEN)
    monkeypatch.setenv("RUNCOMFY_MODEL_API_BASE", server.base)
    base = server.base.removesuffix("/v1")
    monkeypatch.setenv("RUNCOMFY_SERVERLESS_API_BASE", f"{base}/prod/v2")
    code, found = look(called, write_ledger(tmp_path / "a"))
    assert code == 0, found
    assert found["token"] == ("ok", "in $RUNCOMFY_TOKEN")
    assert found["balance"] == ("ok", "$12.50")
    assert found["clock"] == ("ok", "agrees with the API's")
    assert {"ledger", "lock", "disk", "fsync", "versions"} <= found.keys()
    assert "RUNCOMFY_TOKEN" in found["cron"][1]
    assert not server.posts
    assert TOKEN not in str(found)
    server.balance = {"balance_usd": 0}
    assert look(called)[0] == 3


def test_the_doctor_exits_as_a_run_would(tmp_path, called, server, monkeypatch):
    code, found = look(called)
    assert (code, found["token"][0]) == (77, "bad")
    monkeypatch.setenv("RUNCOMFY_TOKEN", TOKEN)
    monkeypatch.setenv("RUNCOMFY_MODEL_API_BASE", "http://127.0.0.1:9/v1")
    assert look(called)[0] == 69
    monkeypatch.setenv("RUNCOMFY_MODEL_API_BASE", server.base)
    run_dir = write_ledger(tmp_path / "a")
    (run_dir / ".batcher").mkdir()
    release = LocalDisk().lock(run_dir / ".batcher/lock")
    code, found = look(called, run_dir)
    assert (code, found["lock"][0]) == (75, "bad")
    assert f"pid {os.getpid()}" in found["lock"][1]
    release()
    (run_dir / "ledger.jsonl").write_text("{}\n{}\n")
    assert look(called, run_dir)[0] == 65


def test_the_doctor_counts_the_jobs_that_no_run_has_begun_as_not_done(tmp_path, called):
    write_ledger(tmp_path / "a", *job_events("old", 26, 1.0, "media/old.mp4"))
    assert look(called, tmp_path / "a")[1]["ledger"][1].endswith("can be read, 1 of 2 jobs done")


def test_the_doctor_finds_the_program_beside_python_if_it_is_not_in_the_path(called, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.executable", str(BATCHER.with_name("python")))
    assert f"PATH={BATCHER.parent}:/usr/bin:/bin" in look(called)[1]["cron"][1]


def test_the_doctor_names_every_variable_that_a_crontab_lacks(called, monkeypatch):
    ours = ["BATCHER_MAX_COST", "FAL_KEY", "REPLICATE_API_TOKEN", "RUNCOMFY_TOKEN_FILE", "HTTPS_PROXY"]
    for name in ours:
        monkeypatch.setenv(name, "1")
    shown = look(called)[1]["cron"][1]
    assert [name for name in ours if f", {name}" not in shown] == []
    assert "HOME" not in shown


async def code_of(run_dir, **env):
    """The exit code of the checks, and the marks of those that have any but the machine's."""
    host = Host(env=env, home=run_dir.parent)
    made = [check async for check in checks(run_dir, host)]
    return max(check.exit_code for check in made), {check.name: check.mark for check in made}


@pytest.mark.parametrize(("model", "code"), [("fal:fal-ai/flux/dev", 0), ("kling/kling-2-1", 77)])
async def test_the_doctor_needs_the_tokens_of_the_vendors_whose_jobs_a_run_directory_has(
    tmp_path, model, code
):
    intent = {"event": "submitting", "at": "2026-11-27T09:00:00.000Z", "job": "a", "attempt": 1}
    run_dir = write_ledger(tmp_path / "a", {**intent, "model": model, "input": {}})
    assert (await code_of(run_dir))[0] == 77
    async with Sandbox(SandboxSettings()) as base:
        fal = {"FAL_KEY": "anything", "FAL_QUEUE_RUN_HOST": f"{base.removesuffix('/v1')}/fal/queue"}
        needed, marks = await code_of(run_dir, **fal)
        assert (needed, marks["token"], marks["fal"]) == (code, "bad" if code else "careful", "ok")
        assert (await code_of(run_dir, **fal | {"FAL_KEY": "revoked"}))[0] == 77


def test_the_doctor_leaves_nothing_behind(tmp_path, called):
    look(called, tmp_path / "not/there/yet")
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_doctor_looks_at_other_vendors_too(called, server, monkeypatch):
    monkeypatch.setenv("RUNCOMFY_TOKEN", TOKEN)
    monkeypatch.setenv("RUNCOMFY_MODEL_API_BASE", server.base)
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_token_for_nothing")
    monkeypatch.setenv("REPLICATE_API_BASE_URL", "http://127.0.0.1:9")
    code, found = look(called)
    assert (code, found["replicate"][0]) == (0, "careful")
    assert "r8_token" not in str(found)


def test_spend_says_why_there_is_nothing_to_add_up(tmp_path, called):
    assert called("spend") == (
        0, "       $0.00  total\n", "no attempts in the account's book (those of the sandbox don't count)\n"
    )  # fmt: skip
    assert called("spend", tmp_path)[2].startswith(f"no attempts below {tmp_path} (")
