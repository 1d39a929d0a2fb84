"""One run in the simulated world: ``batcher.app.run`` itself, but for the network and the manifest's file."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import batcher.app.run as app
from batcher.app.prepare import Prepared, prepare
from batcher.dataset.acceptance import Unchecked
from batcher.engine.host import Host
from batcher.engine.stop import Control
from batcher.errors import BatcherError, ManifestError, StoppedError, interrupted
from batcher.jobs.identity import RULE
from batcher.jobs.job import Job
from batcher.ledger.ledger import Ledger
from batcher.ledger.summary import Summary
from batcher.options.facts import Money
from batcher.options.run import Options
from batcher.planning.plan import Plan
from batcher.ports import RunView, Silence
from batcher.providers.catalog import SpecOrigin, Specs, SpecSource
from batcher.schema.spec import ModelSpec

from .disk import SimDisk
from .fetcher import SimFetcher
from .scenario import MODEL, RunSpec
from .server import PRICE_USD, Server, SimService, Watch
from .world import World, WorldClock

ROOT = Path("/run")
SIGINT = 2
BLOCK_JOBS = 3
FIELDS = {"prompt": {"type": "string"}, "seed": {"type": "integer"}}
SPEC = ModelSpec(
    MODEL,
    "catalogue",
    {"type": "object", "properties": FIELDS},
    base_price_usd=PRICE_USD,
    price_unit="video",
)


class SimManifest:
    """See :class:`batcher.manifest.load.Manifest`. After the first pass it holds what the user made of it."""

    name, path = "run", Path("jobs.yaml")

    def __init__(self, spec: RunSpec) -> None:
        self.rule = RULE
        self._first, self._later = spec.jobs, spec.edited or spec.jobs
        self._passes = 0

    def begin(self) -> None:
        """The next pass is a plan's."""
        self._passes = 0

    def keep_rule(self, rule: int) -> None:
        self.rule = rule

    def models(self) -> Generator[None, None, set[str]]:
        yield
        return {MODEL}

    def leave_out(self, run_dir: Path) -> None:
        """It reads no files."""

    def jobs(self, *_: Any) -> Iterator[Job]:
        return itertools.chain.from_iterable(self.blocks())

    def blocks(self, *_: Any) -> Iterator[Sequence[Job]]:
        self._passes += 1
        jobs = iter(self._first if self._passes == 1 else self._later)
        while block := [*itertools.islice(jobs, BLOCK_JOBS)]:
            yield block


@dataclass(frozen=True)
class SimSite:
    """See :class:`batcher.app.connect.Site`: it is its own catalogue."""

    api: str
    service: SimService
    fetcher: SimFetcher

    @property
    def vendors(self) -> dict[str, SimService]:
        return {"": self.service}

    @property
    def other_apis(self) -> dict[str, str]:
        return {}

    async def reach(self, models: Iterable[str]) -> None:
        list(models)

    def provider(self, model: str) -> SimService:
        return self.service

    def catalog(self, model: str = "") -> SimSite:
        return self

    async def specs(self, models: set[str], *_: Any) -> Specs:
        return Specs({MODEL: SPEC}, {MODEL: SpecSource(SpecOrigin.CATALOGUE)})

    async def balance_usd(self, models: Any) -> float:
        return self.service.balance_usd

    def downloader(self, *_: Any) -> nullcontext[SimFetcher]:
        return nullcontext(self.fetcher)


class Onlooker(Silence):
    """Keeps what a run shows of itself."""

    view: RunView | None = None

    def started(self, view: RunView) -> None:
        self.view = view


class Process:
    """A process that runs ``spec``. Its fields tell what became of it."""

    asks_first = False
    """Whether it asks about requests that no ledger may know yet."""

    def __init__(self, world: World, disk: SimDisk, server: Server, spec: RunSpec) -> None:
        self.world, self.disk, self.server, self.spec = world, disk, server, spec
        self.watch: Watch
        self.manifest = SimManifest(spec)
        self.ledger: Ledger | None = None
        self.plan: Plan | None = None
        self.canary: frozenset[str] = frozenset()
        self.shown = Onlooker()
        self.control: Control | None = None
        self.summary: Summary | None = None
        self.error: BatcherError | None = None
        self.conflict: ManifestError | None = None
        self.halted_s: float | None = None
        self.let_go_s = 0.0

    @property
    def finished(self) -> bool:
        """Whether it came to its own end."""
        return self.summary is not None

    async def main(self) -> None:
        """All of a run. Errors of ours end up in ``error``, all others are bugs and are raised."""
        try:
            with self._seams():
                self.summary = await app.run(self._options(), self._host())
        except ManifestError as error:
            self.conflict = error
        except BatcherError as error:
            self.error = error
        except OSError:
            if not self.world.dead:
                raise

    def _options(self) -> Options:
        spec = self.spec
        money = Money(
            max_cost_usd=spec.max_cost_usd,
            max_failures=spec.max_failures,
            canary=spec.canary,
            assume_yes=spec.assume_yes,
        )
        return Options(
            manifest=SimManifest.path,
            output=ROOT,
            selection=spec.selection,
            policy=spec.policy,
            pace=spec.pace,
            money=money,
        )

    def _host(self) -> Host:
        return Host(
            disk=self.disk,
            clock=WorldClock(self.world),
            rng=self.world.rng(f"engine {self.spec.number}"),
            observer=self.shown,
            env={},
            home=Path("/"),
            signals=self._signals,
        )

    @contextmanager
    def _seams(self) -> Iterator[None]:
        """Put the simulated network, manifest and files where the real ones are reached for."""
        parts: dict[str, Any] = {
            "open_manifest": lambda *_: self.manifest,
            "connect": self._connect,
            "prepare": self._prepare,
            "Ledger": self._open_ledger,
            "open_account": lambda *_: (
                None
            ),  # its book would be a real file, and grow from world to world
            "MediaInspector": lambda *_: Unchecked(),
        }
        with ExitStack() as stack:
            for name, part in parts.items():
                stack.enter_context(patch.object(app, name, part))
            yield

    @asynccontextmanager
    async def _connect(self, *_: Any, **__: Any) -> AsyncIterator[SimSite]:
        service = SimService(self.server, self.spec.number, self.watch)
        yield SimSite(self.spec.api, service, SimFetcher(self.server, self.disk))

    def _prepare(self, *given: Any) -> Generator[None, None, Prepared]:
        self.manifest.begin()
        prepared = yield from prepare(*given)
        self.plan, self.canary = prepared.plan, prepared.canary
        return prepared

    def _open_ledger(self, *given: Any, **named: Any) -> Ledger:
        self.ledger = Ledger(*given, **named)
        return self.ledger

    @contextmanager
    def _signals(self, control: Control) -> Iterator[None]:
        self.control = control
        timers = [
            self.world.loop.call_later(at_s, self._signal, kind) for at_s, kind in self.spec.signals
        ]
        try:
            yield
        finally:
            self.let_go_s = self.world.now_s()
            for timer in timers:
                timer.cancel()

    def _signal(self, kind: str) -> None:
        if self.world.dead or self.control is None:
            return
        self.world.note(f"signal: {kind}")
        self.world.seen[f"signal: {kind}"] += 1
        if kind == "drain":
            self.control.drain(StoppedError("enough"))
            return
        self.halted_s = self.world.now_s() if self.halted_s is None else self.halted_s
        (self.control.halt if kind == "halt" else self.control.abort)(interrupted(SIGINT))
