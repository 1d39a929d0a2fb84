"""What a run looks like from outside while it goes on: plain numbers, and who may watch them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Spending(NamedTuple):
    """USD of a run directory, earlier runs included: spent, the cap (``--max-cost``), and what it will
    have cost when the plan is carried out; None if there is none, or it isn't known."""

    spent_usd: float = 0.0
    cap_usd: float | None = None
    estimate_usd: float | None = None


@dataclass(slots=True)
class RunView:
    """Counts of a run in progress. ``selected`` jobs end up in ``done`` or stay something else."""

    selected: int = 0
    done: int = 0
    failed: int = 0
    unknown: int = 0
    queued: int = 0
    """Requests that wait or run at the API."""
    downloading: int = 0
    submitted_now: int = 0
    cancelled_now: int = 0
    not_cancellable: int = 0
    """Requests that ``--on-interrupt cancel`` asked to cancel, and that run already."""
    timed_out: list[str] = field(default_factory=list)
    money: Callable[[], Spending] = field(default=Spending, repr=False, compare=False)
    """What is spent at the moment."""
    waits: Callable[[], Iterable[str]] = field(default=tuple, repr=False, compare=False)
    """What is awaited at the moment, and until when, in words."""


class Observer(Protocol):
    """Who is told how a run goes. Called on the event loop: must not block."""

    def started(self, view: RunView) -> None: ...
    def changed(self, view: RunView) -> None: ...
    def warn(self, message: str) -> None: ...
    def finished(self, view: RunView) -> None: ...


class Silence:
    """Watches nothing."""

    def started(self, view: RunView) -> None: ...
    def changed(self, view: RunView) -> None: ...
    def warn(self, message: str) -> None: ...
    def finished(self, view: RunView) -> None: ...
