"""What status says: seven states that add up, the leavers beside them, and what is live."""

import os
import socket
import subprocess
import sys

import pytest

from batcher.cli.summary_view import status_lines, summary_lines
from batcher.clock import SystemClock
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import EventName, RunEvent, Stage, State
from batcher.jobs.shard import Shard
from batcher.ledger.ledger import Ledger, read_snapshot
from batcher.ledger.summary import Summary, listed_jobs, status_of
from batcher.options.given import Given
from batcher.terminal import money
from tests.support.engine import QuickDisk, bought, job

FILES = (Artifact("media/x.mp4", 100, "aa"), Artifact("media/y.mp4", 23, "bb"))
ENDS = {
    "pending": [(EventName.DEFERRED, {"reason": "429"})],
    "unknown": [],
    "submitted": [(EventName.SUBMITTED, {"request_id": "r"})],
    "completed": [(EventName.SUBMITTED, {"request_id": "r"}), (EventName.COMPLETED, {"cost_usd": 2.5})],
    "done": [
        (EventName.SUBMITTED, {"request_id": "r"}),
        (EventName.COMPLETED, {}),
        (EventName.DONE, {"files": FILES}),
    ],
    "failed": [(EventName.FAILED, {"stage": Stage.SUBMIT, "code": 422, "message": "bad"})],
    "cancelled": [(EventName.SUBMITTED, {"request_id": "r"}), (EventName.CANCELLED, {})],
}


def opening(**fields):
    usual = {
        "total": 20,
        "duplicates": 2,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "manifest": "m",
    }
    return RunEvent(run="x", at="2026-01-01T00:00:00.000Z", **{**usual, **fields})


async def write(path, *events, run=None, ended=False, live=False):
    ledger = Ledger(path, QuickDisk(), SystemClock())
    if run is not None:
        ledger.announce(run)
    for name, job_id, fields in events:
        ledger.append(name, job_id, **fields)
    if ended:
        ledger.close_run(RunEvent(run="x", at="x", ended=True, exit_code=0))
    if live:
        await ledger.settled()
        HELD.append(ledger)
        return
    await ledger.close()


HELD = []


@pytest.fixture(autouse=True)
def _released():
    yield
    while HELD:
        HELD.pop().release()


def life(state, job_id=None):
    job_id = job_id or state
    return [bought(job(job_id))[0], *((name, job_id, fields) for name, fields in ENDS[state])]


def every_state():
    return [line for state in ENDS for line in life(state)]


def seen(path, *, beside=True):
    snapshot = read_snapshot(path, QuickDisk())
    return status_of(path, snapshot, beside=QuickDisk() if beside else None)


def states_of(status):
    return {state.value: getattr(status, state.value) for state in State}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "product-shots"


async def test_the_seven_states_add_up_to_the_total_and_the_unmentioned_are_pending(path):
    await write(path, *every_state(), run=opening(), ended=True)
    status = seen(path)
    assert states_of(status) == {state.value: 1 for state in State} | {"pending": 14}
    assert sum(states_of(status).values()) == status.total == 20
    assert (status.batch, status.run_dir) == ("product-shots", str(path))
    assert (status.duplicates, status.bytes, status.live) == (2, 123, False)


async def test_money_is_summed_over_every_attempt_that_may_have_been_charged(path):
    await write(path, *every_state(), run=opening(), ended=True)
    status = seen(path)
    assert status.cost_usd == pytest.approx(1.0 + 1.0 + 2.5 + 1.0)  # unknown, submitted, completed, done
    assert status.unpriced_attempts == 0


async def test_leavers_count_as_orphaned_and_nowhere_else_but_in_the_money(path):
    await write(path, *every_state(), (EventName.ORPHANED, "done", {}), run=opening(total=6), ended=True)
    status = seen(path)
    assert (status.done, status.orphaned, status.total) == (0, 1, 6)
    assert sum(states_of(status).values()) == 6
    assert status.cost_usd == pytest.approx(5.5)


async def test_the_total_is_never_less_than_the_jobs_on_record(path):
    await write(path, *every_state(), run=opening(total=3), ended=True)
    assert seen(path).total == 7


@pytest.mark.parametrize("run", [None, opening(total=None, duplicates=None)])
async def test_a_ledger_whose_runs_tell_little_is_read_all_the_same(path, run):
    await write(path, *every_state(), run=run)
    status = seen(path)
    assert (status.total, status.duplicates) == (7, 0)
    assert states_of(status) == {state.value: 1 for state in State}


