"""``--retries``: failed generations that may pass are bought again in the same run; refusals never."""

import asyncio
import re

import pytest

from batcher.app.asked import options_from
from batcher.cli.read_commands import JobFilter
from batcher.cli.summary_view import status_lines
from batcher.engine.stop import Breaker
from batcher.errors import (
    BalanceExhausted,
    InterruptedRunError,
    NotFound,
    OutcomeUnknown,
    Rejected,
    StoppedError,
    Unavailable,
    UsageError,
)
from batcher.jobs.lifecycle import EventName, Stage, State
from batcher.jobs.refusals import is_refusal
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.summary import status_of
from batcher.options.facts import Policy
from batcher.options.given import Given
from batcher.ports import Phase
from tests.support.engine import (
    PRICE_USD,
    Batch,
    after,
    answer,
    bought,
    for_ever,
    in_virtual_time,
    job,
    some_jobs,
)

BROKEN = answer(Phase.FAILED, error_code=500001, message="internal error")
REFUSED = answer(Phase.FAILED, message="The prompt was refused by the content filter")
TWICE = Policy(retries=2)


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path / "run")


def fails(batch, name, times, *, said=BROKEN, first=1):
    """The first attempts of a job fail; each is asked about once more before the next is bought."""
    for attempt in range(first, first + times):
        batch.api.results[f"r{attempt}-{name}"] = for_ever(said)


def attempts(batch, job_id):
    """Attempt and retry of each intent."""
    lines = batch.lines("submitting")
    return [(x["attempt"], x.get("retry", 0)) for x in lines if x["job"] == job_id]


@in_virtual_time
async def test_a_generation_that_failed_is_bought_again_and_every_attempt_counts(batch):
    batch.policy = TWICE
    fails(batch, "cat", 2)
    ended = await batch.run([job("cat")])
    assert (ended.states, ended.error) == ({"done": 1}, None)
    assert attempts(batch, "cat") == [(1, 0), (2, 1), (3, 2)]
    assert ended.spent_usd == pytest.approx(3 * PRICE_USD)
    assert (ended.runner.view.done, ended.runner.view.failed) == (1, 0)


@in_virtual_time
async def test_without_retries_a_failure_stays(batch):
    fails(batch, "cat", 1)
    ended = await batch.run([job("cat")])
    assert (ended.states, len(batch.api.posts)) == ({"failed": 1}, 1)


@in_virtual_time
async def test_after_the_last_retry_the_job_stays_failed_and_a_later_run_leaves_it(batch):
    batch.policy = TWICE
    fails(batch, "cat", 9)
    for _ in range(2):
        ended = await batch.run([job("cat")])
        assert (ended.states, len(batch.api.posts)) == ({"failed": 1}, 3)
        assert ended.runner.view.failed == 1


@in_virtual_time
async def test_max_attempts_holds_for_retries(batch):
    batch.policy = Policy(retries=5, max_attempts=2)
    fails(batch, "cat", 9)
    assert (await batch.run([job("cat")])).states == {"failed": 1}
    assert len(batch.api.posts) == 2


@pytest.mark.parametrize("said", [REFUSED, answer(Phase.FAILED, error_code=422001, message="duration")])
@in_virtual_time
async def test_a_refusal_is_not_bought_again_unless_refusals_are_asked_for(batch, said):
    batch.policy = TWICE
    fails(batch, "cat", 1, said=said)
    for policy in (TWICE, Policy(retry_failed=True)):
        batch.policy = policy
        ended = await batch.run([job("cat")])
        assert (ended.states, len(batch.api.posts)) == ({"failed": 1}, 1)
        assert ended.records["cat"].is_refused
    batch.policy = Policy(retry_refused=True)
    assert (await batch.run([job("cat")])).states == {"done": 1}


