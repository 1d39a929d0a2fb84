"""What a user may ask of a run: plain facts, checked where they are made."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from batcher.clock import Clock, SystemClock
from batcher.disk import Disk, LocalDisk
from batcher.errors import InterruptedRunError
from batcher.manifest import Overrides
from batcher.planning import Plan, Policy, Selection
from batcher.runner import Pace
from batcher.runner.canary import DEFAULT_CANARY_FAILURES, GoOn, Share, just_go_on
from batcher.runner.control import Control
from batcher.runner.view import Observer, Silence

DEFAULT_MAX_FILE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Money:
    """Limits on what a run may buy. ``assume_price_usd`` prices jobs that nobody else prices."""

    max_cost_usd: float | None = None
    assume_price_usd: float | None = None
    max_failures: float | None = None
    max_failures_percent: bool = False
    canary: int | None = None
    """So many jobs first; the rest only where no more than ``canary_failures`` of them failed."""
    canary_failures: Share = DEFAULT_CANARY_FAILURES
    assume_yes: bool = False
    """Buy without asking, also while jobs already paid for have left the manifest."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Where outputs may come from, and how large one may be."""

    allow_hosts: tuple[str, ...] = ()
    max_file_bytes: int = DEFAULT_MAX_FILE_BYTES


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """The embedded stand-in for the API: how fast it works, and which share of calls it spoils."""

    speed: float = 1.0
    faults: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything about one run."""

    manifest: Path
    output: Path | None = None
    """The run directory. With ``bucket_url``, which takes the outputs, it keeps the ledger."""
    bucket_url: str | None = None
    overrides: Overrides = field(default_factory=Overrides)
    skip_invalid: bool = False
    selection: Selection = field(default_factory=Selection)
    policy: Policy = field(default_factory=Policy)
    pace: Pace = field(default_factory=Pace)
    money: Money = field(default_factory=Money)
    trust: Trust = field(default_factory=Trust)
    sandbox: SandboxOptions | None = None
    ignore_old_failures: bool = False
    check_urls: bool = False
    """A plan asks about each media URL. Needs the network."""


def no_signals(control: Control) -> AbstractContextManager[None]:
    """For callers that handle signals themselves."""
    del control
    return nullcontext()


@dataclass(slots=True)
class Host:
    """The machine that a run runs on: injected, so that tests can bring their own."""

    disk: Disk = field(default_factory=LocalDisk)
    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)
    observer: Observer = field(default_factory=Silence)
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    home: Path = field(default_factory=Path.home)
    confirm: Callable[[Plan, Path, str | None], bool] | None = None
    """Shows a plan with its run directory, and a warning, and asks; None: nobody to ask."""
    go_on: GoOn = just_go_on
    """Shows how the canary fared, and asks where there is somebody to ask."""
    signals: Callable[[Control], AbstractContextManager[None]] = no_signals
    """Makes signals reach a run's control while it runs."""


def interrupted(signal_number: int) -> InterruptedRunError:
    """The reason to stop that a signal is; its exit code is 128 + the signal's number."""
    error = InterruptedRunError(f"interrupted by signal {signal_number}")
    error.exit_code = 128 + signal_number  # type: ignore[misc]
    return error
