"""A process that was stopped: what arrived meanwhile is read before any timer is believed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from batcher.clock import Deadline, SystemClock
from batcher.download.patience import DownloadLimits, Patience
from batcher.engine.gateway import ApiLine
from batcher.engine.stop import Control
from batcher.errors import DownloadInterrupted, DownloadStalled, Unavailable
from batcher.pacing.gate import Gate
from tests.support.connections import Connections
from tests.support.engine import Api, LoopClock, in_virtual_time


class StoppedClock(LoopClock):
    """Virtual time in which the process may have been stopped."""

    pauses = 0


async def _deadline(clock, takes_s):
    async with Deadline(clock, 10.0):
        await asyncio.sleep(takes_s)


@in_virtual_time
async def test_a_deadline_that_a_pause_ran_over_begins_again():
    clock = StoppedClock()
    asyncio.get_running_loop().call_later(9.0, setattr, clock, "pauses", 1)
    await _deadline(clock, 15.0)
    assert clock.monotonic() == pytest.approx(15.0)


@in_virtual_time
async def test_without_a_pause_it_ends_in_time():
    with pytest.raises(TimeoutError):
        await _deadline(StoppedClock(), 15.0)
    assert asyncio.get_running_loop().time() == pytest.approx(10.0)


@in_virtual_time
async def test_a_deadline_can_be_made_shorter_but_not_longer():
    for limit_s, ends_s in ((3.0, 3.0), (30.0, 10.0)):
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            async with Deadline(StoppedClock(), 10.0) as deadline:
                deadline.shorten(limit_s)
                await asyncio.sleep(60)
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(ends_s)


class Machine:
    """Stands for the module ``time``: clocks that jump when told to."""

    def __init__(self):
        self.jumped_s = self.set_s = 0.0

    def monotonic(self):
        return time.monotonic() + self.jumped_s

    def time(self):
        return time.time() + self.jumped_s + self.set_s


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr("batcher.clock.time", machine)
    return machine


async def test_time_in_which_the_process_was_stopped_does_not_count(machine):
    clock = SystemClock()
    before_s = clock.monotonic()
    machine.jumped_s = 130.0
    assert clock.monotonic() - before_s < 5.0
    assert clock.pauses == 1
    clock.monotonic()
    assert clock.pauses == 1


async def test_a_moment_without_a_tick_is_no_pause(machine):
    clock = SystemClock()
    before_s = clock.monotonic()
    machine.jumped_s = 4.0
    assert clock.monotonic() - before_s >= 4.0
    assert clock.pauses == 0


async def test_a_machine_that_slept_with_its_clock_stopped_is_noticed_too(machine):
    clock = SystemClock()
    clock.monotonic()
    machine.set_s = 3600.0
    clock.monotonic()
    assert clock.pauses == 1


async def test_sleep_makes_up_for_the_time_that_a_pause_took(machine):
    clock = SystemClock(pause_s=0.01, tick_s=0.001)
    asyncio.get_running_loop().call_later(0.02, setattr, machine, "jumped_s", 100.0)
    began_s = time.monotonic()
    await clock.sleep(0.05)
    assert time.monotonic() - began_s >= 0.08


@in_virtual_time
async def test_a_download_is_not_given_up_for_the_time_of_a_pause():
    clock = StoppedClock()
    patience = Patience(DownloadLimits(stall_s=120.0), clock, random.Random(1))
    await asyncio.sleep(130)
    clock.pauses = 1
    assert patience.wait_s(DownloadInterrupted("reset")) >= 0
    await asyncio.sleep(130)
    with pytest.raises(DownloadStalled):
        patience.wait_s(DownloadInterrupted("reset"))


@in_virtual_time
async def test_an_outage_is_not_told_for_the_time_of_a_pause():
    clock, control = StoppedClock(), Control()
    line = ApiLine(Api(), Gate(random.Random(1)), clock, lambda line, error: control.halt(error))

    async def fails():
        raise Unavailable("connection lost")

    for stopped_s, halted in ((700.0, False), (700.0, True)):
        with pytest.raises(Unavailable):
            await line.exchange(fails)
        await asyncio.sleep(stopped_s)
        clock.pauses += not control.halted and clock.pauses < 1
        with pytest.raises(Unavailable):
            await line.exchange(fails)
        assert control.halted is halted


CHILD = """
import asyncio, sys
from batcher.clock import SystemClock
from batcher.cli.event_loop import fast_loop
from batcher.http.exchange import Connection, ExchangeTimeouts
from batcher.providers.runcomfy.provider import RunComfy
from batcher.http.endpoint import Endpoint, Token

async def main():
    limits = ExchangeTimeouts(post_s=0.6, post_silence_s=0.6)
    clock = SystemClock(tick_s=0.02, pause_s=0.2)
    clock.monotonic()
    async with Connection(Endpoint(sys.argv[1], Token("t" * 20)), clock, limits) as connection:
        print((await RunComfy(connection, clock).submit("a/b", b"{}")).id)

with asyncio.Runner(loop_factory=fast_loop() if sys.argv[2] == "fast" else None) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("loop", ["plain", "fast"])
async def test_an_answer_that_came_while_the_process_was_stopped_is_read(loop):
    arrived = asyncio.Event()
    go_on = asyncio.Event()

    async def serve(reader, writer):
        await reader.readuntil(b"{}")
        arrived.set()
        await go_on.wait()
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"request_id":"r1"}')
        await writer.drain()
        writer.close()

    server = Connections(serve)
    url = f"http://127.0.0.1:{await server.listen()}/v1"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), url, loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
    )
    try:
        async with asyncio.timeout(60):
            await arrived.wait()
        process.send_signal(signal.SIGSTOP)
        go_on.set()
        await asyncio.sleep(1.0)
        process.send_signal(signal.SIGCONT)
        out, err = await asyncio.to_thread(process.communicate, timeout=60)
    finally:
        process.kill()
        await server.close()
    assert out == "r1\n", err