@in_virtual_time
async def test_refusals_alone_are_bought_again_by_retry_refused(batch):
    fails(batch, "cat", 1)
    fails(batch, "dog", 1, said=REFUSED)
    await batch.run([job("cat"), job("dog")])
    batch.policy = Policy(retry_refused=True)
    ended = await batch.run([job("cat"), job("dog")])
    assert (ended.ids(State.FAILED), ended.ids(State.DONE)) == (["cat"], ["dog"])


@in_virtual_time
async def test_what_was_refused_at_submission_or_is_unknown_or_gone_is_not_retried(batch):
    batch.policy = TWICE
    batch.api.posting["cat"] = [Rejected("HTTP 405: no", http_status=405)]
    batch.api.posting["dog"] = [OutcomeUnknown("504", http_status=504)]
    batch.api.results["fox"] = for_ever(NotFound("404"))
    ended = await batch.run([job("cat"), job("dog"), job("fox")])
    assert ended.states == {"failed": 2, "unknown": 1}
    assert len(batch.api.posts) == 3


@in_virtual_time
async def test_an_old_request_that_turned_out_well_is_not_bought_again(batch):
    batch.policy = TWICE
    batch.api.results["r1-cat"] = [BROKEN]
    ended = await batch.run([job("cat")])
    assert (ended.states, len(batch.api.posts)) == ({"done": 1}, 1)


@in_virtual_time
async def test_a_retry_waits_a_moment_and_holds_no_slot_meanwhile(batch):
    batch.policy = TWICE
    fails(batch, "job-000", 1)
    await batch.run(some_jobs(3), concurrency=1)
    times = [at_s for at_s, prompt in batch.api.posts if prompt == "job-000"]
    assert batch.api.prompts[:2] == ["job-000", "job-001"]
    assert times[1] - times[0] > 1
    assert batch.api.peak == 1


# Caps


@in_virtual_time
async def test_a_retry_that_the_cap_has_no_room_for_is_left_to_a_run_with_more_room(batch):
    batch.policy, batch.max_cost_usd = TWICE, 2.5
    fails(batch, "cat", 2)
    ended = await batch.run([job("cat")])
    assert isinstance(ended.error, StoppedError)
    assert (ended.states, len(batch.api.posts), ended.runner.view.failed) == ({"failed": 1}, 2, 1)
    batch.max_cost_usd = 3.0
    ended = await batch.run([job("cat")])
    assert (ended.states, ended.spent_usd) == ({"done": 1}, pytest.approx(3.0))


@in_virtual_time
async def test_a_retry_of_an_earlier_run_without_room_is_asked_about_once_and_counts_as_failed(batch):
    failed = (EventName.FAILED, "cat", {**FAILED_DUE, "cost_usd": 1.0})
    await batch.hold(*bought(job("cat"), "r1-cat"), failed)
    batch.policy, batch.max_cost_usd = TWICE, 1.5
    fails(batch, "cat", 1)
    ended = await batch.run([job("cat")])
    assert (ended.states, ended.runner.view.failed) == ({"failed": 1}, 1)
    assert len(batch.api.polls) == 1
    batch.max_cost_usd = 3.0
    batch.api.results["r1-cat"] = [*[Unavailable("502")] * 2, BROKEN]
    batch.api.posting["cat"] = ["r2-cat"]
    ended = await batch.run([job("cat")])
    assert (ended.states, ended.runner.view.failed) == ({"done": 1}, 0)


@in_virtual_time
async def test_each_failed_attempt_counts_for_max_failures(batch):
    batch.policy, batch.breaker = TWICE, Breaker(limit=1)
    fails(batch, "cat", 9)
    ended = await batch.run([job("cat")])
    assert isinstance(ended.error, StoppedError)
    assert len(batch.api.posts) == 2


@in_virtual_time
async def test_a_run_that_stops_buys_no_retry(batch):
    batch.policy = TWICE
    fails(batch, "cat", 9)
    batch.api.posting["dog"] = [BalanceExhausted("402")]
    ended = await batch.run([job("cat"), job("dog")])
    assert isinstance(ended.error, StoppedError)
    assert batch.api.prompts.count("cat") == 1
    assert ended.records["cat"].state is State.FAILED


