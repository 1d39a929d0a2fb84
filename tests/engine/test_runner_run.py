"""Whole runs in virtual time: the cap, the order, the pace, every way to stop, and resuming."""

import asyncio
import itertools

import pytest

from batcher.engine.runner import Runner
from batcher.engine.stop import Breaker
from batcher.errors import (
    CredentialsError,
    DownloadRefused,
    InputError,
    InterruptedRunError,
    NotSent,
    OutcomeUnknown,
    Rejected,
    RunDirError,
    StoppedError,
    Unavailable,
    UnreachableError,
)
from batcher.jobs.lifecycle import EventName, Stage, State
from batcher.options.facts import Outage, Policy, Selection
from batcher.ports import CancelOutcome, Phase
from tests.support.engine import (
    Batch,
    after,
    answer,
    bought,
    for_ever,
    in_virtual_time,
    job,
    observer_that,
    some_jobs,
)

SIGNAL = InterruptedRunError("signal 2")
STOP = StoppedError("enough")


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


def now_s():
    return asyncio.get_running_loop().time()


def at(moment_s, what):
    """Do ``what`` to the runner, once ``moment_s`` seconds have passed."""

    async def meanwhile(runner: Runner):
        await asyncio.sleep(moment_s)
        what(runner)

    return meanwhile


def halt(runner):
    runner.control.halt(SIGNAL)


def drain(runner):
    runner.control.drain(STOP)


def abort(runner):
    runner.control.abort(SIGNAL)


# The way of a job


@in_virtual_time
async def test_every_job_is_submitted_once_watched_downloaded_and_done(batch):
    ended = await batch.run(some_jobs(20))
    assert ended.states == {"done": 20}
    assert (ended.error, ended.runner.view.done, ended.runner.view.submitted_now) == (None, 20, 20)
    assert sorted(batch.api.prompts) == [one.id for one in some_jobs(20)]
    assert batch.story("job-007") == ["submitting", "submitted", "completed", "done"]
    assert batch.media == [f"{one.id}.mp4" for one in some_jobs(20)]
    assert sorted(row["job"] for row in batch.rows) == [one.id for one in some_jobs(20)]


@in_virtual_time
async def test_a_run_of_a_finished_batch_asks_for_nothing_and_appends_nothing(batch):
    await batch.run(some_jobs(5))
    before, posts, polls = batch.ledger_bytes, len(batch.api.posts), len(batch.api.polls)
    ended = await batch.run(some_jobs(5))
    assert ended.runner.view.done == 5
    assert (batch.ledger_bytes, len(batch.api.posts), len(batch.api.polls)) == (before, posts, polls)


@in_virtual_time
async def test_several_outputs_are_numbered_and_recorded_as_one_job(batch):
    batch.api.results["cat"] = [answer(urls=("https://cdn/a.png", "https://cdn/b.png"))]
    ended = await batch.run([job("cat")])
    assert batch.media == ["cat.0.png", "cat.1.png"]
    assert [file.path for file in ended.records["cat"].files] == ["media/cat.0.png", "media/cat.1.png"]


@in_virtual_time
async def test_inputs_are_written_once_and_a_later_attempt_refers_to_them(batch):
    batch.api.posting["cat"] = [NotSent("dns"), NotSent("dns")]
    await batch.run([job("cat")])
    intents = batch.lines("submitting")
    assert ["input" in line for line in intents] == [True, False, False]
    assert {line["attempt"] for line in intents} == {1}


@in_virtual_time
async def test_an_empty_batch_ends_at_once(batch):
    ended = await batch.run([])
    assert (ended.states, ended.error) == ({}, None)


# The cap, the order, the rate


@pytest.mark.parametrize("cap", [1, 3, 8])
@in_virtual_time
async def test_the_cap_on_unfinished_requests_is_reached_and_never_exceeded(batch, cap):
    ended = await batch.run(some_jobs(30), concurrency=cap)
    assert ended.states == {"done": 30}
    assert batch.api.peak == cap


@in_virtual_time
async def test_a_slow_download_holds_no_slot(batch):
    batch.files.takes_s = 1000.0
    await batch.run(some_jobs(8), concurrency=1)
    assert max(at_s for at_s, _ in batch.api.posts) < 200


