"""The lanes of a run and what they share: the runner receives them and builds none."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from batcher.clock import Clock
from batcher.dataset.acceptance import Inspector, Unchecked
from batcher.dataset.metadata import Describes
from batcher.download.downloader import Fetcher
from batcher.engine.account import Account
from batcher.engine.budget import Budget
from batcher.engine.fetch import Collector, Outputs
from batcher.engine.gateway import ApiLine, Lines, Providers, Unlimited
from batcher.engine.interrupt import Cancels
from batcher.engine.poll import LateCosts, Polling, Watcher
from batcher.engine.slots import AutoSlots, RunLimits, Slots, Starts
from batcher.engine.stop import Control
from batcher.engine.submit import Submitter, Terms
from batcher.engine.unwatched import Unwatched
from batcher.ledger.ledger import Ledger
from batcher.options.facts import Pace, Policy
from batcher.pacing.gate import Gate
from batcher.pacing.polling import LearnedPolls
from batcher.pacing.rate import RateLimit
from batcher.ports import Observer, Provider, RunView
from batcher.store.local import RunDir

BACKLOG_PER_DOWNLOAD = 64


@dataclass(frozen=True, slots=True)
class Deps:
    """What the engine needs: passed in, never made here."""

    providers: Providers
    fetcher: Fetcher
    ledger: Ledger
    run_dir: RunDir
    metadata: Describes
    clock: Clock
    rng: Random
    observer: Observer
    inspector: Inspector = field(default_factory=Unchecked)
    account: Account | None = None
    policy: Policy = field(default_factory=Policy)
    vendors: int = 1
    """How many providers the run is connected to."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """Submitting (``slots``, ``starts``, ``submitter``), polling (``watcher``, ``polling``), downloading
    (``collector``, ``backlog``); tasks that watch requests and costs; and what all of them share.
    """

    view: RunView
    control: Control
    budget: Budget
    lines: Lines
    slots: Slots | AutoSlots
    starts: Starts
    submitter: Submitter
    watcher: Watcher
    polling: Polling
    collector: Collector
    backlog: Slots
    cancels: Cancels
    unwatched: Unwatched
    late_costs: LateCosts


def lanes_of(deps: Deps, pace: Pace, budget: Budget) -> Lanes:
    """Lanes with the limits and timeouts of ``pace``, which spend what ``budget`` allows."""
    view, snapshot, clock = RunView(), deps.ledger.snapshot, deps.clock
    auto = AutoSlots(clock, pace.model_caps) if pace.adapts else None
    traffic, slots = auto or Unlimited(), auto or Slots(pace.concurrency, pace.model_caps)
    limits = RunLimits(slots, RateLimit(pace.rate_per_s))
    control = Control(limits)

    def line_to(provider: Provider) -> ApiLine:
        gate = Gate(deps.rng)
        return ApiLine(provider, gate, clock, lines.silence, outage=pace.outage, traffic=traffic)

    lines = Lines(deps.providers, line_to, control, deps.observer.warn, deps.vendors)
    terms = Terms(budget, limits.rate, clock, pace.concurrency, deps.account)
    watcher = Watcher(lines, clock, deps.rng, deps.observer.warn)
    outputs = Outputs(deps.run_dir, deps.metadata, deps.inspector)
    on_free = deps.account.lingered if deps.account is not None else None
    polls = LearnedPolls(snapshot.timings, deps.rng, pace.poll_interval_s)
    return Lanes(
        view=view,
        control=control,
        budget=budget,
        lines=lines,
        slots=slots,
        starts=Starts(clock, pace.concurrency),
        submitter=Submitter(lines, deps.ledger, control, terms),
        watcher=watcher,
        polling=Polling(snapshot, clock, polls, traffic),
        collector=Collector(deps.fetcher, watcher, deps.ledger, outputs),
        backlog=Slots(BACKLOG_PER_DOWNLOAD * pace.downloads),
        cancels=Cancels(lines, deps.ledger, view),
        unwatched=Unwatched(slots, snapshot, clock, pace.job_timeout_s, on_free),
        late_costs=LateCosts(watcher, deps.ledger, clock, budget.is_bounded),
    )
