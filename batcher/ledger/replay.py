"""Reading a ledger: its lines into a snapshot, a torn tail told from damage."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from batcher.disk import Disk
from batcher.errors import LedgerError
from batcher.jobs.identity import RULE
from batcher.jobs.lifecycle import FORMAT_VERSION, Event, EventName, IllegalTransition, RunEvent
from batcher.ledger.lines import (
    UNREADABLE,
    blocks_of,
    decode_line,
    decode_run,
    group_of,
    is_clean,
    lines_of,
    read_line,
)
from batcher.ledger.snapshot import SEGMENT_SHIFT, Snapshot

_RUN = EventName.RUN  # by itself: a member of an enum is looked up slowly


class Tail(NamedTuple):
    """How a segment ends: its whole lines reach to ``good_bytes`` of ``size_bytes``."""

    good_bytes: int = 0
    size_bytes: int = 0
    ends_in_newline: bool = True

    @property
    def torn_bytes(self) -> int:
        """How much a crash left that is no whole line."""
        return self.size_bytes - self.good_bytes


class Stretch(NamedTuple):
    """Bytes of a segment, from ``start`` to before ``end`` (None: to its end), and its number."""

    path: Path
    number: int
    start: int = 0
    end: int | None = None

    def line_number(self, offset: int, disk: Disk) -> int:
        """Which line begins at ``offset``, from 1."""
        with disk.open_read(self.path) as file:
            return file.read(offset).count(b"\n") + 1


class Sink(Protocol):
    """Takes in lines: a :class:`Snapshot`, or who looks at them first."""

    def apply_run(self, event: RunEvent, place: int = -1) -> None: ...
    def apply(self, event: Event, place: int = -1) -> object: ...
    def pack(self) -> None: ...


def fold(stretch: Stretch, sink: Sink, disk: Disk) -> Tail:
    """Fold a stretch of a segment into ``sink``.

    Raises LedgerError with ``ledger.jsonl:LINE`` for anything unreadable that a crash can't have left.
    """
    tail = Tail(stretch.start, stretch.start)
    try:
        with disk.open_read(stretch.path) as file:
            file.seek(stretch.start)
            for offset, data in blocks_of(file, stretch.start, stretch.end):
                spoilt = _fold_block(data, offset, stretch.number << SEGMENT_SHIFT, sink)
                if spoilt is not None:
                    return _torn(spoilt, stretch, file)
                end = offset + len(data)
                tail = Tail(end, end, data.endswith(b"\n"))
                sink.pack()
    except _Illegal as found:
        line_number = stretch.line_number(found.offset, disk)
        raise LedgerError(f"{stretch.path.name}:{line_number}: {found.error}") from found.error
    except OSError as error:
        raise LedgerError(f"{stretch.path}: can't read: {error.strerror}") from error
    return tail


class _Illegal(Exception):
    """A line that can be read, and makes no sense where it stands."""

    def __init__(self, offset: int, error: Exception) -> None:
        self.offset, self.error = offset, error


class _Spoilt(NamedTuple):
    """A line that can't be read."""

    offset: int
    error: Exception


def _fold_block(data: bytes, offset: int, base: int, sink: Sink) -> _Spoilt | None:
    """Fold whole lines up to the first that can't be read. A million jobs come by here."""
    read = decode_line if is_clean(data) else read_line
    apply = sink.apply
    for raw in data.removesuffix(b"\n").split(b"\n"):
        try:
            line = read(raw)
        except UNREADABLE:
            try:
                line = read_line(raw) if raw.strip() else None
            except UNREADABLE as error:
                return _Spoilt(offset, error)
        try:
            if line is None:
                pass
            elif line.event is _RUN:
                sink.apply_run(decode_run(raw), base + offset)
            elif line.job:
                apply(line, base + offset)
            else:
                raise IllegalTransition(f"{line.event} of no job")
        except (IllegalTransition, *UNREADABLE) as error:
            raise _Illegal(offset, error) from error
        offset += len(raw) + 1
    return None


def _torn(spoilt: _Spoilt, stretch: Stretch, file: BinaryIO) -> Tail:
    """The tail from the first unreadable line on, if it is one; else LedgerError.

    A crash can spoil only lines of the group that was being written, so nothing behind the spoiled
    line may belong to a group that began after it.
    """
    size_bytes = spoilt.offset
    file.seek(spoilt.offset)
    for offset, raw in lines_of(file, spoilt.offset):
        size_bytes = offset + len(raw)
        try:
            group = group_of(raw)
        except UNREADABLE:
            continue
        if offset == spoilt.offset:
            return Tail(offset, offset)  # it was being written: only its first part had come
        if not 0 <= group <= spoilt.offset:
            raise _Illegal(spoilt.offset, _damage(spoilt.error)) from spoilt.error
    return Tail(spoilt.offset, size_bytes)


def _damage(error: Exception) -> LedgerError:
    return LedgerError(
        f"unreadable ({error}), and good lines follow it: this is damage, not a crash. Restore the line "
        "from a backup, or remove it and check by `batcher status` what its job's state is then"
    )


def check_version(snapshot: Snapshot) -> None:
    """Raises LedgerError where a newer version wrote the ledger."""
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