@in_virtual_time
async def test_jobs_are_admitted_in_the_order_of_the_manifest(batch):
    await batch.run(some_jobs(30), concurrency=4)
    assert batch.api.prompts == [one.id for one in some_jobs(30)]


async def running(batch, jobs):
    """Requests of an earlier run that are still unfinished."""
    batch.api.knows(*(f"old-{one.id}" for one in jobs))
    await batch.hold(*(line for one in jobs for line in bought(one, f"old-{one.id}")))


@in_virtual_time
async def test_requests_of_an_earlier_run_hold_their_slots_first(batch):
    jobs = some_jobs(10)
    await running(batch, jobs[5:8])
    ended = await batch.run(jobs, concurrency=4)
    assert ended.states == {"done": 10}
    assert batch.api.peak == 4
    assert not {one.id for one in jobs[5:8]} & set(batch.api.prompts)


@in_virtual_time
async def test_where_more_were_taken_over_than_the_cap_nothing_is_bought_until_they_are_fewer(batch):
    jobs = some_jobs(10)
    await running(batch, jobs[:6])
    for slow in jobs[:2]:
        batch.api.results[f"old-{slow.id}"] = [after(100, answer())]
    ended = await batch.run(jobs, concurrency=2)
    assert ended.states == {"done": 10}
    assert min(at_s for at_s, _ in batch.api.posts) >= 100
    assert batch.api.peak <= 2


@in_virtual_time
async def test_submissions_keep_to_the_rate(batch):
    await batch.run(some_jobs(20), concurrency=20, rate_per_s=2.0)
    times_s = [at_s for at_s, _ in batch.api.posts]
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(times_s)]
    assert min(gaps_s) == pytest.approx(0.5, abs=0.01)


@in_virtual_time
async def test_nothing_more_is_bought_while_downloads_lag_far_behind(batch):
    batch.api.takes_s, batch.files.takes_s = 0.0, 10_000.0
    bought_by_then = []

    async def look(runner):
        await asyncio.sleep(5_000)
        bought_by_then.append(len(batch.api.posts))

    ended = await batch.run(some_jobs(150), downloads=1, concurrency=4, meanwhile=look)
    assert 64 <= bought_by_then[0] <= 64 + 4
    assert ended.states == {"done": 150}


@in_virtual_time
async def test_a_fixed_interval_of_polls_is_kept(batch):
    batch.api.takes_s = 300.0
    await batch.run([job("cat")], poll_interval_s=30.0)
    assert len(batch.api.polls) == pytest.approx(10, abs=2)


# Stopping


@in_virtual_time
async def test_a_drain_submits_nothing_more_and_finishes_what_is_in_flight(batch):
    ended = await batch.run(some_jobs(30), concurrency=4, meanwhile=at(15, drain))
    assert ended.error is STOP
    assert ended.states == {"done": len(batch.api.posts)}
    assert 4 <= len(batch.api.posts) < 12
    assert max(at_s for at_s, _ in batch.api.posts) <= 15


@in_virtual_time
async def test_a_halt_lets_go_of_polls_and_the_next_run_takes_them_up(batch):
    batch.api.takes_s = 1000.0
    ended = await batch.run(some_jobs(6), concurrency=4, meanwhile=at(50, halt))
    assert now_s() == pytest.approx(50, abs=0.1)
    assert (ended.error, ended.states) == (SIGNAL, {"submitted": 4})
    again = await batch.run(some_jobs(6), concurrency=4)
    assert again.states == {"done": 6}
    assert sorted(batch.api.prompts) == [one.id for one in some_jobs(6)]


@in_virtual_time
async def test_a_halt_lets_go_of_downloads_and_the_next_run_fetches_again_without_a_post(batch):
    batch.files.takes_s = 1000.0
    ended = await batch.run(some_jobs(2), meanwhile=at(50, halt))
    assert ended.states == {"completed": 2}
    batch.files.takes_s = 0.0
    assert (await batch.run(some_jobs(2))).states == {"done": 2}
    assert len(batch.api.posts) == 2


@in_virtual_time
async def test_a_halt_waits_for_the_answer_of_a_post_under_way_and_for_nothing_after_it(batch):
    batch.api.post_takes_s = 3.0
    ended = await batch.run(some_jobs(20), concurrency=4, meanwhile=at(1, halt))
    assert ended.states == {"submitted": 4}
    assert now_s() == pytest.approx(3, abs=0.1)


