"""Folds a ledger's lines into a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from batcher.disk import Disk
from batcher.errors import LedgerError
from batcher.jobs.identity import RULE
from batcher.jobs.lifecycle import FORMAT_VERSION, Event, EventName, IllegalTransition, RunEvent
from batcher.ledger.damage import blanking, damage
from batcher.ledger.lines import (
    UNREADABLE,
    Line,
    blocks_of,
    decode_line,
    decode_run,
    foreign_group,
    is_clean,
    is_text,
    pieces_of,
    read_line,
)
from batcher.ledger.segments import SEGMENT_SHIFT, is_strangers
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.torn_tail import Damaged, Spoilt, Tail, torn_tail
from batcher.ledger.usual_jobs import no_takers, usual_jobs
from batcher.ledger.usual_lines import UsualLine, decode_usual, usual_lines

_RUN = EventName.RUN  # a constant, because enum member lookup is slow


class Stretch(NamedTuple):
    """Bytes of a segment, from ``start`` to before ``end`` (None: to its end), and its number."""

    path: Path
    number: int
    start: int = 0
    end: int | None = None

    def line_number(self, offset: int, disk: Disk) -> int:
        """The number of the line that begins at ``offset``, from 1."""
        with disk.open_read(self.path) as file:
            return file.read(offset).count(b"\n") + 1


class Sink(Protocol):
    """Receives lines: a :class:`Snapshot`, or a filter before it."""

    def apply_run(self, event: RunEvent, place: int = -1) -> None: ...
    def apply(self, event: Event, place: int = -1) -> object: ...
    def pack(self) -> None: ...


def fold(stretch: Stretch, sink: Sink, disk: Disk) -> Tail:
    """Fold a stretch of a segment into ``sink``.

    Raises LedgerError with ``ledger.jsonl:LINE`` for anything unreadable that a crash can't have left.
    """
    folding = _Folding(sink, stretch)
    tail = Tail(stretch.start, stretch.start)
    try:
        with disk.open_read(stretch.path) as file:
            file.seek(stretch.start)
            for offset, data in blocks_of(file, stretch.start, stretch.end):
                spoilt = folding.take_in(data, offset)
                if spoilt is not None:
                    folding.finish()
                    return torn_tail(spoilt, folding.group, file)
                end = offset + len(data)
                tail = Tail(end, end, data.endswith(b"\n"))
                folding.pack()
    except Damaged as found:
        line_number = stretch.line_number(found.offset, disk)
        raise damage(stretch.path, line_number, found.problem, disk) from found
    except _Illegal as found:
        raise _contradiction(stretch, found, disk) from found.error
    except OSError as error:
        raise LedgerError(f"{stretch.path}: can't read: {error.strerror}") from error
    folding.finish()
    return tail


class _Illegal(Exception):
    """A readable line that is not allowed at its place."""

    def __init__(self, offset: int, error: Exception) -> None:
        self.offset, self.error = offset, error


class _Folding:
    """Folds the lines of one stretch. ``group`` is that of the last line that names its group."""

    __slots__ = ("_base", "_name", "_sink", "_take", "_takers", "_usual", "group")

    def __init__(self, sink: Sink, stretch: Stretch) -> None:
        self._usual = usual_jobs(sink)
        self._sink = self._usual or sink
        self._take: Callable[[Any, int], object] = self._sink.apply
        self._takers = self._usual.takers if self._usual is not None else no_takers()
        self._base = stretch.number << SEGMENT_SHIFT
        self._name = stretch.path.name
        self.group = -1

    def take_in(self, data: bytes, offset: int) -> Spoilt | None:
        """Fold whole lines up to the first unreadable one. Fast: there may be millions of jobs."""
        if self._usual is None:
            return self._take_lines(data, offset, decode_line if is_clean(data) else read_line)
        if not is_text(data):
            return self._take_lines(data, offset, read_line)
        for piece in pieces_of(data):
            lines = usual_lines(piece, self._base + offset)
            if lines is not None:
                self._take_usual(lines)
            elif (spoilt := self._take_lines(piece, offset, decode_usual)) is not None:
                return spoilt
            offset += len(piece)
        return None

    def _take_usual(self, lines: Iterator[tuple[UsualLine, int]]) -> None:
        group, base, takers = self.group, self._base, self._takers
        for line, place in lines:
            if line.group != group:
                group = self._begin_group(line.group, place - base)
            if not takers[type(line)](line, place):
                self._apply(line, b"", place - base)

    def _take_lines(
        self, data: bytes, offset: int, read: Callable[[bytes], Line | UsualLine | None]
    ) -> Spoilt | None:
        base, takers = self._base, self._takers
        for whole in BytesIO(data):
            try:
                line = read(whole)
            except UNREADABLE:
                raw = whole.removesuffix(b"\n")
                try:
                    line = read_line(raw) if raw.strip() else None
                except UNREADABLE as error:
                    return Spoilt(offset, error)
            group = line.group if line is not None else foreign_group(whole)
            if group != self.group:
                self._begin_group(group, offset)
            if line is not None and not takers[type(line)](line, base + offset):
                self._apply(line, whole, offset)
            offset += len(whole)
        return None

    def _begin_group(self, group: int, offset: int) -> int:
        """A line begins its group or continues that of the line before. If it does neither, another
        program added, removed or rewrote lines before it."""
        if group < 0:
            return self.group
        if group != offset:
            raise Damaged(offset, _moved(group, offset))
        self.group = group
        return group

    def pack(self) -> None:
        """Pack done jobs."""
        self._sink.pack()

    def finish(self) -> None:
        """Make what was folded visible in the snapshot."""
        if self._usual is not None:
            self._usual.finish()

    def _apply(self, line: Line | UsualLine, raw: bytes, offset: int) -> None:
        try:
            if line.event is _RUN:
                self._sink.apply_run(decode_run(raw), self._base + offset)
            elif line.job:
                self._take(line, self._base + offset)
            else:
                raise IllegalTransition(f"{line.event} of no job")
        except (IllegalTransition, *UNREADABLE) as error:
            if not is_strangers(self._name, line.job):
                raise _Illegal(offset, error) from error


def _moved(group: int, offset: int) -> str:
    return (
        f"this line is at byte {offset} and was not written there (its group begins at byte "
        f"{group}): something else rewrote the file, or added or removed lines"
    )


def _contradiction(stretch: Stretch, found: _Illegal, disk: Disk) -> LedgerError:
    """The error for a line that contradicts the lines before it, and how to continue."""
    line_number = stretch.line_number(found.offset, disk)
    remedy = blanking(stretch.path, line_number)
    return LedgerError(f"{stretch.path.name}:{line_number}: {found.error}. {remedy}")


def check_version(snapshot: Snapshot) -> None:
    """Raises LedgerError if a newer version wrote the ledger."""
    if snapshot.rule > RULE:
        raise LedgerError(
            f"written by a newer batcher (ids by rule {snapshot.rule}, this one knows {RULE}); "
            "use that version here"
        )
    for run in snapshot.runs.values():
        version = run.opening.version
        major = str(version).split(".")[0] if version is not None else ""
        if major.isdigit() and int(major) > FORMAT_VERSION:
            raise LedgerError(
                f"written by a newer batcher (ledger format {major}, this one knows {FORMAT_VERSION}); "
                "use that version here"
            )
