"""Watching requests: what is final, what passes, and when a request is gone."""

import random

import pytest

from batcher.engine.gateway import ApiLine, Lines
from batcher.engine.poll import Absence, Gone, Watcher, is_final_no
from batcher.engine.stop import Control
from batcher.errors import (
    AuthRefused,
    CredentialsError,
    NotFound,
    NotSent,
    Rejected,
    TurnedAway,
    Unavailable,
)
from batcher.options.facts import Outage
from batcher.pacing.gate import Gate
from batcher.pacing.polling import PollSchedule
from batcher.ports import Handle, Phase
from tests.support.engine import MODEL, FakeClock, answer

RUNNING, QUEUED, ODD = (
    answer(Phase.RUNNING),
    answer(Phase.QUEUED),
    answer(Phase.UNRECOGNISED, word="dreaming"),
)
DONE, FAILED, CANCELLED = answer(), answer(Phase.FAILED), answer(Phase.CANCELLED)
NOT_FOUND = NotFound("no such request", http_status=404)


class Bench:
    """A watcher and a script of answers, the last of which is given for ever."""

    name = "scripted"

    def __init__(self, *script):
        self.script = list(script)
        self.warnings = []
        self.clock, self.control, self.rng = FakeClock(), Control(), random.Random(3)
        stop = self.control.halt
        patient = Outage(1e9, 1e9)
        line = ApiLine(self, Gate(self.rng), self.clock, lambda _, error: stop(error), outage=patient)
        lines = Lines(lambda model: self, lambda provider: line, self.control, print)
        self.watcher = Watcher(lines, self.clock, self.rng, self.warnings.append)
        self.polls = []

    async def result(self, request):
        self.polls.append(self.clock.at_s)
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        return step

    async def ask(self, timeout_s=None):
        return await self.watcher.ask(Handle(MODEL, "r1"), timeout_s)

    async def watch(self, timeout_s=7200.0, due_s=None):
        schedule = PollSchedule(self.rng)
        first_s = schedule.first_s() if due_s is None else due_s
        return await self.watcher.watch(Handle(MODEL, "r1"), schedule, timeout_s, first_s)


@pytest.mark.parametrize("end", [DONE, FAILED, CANCELLED])
async def test_a_watch_ends_with_a_terminal_answer(end):
    bench = Bench(QUEUED, RUNNING, RUNNING, end)
    assert await bench.watch() is end
    assert len(bench.polls) == 4


async def test_polls_come_at_growing_steps():
    bench = Bench(*[RUNNING] * 30, DONE)
    await bench.watch()
    gaps_s = [later - earlier for earlier, later in zip(bench.polls, bench.polls[1:], strict=False)]
    assert 0.4 <= gaps_s[0] <= 0.6
    assert all(17 <= gap_s <= 23 for gap_s in gaps_s[-5:])


async def test_a_new_request_is_left_alone_at_first_and_an_old_one_is_asked_about_when_told():
    new, old = Bench(DONE), Bench(DONE)
    await new.watch()
    await old.watch(due_s=0.5)
    assert new.polls[0] >= 0.9
    assert old.polls[0] == 0.5


async def test_an_unknown_word_is_polled_on_and_may_still_come_to_a_good_end():
    bench = Bench(ODD, ODD, ODD, DONE)
    assert await bench.watch() is DONE


@pytest.mark.parametrize("word", [ODD, RUNNING, QUEUED])
async def test_a_job_whose_time_is_up_is_no_longer_watched(word):
    bench = Bench(word)
    assert await bench.watch(timeout_s=100) is None
    assert 100 <= bench.clock.at_s <= 102
    assert (bench.control.error, bench.warnings) == (None, [])


async def test_without_a_timeout_a_job_is_watched_for_days():
    bench = Bench(*[RUNNING] * 20_000, DONE)
    assert await bench.watch(timeout_s=None) is DONE
    assert bench.clock.at_s > 4 * 86400


