"""What runs in a worker: one shard like any other run, while it listens to the caller's orders."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from batcher.clock import Clock, SystemClock
from batcher.distributed.messages import (
    ORDERS,
    REPORT_S,
    SILENCE_S,
    VIEWS,
    Directive,
    Ended,
    Report,
    Sight,
    Task,
    counts_of,
    packed,
    trouble_of,
)
from batcher.engine.host import Host
from batcher.engine.stop import Control
from batcher.errors import (
    InputError,
    LockedError,
    RunDirError,
    StoppedError,
    UsageError,
    interrupted,
)
from batcher.ledger.summary import Summary
from batcher.options.run import Options
from batcher.ports import RunView, Silence

LOCK_AGAIN_S = 1.0
LOCK_PATIENCE_S = SILENCE_S + 30.0
"""Longer than a shard keeps running after it lost the cluster: see ``SILENCE_S``."""
_CONNECT_S = 10.0


RunShard = Callable[[Options, Host], Coroutine[Any, Any, Summary]]
"""Runs one shard like any other run. Dask sends it to the workers by its name."""


def carry_out(run_shard: RunShard, task: Task) -> dict[str, Any]:
    """Run one shard to its end, in a thread of a Dask worker. Returns an ``Ended``; raises nothing."""
    from distributed import get_worker

    return packed(asyncio.run(_carry_out(run_shard, task, get_worker(), SystemClock())))


def look(sight: Sight) -> str | None:
    """The problem with a worker's view of the run, or None. Called on each worker before the start."""
    try:
        check_sight(sight)
    except (InputError, RunDirError, UsageError) as error:
        return str(error)
    return None


def check_sight(sight: Sight) -> None:
    """Raises UsageError (another version), RunDirError or InputError (another file system)."""
    if version("runcomfy-batcher") != sight.version:
        raise UsageError(f"it has batcher {version('runcomfy-batcher')}, the caller {sight.version}")
    if not sight.mark.exists():
        raise RunDirError(
            f"it does not see the run directory {sight.mark.parent.parent}: that must be at the same "
            "path for all workers, on a file system that they share"
        )
    if manifest_sha256(sight.manifest) != sight.manifest_sha256:
        raise InputError(
            f"it does not see the same manifest {sight.manifest}: that, and the files it names, must be "
            "at the same path for all workers"
        )


def manifest_sha256(path: Path) -> str | None:
    """The SHA-256 of the manifest's own file; None if it can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


@dataclass(slots=True)
class Post(Silence):
    """Connects a shard's engine with the caller: reports the engine's progress, applies orders to it."""

    task: Task
    send: Callable[[str, dict[str, Any]], None]
    now_s: Callable[[], float]
    view: RunView | None = None
    began: asyncio.Event = field(default_factory=asyncio.Event)
    _heard_s: float = 0.0
    _control: Control | None = None
    _running: asyncio.Task[Summary] | None = None
    _order: Directive | None = None
    _warnings: list[str] = field(default_factory=list)
    _last: Report | None = None

    def started(self, view: RunView) -> None:
        self.view = view

    def changed(self, view: RunView) -> None:
        self.view = view

    def finished(self, view: RunView) -> None:
        self.view = view

    def warn(self, message: str) -> None:
        self._warnings.append(message)

    @property
    def error(self) -> Any:
        """Why the engine stops early, if it does."""
        return self._control.error if self._control is not None else None

    @property
    def held(self) -> int | None:
        """How many slots are held; None before the engine has started."""
        limits = self._control.limits if self._control is not None else None
        return limits.slots.held if limits is not None else None

    @property
    def silent_s(self) -> float:
        """Seconds since the caller was last heard from."""
        return self.now_s() - self._heard_s

    def report(self) -> None:
        """Send the caller a report if anything changed."""
        stops_all = self._control is not None and self._control.draining
        stopped = str(self.error) if stops_all and isinstance(self.error, StoppedError) else None
        warnings, self._warnings = tuple(self._warnings), []
        counts = counts_of(self.view or RunView())
        report = Report(self.task.run, self.task.number, counts, stopped, warnings)
        if report != self._last:
            self._last = report
            self.send(VIEWS, packed(report))

    def receive(self, order: Directive) -> None:
        """Apply an order of the caller."""
        if order.run == self.task.run:
            self._heard_s = self.now_s()
            self.began.set()
            self._order = order
            self._apply_order()

    def stop_run(self) -> None:
        """Halt as on SIGTERM, without an order: the caller is gone, or the worker is leaving."""
        self._order = Directive(self.task.run, halt=signal.SIGTERM)
        self.began.set()
        self._apply_order()

    def attach(self, running: asyncio.Task[Summary]) -> None:
        """``running`` is the run's task. An order to halt before the engine starts cancels it."""
        self._running = running
        self._heard_s = self.now_s()
        self._apply_order()

    @contextmanager
    def signals(self, control: Control) -> Iterator[None]:
        """The engine has started: until it ends, orders act on it as signals would."""
        self._control, self._running = control, None
        self._apply_order()
        yield

    def _apply_order(self) -> None:
        order = self._order
        if order is None:
            return
        if order.halt is not None and self._running is not None:
            self._running.cancel()
        if self._control is None:
            return
        if self._control.limits is not None:
            self._control.limits.widen(order.more_slots, order.more_per_s)
        if order.drain is not None:
            self._control.drain(StoppedError(order.drain))
        if order.halt is not None:
            self._control.halt(interrupted(order.halt))
        if order.abort and order.halt is not None:
            self._control.abort(interrupted(order.halt))


