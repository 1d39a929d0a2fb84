"""The state of a run in progress as plain numbers, and the observer that sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Spending(NamedTuple):
    """USD of a run directory, earlier runs included: spent, the cap (``--max-cost``), and the expected
    total when the plan is done; None if there is none, or it isn't known."""

    spent_usd: float = 0.0
    cap_usd: float | None = None
    estimate_usd: float | None = None


@dataclass(slots=True)
class RunView:
    """Counts of a run in progress. ``selected`` jobs become ``done`` or keep another state."""

    run: str | None = None
    """The run's id in the ledger."""
    selected: int = 0
    done: int = 0
    failed: int = 0
    unknown: int = 0
    queued: int = 0
    """Requests that are queued or running at the API."""
    downloading: int = 0
    submitted_now: int = 0
    cancelled_now: int = 0
    not_cancellable: int = 0
    """Requests that ``--on-interrupt cancel`` could not cancel because they already run."""
    timed_out: list[str] = field(default_factory=list)
    money: Callable[[], Spending] = field(default=Spending, repr=False, compare=False)
    """The current spending."""
    waits: Callable[[], Iterable[str]] = field(default=tuple, repr=False, compare=False)
    """What the run is waiting for now, and until when, in words."""


class Observer(Protocol):
    """Receives a run's progress. Called on the event loop: must not block."""

    def started(self, view: RunView) -> None: ...
    def changed(self, view: RunView) -> None: ...
    def warn(self, message: str) -> None: ...
    def finished(self, view: RunView) -> None: ...


class Silence:
    """An observer that ignores everything."""

    def started(self, view: RunView) -> None: ...
    def changed(self, view: RunView) -> None: ...
    def warn(self, message: str) -> None: ...
    def finished(self, view: RunView) -> None: ...