async def test_beside_a_live_run_the_posts_under_way_show_as_submitting(path):
    unanswered = (EventName.UNANSWERED, "no-answer", {"message": "504"})
    left = (EventName.ORPHANED, "left", {})
    await write(path, *life("unknown", "earlier"), run=opening())
    await write(
        path,
        *life("unknown", "under-way"),
        *life("unknown", "no-answer"),
        unanswered,
        *life("unknown", "left"),
        left,
        run=opening(),
        live=True,
    )
    status = seen(path)
    assert status.live
    assert (status.unknown, status.submitting) == (3, 1)
    assert not seen(path, beside=False).live
    assert seen(path, beside=False).submitting == 0


async def test_a_run_that_ended_is_not_live(path):
    await write(path, *life("unknown"), run=opening(), ended=True)
    assert (seen(path).live, seen(path).submitting) == (False, 0)


async def test_a_dead_run_is_not_live_although_another_process_has_its_pid_now(path):
    await write(path, *life("unknown"), run=opening(pid=os.getpid()))
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    status = seen(path)
    assert (status.live, status.unknown, status.submitting) == (False, 1, 0)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before, "status never writes"


async def test_a_shard_that_died_is_not_live_while_another_one_is(path):
    dead, alive = (Ledger(path, QuickDisk(), SystemClock(), Shard(2, n)) for n in (1, 2))
    jobs = [job_of(dead), job_of(alive)]
    for ledger, one in zip((dead, alive), jobs, strict=True):
        ledger.announce(opening())
        await ledger.record(*bought(job(one))[0][:2], **bought(job(one))[0][2])
    await dead.close()
    assert (seen(path).live, seen(path).unknown, seen(path).submitting) == (True, 2, 1)
    await alive.close()
    assert not seen(path).live


def job_of(ledger):
    shard = int(ledger.path.name.split(".")[1].split("-")[0])
    return next(f"job-{n}" for n in range(100) if Shard(2, shard).has(f"job-{n}"))


class NoLocks(QuickDisk):
    """A file system that can't tell."""

    def is_locked(self, path, guard):
        return None


async def test_where_locks_can_not_be_asked_the_process_is(path, monkeypatch):
    def live():
        return status_of(path, read_snapshot(path, NoLocks()), beside=NoLocks()).live

    def not_ours(pid, signal):
        raise PermissionError

    await write(path, *life("unknown"), run=opening())
    assert live()
    monkeypatch.setattr(os, "kill", not_ours)
    assert live()
    monkeypatch.undo()
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    await write(path, *life("unknown", "b"), run=opening(pid=dead.pid, total=9))
    assert not live()
    await write(path, *life("unknown", "c"), run=opening(host="elsewhere", total=8))
    assert not live()


async def listed(path, *states):
    snapshot = read_snapshot(path, QuickDisk())
    return list(listed_jobs(snapshot, frozenset(states)))


async def test_jobs_are_listed_by_state_with_all_that_is_known_of_them(path):
    await write(path, *every_state(), run=opening())
    failed, done = sorted(
        await listed(path, State.DONE, State.FAILED), key=lambda one: one.job, reverse=True
    )
    assert (failed.job, failed.state, failed.stage, failed.code, failed.message) == (
        "failed",
        "failed",
        "submit",
        422,
        "bad",
    )
    assert (failed.source, failed.input) == ("m.yaml:1", {"prompt": "failed"})
    assert (done.request_id, done.files) == ("r", FILES)
    assert done.submitting_at is not None


async def test_the_list_begins_with_what_is_done_keeps_the_ledgers_order_and_leaves_orphans_out(path):
    await write(path, *every_state(), (EventName.ORPHANED, "unknown", {}), run=opening())
    others = [state for state in ENDS if state not in ("unknown", "done")]
    assert [one.job for one in await listed(path, *State)] == ["done", *others]


async def test_a_later_attempt_is_listed_with_the_inputs_that_stand_with_an_earlier_one(path):
    again = (EventName.SUBMITTING, "failed", {"attempt": 2, "source": "m.yaml:7", "price_usd": None})
    await write(path, *life("failed"), again)
    (one,) = await listed(path, State.UNKNOWN)
    assert (one.source, one.input, one.code) == ("m.yaml:7", {"prompt": "failed"}, None)


