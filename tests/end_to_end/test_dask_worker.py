"""A shard between its engine and the caller: orders, silence, a worker that leaves. In virtual time."""

import asyncio
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from batcher.distributed.messages import SILENCE_S, VIEWS, Directive, Sight, Task
from batcher.distributed.worker import LOCK_PATIENCE_S, Post, _watch
from batcher.engine.slots import RunLimits, Slots
from batcher.engine.stop import Control
from batcher.errors import InterruptedRunError, ModelCapReached, StoppedError
from batcher.jobs.shard import Shard
from batcher.options.facts import Selection
from batcher.options.run import Options
from batcher.pacing.rate import RateLimit
from batcher.ports import RunView
from tests.support.engine import LoopClock, in_virtual_time

GO_ON = Directive("run-1")
LONG_S = 3600.0


class Shift:
    """A post, the watch over it, and an engine that would take an hour."""

    def __init__(self, status="running"):
        from distributed import Status

        options = Options(manifest=Path("m.csv"), selection=Selection(shard=Shard(2, 1)))
        task = Task("run-1", options, Sight(Path("mark"), Path("m.csv"), "", ""))
        self.sent, self.clock, self.worker = [], LoopClock(), SimpleNamespace(status=Status[status])
        self.post = Post(
            task, lambda topic, message: self.sent.append((topic, message)), self.clock.monotonic
        )

    async def __aenter__(self):
        self.engine = asyncio.create_task(self.clock.sleep(LONG_S))
        self.post.attach(self.engine)
        self.watch = asyncio.create_task(_watch(self.post, self.worker, self.clock))
        return self

    async def __aexit__(self, *_):
        self.watch.cancel()
        self.engine.cancel()
        await asyncio.gather(self.watch, self.engine, return_exceptions=True)


@in_virtual_time
async def test_a_shard_that_hears_nothing_winds_itself_up():
    async with Shift() as shift:
        await shift.clock.sleep(SILENCE_S - 2)
        assert not shift.engine.done()
        await shift.clock.sleep(4)
        assert shift.engine.cancelled()


@in_virtual_time
async def test_a_shard_that_hears_its_caller_goes_on_and_one_of_another_run_does_not_count():
    async with Shift() as shift:
        for _ in range(100):
            await shift.clock.sleep(SILENCE_S / 2)
            shift.post.receive(GO_ON)
        assert not shift.engine.done()
        for _ in range(4):
            await shift.clock.sleep(SILENCE_S / 2)
            shift.post.receive(Directive("another run"))
        assert shift.engine.cancelled()


@pytest.mark.parametrize(
    ("status", "stays"),
    [
        ("running", True),
        ("paused", True),
        ("closing_gracefully", False),
        ("closing", False),
    ],
)
def test_a_worker_that_leaves_takes_its_shard_along_in_good_order(status, stays):
    @in_virtual_time
    async def story():
        async with Shift(status) as shift:
            control = Control()
            with shift.post.signals(control):
                await shift.clock.sleep(3)
            assert control.halted is not stays
            assert stays or isinstance(control.error, InterruptedRunError)

    story()


@in_virtual_time
async def test_a_shard_that_can_no_longer_be_watched_is_wound_up():
    async with Shift() as shift:
        shift.post.send = None  # whatever Dask may raise once its loop is closed
        shift.post.warn("news")
        await shift.clock.sleep(3)
        assert shift.engine.cancelled()


@in_virtual_time
async def test_orders_reach_the_engine_also_where_they_came_before_it():
    async with Shift() as shift:
        shift.post.receive(Directive("run-1", drain="enough"))
        control = Control()
        with shift.post.signals(control):
            assert control.draining
            assert isinstance(control.error, StoppedError)
            shift.post.receive(Directive("run-1", halt=signal.SIGINT))
            assert (control.halted, control.error.exit_code) == (True, 130)
            assert not control.aborting.is_set()
            shift.post.receive(Directive("run-1", halt=signal.SIGINT, abort=True))
            assert control.aborting.is_set()


@in_virtual_time
async def test_what_others_no_longer_need_widens_the_limits_and_is_never_taken_back():
    async with Shift() as shift:
        assert shift.post.held is None
        slots, rate = Slots(2), RateLimit(2.0)
        await slots.acquire()
        shift.post.receive(Directive("run-1", more_slots=1))
        with shift.post.signals(Control(RunLimits(slots, rate))):
            assert (slots.limit, shift.post.held) == (3, 1)
            shift.post.receive(Directive("run-1", more_slots=3, more_per_s=2.0))
            shift.post.receive(Directive("run-1", more_slots=2, more_per_s=1.0))
            assert slots.limit == 5
            assert [rate.reserve_s(0.0) for _ in range(3)] == [0.0, 0.25, 0.5]


@in_virtual_time
async def test_who_waits_for_a_slot_goes_on_where_the_limit_is_widened():
    slots = Slots(1)
    slots.hold()
    waiting = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    slots.widen(1)
    assert await waiting


@in_virtual_time
async def test_a_shard_without_a_slot_waits_for_one_or_for_the_end():
    slots = Slots(0)
    control = Control(RunLimits(slots, RateLimit(None)))
    waiting = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    assert not waiting.done()
    control.drain(StoppedError("enough"))
    assert not await waiting


@in_virtual_time
async def test_only_news_is_reported():
    async with Shift() as shift:
        await shift.clock.sleep(10)
        shift.post.changed(RunView(selected=3, done=1))
        shift.post.warn("careful")
        await shift.clock.sleep(10)
        assert [topic for topic, _ in shift.sent] == [VIEWS] * 3
        assert shift.sent[1][1]["counts"]["done"] == 1
        assert [message["warnings"] for _, message in shift.sent] == [(), ("careful",), ()]


def test_whoever_takes_over_a_shard_waits_longer_than_a_lost_one_goes_on():
    assert LOCK_PATIENCE_S > SILENCE_S + 2


@in_virtual_time
async def test_only_a_reason_to_submit_nothing_more_stops_the_other_shards():
    """A cap on some models leaves the others."""
    async with Shift() as shift:
        control = Control()
        with shift.post.signals(control):
            control.note(ModelCapReached("fal is full"))
            shift.post.report()
            control.drain(StoppedError("enough"))
            shift.post.report()
    stopped = [message["stopped"] for topic, message in shift.sent if topic == VIEWS]
    assert stopped == [None, "fal is full"]
