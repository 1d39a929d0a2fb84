"""Outputs that the ledger can't explain, and what a run makes of them before it buys."""

import pytest

from batcher.app.run_dir_checks import moved_since
from batcher.clock import SystemClock
from batcher.errors import LedgerError
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import EventName, RunEvent, Stage
from batcher.ledger.ledger import Ledger
from batcher.store.local import RunDir
from batcher.store.lost_ledger import check_buys_nothing_twice, unexplained
from tests.support.engine import QuickDisk, bought, job

DISK = QuickDisk()
FILES = tuple(Artifact(path=f"media/cat.{n}.png", bytes=1, sha256="0" * 64) for n in range(2))
AGAIN = {"attempt": 2, "price_usd": 1.0}


def history(state, one):
    """The lines of a job in a state, and whether it may have an output under ``media/``."""
    begun = bought(job(one))
    ends = {
        "unknown": begun[:1],
        "deferred": [begun[0], (EventName.DEFERRED, one, {})],
        "failed at submit": [begun[0], (EventName.FAILED, one, {"stage": Stage.SUBMIT})],
        "failed at generate": [*begun, (EventName.FAILED, one, {"stage": Stage.GENERATE})],
        "cancelled": [*begun, (EventName.CANCELLED, one, {})],
        "submitted": begun,
        "completed": [*begun, (EventName.COMPLETED, one, {})],
        "failed at download": [
            *begun,
            (EventName.COMPLETED, one, {}),
            (EventName.FAILED, one, {"stage": Stage.DOWNLOAD}),
        ],
        "done": [*begun, (EventName.COMPLETED, one, {}), (EventName.DONE, one, {"files": FILES})],
        "second attempt": [*begun, (EventName.CANCELLED, one, {}), (EventName.SUBMITTING, one, AGAIN)],
    }
    return ends[state]


async def told(path, *events):
    ledger = Ledger(path, DISK, SystemClock())
    for name, one, fields in events:
        ledger.append(name, one, **fields)
    await ledger.close()
    return ledger.snapshot


def put(path, *names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x")


async def found(path, snapshot):
    return await unexplained(RunDir(path, DISK), snapshot)


@pytest.mark.parametrize("state", ["submitted", "completed", "failed at download", "second attempt"])
async def test_what_a_crash_leaves_is_explained(tmp_path, state):
    snapshot = await told(tmp_path, *history(state, "cat"))
    put(tmp_path, "media/cat.mp4", "media/cat.0.png", "media/cat.1.png", "media/cat~2.mp4")
    assert await found(tmp_path, snapshot) == {}


@pytest.mark.parametrize(
    "state", ["unknown", "deferred", "failed at submit", "failed at generate", "cancelled"]
)
async def test_an_output_of_a_job_that_can_have_none_is_not_explained(tmp_path, state):
    snapshot = await told(tmp_path, *history(state, "cat"))
    put(tmp_path, "media/cat.0.png")
    outputs = await found(tmp_path, snapshot)
    with pytest.raises(LedgerError, match=r"media/cat\.0\.png"):
        check_buys_nothing_twice(tmp_path, ["dog", "cat"], outputs)
    check_buys_nothing_twice(tmp_path, ["dog"], outputs)


async def test_a_job_that_is_done_explains_the_files_that_it_lists_and_no_others(tmp_path):
    snapshot = await told(tmp_path, *history("done", "cat"))
    put(tmp_path, "media/cat.0.png", "media/cat.1.png")
    assert await found(tmp_path, snapshot) == {}
    put(tmp_path, "media/cat.2.png")  # may as well be the only output of a job named cat.2
    outputs = await found(tmp_path, snapshot)
    with pytest.raises(LedgerError, match=r"media/cat\.2\.png"):
        check_buys_nothing_twice(tmp_path, ["cat.2"], outputs)


async def test_what_was_superseded_tells_of_the_attempt_that_came_after_it(tmp_path):
    snapshot = await told(tmp_path, *history("second attempt", "cat"), *history("done", "dog"))
    put(tmp_path, "superseded/cat.attempt-1.mp4", "superseded/dog.attempt-1.mp4")
    assert await found(tmp_path, snapshot) == {"dog": "superseded/dog.attempt-1.mp4"}


async def test_files_that_the_user_put_there_are_in_no_ones_way(tmp_path):
    snapshot = await told(tmp_path, *history("done", "cat"))
    put(tmp_path, "media/README.md", "media/.DS_Store", "media/cat-poster.jpg", "superseded/old.mp4")
    check_buys_nothing_twice(tmp_path, ["dog", "bird"], await found(tmp_path, snapshot))


async def test_many_outputs_are_named_by_a_few_and_counted(tmp_path):
    names = [f"media/job-{number}.mp4" for number in range(9)]
    put(tmp_path, *names)
    snapshot = await told(tmp_path, *history("done", "cat"))
    with pytest.raises(LedgerError, match=r"holds 9 outputs.*job-4\.mp4 \.\.\.") as refusal:
        check_buys_nothing_twice(
            tmp_path, [f"job-{n}" for n in range(9)], await found(tmp_path, snapshot)
        )
    assert "backup" in str(refusal.value)


async def test_a_copy_is_told_from_a_directory_that_was_moved(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    device, inode = DISK.device_and_inode(path)
    ledger = Ledger(path, DISK, SystemClock())
    ledger.announce(RunEvent(run="x", at="x", host="here", device=device, inode=inode))
    for name, one, fields in history("done", "cat"):
        ledger.append(name, one, **fields)
    await ledger.close()
    assert moved_since(ledger.snapshot, RunDir(path, DISK), DISK) is None
    (tmp_path / "copy").mkdir()
    assert "copy" in moved_since(ledger.snapshot, RunDir(tmp_path / "copy", DISK), DISK)
    path.rename(tmp_path / "moved")
    assert moved_since(ledger.snapshot, RunDir(tmp_path / "moved", DISK), DISK) is None