@in_virtual_time
async def test_a_post_that_is_not_answered_within_the_grace_stays_unknown_and_is_not_repeated(batch):
    batch.api.post_takes_s = 60.0
    ended = await batch.run(some_jobs(1), grace_s=5.0, meanwhile=at(1, halt))
    assert ended.states == {"unknown": 1}
    assert now_s() <= 6
    again = await batch.run(some_jobs(1))
    assert again.states == {"unknown": 1}
    assert (len(batch.api.posts), again.runner.view.unknown) == (1, 1)


@in_virtual_time
async def test_an_abort_waits_for_nothing(batch):
    batch.api.post_takes_s = 3.0
    ended = await batch.run(some_jobs(1), meanwhile=at(1, abort))
    assert ended.states == {"unknown": 1}
    assert now_s() == pytest.approx(1, abs=0.1)


@in_virtual_time
async def test_an_abort_cuts_the_grace_of_a_halt_short(batch):
    batch.api.post_takes_s = 60.0

    async def twice(runner):
        await at(1, halt)(runner)
        await at(1, abort)(runner)

    ended = await batch.run(some_jobs(1), grace_s=500.0, meanwhile=twice)
    assert ended.states == {"unknown": 1}
    assert now_s() == pytest.approx(2, abs=0.1)


@in_virtual_time
async def test_interrupted_with_cancel_what_is_still_queued_becomes_pending_again(batch):
    batch.api.takes_s = 1000.0
    batch.api.cancels["r1-job-001"] = [CancelOutcome.NOT_CANCELLABLE]
    batch.api.cancels["r1-job-002"] = [Unavailable("502")]
    ended = await batch.run(some_jobs(3), cancel_on_interrupt=True, meanwhile=at(50, halt))
    assert ended.states == {"pending": 1, "submitted": 2}
    assert batch.story("job-000")[-1] == "deferred"
    assert len(batch.api.cancelled) == 3
    assert ended.spent_usd == pytest.approx(2.0)


@in_virtual_time
async def test_cancelling_takes_no_longer_than_the_grace(batch):
    batch.api.takes_s = 1000.0
    batch.api.cancels["r1-job-000"] = [after(600, CancelOutcome.CANCELLED)]
    ended = await batch.run(some_jobs(1), cancel_on_interrupt=True, grace_s=5.0, meanwhile=at(50, halt))
    assert ended.states == {"submitted": 1}
    assert now_s() <= 55


@in_virtual_time
async def test_a_cancel_touches_only_jobs_of_this_runs_selection_and_manifest(batch):
    batch.api.takes_s = 1000.0
    await batch.run(some_jobs(4), meanwhile=at(50, halt))
    batch.selection = Selection(only="job-00[01]")
    ended = await batch.run(some_jobs(4), cancel_on_interrupt=True, meanwhile=at(10, halt))
    assert ended.states == {"pending": 2, "submitted": 2}
    assert sorted(batch.api.cancelled) == ["r1-job-000", "r1-job-001"]
    batch.selection = Selection()
    ended = await batch.run(some_jobs(3), cancel_on_interrupt=True, meanwhile=at(10, halt))
    assert "r1-job-003" not in batch.api.cancelled, "it left the manifest"
    assert ended.records["job-003"].state == "submitted"


@in_virtual_time
async def test_a_job_whose_cancel_was_asked_for_by_a_run_that_died_is_pending(batch):
    one, other = some_jobs(2)
    cancelling = (EventName.CANCELLING, one.id, {})
    await batch.hold(*bought(one, f"r1-{one.id}"), cancelling, *bought(other, f"r1-{other.id}"))
    for each in (one, other):
        batch.api.results[f"r1-{each.id}"] = for_ever(answer(Phase.CANCELLED))
    halted = at(1.5, lambda runner: runner.control.drain(StoppedError("enough")))
    ended = await batch.run([one, other], meanwhile=halted)
    assert batch.story(one.id)[:4] == ["submitting", "submitted", "cancelling", "deferred"]
    assert ended.records[other.id].state == "cancelled"


