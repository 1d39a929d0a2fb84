"""The machine on which a run executes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from batcher.clock import Clock, SystemClock
from batcher.disk import Disk, LocalDisk
from batcher.engine.canary import GoOn, just_go_on
from batcher.engine.stop import Control
from batcher.planning.plan import Plan
from batcher.ports import Observer, Silence


def no_signals(control: Control) -> AbstractContextManager[None]:
    """For callers that handle signals themselves."""
    del control
    return nullcontext()


def home_folder() -> Path:
    """The user's home; for a user without one, a folder that can't contain anything."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


@dataclass(slots=True)
class Host:
    """The machine on which a run executes: injected, so that tests can replace it."""

    disk: Disk = field(default_factory=LocalDisk)
    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)
    observer: Observer = field(default_factory=Silence)
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    home: Path = field(default_factory=home_folder)
    confirm: Callable[[Plan, Path, str | None], bool] | None = None
    """Shows a plan with its run directory and a warning, and asks; None: no user to ask."""
    unattended: bool = False
    """A command without a terminal: it spends only with a cap or --yes."""
    go_on: GoOn = just_go_on
    """Shows the canary's outcome, and asks whether to continue if a user can answer."""
    signals: Callable[[Control], AbstractContextManager[None]] = no_signals
    """Connects signals to a run's control while it runs."""