async def test_an_intent_without_inputs_is_listed_without_them(path):
    await write(path, (EventName.SUBMITTING, "odd", {"attempt": 1, "price_usd": None}))
    (one,) = await listed(path, State.UNKNOWN)
    assert (one.input, one.source) == (None, None)
    assert seen(path).unpriced_attempts == 1


DOWNLOAD = {"stage": Stage.DOWNLOAD, "message": "m"}


async def end_of(path, *events, **values):
    """What a run of ``values`` says at its end of a ledger that holds ``events``."""
    await write(path, *events, run=opening())
    snapshot = read_snapshot(path, QuickDisk())
    present = status_of(path, snapshot)
    fields = {name: getattr(present, name) for name in present.__struct_fields__}
    made = {"selected": 1, "elapsed_s": 1.0, "submitted_now": 1, "exit_code": 1, "pending": 0}
    own = {name: values.pop(name) for name in Summary.__struct_fields__ if name in values}
    done = Summary(**{**fields, **made, "run_dir": "out", **own})
    return list(summary_lines(done, snapshot, Given(("m.csv",), values)))


@pytest.mark.parametrize(
    ("attempt", "how", "told"),
    [
        (1, {"stage": Stage.GENERATE}, ["  to try it again, at its price: {} --retry-failed"]),
        (
            3,
            {"stage": Stage.GENERATE},
            ["  1 has had all of --max-attempts 3; to try it: {} --retry-failed --max-attempts 4"],
        ),
        (1, {**DOWNLOAD, "code": "not_media"}, ["  downloads are tried again, at no cost, by: {}"]),
        (
            1,
            {**DOWNLOAD, "code": "expired"},
            [
                "  downloads are tried again, at no cost, by: {}",
                "  to try it again, at its price: {} --retry-failed",
            ],
        ),
    ],
)
async def test_a_command_is_told_only_for_jobs_that_it_would_try(tmp_path, attempt, how, told):
    begun = [bought(job("x"), attempt=number)[0] for number in range(1, attempt + 1)]
    asked = [(EventName.SUBMITTED, "x", {"request_id": "r"})]
    if how["stage"] is Stage.DOWNLOAD:
        asked.append((EventName.COMPLETED, "x", {}))
    lines = await end_of(tmp_path, *begun, *asked, (EventName.FAILED, "x", how))
    assert lines[3:] == [line.format("batcher run m.csv") for line in told]


def failures(*names, **how):
    """The lines of jobs that failed while generating, in their first attempt unless ``how`` tells."""
    ends = {"stage": Stage.GENERATE, "message": "m"} | how
    return [
        event
        for name in names
        for event in (
            *life_of(name, (EventName.SUBMITTED, {"request_id": "r"})),
            (EventName.FAILED, name, ends),
        )
    ]


def life_of(name, *events, attempt=1):
    intents = [bought(job(name), attempt=number)[0] for number in range(1, attempt + 1)]
    return [*intents, *((event, name, fields) for event, fields in events)]


async def test_how_many_of_the_failed_a_command_tries_is_said(tmp_path):
    spent = life_of("c", (EventName.SUBMITTED, {"request_id": "r"}), attempt=3)
    events = [*failures("a", "b"), *spent, (EventName.FAILED, "c", {"stage": Stage.GENERATE})]
    lines = await end_of(tmp_path, *events)
    assert lines[-2:] == [
        "  to try 2 of them again, at their price: batcher run m.csv --retry-failed",
        "  1 has had all of --max-attempts 3; to try it too: batcher run m.csv --retry-failed --max-attempts 4",
    ]


async def test_failed_and_cancelled_jobs_are_told_apart(tmp_path):
    lines = await end_of(tmp_path / "1", *failures("a"))
    assert "1 failed:" in lines
    cancelled = [
        *life_of("b", (EventName.SUBMITTED, {"request_id": "r"})),
        (EventName.CANCELLED, "b", {}),
    ]
    assert "1 was cancelled:" in await end_of(tmp_path / "2", *cancelled)
    assert "2 failed or were cancelled:" in await end_of(tmp_path / "3", *failures("a"), *cancelled)