async def _carry_out(run_shard: RunShard, task: Task, worker: Any, clock: Clock) -> Ended:
    post = Post(task, worker.log_event, clock.monotonic)
    try:
        async with _in_touch(post, worker):
            post.report()
            with suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_S):
                    await post.began.wait()
            if not post.began.is_set():
                raise interrupted(signal.SIGTERM)  # no caller waits for this shard: buy nothing
            check_sight(task.sight)
            return await _attended(run_shard, post, worker, clock)
    except Exception as error:  # noqa: BLE001 - the caller tells the user, not Dask's log
        return Ended(task.number, trouble=trouble_of(error))


@asynccontextmanager
async def _in_touch(post: Post, worker: Any) -> AsyncIterator[None]:
    """Listen to the caller's orders. They are sent repeatedly, so a missed one is heard soon."""
    from distributed import Client

    def received(event: tuple[float, Any]) -> None:
        with suppress(msgspec.ValidationError):
            post.receive(msgspec.convert(event[1], Directive))

    address = worker.scheduler.address
    client = Client(
        address,
        asynchronous=True,
        timeout=_CONNECT_S,
        security=worker.security,
        set_as_default=False,
    )
    async with client:
        client.subscribe_topic(ORDERS, received)
        yield


async def _attended(run_shard: RunShard, post: Post, worker: Any, clock: Clock) -> Ended:
    """Run the shard and report. Stops it if the caller falls silent or the worker is leaving."""
    host = Host(observer=post, clock=clock, signals=post.signals)
    running = asyncio.create_task(_patiently(run_shard, post.task.options, host))
    post.attach(running)
    watching = asyncio.create_task(_watch(post, worker, clock))
    try:
        summary = await running
    except asyncio.CancelledError:
        raise interrupted(signal.SIGTERM) from None
    finally:
        watching.cancel()
    post.report()
    return _ended(post, summary)


def _ended(post: Post, summary: Summary) -> Ended:
    counts = counts_of(post.view or RunView())
    if post.error is not None:
        return Ended(post.task.number, counts, trouble_of(post.error))
    return Ended(post.task.number, counts, left_out=summary.stopped is not None, held=post.held)


async def _patiently(run_shard: RunShard, options: Options, host: Host) -> Summary:
    """Run the shard; waits for the shard's lock while its previous worker is ending."""
    end_s = host.clock.monotonic() + LOCK_PATIENCE_S + options.pace.grace_s
    while True:
        try:
            return await run_shard(options, host)
        except LockedError:
            if host.clock.monotonic() >= end_s:
                raise
            await host.clock.sleep(LOCK_AGAIN_S)


async def _watch(post: Post, worker: Any, clock: Clock) -> None:
    """Report; stop the shard if the caller is silent, if the worker leaves, or if this watch fails."""
    try:
        while True:
            _look_around(post, worker)
            await clock.sleep(REPORT_S)
    except Exception:  # raised by Dask: an unwatched shard would keep buying
        post.stop_run()
        raise


def _look_around(post: Post, worker: Any) -> None:
    from distributed import Status

    staying = worker.status in (Status.running, Status.paused)
    if post.silent_s > SILENCE_S or not staying:
        post.stop_run()
    post.report()
