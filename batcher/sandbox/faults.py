"""The faults: their kinds, how often each occurs, and its effect on the job. Pure functions.

Each decision is drawn from the seed, from the subject of the call (a job's inputs, a request id), and
from how often it was called before: so a run is reproducible, in any order of its calls.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class FaultStage(StrEnum):
    """The stage at which a fault occurs."""

    CONNECT = "connect"
    SUBMIT = "submit"
    POLL = "poll"
    GENERATE = "generate"
    DOWNLOAD = "download"


class Fault(StrEnum):
    """Every fault: ``stage:kind``. ``lessons.py`` describes each, ``WEIGHTS`` has their likelihood."""

    CONNECT_DROPPED = "connect:dropped"

    SUBMIT_DROPPED = "submit:dropped"
    SUBMIT_INTERNAL = "submit:internal"
    SUBMIT_GATEWAY = "submit:gateway"
    SUBMIT_UNAVAILABLE = "submit:unavailable"
    SUBMIT_BUSY = "submit:busy"
    SUBMIT_LIMITED = "submit:limited"
    SUBMIT_LIMITED_DATE = "submit:limited-date"
    SUBMIT_ERROR_CODE = "submit:error-code"
    SUBMIT_UNREADABLE = "submit:unreadable"
    SUBMIT_NO_ID = "submit:no-id"
    SUBMIT_REDIRECT = "submit:redirect"

    POLL_DROPPED = "poll:dropped"
    POLL_INTERNAL = "poll:internal"
    POLL_GATEWAY = "poll:gateway"
    POLL_UNAVAILABLE = "poll:unavailable"
    POLL_BUSY = "poll:busy"
    POLL_LIMITED = "poll:limited"
    POLL_LIMITED_DATE = "poll:limited-date"
    POLL_UNREADABLE = "poll:unreadable"
    POLL_NOT_READY = "poll:not-ready"
    POLL_ERROR_CODE = "poll:error-code"
    POLL_LOST = "poll:lost"

    GENERATE_SLOW = "generate:slow"
    GENERATE_REFUSED = "generate:refused"
    GENERATE_FAILED = "generate:failed"
    GENERATE_FAILED_RESULT = "generate:failed-result"
    GENERATE_ERROR_LIST = "generate:error-list"
    GENERATE_NO_OUTPUT = "generate:no-output"
    GENERATE_OTHER_SHAPE = "generate:other-shape"
    GENERATE_STRANGE_WORD = "generate:strange-word"
    GENERATE_SYNONYMS = "generate:synonyms"

    DOWNLOAD_DROPPED = "download:dropped"
    DOWNLOAD_INTERNAL = "download:internal"
    DOWNLOAD_BUSY = "download:busy"
    DOWNLOAD_TRUNCATED = "download:truncated"
    DOWNLOAD_WRONG_LENGTH = "download:wrong-length"
    DOWNLOAD_HTML = "download:html"
    DOWNLOAD_EMPTY = "download:empty"
    DOWNLOAD_EXPIRED = "download:expired"
    DOWNLOAD_RANGE_IGNORED = "download:range-ignored"

    @property
    def stage(self) -> FaultStage:
        return FaultStage(self.partition(":")[0])

    @property
    def kind(self) -> str:
        """The kind without the stage: calls of different stages have the same answer for one kind."""
        return self.partition(":")[2]


OF_STAGE = {stage: tuple(f for f in Fault if f.stage is stage) for stage in FaultStage}

FAILURES = (
    Fault.GENERATE_REFUSED,
    Fault.GENERATE_FAILED,
    Fault.GENERATE_FAILED_RESULT,
    Fault.GENERATE_ERROR_LIST,
)
"""Generations that end without an output, and report it."""

COMMON, USUAL, ODD = 20, 8, 1
WEIGHTS = dict.fromkeys(Fault, ODD) | {
    Fault.SUBMIT_LIMITED: COMMON,
    Fault.SUBMIT_BUSY: USUAL,
    Fault.SUBMIT_DROPPED: ODD * 2,
    Fault.POLL_LIMITED: COMMON,
    Fault.POLL_INTERNAL: USUAL,
    Fault.POLL_GATEWAY: USUAL,
    Fault.POLL_BUSY: USUAL,
    Fault.GENERATE_SLOW: COMMON,
    Fault.GENERATE_FAILED: USUAL,
    Fault.GENERATE_REFUSED: USUAL,
    Fault.DOWNLOAD_EXPIRED: COMMON,
    Fault.DOWNLOAD_DROPPED: USUAL,
    Fault.DOWNLOAD_BUSY: USUAL,
    Fault.DOWNLOAD_TRUNCATED: USUAL,
}
"""Relative frequency of each fault within its stage: estimates, not measurements."""
SLOWNESS = 5.0
"""How many times longer a slow generation takes."""

CREATION_SHARE = {
    Fault.SUBMIT_DROPPED: 1.0,
    Fault.SUBMIT_INTERNAL: 0.5,
    Fault.SUBMIT_GATEWAY: 0.5,
    Fault.SUBMIT_UNAVAILABLE: 0.5,
    Fault.SUBMIT_UNREADABLE: 0.5,
    Fault.SUBMIT_NO_ID: 0.5,
}
"""The share of these failed POSTs that have created a job. For those not listed, none."""

# Closing before the body is read is one of the faults of a POST, but it is drawn separately, before
# the job is known: together the two stages have one share.
_OF_A_POST = {
    stage: sum(WEIGHTS[fault] for fault in OF_STAGE[stage])
    for stage in (FaultStage.CONNECT, FaultStage.SUBMIT)
}
PART_OF_SHARE = {stage: weight / sum(_OF_A_POST.values()) for stage, weight in _OF_A_POST.items()}


def dice(seed: int, *key: object) -> random.Random:
    """A generator that depends on ``seed`` and ``key`` alone."""
    return random.Random(":".join(map(str, (seed, *key))))  # noqa: S311 - a simulation's dice


@dataclass(frozen=True, slots=True)
class Faults:
    """Draws the faults of one sandbox. ``share`` (0..1) of the calls fail; empty ``only``: all kinds."""

    seed: int
    share: float
    only: frozenset[Fault] = frozenset()

    def draw(self, stage: FaultStage, key: str, nth: int) -> Fault | None:
        """The fault of the ``nth`` call for ``key``; None for none."""
        pool = [f for f in OF_STAGE[stage] if not self.only or f in self.only]
        if not pool or not self.share:
            return None
        rng = dice(self.seed, stage, key, nth)
        share = self.share * (1.0 if self.only else PART_OF_SHARE.get(stage, 1.0))
        if rng.random() >= share:
            return None
        return rng.choices(pool, [WEIGHTS[fault] for fault in pool])[0]

    def creates(self, fault: Fault | None, key: str, nth: int) -> bool:
        """Whether a POST with ``fault`` has created a job. Without a fault it has."""
        if fault is None:
            return True
        return dice(self.seed, "creates", key, nth).random() < CREATION_SHARE.get(fault, 0.0)
