"""What can go wrong, how often, and what it means for the job. Pure: numbers in, a fault out.

Each decision is drawn from the seed and from what is asked for (a job's inputs, a request id), and
which time it is asked: so a run repeats exactly, in whatever order its calls arrive.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class FaultStage(StrEnum):
    """Where a fault strikes."""

    CONNECT = "connect"
    SUBMIT = "submit"
    POLL = "poll"
    GENERATE = "generate"
    DOWNLOAD = "download"


class Fault(StrEnum):
    """Every way to fail: ``stage:kind``. ``lessons.py`` says what each is, ``WEIGHTS`` how likely."""

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
        """What goes wrong, without where: calls of different stages share their answers by it."""
        return self.partition(":")[2]


OF_STAGE = {stage: tuple(f for f in Fault if f.stage is stage) for stage in FaultStage}

FAILURES = (
    Fault.GENERATE_REFUSED,
    Fault.GENERATE_FAILED,
    Fault.GENERATE_FAILED_RESULT,
    Fault.GENERATE_ERROR_LIST,
)
"""Generations that end without an output, and say so."""

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
"""How often each is met, among those of its stage: estimates of what users meet, not measurements."""
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
"""How many of these POSTs have created a job all the same. Of those not listed, none."""

# Closing before the body is read is one way of many in which a POST fails, though it is drawn on
# its own, when nothing is known of the job yet: together the two stages make up one share.
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
    """The dice of one sandbox. ``share`` (0..1) of the calls fail; ``only`` empty means anyhow."""

    seed: int
    share: float
    only: frozenset[Fault] = frozenset()

    def draw(self, stage: FaultStage, key: str, nth: int) -> Fault | None:
        """What goes wrong when ``key`` is asked for the ``nth`` time; None for nothing."""
        pool = [f for f in OF_STAGE[stage] if not self.only or f in self.only]
        if not pool or not self.share:
            return None
        rng = dice(self.seed, stage, key, nth)
        share = self.share * (1.0 if self.only else PART_OF_SHARE.get(stage, 1.0))
        if rng.random() >= share:
            return None
        return rng.choices(pool, [WEIGHTS[fault] for fault in pool])[0]

    def creates(self, fault: Fault | None, key: str, nth: int) -> bool:
        """Whether a POST that met ``fault`` has created a job. Without a fault it has."""
        if fault is None:
            return True
        return dice(self.seed, "creates", key, nth).random() < CREATION_SHARE.get(fault, 0.0)
