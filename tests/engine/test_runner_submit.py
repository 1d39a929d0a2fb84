"""Submitting: intent before effect, and what each answer of a POST means."""

import asyncio
import errno
import inspect

import pytest

from batcher.engine.submit import LOCAL_MEDIA
from batcher.errors import (
    AuthRefused,
    BalanceExhausted,
    CredentialsError,
    NotFound,
    NotSent,
    OutcomeUnknown,
    Rejected,
    RunDirError,
    StoppedError,
    TurnedAway,
)
from batcher.jobs.lifecycle import Stage, State
from batcher.options.facts import Policy
from batcher.providers import json_body as body
from batcher.providers.json_body import request_body
from tests.support.engine import Batch, QuickDisk, _UnsyncedFile, after, in_virtual_time, job, some_jobs


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


@in_virtual_time
async def test_the_intent_is_on_disk_before_the_post_leaves_and_the_answer_right_after(batch):
    seen = []

    async def look():
        seen.append([line["event"] for line in batch.lines()])
        return "r1"

    batch.api.posting["cat"] = [look]
    await batch.run([job("cat", seed=1, meta={"split": "train"})])
    assert seen == [["run", "submitting"]]
    intent = batch.lines("submitting")[0]
    assert {
        key: intent[key] for key in ("attempt", "model", "input", "meta", "source", "price_usd")
    } == {
        "attempt": 1,
        "model": "acme/paint",
        "input": {"prompt": "cat", "seed": 1},
        "meta": {"split": "train"},
        "source": "m.yaml:1",
        "price_usd": 1.0,
    }
    assert batch.lines("submitted")[0]["request_id"] == "r1"


@pytest.mark.parametrize(
    "error",
    [NotSent("dns"), TurnedAway("429"), TurnedAway("503", retry_after_s=20)],
    ids=lambda e: e.message,
)
@in_virtual_time
async def test_what_was_surely_not_accepted_is_tried_again_as_the_same_attempt(batch, error):
    batch.api.posting["cat"] = [error, error]
    ended = await batch.run([job("cat")])
    assert ended.states == {"done": 1}
    assert batch.story("cat")[:5] == ["submitting", "deferred", "submitting", "deferred", "submitting"]
    assert ended.records["cat"].attempt == 1
    assert ended.spent_usd == pytest.approx(1.0)
    assert {line["reason"] for line in batch.lines("deferred")} == {error.message}


@in_virtual_time
async def test_one_429_pauses_everybody_for_as_long_as_the_server_said(batch):
    batch.api.posting["job-000"] = [TurnedAway("429", retry_after_s=40)]
    await batch.run(some_jobs(8))
    during = [at_s for at_s, _ in (*batch.api.posts, *batch.api.polls) if 0.2 < at_s < 40]
    assert during == []


@in_virtual_time
async def test_an_intent_that_meets_a_closed_gate_is_put_off_and_not_sent(batch):
    """Between the intent's fsync and the POST the API asks for a pause."""

    class SlowDisk(QuickDisk):
        async def run(self, function):
            await asyncio.sleep(1)
            return function()

    batch.disk = SlowDisk()
    batch.api.post_takes_s = 0.5
    batch.api.posting["job-000"] = [TurnedAway("429", retry_after_s=40)]
    ended = await batch.run(some_jobs(2), rate_per_s=1.0)
    assert ended.states == {"done": 2}
    assert batch.story("job-001")[:3] == ["submitting", "deferred", "submitting"]
    assert batch.api.prompts.count("job-001") == 1


