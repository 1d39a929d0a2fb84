"""The settings of a sandbox, and its statistics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batcher.clock import Clock, SystemClock
from batcher.sandbox.faults import Fault, Faults

if TYPE_CHECKING:
    from pathlib import Path


SEVEN_DAYS_S = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """How a sandbox behaves. The same settings and the same calls give the same answers.

    ``speed`` divides all durations of queue and generation. ``faults`` is the share (0..1) of calls that
    fail, ``only_faults`` limits the kinds of faults (empty: all kinds). ``balance_usd`` and
    ``rate_per_s`` are unlimited if None. ``state`` is the file that keeps the requests; without one they
    end with the process. ``workers`` requests generate at a time, ``url_ttl_s`` is how long an output
    URL works, ``retention_s`` how long a result is kept. ``revoked_token`` is the only token that is
    refused.
    """

    seed: int = 0
    speed: float = 1.0
    faults: float = 0.0
    only_faults: frozenset[Fault] = frozenset()
    balance_usd: float | None = None
    rate_per_s: float | None = None
    workers: int = 32
    state: Path | None = None
    url_ttl_s: float = 600.0
    retention_s: float = SEVEN_DAYS_S
    revoked_token: str = "revoked"  # noqa: S105 - the one that opens nothing
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        """Check the numbers. Raises ValueError."""
        if not 0.0 <= self.faults <= 1.0:
            raise ValueError(f"faults is a share between 0 and 1, not {self.faults}")
        if self.speed <= 0 or self.workers < 1:
            raise ValueError("speed must be above 0, and at least one worker is needed")
        if self.rate_per_s is not None and self.rate_per_s <= 0:
            raise ValueError(f"rate_per_s must be above 0, not {self.rate_per_s}")

    def dice(self) -> Faults:
        """Draws which calls fail."""
        return Faults(self.seed, self.faults, self.only_faults)


@dataclass(slots=True)
class SandboxStats:
    """Statistics of one sandbox, kept while it serves.

    Calls (``posts``, ``polls``, ``downloads``, ``cancels``: each arrival, with any answer), ``uploads``
    of files, ``faults`` by name, ``redirects_followed`` and ``tokens_leaked`` count since the start. The
    numbers about requests (``jobs_created``, ``jobs_cancelled``, ``charged_usd``, ``refunded_usd``,
    ``max_unfinished``) include those in the state file.
    """

    posts: int = 0
    polls: int = 0
    downloads: int = 0
    cancels: int = 0
    uploads: int = 0
    jobs_created: int = 0
    jobs_cancelled: int = 0
    charged_usd: float = 0.0
    refunded_usd: float = 0.0
    max_unfinished: int = 0
    redirects_followed: int = 0
    tokens_leaked: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def spent_usd(self) -> float:
        """The amount charged and not refunded, in USD."""
        return self.charged_usd - self.refunded_usd