@in_virtual_time
async def test_that_a_cancel_is_asked_for_is_on_disk_before_it_is(batch):
    batch.api.takes_s = 1000.0
    seen = []

    async def look():
        seen.append(batch.story("job-000")[-1])
        return CancelOutcome.CANCELLED

    batch.api.cancels["r1-job-000"] = [look]
    await batch.run(some_jobs(1), cancel_on_interrupt=True, meanwhile=at(50, halt))
    assert seen == ["cancelling"]


@pytest.mark.parametrize("error", [UnreachableError("outage"), RunDirError("full")])
@in_virtual_time
async def test_only_an_interrupt_cancels(batch, error):
    batch.api.takes_s = 1000.0
    halted = at(50, lambda runner: runner.control.halt(error))
    await batch.run(some_jobs(2), cancel_on_interrupt=True, meanwhile=halted)
    assert batch.api.cancelled == []


@in_virtual_time
async def test_nothing_to_cancel_is_fine(batch):
    ended = await batch.run([], cancel_on_interrupt=True, meanwhile=at(0, halt))
    assert ended.states == {}


# Errors in one lane


@in_virtual_time
async def test_what_goes_wrong_with_one_job_does_not_touch_the_others(batch):
    batch.api.posting["job-001"] = [Rejected("422 bad input")]
    batch.api.posting["job-002"] = [OutcomeUnknown("504")]
    batch.api.results["job-003"] = [answer(Phase.FAILED, message="unsafe", error_code=7)]
    batch.api.results["job-004"] = [answer(Phase.CANCELLED)]
    batch.files.scripts["https://cdn/r1-job-005.mp4"] = [DownloadRefused("HTML", "not_media")]
    ended = await batch.run(some_jobs(10))
    assert ended.states == {"done": 5, "failed": 3, "unknown": 1, "cancelled": 1}
    assert ended.error is None
    view = ended.runner.view
    assert (view.done, view.failed, view.unknown) == (5, 4, 1)


@in_virtual_time
async def test_a_full_disk_in_the_download_lane_stops_the_run_in_good_order(batch):
    batch.api.post_takes_s = 3.0
    batch.files.scripts["https://cdn/old-job-000.mp4"] = [RunDirError("no space left")]
    await running(batch, some_jobs(1))
    batch.api.requests["old-job-000"].at_s = -100
    ended = await batch.run(some_jobs(4))
    assert ended.error.exit_code == 73
    assert ended.states == {"completed": 1, "submitted": 3}, (
        "the POSTs under way were awaited and recorded"
    )


@in_virtual_time
async def test_an_error_of_the_system_is_named_with_the_run_directory(batch):
    batch.files.scripts["https://cdn/r1-job-000.mp4"] = [OSError(5, "Input/output error")]
    ended = await batch.run(some_jobs(1))
    assert isinstance(ended.error, RunDirError)
    assert str(ended.error) == f"{batch.path}: Input/output error"


@in_virtual_time
async def test_a_manifest_that_changes_under_the_run_stops_buying_and_finishes_the_rest(
    batch, monkeypatch
):
    change = InputError("the manifest changed")

    def work(self, jobs, ledger):
        yield from list(whole(self, jobs, ledger))[:2]
        raise change

    whole = Batch._work
    monkeypatch.setattr(Batch, "_work", work)
    ended = await batch.run(some_jobs(5), concurrency=1)
    assert ended.error is None, "what was planned and can't be read any more stays pending"
    assert ended.states == {"done": 2}


@in_virtual_time
async def test_too_many_failures_stop_the_buying(batch):
    for one in some_jobs(30):
        batch.api.results[one.id] = for_ever(answer(Phase.FAILED))
    batch.breaker = Breaker(3)
    ended = await batch.run(some_jobs(30), concurrency=2)
    assert ended.error.exit_code == 3
    assert "--max-failures 3" in str(ended.error)
    assert 4 <= len(batch.api.posts) <= 6


# Money


@in_virtual_time
async def test_what_does_not_fit_into_the_budget_stays_pending(batch):
    batch.max_cost_usd = 3.0
    ended = await batch.run(some_jobs(10))
    assert ended.states == {"done": 3}
    assert ended.error.exit_code == 3
    assert str(ended.error) == "7 jobs did not fit into --max-cost $3.00: pending until that is higher"


