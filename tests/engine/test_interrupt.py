"""What cancelling the task that awaits a run does, in virtual time."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from batcher.engine.interrupt import even_if_cancelled, surely_closed, unless_cancelled
from batcher.engine.stop import Control
from batcher.errors import StoppedError
from tests.support.engine import in_virtual_time


def now_s():
    return asyncio.get_running_loop().time()


async def graceful(control):
    """Takes 3 s to end after a halt, and nothing after an abort."""
    await control.halting.wait()
    aborting = asyncio.create_task(control.aborting.wait())
    await asyncio.wait([aborting], timeout=3)
    aborting.cancel()


async def cancelled_at(moments_s, work):
    """When the cancelled ``work`` ended."""
    task = asyncio.create_task(work)
    for moment_s in moments_s:
        await asyncio.sleep(moment_s - now_s())
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    return now_s()


@pytest.mark.parametrize(("cancels_s", "end_s"), [([1], 4), ([1, 2], 2), ([1, 2, 2], 2)])
@in_virtual_time
async def test_a_first_cancel_halts_a_run_a_second_one_aborts_it_and_both_await_its_end(
    cancels_s, end_s
):
    control = Control()
    assert await cancelled_at(cancels_s, unless_cancelled(graceful(control), control)) == end_s
    assert control.aborting.is_set() == (len(cancels_s) > 1)


@in_virtual_time
async def test_a_timeout_around_a_run_is_a_cancel():
    control = Control()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await unless_cancelled(graceful(control), control)
    assert now_s() == 4


@in_virtual_time
async def test_a_run_that_nobody_cancels_returns_or_raises_as_it_does():
    async def stopped():
        raise StoppedError("balance")

    await unless_cancelled(asyncio.sleep(1), Control())
    with pytest.raises(StoppedError, match="balance"):
        await unless_cancelled(stopped(), Control())


@in_virtual_time
async def test_what_frees_the_run_directory_is_done_to_its_end_however_often_it_is_cancelled():
    @asynccontextmanager
    async def resource():
        yield closed
        await asyncio.sleep(5)
        closed.append(now_s())

    async def hold():
        async with surely_closed(resource()) as held:
            assert held is closed

    closed = []
    assert await cancelled_at([1, 2, 3], hold()) == 5
    assert await cancelled_at([6, 7], even_if_cancelled(asyncio.sleep(3))) == 8.0
    assert closed == [5]
