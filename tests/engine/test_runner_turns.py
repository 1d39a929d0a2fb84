"""Turns of the event loop: who wakes together starts a few at a time, in order."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from batcher.engine.turns import Turns


async def starts(per_turn, callers, cancelled=frozenset()):
    """In which turn of the loop each caller began; callers in ``cancelled`` give up before it is theirs."""
    turns, begun, turn = Turns(per_turn), {}, 0

    async def caller(number):
        await turns.take()
        begun[number] = turn

    tasks = [asyncio.create_task(caller(number)) for number in range(callers)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        turn += 1
        if turn == 1:
            for number in cancelled:
                tasks[number].cancel()
    return begun


@given(st.integers(1, 5), st.integers(0, 40), st.sets(st.integers(0, 39)))
def test_no_turn_has_more_than_its_share_and_everybody_gets_one_in_order(per_turn, callers, cancelled):
    gone = {number for number in cancelled if number < callers}
    begun = asyncio.run(starts(per_turn, callers, gone))
    turns = list(begun.values())
    assert set(begun) >= set(range(callers)) - gone
    assert list(begun) == sorted(begun)
    assert all(turns.count(turn) <= per_turn for turn in turns)


async def test_where_there_is_room_nobody_waits():
    turns = Turns(2)
    for _ in range(5):
        took = asyncio.ensure_future(turns.take())
        await asyncio.sleep(0)
        assert took.done()
        await asyncio.sleep(0)


async def test_it_rests_when_nobody_comes():
    turns = Turns(2)
    await turns.take()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not turns._is_due