@in_virtual_time
async def test_a_cap_of_fractions_of_a_cent_is_told_as_it_is(batch):
    batch.max_cost_usd, told = 0.0035, []
    batch.price_of = lambda job: 0.0015
    batch.observer = observer_that(warn=told.append)
    ended = await batch.run(some_jobs(3))
    assert str(ended.error) == "1 job did not fit into --max-cost $0.0035: pending until that is higher"
    assert told == ["$0.003 of --max-cost $0.0035 is spent (86 %)"]


@in_virtual_time
async def test_failed_and_unknown_attempts_of_all_runs_count_towards_the_budget(batch):
    batch.api.results["job-000"] = [answer(Phase.FAILED)]
    batch.api.posting["job-001"] = [OutcomeUnknown("504")]
    batch.api.posting["job-002"] = [Rejected("422")]
    await batch.run(some_jobs(3))
    batch.max_cost_usd = 4.0
    ended = await batch.run(some_jobs(10))
    assert ended.states == {"failed": 2, "unknown": 1, "done": 2}


@in_virtual_time
async def test_a_reported_cost_makes_room_or_takes_it(batch):
    batch.max_cost_usd = 3.0
    batch.api.results["job-000"] = [answer(cost_usd=2.5)]
    ended = await batch.run(some_jobs(5), concurrency=1)
    assert ended.states == {"done": 1}
    assert ended.spent_usd == pytest.approx(2.5)


@in_virtual_time
async def test_without_a_price_nothing_fits_into_a_budget(batch):
    batch.max_cost_usd, batch.price_of = 3.0, lambda one: None
    ended = await batch.run(some_jobs(2))
    assert (ended.states, batch.api.posts) == ({}, [])


# Outages and refusals of polls


@in_virtual_time
async def test_an_api_that_never_answers_ends_the_run_after_a_minute(batch):
    for one in some_jobs(4):
        batch.api.posting[one.id] = for_ever(NotSent("dns"))
    ended = await batch.run(some_jobs(4))
    assert isinstance(ended.error, UnreachableError)
    assert 60 <= now_s() <= 75
    assert ended.states == {"pending": 4}


@in_virtual_time
async def test_an_outage_later_on_is_waited_out_for_ten_minutes(batch):
    batch.api.results["cat"] = for_ever(Unavailable("502"))
    ended = await batch.run([job("cat")])
    assert isinstance(ended.error, UnreachableError)
    assert 600 <= now_s() <= 650
    assert ended.states == {"submitted": 1}


@in_virtual_time
async def test_a_request_that_vanishes_before_it_was_completed_has_failed(batch):
    from batcher.errors import NotFound

    batch.api.results["cat"] = for_ever(NotFound("no such request"))
    ended = await batch.run([job("cat")])
    record = ended.records["cat"]
    assert (record.state, record.stage, record.code) == (State.FAILED, Stage.GENERATE, "not_found")


@in_virtual_time
async def test_a_job_that_takes_too_long_is_left_running_and_taken_up_by_the_next_run(batch):
    batch.api.takes_s = 500.0
    ended = await batch.run([job("cat")], job_timeout_s=100.0)
    assert (ended.states, ended.runner.view.timed_out) == ({"submitted": 1}, ["cat"])
    assert now_s() <= 130
    assert (await batch.run([job("cat")])).states == {"done": 1}
    assert len(batch.api.posts) == 1


@in_virtual_time
async def test_a_request_that_outlasts_its_watch_keeps_its_slot_so_that_the_cap_holds(batch):
    batch.api.takes_s = 500.0
    ended = await batch.run([job(f"j{n}") for n in range(4)], concurrency=2, job_timeout_s=100.0)
    assert len(batch.api.posts) == 2
    assert ended.runner.control.error.exit_code == 1
    assert "--job-timeout" in str(ended.runner.control.error)


@in_virtual_time
async def test_a_token_that_is_refused_while_polling_stops_the_buying(batch):
    from batcher.errors import AuthRefused

    for one in some_jobs(2):
        batch.api.results[one.id] = for_ever(AuthRefused("401"))
    ended = await batch.run(some_jobs(6), concurrency=2)
    assert isinstance(ended.error, CredentialsError)
    assert ended.states == {"submitted": 2}


# The failed and the cancelled, once more


RETRY = Policy(retry_failed=True)


async def failed(batch, code=500):
    batch.api.results["cat"] = [answer(Phase.FAILED, error_code=code, message="broken")]
    ended = await batch.run([job("cat")])
    assert ended.records["cat"].code == code
    batch.policy = RETRY


