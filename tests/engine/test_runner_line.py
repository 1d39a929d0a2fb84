"""The line to the API: one gate for all calls, and when silence is an outage."""

import asyncio
import random

import pytest

from batcher.clock import time_of_day
from batcher.engine.gateway import ApiLine, Silent
from batcher.engine.stop import Control
from batcher.errors import (
    CallError,
    NotSent,
    OutcomeUnknown,
    Rejected,
    TurnedAway,
    Unavailable,
    UnreachableError,
)
from batcher.options.facts import DEFAULT_OUTAGE, Outage
from batcher.pacing.gate import Gate
from tests.support.engine import Api, FakeClock

REFUSAL = TurnedAway("429 Too Many Requests", retry_after_s=30.0)
MISSES = [NotSent("no route"), Unavailable("502 Bad Gateway"), OutcomeUnknown("time-out")]


class Bench:
    def __init__(self, outage=DEFAULT_OUTAGE):
        self.clock, self.control = FakeClock(), Control()
        self.line = ApiLine(Api(), Gate(random.Random(1)), self.clock, self.give_up, outage=outage)

    def give_up(self, line, error):
        self.control.halt(error)

    async def call(self, answer="fine", takes_s=0.0, *, at_once=False):
        async def exchange():
            self.clock.at_s += takes_s
            if isinstance(answer, Exception):
                raise answer
            return answer

        return await (self.line.exchange if at_once else self.line.call)(exchange)

    async def fails_until(self, end_s, error, step_s=5.0):
        """Calls that fail until ``end_s``; when the line gave up, or None."""
        while self.clock.at_s < end_s:
            with pytest.raises(CallError):
                await self.call(error, at_once=True)
            if self.control.halted:
                return self.clock.at_s
            self.clock.at_s += step_s
        return None


@pytest.fixture
def bench():
    return Bench()


async def test_an_answer_passes_through(bench):
    assert await bench.call("fine") == "fine"
    assert bench.clock.slept == []
    assert bench.line.is_open


@pytest.mark.parametrize("error", [*MISSES, REFUSAL, Rejected("422")])
async def test_an_error_passes_through_and_nothing_is_tried_again_here(bench, error):
    with pytest.raises(type(error)):
        await bench.call(error)


async def test_one_refusal_closes_the_line_for_everybody(bench):
    with pytest.raises(TurnedAway):
        await bench.call(REFUSAL)
    assert not bench.line.is_open
    assert await bench.call("fine") == "fine"
    assert 30 <= bench.clock.at_s <= 32


async def test_an_exchange_that_was_admitted_does_not_wait_again(bench):
    with pytest.raises(TurnedAway):
        await bench.call(REFUSAL)
    assert await bench.call("fine", at_once=True) == "fine"
    assert bench.clock.at_s == 0


async def test_ready_returns_only_when_the_gate_is_open(bench):
    with pytest.raises(TurnedAway):
        await bench.call(REFUSAL)
    await bench.line.ready()
    assert bench.line.is_open


@pytest.mark.parametrize("error", MISSES)
async def test_an_api_that_never_answered_is_given_up_after_sixty_seconds(bench, error):
    assert await bench.fails_until(900, error) == pytest.approx(60)
    assert isinstance(bench.control.error, UnreachableError)
    assert str(bench.control.error) == f"the API has not answered for 60 s ({error.message})"


@pytest.mark.parametrize("error", MISSES)
async def test_an_api_that_answered_before_is_given_the_whole_outage_timeout(bench, error):
    await bench.call("fine")
    assert await bench.fails_until(900, error) == pytest.approx(600)


async def test_a_shorter_outage_timeout_counts_from_the_start_too():
    bench = Bench(Outage.of(20.0))
    assert await bench.fails_until(900, MISSES[0]) == pytest.approx(20)


@pytest.mark.parametrize("answer", ["fine", Rejected("422"), REFUSAL])
async def test_any_word_of_the_api_ends_an_outage(bench, answer):
    await bench.call("fine")
    assert await bench.fails_until(590, MISSES[1]) is None
    assert await asyncio.gather(bench.call(answer, at_once=True), return_exceptions=True) == [answer]
    assert await bench.fails_until(1180, MISSES[1]) is None
    assert not bench.control.halted


async def test_being_told_to_wait_is_no_outage_however_often(bench):
    for _ in range(100):
        with pytest.raises(TurnedAway):
            await bench.call(REFUSAL)
    assert bench.clock.at_s > 2900
    assert not bench.control.halted


async def test_a_call_that_hangs_counts_from_its_beginning(bench):
    with pytest.raises(Unavailable):
        await bench.call(MISSES[1], takes_s=61.0)
    assert bench.control.halted


async def test_an_api_that_can_not_be_reached_is_not_hammered(bench):
    for _ in range(5):
        with pytest.raises(NotSent):
            await bench.call(MISSES[0])
    assert bench.clock.at_s > 0


async def test_a_line_that_gave_up_makes_no_call_any_more(bench):
    assert await bench.fails_until(1e6, MISSES[1]) is not None
    assert bench.line.silent
    assert not bench.line.is_open
    with pytest.raises(Silent):
        await bench.call("fine")


async def test_what_all_calls_wait_for_is_told_with_its_end():
    clock = FakeClock()
    line = ApiLine(Api(), Gate(random.Random(1)), clock, lambda line, error: None, outage=Outage())

    async def turned_away():
        raise TurnedAway("later", retry_after_s=3600.0)

    async def lost():
        raise Unavailable("connection lost")

    assert list(line.waits()) == []
    with pytest.raises(TurnedAway):
        await line.exchange(turned_away)
    assert list(line.waits()) == [
        f"waiting: the API asked for a pause, 3600 s more, until {time_of_day(clock, 3600)}"
    ]
    with pytest.raises(Unavailable):
        await line.exchange(lost)
    why = "(connection lost); if that lasts, it is given up at "
    assert next(line.waits()).startswith(f"the API has not answered {why}")
    clock.at_s += 45.0
    [told] = line.waits()
    assert told.startswith(f"the API has not answered for 45 s {why}")


async def test_answers_that_can_not_be_used_are_not_told_as_no_answers(bench):
    odd = Unavailable("it was not understood", http_status=200)
    assert await bench.fails_until(900, odd) == 60
    said = "the API has given no usable answer for 60 s (it was not understood)"
    assert str(bench.control.error) == said


@pytest.mark.parametrize(("asked_s", "until_s"), [(None, 60.0), (200.0, 200.0), (5.0, 5.0)])
async def test_an_outage_timeout_that_was_asked_for_holds_from_the_first_second(asked_s, until_s):
    bench = Bench(Outage.of(asked_s))
    assert await bench.fails_until(1000, MISSES[0], step_s=2.5) == until_s


@pytest.mark.parametrize(
    ("planned_s", "said"), [(61.4, "has not answered for 61 s"), (0.0, "has not answered")]
)
async def test_how_long_an_api_has_not_answered_is_told_with_the_time_that_planning_waited(
    planned_s, said
):
    bench = Bench(Outage.of(60.0).less(planned_s)._replace(first_s=0.0))
    with pytest.raises(NotSent):
        await bench.call(MISSES[0])
    assert str(bench.control.error) == f"the API {said} ({MISSES[0].message})"


async def test_what_planning_waited_for_an_answer_is_not_waited_again():
    bench = Bench(Outage().less(45.0))
    assert await bench.fails_until(1000, MISSES[0]) == 15.0