@pytest.mark.parametrize(
    "error", [Rejected("422 prompt too long", http_status=422), Rejected("400 odd", error_code=400009)]
)
@in_virtual_time
async def test_a_rejection_is_final_for_this_job_and_costs_nothing(batch, error):
    batch.api.posting["cat"] = [error]
    ended = await batch.run([job("cat"), job("dog")])
    record = ended.records["cat"]
    assert (record.state, record.stage, record.message) == (State.FAILED, Stage.SUBMIT, error.message)
    assert record.code == error.code
    assert (ended.states, ended.spent_usd) == ({"failed": 1, "done": 1}, pytest.approx(1.0))


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (BalanceExhausted("402 no credits"), StoppedError, 3),
        (AuthRefused("401 bad token"), CredentialsError, 77),
        (NotFound("404 no such model"), StoppedError, 3),
        (NotFound("400 InvalidResourceIdentifier", error_code=400001), StoppedError, 3),
    ],
)
@in_virtual_time
async def test_a_refusal_of_the_whole_run_puts_the_job_off_and_stops_the_buying(
    batch, error, reason, code
):
    batch.api.posting["job-002"] = [error]
    ended = await batch.run(some_jobs(10), concurrency=1)
    assert ended.states == {"done": 2, "pending": 1}
    assert isinstance(ended.error, reason)
    assert ended.error.exit_code == code
    assert error.message in str(ended.error)
    assert (await batch.run(some_jobs(10))).states == {"done": 10}
    assert ended.spent_usd == pytest.approx(2.0)


@pytest.mark.parametrize(("concurrency", "sent"), [(1, 5), (3, 7)])
@in_virtual_time
async def test_the_same_refusal_for_the_first_rows_is_not_asked_for_a_thousand_times(
    batch, concurrency, sent
):
    for one in some_jobs(50):
        batch.api.posting[one.id] = [Rejected("422 webhooks are not enabled")]
    ended = await batch.run(some_jobs(50), concurrency=concurrency)
    assert ended.error.exit_code == 3
    assert "422 webhooks are not enabled" in str(ended.error)
    assert 5 <= len(batch.api.posts) <= sent
    assert set(ended.states) == {"failed"}


@in_virtual_time
async def test_rows_that_are_refused_after_one_was_accepted_are_their_own_fault(batch):
    for one in some_jobs(50)[1:]:
        batch.api.posting[one.id] = [Rejected("422 bad row")]
    ended = await batch.run(some_jobs(50))
    assert ended.error is None
    assert ended.states == {"done": 1, "failed": 49}


@in_virtual_time
async def test_rows_that_are_refused_for_reasons_of_their_own_do_not_stop_the_run(batch):
    for number, one in enumerate(some_jobs(20)):
        batch.api.posting[one.id] = [Rejected(f"422 bad prompt {number}")]
    ended = await batch.run(some_jobs(20))
    assert ended.error is None
    assert ended.states == {"failed": 20}


UNKNOWN = OutcomeUnknown("504 Gateway Time-out", http_status=504)


@in_virtual_time
async def test_an_ambiguous_post_is_unknown_says_why_and_is_never_repeated_of_itself(batch):
    batch.api.posting["cat"] = [UNKNOWN]
    ended = await batch.run([job("cat")])
    assert ended.states == {"unknown": 1}
    assert batch.story("cat") == ["submitting", "unanswered"]
    assert ended.records["cat"].message == "504 Gateway Time-out"
    batch.policy = Policy(retry_failed=True)
    before = batch.ledger_bytes
    assert (await batch.run([job("cat")])).states == {"unknown": 1}
    assert (len(batch.api.posts), batch.ledger_bytes) == (1, before)


@in_virtual_time
async def test_an_ambiguous_post_is_repeated_by_the_users_word_and_both_are_counted(batch):
    batch.api.posting["cat"] = [UNKNOWN]
    await batch.run([job("cat")])
    batch.policy = Policy(retry_unknown=True)
    ended = await batch.run([job("cat")])
    assert (ended.states, ended.records["cat"].attempt) == ({"done": 1}, 2)
    assert ended.spent_usd == pytest.approx(2.0)


