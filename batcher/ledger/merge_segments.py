"""The order in which the stretches of several segments are folded: as written, never by clocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from batcher.disk import Disk
from batcher.errors import LedgerError
from batcher.jobs.lifecycle import Event, EventName, IllegalTransition
from batcher.layout import LEDGER_NAME
from batcher.ledger.checkpoint import restored_bytes
from batcher.ledger.damage import blanking
from batcher.ledger.lines import FOLLOWS, OFFSET_MASK, UNREADABLE, LineReader, blocks_of, decode_follows
from batcher.ledger.replay import Stretch, fold
from batcher.ledger.segments import (
    SEGMENT_SHIFT,
    begun_mark,
    division,
    is_strangers,
    others,
    segments_in,
)
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.torn_tail import Tail

_MARK = b'{"event":"%s"' % FOLLOWS.encode()
_RANKS = {
    name: rank
    for rank, name in enumerate(
        (
            *(EventName.SUBMITTING, EventName.UNANSWERED, EventName.DEFERRED, EventName.SUBMITTED),
            EventName.CANCELLING,
            *(EventName.FAILED, EventName.CANCELLED, EventName.COMPLETED, EventName.DONE),
            *(EventName.COST, EventName.ORPHANED, EventName.RELISTED),
        )
    )
}


class Mark(NamedTuple):
    """The start of a stretch, and the sizes of the other segments when it was written."""

    offset: int
    after: dict[str, int]


@dataclass(slots=True)
class Course:
    """One segment that is being folded into the snapshot."""

    path: Path
    number: int
    marks: list[Mark]
    reached: int = 0
    tail: Tail = field(default_factory=Tail)

    def is_ready(self, courses: dict[str, Course]) -> bool:
        """Whether the next stretch can be folded now: all that it follows has been."""
        after = self.marks[0].after
        names = others(self.path.name, [*courses, *after])
        # a missing newline at its end may have been added since
        return all(_reached(name, courses) - after.get(name, 0) in (0, 1) for name in names)

    def advance(self, snapshot: Snapshot, disk: Disk) -> None:
        """Fold the next stretch."""
        mark = self.marks.pop(0)
        end = self.marks[0].offset if self.marks else None
        self.tail = fold(Stretch(self.path, self.number, mark.offset, end), snapshot, disk)
        self.reached = self.tail.good_bytes


def read_into(snapshot: Snapshot, run_dir: Path, lines: LineReader, disk: Disk) -> dict[str, Tail]:
    """Fold all segments of the ledger in ``run_dir``; returns how each ends.

    Raises LedgerError if it is damaged.
    """
    names = segments_in(run_dir, disk)
    begun = [name for name in names if disk.size(begun_mark(run_dir, name)) is not None]
    start = restored_bytes(snapshot, run_dir, disk) if names == [LEDGER_NAME] else 0
    courses = {name: _course(run_dir / name, lines.number(name), start, disk) for name in names}
    while waiting := [course for course in courses.values() if course.marks]:
        ready = [course for course in waiting if course.is_ready(courses)]
        if len({division(course.path.name) for course in ready}) == 1:
            for course in ready:
                course.advance(snapshot, disk)
        else:
            _check_nothing_missing(waiting, courses, run_dir)
            _fold_by_rank(waiting, snapshot, disk)
    _check_not_emptied(run_dir, [name for name in begun if not courses[name].tail.good_bytes])
    return {name: course.tail for name, course in courses.items()}


def _check_not_emptied(run_dir: Path, emptied: list[str]) -> None:
    """Raises LedgerError if a segment has no lines now but had some."""
    if emptied:
        raise LedgerError(
            f"{run_dir / emptied[0]}: holds no line any more: a run would buy again what was paid for. "
            "Put it back from a backup, or, if buying again is meant, choose another directory with -o"
        )


def _course(path: Path, number: int, start: int, disk: Disk) -> Course:
    """A segment from byte ``start`` on, with its current stretches: none if it is empty."""
    marks = [Mark(start, {})] if start or disk.size(path) else []
    try:
        with disk.open_read(path) as file:
            file.seek(start)
            for offset, data in blocks_of(file, start):
                marks += _marks(data, offset)
    except OSError as error:
        raise LedgerError(f"{path}: can't read: {error.strerror}") from error
    if len(marks) > 1 and marks[1].offset == start:
        del marks[0]
    return Course(path, number, marks)


def _marks(data: bytes, offset: int) -> Iterator[Mark]:
    """Where stretches begin in a block of whole lines. Searches bytes: ledgers may have gigabytes."""
    at = data.find(_MARK)
    while at >= 0:
        end = data.find(b"\n", at) + 1 or len(data)
        if at == 0 or data[at - 1 : at] == b"\n":
            with suppress(*UNREADABLE):  # torn, or damage: the fold finds out which
                yield Mark(offset + at, decode_follows(data[at:end]).segments)
        at = data.find(_MARK, end)


def _reached(name: str, courses: dict[str, Course]) -> int:
    """How far a segment was folded, in bytes; 0 if it isn't there."""
    return courses[name].reached if name in courses else 0


