"""One run of the engine in the simulated world, wired as ``batcher.app`` wires it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from batcher.app.host import interrupted
from batcher.clock import iso
from batcher.dataset.metadata import Describes, Later, Metadata, gather
from batcher.dataset.rows import ColumnTypes
from batcher.engine.budget import Budget, Caps
from batcher.engine.lanes import Deps, lanes_of
from batcher.engine.runner import Runner
from batcher.engine.stop import Breaker
from batcher.engine.view import Silence
from batcher.errors import BatcherError, ManifestError, StoppedError
from batcher.jobs.job import Job
from batcher.jobs.lifecycle import EventName, RunEvent, State
from batcher.ledger.ledger import Ledger
from batcher.planning.plan import Decision, Plan, decide, make_plan
from batcher.store.local import RunDir

from .disk import SimDisk
from .fetcher import SimFetcher
from .scenario import RunSpec
from .server import PRICE_USD, Server, SimService, Watch
from .world import World, WorldClock

ROOT = Path("/run")
SIGINT = 2


def body_of(job: Job) -> bytes:
    return json.dumps({"job": job.id, "input": job.input}).encode()


class Process:
    """A process that runs ``spec``. Its fields tell what became of it."""

    def __init__(self, world: World, disk: SimDisk, server: Server, spec: RunSpec) -> None:
        self.world, self.disk, self.server, self.spec = world, disk, server, spec
        self.watch: Watch
        self.ledger: Ledger | None = None
        self.runner: Runner | None = None
        self.plan: Plan | None = None
        self.error: BatcherError | None = None
        self.conflict: ManifestError | None = None
        self.finished = False
        self.halted_s: float | None = None
        self.let_go_s = 0.0
        self._clock = WorldClock(world)

    async def main(self) -> None:
        """All of a run. Errors of ours end up in ``error``, all others are bugs and are raised."""
        try:
            self.disk.make_dirs(ROOT)
            shard = self.spec.selection.shard
            self.ledger = Ledger(ROOT, self.disk, self._clock, shard)
            try:
                await self._planned(self.ledger)
            finally:
                await self.ledger.close()
            if shard is not None and self.finished:
                gather(ROOT, shard, self.disk)
        except BatcherError as error:
            self.error = error
        except OSError:
            if not self.world.dead:
                raise

    async def _planned(self, ledger: Ledger) -> None:
        spec, columns = self.spec, ColumnTypes()
        jobs = columns.watch(iter(spec.jobs))
        try:
            self.plan = make_plan(jobs, ledger.snapshot, spec.selection, spec.policy, _price)
        except ManifestError as error:
            self.conflict = error
            return
        await self._execute(ledger, self.plan, columns)

    async def _execute(self, ledger: Ledger, plan: Plan, columns: ColumnTypes) -> None:
        shard = self.spec.selection.shard
        run_dir = RunDir(ROOT, self.disk, shard)
        metadata = Metadata(run_dir, ledger, self.disk) if shard is None else Later()
        opening = self._opening(plan)
        try:
            run_dir.prepare()
            ledger.announce(opening)
            for job_id in plan.orphans:
                ledger.append(EventName.ORPHANED, job_id)
            for job_id in plan.returned:
                ledger.append(EventName.RELISTED, job_id)
            metadata.open(columns)
            await self._drive(ledger, plan, (run_dir, metadata))
        finally:
            metadata.close()
        counts = {state.value: ledger.snapshot.counts[state] for state in State}
        at = iso(self._clock.now())
        ledger.close_run(RunEvent(run=opening.run, at=at, ended=True, counts=counts))
        self.finished = True

    async def _drive(self, ledger: Ledger, plan: Plan, stores: tuple[RunDir, Describes]) -> None:
        spec = self.spec
        deps = Deps(
            service=SimService(self.server, spec.number, self.watch),
            fetcher=SimFetcher(self.server, self.disk),
            ledger=ledger,
            run_dir=stores[0],
            metadata=stores[1],
            body_of=body_of,
            clock=self._clock,
            rng=self.world.rng(f"engine {spec.number}"),
            observer=Silence(),
        )
        budget = Budget(ledger, _price, Caps(spec.max_cost_usd), spec.selection.shard)
        self.runner = Runner(
            deps, spec.pace, lanes_of(deps, spec.pace, budget), Breaker(spec.max_failures)
        )
        timers = [self.world.loop.call_later(at_s, self._signal, kind) for at_s, kind in spec.signals]
        try:
            await self.runner.run(plan, self._work(ledger))
        finally:
            self.let_go_s = self.world.now_s()
            for timer in timers:
                timer.cancel()

    def _work(self, ledger: Ledger) -> Iterator[tuple[Job, Decision]]:
        for job, selected in self.spec.selection.select(self.spec.jobs):
            if selected:
                yield job, decide(job, ledger.snapshot.get(job.id), self.spec.policy)

    def _signal(self, kind: str) -> None:
        if self.world.dead or self.runner is None:
            return
        self.world.note(f"signal: {kind}")
        self.world.seen[f"signal: {kind}"] += 1
        control = self.runner.control
        if kind == "drain":
            control.drain(StoppedError("enough"))
            return
        self.halted_s = self.world.now_s() if self.halted_s is None else self.halted_s
        (control.halt if kind == "halt" else control.abort)(interrupted(SIGINT))

    def _opening(self, plan: Plan) -> RunEvent:
        return RunEvent(
            run=f"run-{self.spec.number}",
            at=iso(self._clock.now()),
            manifest="jobs.yaml",
            api="simulated",
            version=1,
            total=plan.total,
            selected=plan.selected,
        )


def _price(job: Job) -> float:
    return PRICE_USD
