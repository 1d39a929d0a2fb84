"""The options of a run as plain structs, which the other packages read. Imports nothing above it."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from batcher.jobs.column_rules import Mapped
from batcher.jobs.job import Job
from batcher.jobs.shard import Shard

DEFAULT_CONCURRENCY = 8
DEFAULT_DOWNLOADS = 8
DEFAULT_GRACE_S = 5.0
DEFAULT_JOB_TIMEOUT_S = 2 * 3600.0
DEFAULT_OUTAGE_S = 600.0
FIRST_ANSWER_S = 60.0
"""How long the API may fail to answer before its first answer, without ``--outage-timeout``."""
DEFAULT_MAX_ATTEMPTS = 3
PERIODS = ("day", "month")
"""Over which a cap of the account counts."""
DEFAULT_MAX_FILE_BYTES = 2 << 30


class JobShare(NamedTuple):
    """A number of jobs or, with ``percent``, a share of them."""

    value: float
    percent: bool = False

    def is_passed(self, part: int, whole: int) -> bool:
        """Whether ``part`` of ``whole`` is more than this limit."""
        return (100.0 * part / whole if self.percent else part) > self.value

    def __str__(self) -> str:
        return f"{self.value:g}{'%' if self.percent else ''}"


DEFAULT_CANARY_FAILURES = JobShare(20.0, percent=True)


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """``format`` (a name, with an optional part such as a sheet: ``xlsx:Sheet2``), ``encoding`` and
    ``delimiter`` of a file; None: detected from the file.
    """

    format: str | None = None
    encoding: str | None = None
    delimiter: str | None = None


AS_IT_TELLS = Reading()


@dataclass(frozen=True, slots=True)
class Overrides:
    """The command line's options about a manifest.

    ``model`` is for every job, ``set`` maps inputs to texts for every job (an empty text removes the
    input), ``columns`` holds the roles of columns, ``vars`` holds variables for the templates of every
    job, ``extra`` names inputs that are sent although the schema doesn't list them. With ``per_row``
    rows with the same inputs are separate jobs. ``reading`` tells how to read the file itself.
    """

    model: str | None = None
    set: Mapping[str, str] = field(default_factory=dict)
    columns: Mapped = field(default_factory=Mapped)
    vars: Mapping[str, str] = field(default_factory=dict)
    extra: Collection[str] = ()
    per_row: bool = False
    reading: Reading = AS_IT_TELLS


@dataclass(frozen=True, slots=True)
class Selection:
    """Which jobs a run takes: ``only`` a glob or a set of ids, a shard, then the first ``limit``."""

    limit: int | None = None
    only: str | frozenset[str] | None = None
    shard: Shard | None = None

    def covers(self, job_id: str) -> bool:
        """Whether a job belongs to this run even if it has left the manifest."""
        return self.limit is None and self.only is None and self.matches(job_id)

    def matches(self, job_id: str) -> bool:
        """Whether the job belongs to the selection, regardless of ``limit``."""
        if isinstance(self.only, frozenset):
            if job_id not in self.only:
                return False
        elif self.only is not None and not fnmatch.fnmatchcase(job_id, self.only):
            return False
        return self.shard is None or self.shard.has(job_id)

    def select(self, blocks: Iterable[Sequence[Job]]) -> Iterator[tuple[Sequence[Job], Sequence[Job]]]:
        """Every block of jobs, and those of them that are selected."""
        left = self.limit
        for block in blocks:
            chosen = block if left is None or left > 0 else ()
            if self.only is not None or self.shard is not None:
                chosen = [job for job in chosen if self.matches(job.id)]
            if left is not None:
                chosen = chosen[:left]
                left -= len(chosen)
            yield block, chosen


@dataclass(frozen=True, slots=True)
class Policy:
    """The user's permissions to buy jobs again."""

    retry_failed: bool = False
    """Failures, except refused generations."""
    retry_refused: bool = False
    """Jobs that the API refused for their inputs."""
    retry_unknown: bool = False
    redo: bool = False
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    retries: int = 0
    """How often a run retries a job whose generation failed for a temporary reason."""