def _check_nothing_missing(waiting: list[Course], courses: dict[str, Course], run_dir: Path) -> None:
    """Raises LedgerError if a segment is shorter than a later stretch of another one says."""
    for course in waiting:
        for name, reach in course.marks[0].after.items():
            there = courses.get(name)
            left = _reached(name, courses)
            if left < reach and (there is None or not there.marks):
                raise LedgerError(
                    f"{run_dir / name}: has {left} whole bytes, but had {reach} when "
                    f"{course.path.name} went on after it: it was lost or shortened. Put it back from a "
                    "backup: without it, what it tells of would be bought again"
                )


class _Chain(NamedTuple):
    """The lines of one segment about one attempt of a job, with their places."""

    attempt: int
    events: list[tuple[Event, int]]

    @property
    def order(self) -> tuple[int, bool, int]:
        """The attempt's beginning sorts first, also if it ended in ``deferred``, or failed late."""
        first, last = self.events[0][0].event, self.events[-1][0].event
        return self.attempt, first is not EventName.SUBMITTING, _RANKS[last]


class _Chains:
    """A sink that keeps lines by job instead of folding them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.apply_run = snapshot.apply_run
        self._chains: dict[str, dict[tuple[int, int], _Chain]] = {}

    def apply(self, event: Event, place: int = -1) -> None:
        of_job = self._chains.setdefault(event.job, {})
        key = (event.attempt, place >> SEGMENT_SHIFT)
        of_job.setdefault(key, _Chain(event.attempt, [])).events.append((event, place))

    def pack(self) -> None: ...

    def in_order(self) -> Iterator[tuple[Event, int]]:
        """All lines by job, then by attempt, then by the progress that a segment records."""
        for of_job in self._chains.values():
            for chain in sorted(of_job.values(), key=lambda chain: chain.order):
                yield from chain.events


def _fold_by_rank(waiting: list[Course], snapshot: Snapshot, disk: Disk) -> None:
    """Fold segments that don't record their order: combined by hand, or copied from elsewhere.

    Raises LedgerError if they contradict each other.
    """
    chains = _Chains(snapshot)
    for course in waiting:
        start = course.marks[0].offset
        course.marks.clear()
        course.tail = fold(Stretch(course.path, course.number, start), chains, disk)
    by_number = {course.number: course for course in waiting}
    told: dict[str, int] = {}
    for event, place in chains.in_order():
        course = by_number[place >> SEGMENT_SHIFT]
        try:
            snapshot.apply(event, place)
        except IllegalTransition as error:
            if not is_strangers(course.path.name, event.job):
                places = [place, told.get(event.job, place)]
                raise _contradiction(event.job, error, places, (by_number, disk)) from error
        else:
            told[event.job] = place


def _contradiction(
    job_id: str, error: Exception, places: list[int], courses: tuple[dict[int, Course], Disk]
) -> LedgerError:
    """Names the lines of segments that contradict each other, and how to continue without one."""
    by_number, disk = courses
    names, remedies = [], []
    for place in dict.fromkeys(places):
        course = by_number[place >> SEGMENT_SHIFT]
        number = Stretch(course.path, course.number).line_number(place & OFFSET_MASK, disk)
        names.append(f"{course.path.name}:{number}")
        remedies.append(blanking(course.path, number))
    said = f"{' and '.join(names)} contradict each other: job {job_id}: {error}"
    return LedgerError(f"{said}. {' Or: '.join(remedies)}")
