"""How a run is held and how it ends: slots, reasons to stop, the circuit breaker."""

import asyncio

import pytest

from batcher.engine.slots import Slots
from batcher.engine.stop import Breaker, Control
from batcher.errors import CredentialsError, InterruptedRunError, StoppedError, UnreachableError
from tests.support.engine import Batch, in_virtual_time, observer_that, some_jobs

BALANCE = StoppedError("balance")
TOKEN = CredentialsError("token")
OUTAGE = UnreachableError("outage")
SIGNAL = InterruptedRunError("signal")


@in_virtual_time
async def test_slots_are_given_out_in_order_as_they_come_free():
    slots, got = Slots(2), []

    async def admit():
        for number in range(4):
            await slots.acquire()
            got.append((number, asyncio.get_running_loop().time()))

    admission = asyncio.create_task(admit())
    for _ in range(2):
        await asyncio.sleep(1)
        slots.free()
    await admission
    assert [(number, pytest.approx(at_s)) for number, at_s in got] == [(0, 0), (1, 0), (2, 1), (3, 2)]
    assert slots.held == 2


@in_virtual_time
async def test_what_was_taken_over_may_exceed_the_limit_and_is_waited_for():
    slots = Slots(1)
    for _ in range(3):
        slots.hold()
    admission = asyncio.create_task(slots.acquire())
    for _ in range(2):
        slots.free()
        await asyncio.sleep(1)
        assert not admission.done()
    slots.free()
    await admission
    assert slots.held == 1


def test_a_run_that_nobody_stops_has_no_reason():
    control = Control()
    assert (control.error, control.draining, control.halted) == (None, False, False)


def test_draining_is_not_halting_and_its_first_reason_stays():
    control = Control()
    control.drain(BALANCE)
    control.drain(TOKEN)
    assert control.error is BALANCE
    assert (control.draining, control.halted, control.aborting.is_set()) == (True, False, False)


def test_a_halt_is_stronger_than_a_drain_and_its_first_reason_stays():
    control = Control()
    control.drain(BALANCE)
    control.halt(OUTAGE)
    control.halt(SIGNAL)
    control.drain(TOKEN)
    assert control.error is OUTAGE
    assert (control.draining, control.halted, control.aborting.is_set()) == (True, True, False)


def test_an_abort_is_a_halt_that_waits_for_nothing():
    control = Control()
    control.abort(SIGNAL)
    assert control.error is SIGNAL
    assert (control.draining, control.halted, control.aborting.is_set()) == (True, True, True)


def test_an_abort_after_a_halt_keeps_the_reason_of_the_halt():
    control = Control()
    control.halt(OUTAGE)
    control.abort(SIGNAL)
    assert control.error is OUTAGE
    assert control.aborting.is_set()


def trips_at(breaker, outcomes):
    """The number of the job at which the breaker says stop; None where it never does."""
    for number, failed in enumerate(outcomes, 1):
        if breaker.note(failed):
            return number
    return None


def test_without_a_limit_all_may_fail():
    assert trips_at(Breaker(), [True] * 1000) is None


def test_as_many_failures_as_the_limit_are_allowed_and_one_more_is_not():
    assert trips_at(Breaker(2), [True, True]) is None
    assert trips_at(Breaker(2), [True, False, True, False, True]) == 5
    assert trips_at(Breaker(0), [False] * 9 + [True]) == 10


def test_a_percentage_is_looked_at_from_the_fiftieth_finished_job_on():
    assert trips_at(Breaker(10, percent=True), [True] * 49) is None
    assert trips_at(Breaker(10, percent=True), [True] * 50) == 50
    assert trips_at(Breaker(10, percent=True), [True] * 49 + [False]) == 50


def test_a_percentage_may_be_reached_but_not_passed():
    outcomes = [False] * 90 + [True] * 10
    assert trips_at(Breaker(10, percent=True), outcomes) is None
    assert trips_at(Breaker(10, percent=True), [*outcomes, True]) == 101


@pytest.mark.parametrize(
    ("breaker", "words"),
    [
        (
            Breaker(0),
            "1 of 1 jobs of this run failed, more than --max-failures 0: nothing more was submitted",
        ),
        (
            Breaker(0.5, percent=True, finished=99),
            "1 of 100 jobs of this run failed, more than --max-failures 0.5%",
        ),
    ],
)
def test_the_reason_names_the_count_and_the_limit(breaker, words):
    reason = breaker.note(True)
    assert str(reason).startswith(words)
    assert reason.exit_code == 3


async def test_a_stranded_slot_never_comes_free_and_when_all_are_stranded_nobody_waits():
    slots = Slots(2)
    assert await slots.acquire()
    slots.strand()
    waiting = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    assert not waiting.done(), "the other slot may still come free"
    slots.free()
    assert await waiting
    slots.strand()
    slots.free()
    assert not await slots.acquire()


@pytest.mark.parametrize(("cap_usd", "why"), [(1.0, "--max-cost"), (2.0, None)])
@in_virtual_time
async def test_a_run_that_ends_early_tells_its_observers_why(tmp_path, cap_usd, why):
    ended = []
    batch = Batch(tmp_path, max_cost_usd=cap_usd, observer=observer_that(finished=ended.append))
    await batch.run(some_jobs(2))
    [view] = ended
    assert (why in view.stopped) if why else view.stopped is None