@in_virtual_time
async def test_a_failed_job_is_left_alone_without_the_users_word(batch):
    await failed(batch)
    batch.policy = Policy()
    before = batch.ledger_bytes
    ended = await batch.run([job("cat")])
    assert (ended.states, ended.runner.view.failed) == ({"failed": 1}, 1)
    assert batch.ledger_bytes == before


@in_virtual_time
async def test_a_failed_request_that_turns_out_well_is_not_bought_again(batch):
    await failed(batch)
    ended = await batch.run([job("cat")])
    assert ended.states == {"done": 1}
    assert len(batch.api.posts) == 1


@in_virtual_time
async def test_a_failed_request_that_runs_after_all_is_watched(batch):
    await failed(batch)
    batch.api.results["cat"] = [answer(Phase.RUNNING), answer(Phase.RUNNING), answer()]
    ended = await batch.run([job("cat")])
    assert (ended.states, len(batch.api.posts)) == ({"done": 1}, 1)


@pytest.mark.parametrize("last_word", [answer(Phase.FAILED), answer(Phase.CANCELLED), answer(urls=())])
@in_virtual_time
async def test_after_a_final_no_a_failed_job_is_bought_again(batch, last_word):
    await failed(batch)
    batch.api.results["r1-cat"] = for_ever(last_word)
    ended = await batch.run([job("cat")])
    assert (ended.states, ended.records["cat"].attempt) == ({"done": 1}, 2)
    assert len(batch.api.posts) == 2


@in_virtual_time
async def test_a_request_that_is_gone_is_a_final_no(batch):
    from batcher.errors import NotFound

    await failed(batch)
    batch.api.results["r1-cat"] = for_ever(NotFound("404001"))
    ended = await batch.run([job("cat")])
    assert (ended.states, len(batch.api.posts)) == ({"done": 1}, 2)


@in_virtual_time
async def test_an_error_while_asking_is_no_final_no(batch):
    await failed(batch)
    batch.api.results["r1-cat"] = for_ever(Unavailable("502"))
    ended = await batch.run([job("cat")], outage=Outage.of(100.0))
    assert (ended.states, len(batch.api.posts)) == ({"failed": 1}, 1)


@in_virtual_time
async def test_no_answer_at_all_is_no_final_no_either(batch):
    """Only this request can't be asked for: the API answers others, so the run goes on."""
    await failed(batch)
    batch.api.takes_s = 600.0
    batch.api.results["r1-cat"] = for_ever(Unavailable("502"))
    ended = await batch.run([job("cat"), job("dog")], outage=Outage.of(100.0))
    assert ended.error is None
    assert ended.states == {"failed": 1, "done": 1}
    assert batch.api.prompts == ["cat", "dog"]


@in_virtual_time
async def test_a_job_whose_post_was_rejected_is_bought_again_without_asking(batch):
    batch.api.posting["cat"] = [Rejected("422")]
    await batch.run([job("cat")])
    batch.policy = RETRY
    ended = await batch.run([job("cat")])
    assert (ended.states, ended.records["cat"].attempt) == ({"done": 1}, 2)


@in_virtual_time
async def test_an_old_attempt_without_a_request_has_nothing_to_be_asked_for(batch):
    (intent, _) = bought(job("cat"))
    lost = (EventName.FAILED, "cat", {"stage": Stage.GENERATE, "message": "settled by hand"})
    await batch.hold(intent, lost)
    batch.policy = RETRY
    ended = await batch.run([job("cat")])
    assert (ended.states, len(batch.api.posts)) == ({"done": 1}, 1)


@in_virtual_time
async def test_asking_again_stops_with_the_run(batch):
    await failed(batch)
    batch.api.results["r1-cat"] = [after(30, answer(Phase.FAILED))]
    ended = await batch.run([job("cat")], meanwhile=at(5, drain))
    assert (ended.states, len(batch.api.posts)) == ({"failed": 1}, 1)


# Redo


