"""Work that gathers while threads are busy."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from unittest import mock

import pytest

from batcher.thread_batches import Groups, Threads

AT_ONCE, MOST = 2, 8
Work = Callable[[Sequence[int]], Sequence[int | Exception]]


class Doubling:
    """Doubles numbers, when it may; notes how many came in each call, and the most calls at once."""

    def __init__(self) -> None:
        self.may = Event()
        self.may.set()
        self.sizes: list[int] = []
        self.now = self.most_at_once = 0

    def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.sizes.append(len(numbers))
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        assert self.may.wait(10)
        self.now -= 1
        return [2 * number if number >= 0 else ValueError(str(number)) for number in numbers]


@pytest.fixture
async def threads() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def work() -> Doubling:
    return Doubling()


@pytest.fixture
def groups(work: Doubling, threads: ThreadPoolExecutor) -> Groups[int, int]:
    return Groups(work, threads, at_once=AT_ONCE, most=MOST)


async def test_what_came_in_one_turn_of_the_loop_shares_a_call(
    groups: Groups[int, int], work: Doubling
) -> None:
    assert await asyncio.gather(*map(groups.add, range(5))) == [0, 2, 4, 6, 8]
    assert work.sizes == [5]


async def test_one_that_comes_alone_waits_for_no_other(groups: Groups[int, int], work: Doubling) -> None:
    for number in range(3):
        assert await groups.add(number) == 2 * number
    assert work.sizes == [1, 1, 1]


async def test_items_gather_while_all_threads_are_busy(groups: Groups[int, int], work: Doubling) -> None:
    work.may.clear()
    first = []
    for number in range(AT_ONCE):
        first.append(groups.add(number))
        await asyncio.sleep(0)
    later = [groups.add(number) for number in range(MOST + 3)]
    await asyncio.sleep(0)
    assert not any(future.done() for future in first + later)
    work.may.set()
    assert await asyncio.gather(*first, *later) == [2 * n for n in (*range(AT_ONCE), *range(MOST + 3))]
    assert (work.sizes[:AT_ONCE], sorted(work.sizes[AT_ONCE:])) == ([1] * AT_ONCE, [3, MOST])
    assert work.most_at_once <= AT_ONCE


async def test_as_many_threads_as_before_are_free_after_bursts(
    groups: Groups[int, int], work: Doubling
) -> None:
    for _ in range(5):
        await asyncio.gather(*map(groups.add, range(3 * MOST)))
    work.may.clear()
    waiting = []
    for number in range(2 * AT_ONCE):
        waiting.append(groups.add(number))
        await asyncio.sleep(0.001)
    assert work.now == AT_ONCE
    work.may.set()
    await asyncio.gather(*waiting)


async def test_an_error_is_that_of_its_item(groups: Groups[int, int]) -> None:
    outcomes = await asyncio.gather(*map(groups.add, (1, -1, 2)), return_exceptions=True)
    assert [outcomes[0], str(outcomes[1]), outcomes[2]] == [2, "-1", 4]


async def test_a_bug_in_a_thread_reaches_all_who_wait_and_stops_nothing(
    threads: ThreadPoolExecutor,
) -> None:
    broken = True

    def work(numbers: Sequence[int]) -> list[int | Exception]:
        if broken:
            raise MemoryError
        return list(numbers)

    groups: Groups[int, int] = Groups(work, threads, at_once=AT_ONCE, most=MOST)
    outcomes = await asyncio.gather(*map(groups.add, range(3 * MOST)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {MemoryError}
    broken = False
    assert await groups.add(3) == 3


async def test_one_that_was_given_up_holds_up_no_other(groups: Groups[int, int]) -> None:
    futures = [groups.add(number) for number in range(3 * MOST)]
    futures[1].cancel()
    futures[-1].cancel()
    await asyncio.wait(futures)
    assert [future.result() for future in futures if not future.cancelled()] == [
        2 * n for n in range(3 * MOST) if n not in (1, 3 * MOST - 1)
    ]


class Startless(Threads):
    """Where only ``count`` threads can be started."""

    def __init__(self, count: int) -> None:
        super().__init__(4)
        self.count = count

    def _adjust_thread_count(self) -> None:
        started = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            if self.count <= 0:
                raise RuntimeError("can't start new thread")
            self.count -= 1
            started(thread)

        with mock.patch.object(threading.Thread, "start", start):
            super()._adjust_thread_count()


@pytest.mark.parametrize("count", [0, 1, 4])
def test_work_is_done_by_as_many_threads_as_can_be_had(count):
    threads = Startless(count)
    done = [threads.submit(lambda number=number: number * 2) for number in range(20)]
    assert [future.result(timeout=5) for future in done] == [number * 2 for number in range(20)]
    threads.shutdown()


async def test_a_task_that_is_cancelled_waits_for_what_nothing_can_stop(
    groups: Groups[int, int], work: Doubling
) -> None:
    work.may.clear()
    got: list[int] = []

    async def ask() -> None:
        got.append(await groups.add_unstoppable(1))

    task = asyncio.create_task(ask())
    while not work.sizes:
        await asyncio.sleep(0)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    work.may.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not got