LISTED = "batcher status out --list {} > {}.jsonl && batcher run m.csv --only @{}.jsonl{}"
FAILED = LISTED.format("failed,cancelled", "failed", "failed", " --retry-failed")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"only": "*"}, "batcher run m.csv --only '*' --retry-failed"),
        ({"only": "a"}, FAILED),
        ({"only": "a", "newly": ("a", "b")}, "batcher run m.csv --only a --retry-failed"),
        ({"only": "@a.txt"}, FAILED),
        ({"only": "*", "limit": 2}, FAILED),
        ({"limit": 2, "newly": ("b", "a")}, "batcher run m.csv --limit 2 --retry-failed"),
    ],
)
async def test_the_command_reaches_all_failures_that_are_told_and_buys_nothing_else(
    tmp_path, values, told
):
    """Also those that the run's own selection left out: by a list of them, and not by the whole batch."""
    lines = await end_of(tmp_path, *failures("a", "b"), pending=9, **values)
    assert lines[-1] == f"  to try them again, at their price: {told}"


async def test_so_do_those_for_what_is_running_refused_unknown_or_to_be_downloaded(tmp_path):
    request = (EventName.SUBMITTED, {"request_id": "r"})
    events = [
        *life_of("running", request),
        *life_of("made", request, (EventName.COMPLETED, {})),
        *failures("refused", message="content policy violation"),
        *life_of("lost"),
        *life_of("stalled", request, (EventName.COMPLETED, {})),
        (EventName.FAILED, "stalled", DOWNLOAD),
    ]
    told = "\n".join(await end_of(tmp_path, *events, only="other"))
    assert f"Resume with: {LISTED.format(*['submitted'] * 3, '')}" in told
    assert f"Resume with: {LISTED.format(*['completed'] * 3, '')}" in told
    assert f"    {LISTED.format(*['refused'] * 3, ' --retry-refused')}" in told
    assert f"    {LISTED.format(*['unknown'] * 3, ' --retry-unknown')}" in told
    assert f"at no cost, by: {LISTED.format(*['failed'] * 3, '')}" in told


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ((2, 0, 1), "2 requests were cancelled and cost nothing; 1 was not: running, or ended already"),
        ((1, 0, 0), "1 request was cancelled and cost nothing"),
        ((3, 2, 0), "3 requests were cancelled, 2 of them while running: they may be charged"),
        ((0, 0, 2), "0 requests were cancelled; 2 were not: running, or ended already"),
    ],
)
async def test_what_became_of_requests_to_be_cancelled_is_told_with_what_it_may_cost(
    tmp_path, counts, told
):
    names = ("cancelled_now", "cancelled_running", "not_cancellable")
    lines = await end_of(tmp_path, *failures("a"), **dict(zip(names, counts, strict=True)))
    assert lines[1] == told


async def test_a_shard_tells_its_own_failures(tmp_path):
    names = [f"job-{number}" for number in range(8)]
    shard = Shard(2, 1)
    own = [name for name in names if shard.has(name)]
    lines = await end_of(tmp_path, *failures(*names), shard=shard)
    assert f"{len(own)} failed:" in lines
    assert lines[-1].endswith("batcher run m.csv --shard 1/2 --retry-failed")


async def test_a_selection_that_was_stopped_tells_what_it_left_and_what_it_left_out(tmp_path):
    stopped = {"pending": 9, "total": 10, "stopped": "no balance"}
    lines = await end_of(tmp_path, *failures("a"), only="a*", **stopped)
    assert (
        "9 jobs are pending, with those that --only left out. Resume this selection with: "
        "batcher run m.csv --only 'a*'. To run them all: batcher run m.csv" in lines
    )
    lines = await end_of(tmp_path, only="*", **stopped | {"total": 1})
    assert "9 jobs are pending. Resume with: batcher run m.csv --only '*'" in lines


async def test_a_status_tells_how_to_resume_what_the_last_run_chose_and_all(tmp_path):
    await write(tmp_path, *life_of("a", (EventName.DEFERRED, {"reason": "429"})), run=opening())
    status = status_of(tmp_path, read_snapshot(tmp_path, QuickDisk()))
    lines = list(status_lines(status, Given(("m.csv",), {"only": "a", "max_cost": 5.0})))
    assert lines[-2:] == [
        "  resume what --only chose with: batcher run m.csv --only a --max-cost 5",
        "  resume all with: batcher run m.csv --max-cost 5",
    ]


async def test_what_was_refused_at_submit_cost_nothing_and_not_less(tmp_path):
    events = []
    for number in range(3):
        name, job_id, intent = bought(job(f"j{number}"))[0]
        events.append((name, job_id, {**intent, "price_usd": 1.4}))
    events += [(EventName.FAILED, f"j{number}", ENDS["failed"][0][1]) for number in range(3)]
    lines = await end_of(tmp_path, *events)
    assert lines[0].endswith("cost $0.00")
    assert money(-0.00001) == "$0.00"