@in_virtual_time
async def test_redo_buys_again_and_moves_the_old_files_out_of_the_dataset(batch):
    await batch.run(some_jobs(2))
    batch.policy, batch.selection = Policy(redo=True), Selection(only="job-001")
    ended = await batch.run(some_jobs(2))
    assert ended.records["job-001"].attempt == 2
    assert batch.media == ["job-000.mp4", "job-001.mp4"]
    assert batch.superseded == ["job-001.attempt-1.mp4"]
    assert sorted((row["job"], row["attempt"]) for row in batch.rows) == [("job-000", 1), ("job-001", 2)]


@in_virtual_time
async def test_redo_that_is_refused_for_the_whole_run_tells_the_truth_about_the_files(batch):
    from batcher.errors import BalanceExhausted

    await batch.run([job("cat")])
    batch.policy = Policy(redo=True)
    batch.api.posting["cat"] = [BalanceExhausted("402")]
    ended = await batch.run([job("cat")])
    assert ended.states == {"pending": 1}
    assert (batch.media, batch.superseded, batch.rows) == ([], ["cat.attempt-1.mp4"], [])


@in_virtual_time
async def test_redo_that_has_no_room_in_the_budget_leaves_everything_as_it_is(batch):
    await batch.run([job("cat")])
    batch.policy, batch.max_cost_usd = Policy(redo=True), 1.0
    ended = await batch.run([job("cat")])
    assert ended.states == {"done": 1}
    assert (batch.media, batch.superseded, len(batch.rows)) == (["cat.mp4"], [], 1)


# Leavers


@in_virtual_time
async def test_what_left_the_manifest_is_still_fetched_and_counts_for_nothing(batch):
    batch.api.takes_s = 1000.0
    await batch.run(some_jobs(3), meanwhile=at(50, halt))
    ended = await batch.run(some_jobs(1))
    assert ended.states == {"done": 3}
    assert ended.runner.view.done == 1
    assert sorted((row["job"], row["orphaned"]) for row in batch.rows) == [
        ("job-000", False),
        ("job-001", True),
        ("job-002", True),
    ]


@in_virtual_time
async def test_a_finished_request_of_a_leaver_is_fetched(batch):
    old = job("old")
    await batch.hold(*bought(old), (EventName.COMPLETED, "old", {}))
    batch.api.knows("r1", age_s=100)
    ended = await batch.run([job("cat")])
    assert ended.states == {"done": 2}
    assert ended.runner.view.done == 1


@in_virtual_time
async def test_a_million_checks_let_others_breathe(batch):
    jobs = some_jobs(600)
    await batch.run(jobs[:0])
    files = {"files": ()}
    await batch.hold(
        *(
            line
            for one in jobs
            for line in [
                *bought(one),
                (EventName.COMPLETED, one.id, {}),
                (EventName.DONE, one.id, files),
            ]
        )
    )
    ended = await batch.run(jobs)
    assert ended.runner.view.done == 600


@pytest.mark.parametrize(
    "early", [answer(urls=()), answer(cost_is_odd=True), answer(Phase.UNRECOGNISED)]
)
@in_virtual_time
async def test_an_end_that_is_hard_to_believe_is_asked_about_again(batch, early):
    batch.api.results["cat"] = [early, early]
    ended = await batch.run([job("cat")])
    assert ended.states == {"done": 1}
    assert len(batch.api.polls) >= 3


@in_virtual_time
async def test_an_end_without_outputs_is_believed_after_a_while(batch):
    batch.api.results["cat"] = for_ever(answer(urls=()))
    ended = await batch.run([job("cat")])
    assert (ended.states, ended.records["cat"].code) == ({"failed": 1}, "no_output")
    times_s = [at_s for at_s, _ in batch.api.polls]
    assert len(times_s) >= 5
    assert times_s[-1] - times_s[0] >= 20


@in_virtual_time
async def test_an_odd_cost_holds_up_a_result_for_seconds_only(batch):
    batch.api.results["cat"] = for_ever(answer(cost_is_odd=True))
    ended = await batch.run([job("cat")])
    assert ended.states == {"done": 1}
    assert len(batch.api.polls) == 3


@in_virtual_time
async def test_a_cancelled_request_is_asked_about_before_it_is_bought_again(batch):
    batch.api.results["cat"] = [answer(Phase.CANCELLED)]
    await batch.run([job("cat")])
    batch.api.results["r1-cat"] = [answer()]
    batch.policy = RETRY
    ended = await batch.run([job("cat")])
    assert (ended.states, len(batch.api.posts)) == ({"done": 1}, 1)
