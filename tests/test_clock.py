"""The machine's clocks, and how a moment is written down."""

import asyncio
from datetime import UTC, datetime

import pytest

from batcher.clock import SystemClock, in_steps, iso
from tests.support.engine import LoopClock, in_virtual_time


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 31, 9, 30, 0, 125_000, UTC), "2026-01-31T09:30:00.125Z"),
        (datetime(2026, 1, 31, 9, 30, 0, 999_999, UTC), "2026-01-31T09:30:00.999Z"),
        (datetime(2026, 12, 1, tzinfo=UTC), "2026-12-01T00:00:00.000Z"),
    ],
)
def test_a_moment_is_written_to_the_millisecond_and_never_rounded_up(moment, text):
    assert iso(moment) == text


async def test_the_system_clock_goes_forward_and_knows_its_zone():
    clock = SystemClock()
    before_s, before = clock.monotonic(), clock.now()
    await clock.sleep(0)
    await clock.sleep(-1)
    assert clock.monotonic() >= before_s
    assert clock.now().tzinfo is UTC
    assert clock.now() >= before


@in_virtual_time
async def test_sleeping_takes_as_long_as_asked_for():
    system, loop = SystemClock(), LoopClock()
    await system.sleep(100)
    assert loop.monotonic() == pytest.approx(100)


async def test_other_tasks_run_at_each_stop_of_long_work():
    seen = []

    async def beside():
        while True:
            seen.append("beside")
            await asyncio.sleep(0)

    def steps():
        for _ in range(3):
            seen.append("step")
            yield
        return "whole"

    other = asyncio.create_task(beside())
    assert await in_steps(steps(), SystemClock()) == "whole"
    other.cancel()
    assert seen == ["step", "beside", "step", "beside", "step", "beside"]