@in_virtual_time
async def test_a_held_slot_does_not_keep_a_finished_run_waiting(batch):
    batch.api.posting["cat"] = [UNKNOWN]
    await batch.run([job("cat")])
    assert asyncio.get_running_loop().time() < 5


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "gone", "cat.png"), ValueError("cat.png changed")]
)
@in_virtual_time
async def test_a_local_file_that_is_not_the_planned_one_fails_the_job_before_anything_is_sent(
    batch, error, monkeypatch
):
    def broken(one):
        raise error

    monkeypatch.setattr(body, "request_body", broken)
    ended = await batch.run([job("cat")])
    record = ended.records["cat"]
    assert (record.state, record.stage, record.code) == (State.FAILED, Stage.SUBMIT, LOCAL_MEDIA)
    assert "cat.png" in record.message
    assert (batch.api.posts, ended.spent_usd) == ([], 0)


@pytest.mark.parametrize(("inputs", "off_loop"), [({}, False), ({"image": "x" * 50_000}, True)])
@in_virtual_time
async def test_a_body_is_made_off_the_loop_where_that_takes_time(batch, inputs, off_loop, monkeypatch):
    made = []

    def body_of(one):
        made.append(any(frame.function == "to_thread" for frame in inspect.stack()))
        return request_body(one)

    monkeypatch.setattr(body, "request_body", body_of)
    await batch.run([job("cat", **inputs)])
    assert made == [off_loop]


# A disk that fails


class FailingDisk(QuickDisk):
    """Refuses to append what holds ``needle``."""

    def __init__(self, needle, code):
        super().__init__()
        self.needle, self.code = needle, code

    def open_append(self, path):
        disk = self

        class File(_UnsyncedFile):
            def write(self, data):
                if disk.needle in data and path.name == "ledger.jsonl":
                    if disk.code == errno.ENOSPC:
                        disk.needle = b"there is room for the rest: the reserve was freed"
                    raise OSError(disk.code, "the disk refuses")
                super().write(data)

        return File(path)


@in_virtual_time
async def test_where_the_answer_can_not_be_recorded_the_error_holds_the_request_id(batch):
    batch.disk = FailingDisk(b'"submitted"', errno.EIO)
    ended = await batch.run([job("cat")])
    assert isinstance(ended.error, RunDirError)
    assert "job cat was accepted as request r1-cat" in str(ended.error)
    assert f"batcher resolve {batch.path} cat --request-id r1-cat" in str(ended.error)
    batch.disk = QuickDisk()
    assert (await batch.run([job("cat")])).states == {"unknown": 1}


@in_virtual_time
async def test_a_disk_that_fills_up_stops_the_run_before_the_post(batch):
    batch.disk = FailingDisk(b'"job-001"', errno.ENOSPC)
    ended = await batch.run(some_jobs(3), concurrency=1)
    assert isinstance(ended.error, RunDirError)
    assert "no space left" in str(ended.error)
    assert batch.api.prompts == ["job-000"]
    assert ended.records["job-001"].state is State.PENDING


@in_virtual_time
async def test_answers_that_are_on_their_way_when_the_disk_fills_up_are_recorded_from_the_reserve(batch):
    batch.disk = FailingDisk(b'"r1-job-000"', errno.ENOSPC)
    batch.api.posting["job-001"] = [after(1.0, "r2")]
    ended = await batch.run(some_jobs(5), concurrency=2, grace_s=5.0)
    assert [ended.records[name].request_id for name in ("job-000", "job-001")] == ["r1-job-000", "r2"]
    assert not (batch.path / ".batcher" / "reserve").exists()


@in_virtual_time
async def test_a_request_id_that_an_earlier_post_was_given_leaves_the_second_job_unknown(batch):
    batch.api.posting = {"cat": ["r1"], "dog": ["r1"]}
    ended = await batch.run([job("cat"), job("dog")])
    assert ended.states == {"done": 1, "unknown": 1}
    assert "r1, which an earlier POST was given" in ended.records["dog"].message
    assert len(batch.api.posts) == 2


@in_virtual_time
async def test_also_an_id_of_an_earlier_run_and_of_a_finished_job_is_known(batch):
    batch.api.posting = {"cat": ["r1"], "dog": ["r1"]}
    await batch.run([job("cat")])
    ended = await batch.run([job("cat"), job("dog")])
    assert ended.states == {"done": 1, "unknown": 1}