@pytest.mark.parametrize(
    "error", [Unavailable("502"), NotSent("dns"), TurnedAway("429"), Rejected("400")]
)
async def test_no_error_of_asking_is_ever_a_final_answer(error):
    bench = Bench(*[error] * 8, DONE)
    assert await bench.watch() is DONE
    assert bench.clock.at_s > 1


async def test_nothing_but_errors_for_the_whole_time_leaves_the_question_open():
    bench = Bench(Unavailable("502"))
    assert await bench.ask(timeout_s=120) is None
    assert bench.clock.at_s == pytest.approx(120)


async def test_the_first_question_is_asked_even_where_there_is_no_time():
    assert await Bench(DONE).ask(timeout_s=0) is DONE


async def test_errors_then_an_answer_within_the_time_is_an_answer():
    assert await Bench(*[Unavailable("502")] * 3, RUNNING).ask(timeout_s=120) is RUNNING


async def test_time_spent_on_errors_counts_towards_the_timeout_of_the_job():
    bench = Bench(*[RUNNING] * 25, Unavailable("502"))
    assert await bench.watch(timeout_s=300) is None
    assert len(bench.polls) > 25
    assert 300 <= bench.clock.at_s <= 302


async def test_why_a_request_is_left_is_told_if_only_errors_came_and_not_for_each_of_many():
    bench = Bench(Rejected("HTTP 302: a redirect, which is never followed"))
    for _ in range(5):
        assert await bench.watch(timeout_s=20) is None
    assert len(bench.warnings) == 3
    assert "request r1 is not watched any longer (--job-timeout)" in bench.warnings[0]
    assert "HTTP 302: a redirect" in bench.warnings[0]


# Absence


@pytest.mark.parametrize(
    ("times_s", "gone"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], False),
        ([0, 100, 200, 300], False),
        ([0, 2, 4, 6, 9.9], False),
        ([0, 2, 4, 6, 10], True),
        ([5, 6, 7, 8, 9, 10, 15], True),
        ([0], False),
    ],
)
def test_a_request_is_gone_after_five_polls_and_ten_seconds_and_not_before(times_s, gone):
    absence = Absence()
    seen = [absence.note(at_s) for at_s in times_s]
    assert seen == [False] * (len(times_s) - 1) + [gone]


async def test_a_request_that_stays_unknown_is_gone():
    bench = Bench(NOT_FOUND)
    with pytest.raises(Gone, match="no such request") as caught:
        await bench.ask()
    assert len(bench.polls) == 5
    assert bench.polls[-1] - bench.polls[0] == pytest.approx(10)
    assert caught.value.http_status == 404


async def test_a_request_that_turns_up_again_is_not_gone():
    bench = Bench(*[NOT_FOUND] * 4, RUNNING, *[NOT_FOUND] * 4, RUNNING, DONE)
    assert await bench.watch() is DONE


async def test_a_watch_of_a_request_that_vanished_ends_as_gone():
    bench = Bench(RUNNING, RUNNING, NOT_FOUND)
    with pytest.raises(Gone):
        await bench.watch()


async def test_a_refused_token_stops_the_run_in_good_order_and_is_no_answer():
    bench = Bench(RUNNING, AuthRefused("401 Unauthorized"))
    assert await bench.watch() is None
    assert isinstance(bench.control.error, CredentialsError)
    assert "check it and run the same command again (401 Unauthorized)" in str(bench.control.error)
    assert (bench.control.draining, bench.control.halted) == (True, False)


@pytest.mark.parametrize(
    ("result", "final"),
    [
        (FAILED, True),
        (CANCELLED, True),
        (answer(urls=()), True),
        (DONE, False),
        (RUNNING, False),
        (QUEUED, False),
        (ODD, False),
    ],
)
def test_only_what_nothing_will_come_of_any_more_is_a_final_no(result, final):
    assert is_final_no(result) is final