async def with_a_canary(batch, takes_s, said):
    """``old`` is a request of an earlier run that fails while the canary runs for ``takes_s`` seconds."""
    await batch.hold(*bought(job("old"), "r9-old"))
    batch.api.knows("r9-old", age_s=100.0)
    batch.api.results["r9-old"] = for_ever(BROKEN)
    batch.api.results["canary"] = [after(takes_s, said)]
    batch.policy, batch.canary = TWICE, frozenset({"canary"})
    return await batch.run([job("canary"), job("old"), *some_jobs(2)])


@in_virtual_time
async def test_a_retry_of_an_earlier_request_waits_for_the_canary(batch):
    ended = await with_a_canary(batch, 100.0, answer())
    assert ended.states == {"done": 4}
    at_s = {prompt: at_s for at_s, prompt in batch.api.posts}
    assert at_s["old"] > at_s["canary"] + 100.0


@in_virtual_time
async def test_a_canary_that_fails_stops_retries_of_earlier_requests_too(batch):
    ended = await with_a_canary(batch, 100.0, REFUSED)
    assert isinstance(ended.error, StoppedError)
    assert batch.api.prompts == ["canary"]


@in_virtual_time
async def test_the_canary_is_judged_after_its_retries(batch):
    batch.policy, batch.canary = TWICE, frozenset({"job-000"})
    fails(batch, "job-000", 2)
    ended = await batch.run(some_jobs(3))
    assert (ended.states, ended.error) == ({"done": 3}, None)
    assert batch.api.prompts[:3] == ["job-000"] * 3


# Over several runs


def halts(when):
    """The run is interrupted once ``when`` holds."""

    async def meanwhile(runner):
        while not when():
            await asyncio.sleep(0.01)
        runner.control.halt(InterruptedRunError("interrupted"))

    return meanwhile


@in_virtual_time
async def test_a_retry_that_an_interrupted_run_owed_is_bought_by_the_next_with_the_same_option(batch):
    batch.policy = TWICE
    fails(batch, "cat", 9)
    stop = halts(lambda: batch.path.joinpath("ledger.jsonl").exists() and batch.lines("failed"))
    ended = await batch.run([job("cat")], meanwhile=stop)
    assert (ended.states, len(batch.api.posts)) == ({"failed": 1}, 1)
    batch.policy = Policy()
    assert (await batch.run([job("cat")])).states == {"failed": 1}
    assert len(batch.api.posts) == 1
    batch.policy = TWICE
    await batch.run([job("cat")])
    assert attempts(batch, "cat") == [(1, 0), (2, 1), (3, 2)]


@in_virtual_time
async def test_a_request_of_a_dead_run_goes_on_with_the_count_that_the_ledger_has(batch):
    lines = [*bought(job("cat"), "r1-cat"), (EventName.FAILED, "cat", FAILED_DUE), *SECOND]
    await batch.hold(*lines)
    batch.api.knows("r2-cat")
    batch.policy = TWICE
    batch.api.results["r2-cat"] = for_ever(BROKEN)
    fails(batch, "cat", 1, first=1)
    batch.api.results["r1-cat"] = for_ever(BROKEN)
    batch.api.posting["cat"] = ["r3-cat"]
    batch.api.results["r3-cat"] = for_ever(BROKEN)
    ended = await batch.run([job("cat")])
    assert ended.states == {"failed": 1}
    assert attempts(batch, "cat") == [(1, 0), (2, 1), (3, 2)]


FAILED_DUE = {"stage": Stage.GENERATE, "code": 500001, "message": "internal error", "retry_due": True}
SECOND = [
    (
        EventName.SUBMITTING,
        "cat",
        {
            "attempt": 2,
            "model": job("cat").model,
            "retry": 1,
            "digest": job("cat").digest,
            "price_usd": PRICE_USD,
        },
    ),
    (EventName.SUBMITTED, "cat", {"request_id": "r2-cat"}),
]


