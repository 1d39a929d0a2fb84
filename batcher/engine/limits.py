"""How fast and how patiently a run goes: what a user may choose."""

from __future__ import annotations

from dataclasses import dataclass

from batcher.engine.gateway import DEFAULT_OUTAGE_S

DEFAULT_CONCURRENCY = 8
DEFAULT_DOWNLOADS = 8
DEFAULT_GRACE_S = 5.0
DEFAULT_JOB_TIMEOUT_S = 2 * 3600.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast and how patiently. ``poll_interval_s`` None: a schedule that learns.

    With ``adapts``, ``concurrency`` is no limit: limits are found out.
    """

    concurrency: int = DEFAULT_CONCURRENCY
    adapts: bool = False
    downloads: int = DEFAULT_DOWNLOADS
    rate_per_s: float | None = None
    poll_interval_s: float | None = None
    job_timeout_s: float | None = DEFAULT_JOB_TIMEOUT_S
    outage_timeout_s: float = DEFAULT_OUTAGE_S
    grace_s: float = DEFAULT_GRACE_S
    cancel_on_interrupt: bool = False