class Outage(NamedTuple):
    """How long the API may fail to answer, in seconds: before its first answer in a run, and later.

    ``is_asked``: ``--outage-timeout`` was given, so planning waits for the API, too. ``spent_s``: it has
    failed to answer for so long already, while planning; ``first_s`` is the rest.
    """

    first_s: float = FIRST_ANSWER_S
    later_s: float = DEFAULT_OUTAGE_S
    is_asked: bool = False
    spent_s: float = 0.0

    @classmethod
    def of(cls, limit_s: float | None) -> Outage:
        """The value of ``--outage-timeout``; None: the default."""
        return cls() if limit_s is None else cls(limit_s, limit_s, is_asked=True)

    def less(self, spent_s: float) -> Outage:
        """The rest after the API failed to answer for ``spent_s`` seconds while planning."""
        return self._replace(first_s=max(self.first_s - spent_s, 0.0), spent_s=spent_s)


DEFAULT_OUTAGE = Outage()


@dataclass(frozen=True, slots=True)
class Pace:
    """Concurrency, rates and time-outs. ``poll_interval_s`` None: an adaptive schedule.

    With ``adapts``, ``concurrency`` is not a limit: the limits are searched for. ``model_caps`` are
    additional limits on unfinished requests, by patterns of models (``kling/*``).
    """

    concurrency: int = DEFAULT_CONCURRENCY
    adapts: bool = False
    model_caps: Mapping[str, int] = field(default_factory=dict)
    downloads: int = DEFAULT_DOWNLOADS
    rate_per_s: float | None = None
    poll_interval_s: float | None = None
    job_timeout_s: float | None = DEFAULT_JOB_TIMEOUT_S
    outage: Outage = DEFAULT_OUTAGE
    account_concurrency: int | None = None
    """Unfinished requests of all runs of the account on this host."""
    max_runtime_s: float | None = None
    ends_s: float | None = None
    """The time on the monotonic clock at which ``max_runtime_s`` is over, once a run has begun."""
    grace_s: float = DEFAULT_GRACE_S
    cancel_on_interrupt: bool = False


@dataclass(frozen=True, slots=True)
class Money:
    """Limits on what a run may buy. ``assume_price_usd`` is the price of jobs without a known price."""

    max_cost_usd: float | None = None
    assume_price_usd: float | None = None
    max_failures: float | None = None
    max_failures_percent: bool = False
    canary: int | None = None
    """This many jobs first; the rest only if no more than ``canary_failures`` of them failed."""
    canary_failures: JobShare = DEFAULT_CANARY_FAILURES
    allow_removed: bool = False
    """Jobs already paid for may have left the manifest. Implies no other permission."""
    assume_yes: bool = False
    """Buy without asking, even if jobs already paid for have left the manifest."""
    existing: bool = False
    """Never begin a new run directory."""
    max_cost_per: Mapping[str, float] = field(default_factory=dict)
    """USD over all run directories: by ``day``, ``month``, or ``day:PATTERN`` for some models."""

    @property
    def has_cap(self) -> bool:
        """Whether any spending is bounded, so that prices must be known."""
        return self.max_cost_usd is not None or bool(self.max_cost_per)

    @property
    def caps_all(self) -> bool:
        """Whether all spending is bounded: a cap on some models leaves the others free."""
        return self.max_cost_usd is not None or not self.max_cost_per.keys().isdisjoint(PERIODS)


@dataclass(frozen=True, slots=True)
class Trust:
    """Where outputs may come from, and how large one may be."""

    allow_hosts: tuple[str, ...] = ()
    max_file_bytes: int = DEFAULT_MAX_FILE_BYTES


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """The embedded stand-in for the API: its speed, and the share of calls that fail."""

    speed: float = 1.0
    faults: float = 0.0
    seed: int = 0