@in_virtual_time
async def test_a_request_that_failed_before_its_row_was_read_is_retried_too(batch):
    """Admission is slower than the request's end."""
    jobs = [*some_jobs(4), job("cat")]
    await batch.hold(*bought(job("cat"), "r9-cat"))
    batch.api.knows("r9-cat", age_s=100.0)
    batch.api.results["r9-cat"] = for_ever(BROKEN)
    batch.policy = TWICE
    ended = await batch.run(jobs, concurrency=1)
    assert ended.states == {"done": 5}
    assert attempts(batch, "cat") == [(1, 0), (2, 1)]


@in_virtual_time
async def test_the_users_word_begins_a_new_count(batch):
    batch.policy = Policy(retries=1, max_attempts=9)
    fails(batch, "cat", 9)
    await batch.run([job("cat")])
    batch.policy = Policy(retries=1, max_attempts=9, retry_failed=True)
    await batch.run([job("cat")])
    assert attempts(batch, "cat") == [(1, 0), (2, 1), (3, 0), (4, 1)]


# Told apart


@in_virtual_time
async def test_refusals_are_counted_and_listed_apart(batch):
    fails(batch, "cat", 1)
    fails(batch, "dog", 1, said=REFUSED)
    batch.api.posting["fox"] = [Rejected("HTTP 422: no", http_status=422)]
    await batch.run([job("cat"), job("dog"), job("fox"), job("owl")])
    snapshot = read_snapshot(batch.path, batch.disk)
    status = status_of(batch.path, snapshot)
    assert (status.failed, status.refused, status.done) == (3, 2, 1)
    shown = "\n".join(status_lines(status))
    assert re.search(r"2 +of the failed were refused .*: batcher status .* --list refused", shown)
    listed = {one.job: one.refused for one in JobFilter("failed").of(snapshot)}
    assert listed == {"cat": False, "dog": True, "fox": True}
    assert {one.job for one in JobFilter("refused,done").of(snapshot)} == {"dog", "fox", "owl"}
    with pytest.raises(UsageError, match=r"'bad' is not a state; the states are pending, .*, refused"):
        list(JobFilter("failed,bad").of(snapshot))


def test_more_retries_than_attempts_are_a_mistake_with_its_remedy():
    with pytest.raises(UsageError, match="add --max-attempts 4"):
        options_from(Given(("m.yaml",), {"retries": 3}))
    assert options_from(Given(("m.yaml",), {"retries": 3, "max_attempts": 4})).policy.retries == 3
    assert options_from(Given(("m.yaml",), {"retries": 0, "max_attempts": 1})).policy.retries == 0


# Which failures are refusals


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (422001, "anything at all"),
        (422, None),
        (400, "HTTP 400: duration must be 5 or 10"),
        (413, None),
        ("failed", "The prompt was refused by the content filter"),
        ("failed", "NSFW content"),
        ("content_policy_violation", "blocked"),
        (500001, "Your request was flagged by our moderation system"),
        ("failed", "Failure to pass the risk control system"),
        ("failed", "The prompt contains sensitive words"),
        ("failed", "Image is too small: at least 300 px"),
        ("failed", "Invalid image: can't be decoded"),
        ("failed", "This request violates our usage policies. Please try again with another prompt"),
    ],
)
def test_what_judges_the_inputs_is_a_refusal(code, message):
    assert is_refusal(code, message)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (500001, "internal error"),
        ("failed", None),
        ("failed", "the API gave no reason"),
        ("failed", "CUDA out of memory"),
        ("failed", "The content filter timed out"),
        ("failed", "moderation service unavailable"),
        ("failed", "Generation failed: invalid response from the model"),
        ("failed", "worker lost"),
        ("not_found", "HTTP 404: request not found"),
        ("local_media", "cat.png changed"),
        (400002, "insufficient balance"),
        (400005, "not ready"),
        (404001, "unknown"),
        (405, "HTTP 405: method not allowed"),
        (None, None),
    ],
)
def test_everything_else_may_pass(code, message):
    assert not is_refusal(code, message)
