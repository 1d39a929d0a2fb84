"""The ledger: an append-only JSONL file, the only state there is.

Writing is a group commit. ``append`` is synchronous and keeps the order; the lines that gather while
one fsync runs form the next group, and a caller resumes when the fsync that covers its line is through.
Every line carries the number of its group, which is the byte at which the group begins: after a power
loss that spoils several lines, this tells the torn last group from damage further up.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from batcher.clock import Clock, iso
from batcher.disk import AppendFile, Disk, cannot_write, is_full, writing
from batcher.errors import BatcherError, LedgerError, RunDirError
from batcher.lifecycle import (
    FORMAT_VERSION,
    Event,
    EventName,
    IllegalTransition,
    RunEvent,
    Snapshot,
)

LEDGER_NAME = "ledger.jsonl"
HIDDEN_NAME = ".batcher"
RESERVE_BYTES = 256 * 1024
_BLOCK_BYTES = 1 << 20
_KNOWN_EVENTS = frozenset(EventName)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x0c\x0e-\x1f]")
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Line(Event, omit_defaults=True, gc=False, kw_only=True):
    """Any line as it is read: fields that this version doesn't know are passed over."""

    event: str  # type: ignore[assignment]
    job: str = ""
    group: int = -1


class _ForeignLine(msgspec.Struct):
    """A line of an event that this version doesn't know."""

    event: str
    group: int = -1


_decode_foreign = msgspec.json.Decoder(_ForeignLine).decode
_decode_line = msgspec.json.Decoder(_Line).decode
_decode_run = msgspec.json.Decoder(RunEvent).decode
_encode = msgspec.json.Encoder().encode


class Tail(msgspec.Struct, frozen=True):
    """How a ledger ends: its whole lines reach to ``good_bytes`` of ``size_bytes``."""

    good_bytes: int
    size_bytes: int
    ends_in_newline: bool
    last_run_offset: int

    @property
    def torn_bytes(self) -> int:
        """How much a crash left that is no whole line."""
        return self.size_bytes - self.good_bytes


def lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Each line with the byte it begins at, the newline kept; in blocks, so that size is no matter."""
    offset, rest = 0, b""
    while block := file.read(_BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield offset, line + b"\n"
            offset += len(line) + 1
    if rest:
        yield offset, rest


def replay(file: BinaryIO, snapshot: Snapshot) -> Tail:
    """Fold the ledger in ``file`` into ``snapshot``.

    Raises LedgerError with ``ledger.jsonl:LINE`` for anything unreadable that a crash can't have left.
    """
    end, last_run, newline = 0, -1, True
    lines = enumerate(lines_of(file), 1)
    for number, (offset, raw) in lines:
        if not raw.strip():
            end = offset + len(raw)
            continue
        try:
            line = _read(raw)
        except _UNREADABLE as error:
            return _torn(_Spoilt(number, offset, raw, error), lines, last_run)
        try:
            if _fold(line, raw, offset, snapshot):
                last_run = offset
        except (IllegalTransition, *_UNREADABLE) as error:
            raise LedgerError(f"{LEDGER_NAME}:{number}: {error}") from error
        end, newline = offset + len(raw), raw.endswith(b"\n")
    return Tail(end, end, newline, last_run)


def _read(raw: bytes) -> _Line:
    """The line as a struct. An event that we don't know may have fields of any type."""
    if _CONTROL.search(raw.decode()):  # the decoder skips unknown names unseen: one may be a spoilt one
        raise msgspec.DecodeError("control characters")
    try:
        return _decode_line(raw)
    except msgspec.ValidationError:
        foreign = _decode_foreign(raw)
        if foreign.event in _KNOWN_EVENTS:
            raise
        return _Line(event=foreign.event, at="", group=foreign.group)


def _fold(line: _Line, raw: bytes, offset: int, snapshot: Snapshot) -> bool:
    """Apply one line; True where it opens a run."""
    if line.event == EventName.RUN:
        run = _decode_run(raw)
        snapshot.apply_run(run)
        return not run.ended
    if line.event in _KNOWN_EVENTS:
        line.event = EventName(line.event)
        snapshot.apply(line, offset)
    return False


class _Spoilt(NamedTuple):
    """The first line that can't be read; ``number`` counts from 1, ``offset`` is its first byte."""

    number: int
    offset: int
    raw: bytes
    error: Exception


def _torn(line: _Spoilt, rest: Iterator[tuple[int, tuple[int, bytes]]], last_run: int) -> Tail:
    """The tail from the first unreadable line on, if it is one; else LedgerError.

    A crash can spoil only lines of the group that was being written, so nothing behind the spoiled
    line may belong to a group that began after it.
    """
    size = line.offset + len(line.raw)
    for _, (at, later) in rest:
        size = at + len(later)
        try:
            group = _read(later).group
        except _UNREADABLE:
            continue
        if not 0 <= group <= line.offset:
            raise LedgerError(
                f"{LEDGER_NAME}:{line.number}: unreadable ({line.error}), and good lines follow it: "
                "this is damage, not a crash. Restore the line from a backup, or remove it and check "
                "by `batcher status` what its job's state is then"
            ) from line.error
    return Tail(line.offset, size, True, last_run)


def line_at(file: BinaryIO, offset: int) -> Event:
    """The job event that stands at byte ``offset``: what the snapshot does not keep in memory."""
    file.seek(offset)
    return _decode_line(file.readline())


def read_snapshot(run_dir: Path, disk: Disk) -> tuple[Snapshot, Tail]:
    """What the ledger in ``run_dir`` says, live or at rest; writes nothing and takes no lock.

    Raises LedgerError where there is no ledger or it is damaged.
    """
    snapshot = Snapshot()
    return snapshot, read_into(snapshot, run_dir, disk)


def read_into(snapshot: Snapshot, run_dir: Path, disk: Disk) -> Tail:
    """Fold the ledger in ``run_dir`` into ``snapshot``, as ``read_snapshot`` does."""
    path = run_dir / LEDGER_NAME
    try:
        with disk.open_read(path) as file:
            return replay(file, snapshot)
    except (FileNotFoundError, NotADirectoryError):
        raise LedgerError(f"{run_dir}: no {LEDGER_NAME} here: not a run directory") from None
    except OSError as error:
        raise LedgerError(f"{path}: can't read: {error.strerror}") from error


class Ledger:
    """The ledger of one run directory, held for writing under its lock."""

    def __init__(self, run_dir: Path, disk: Disk, clock: Clock) -> None:
        """Take the lock, replay, and mend a torn tail.

        Raises LockedError, LedgerError (damaged, or written by a newer version), RunDirError.
        """
        self.path = run_dir / LEDGER_NAME
        self.snapshot = Snapshot()
        self.warnings: list[str] = []
        self.full = False
        self._disk = disk
        self._clock = clock
        self._hidden = run_dir / HIDDEN_NAME
        self._opening: RunEvent | None = None
        self._error: BatcherError | None = None
        self._lines: list[bytes] = []
        self._pump: asyncio.Task[None] | None = None
        self._covered: asyncio.Future[None] | None = None
        self._file = self._open()

    def _open(self) -> AppendFile:
        with ExitStack() as undo, writing(self.path):
            self._disk.make_dirs(self._hidden)
            undo.callback(self._disk.lock(self._hidden / "lock"))
            tail = self._replay()
            file = self._disk.open_append(self.path)
            undo.callback(file.close)
            self._mend(file, tail)
            # The file's own name: without it, a power loss would take every line that was fsynced.
            self._disk.sync_dir(self.path.parent)
            self._reserve()
            self._undo = undo.pop_all()
        return file

    def _replay(self) -> Tail:
        if self._disk.size(self.path) is None:
            return Tail(0, 0, True, -1)
        with self._disk.open_read(self.path) as file:
            tail = replay(file, self.snapshot)
        _check_version(self.snapshot.last_run)
        return tail

    def _mend(self, file: AppendFile, tail: Tail) -> None:
        self._end = self._group_start = tail.good_bytes
        if tail.torn_bytes:
            file.truncate(tail.good_bytes)
            file.sync()
            self.warnings.append(
                f"{LEDGER_NAME}: dropped {tail.torn_bytes} bytes that a crash left of its last lines"
            )
        elif not tail.ends_in_newline:
            file.write(b"\n")
            file.sync()
            self._end = self._group_start = tail.good_bytes + 1

    def _reserve(self) -> None:
        """Set room aside, so that answers on their way can be recorded when the disk is full."""
        path = self._hidden / "reserve"
        if self._disk.size(path) != RESERVE_BYTES:
            self._disk.write_whole(path, [bytes(RESERVE_BYTES)])

    def announce(self, run: RunEvent) -> None:
        """Have ``run`` written before the next line; a run that changes nothing appends nothing.

        Another total or manifest is a change of its own: what the last run said no longer holds.
        """
        before = self.snapshot.last_run
        self._opening = run
        if before is not None and (before.total, before.manifest) != (run.total, run.manifest):
            self._open_run()

    def _open_run(self) -> None:
        if self._opening is not None:
            opening, self._opening = self._opening, None
            self._add(opening)
            self.snapshot.apply_run(opening)

    @property
    def announced(self) -> bool:
        """Whether this run has written anything yet."""
        return self._opening is None

    def append(self, name: EventName, job: str, **fields: Any) -> asyncio.Future[None]:
        """Add one line about ``job``; the future is done when the line is durable.

        ``attempt`` defaults to the job's current one. Raises IllegalTransition, and the error that
        ended the ledger where a write failed before.
        """
        record = self.snapshot.get(job)
        fields.setdefault("attempt", record.attempt if record is not None else 0)
        event = Event(event=name, at=iso(self._clock.now()), job=job, **fields)
        self._check_alive()
        self._open_run()
        self.snapshot.apply(event, self._end)
        return self._add(event)

    def close_run(self, run: RunEvent) -> None:
        """Add the line that ends a run, if the run wrote anything."""
        if self.announced and self._error is None:
            self._add(run)

    async def record(self, name: EventName, job: str, **fields: Any) -> None:
        """Append and wait until the line is durable; a cancelled caller leaves the write going."""
        await self.durable(self.append(name, job, **fields))

    async def durable(self, covered: asyncio.Future[None]) -> None:
        """Wait for a future that ``append`` gave. Raises RunDirError where the write failed."""
        await asyncio.shield(covered)

    def _check_alive(self) -> None:
        if self._error is not None:
            raise self._error

    def _add(self, event: Event | RunEvent) -> asyncio.Future[None]:
        line = b'%s,"group":%d}\n' % (_encode(event)[:-1], self._group_start)
        self._lines.append(line)
        self._end += len(line)
        if self._covered is None:
            self._covered = asyncio.get_running_loop().create_future()
            self._covered.add_done_callback(_retrieve)
        if self._pump is None:
            self._pump = asyncio.create_task(self._commit_groups())
        return self._covered

    async def _commit_groups(self) -> None:
        while self._covered is not None:
            covered, data, start = self._covered, b"".join(self._lines), self._group_start
            self._covered, self._lines, self._group_start = None, [], self._end
            try:
                await self._disk.run(partial(self._write_group, data, start))
            except (OSError, BatcherError) as error:
                self._fail(error, covered)
                break
            covered.set_result(None)
        self._pump = None

    def _write_group(self, data: bytes, start: int) -> None:
        if self._file.size_at_path() != start:
            raise RunDirError(
                f"{self.path}: was changed or replaced by something else while this run wrote it; "
                "stopped so as not to lose track"
            )
        try:
            self._write_whole(data, start)
        except OSError as error:
            if self.full or not is_full(error):
                raise
            self.full = True
            self._disk.remove(self._hidden / "reserve")
            self._write_whole(data, start)
        self._file.sync()

    def _write_whole(self, data: bytes, start: int) -> None:
        """Write all of ``data`` or, where that fails, none of it."""
        try:
            self._file.write(data)
        except OSError:
            self._file.truncate(start)
            raise

    def _fail(self, error: OSError | BatcherError, covered: asyncio.Future[None]) -> None:
        """End the ledger: a failed write or fsync is never tried again."""
        self._error = cannot_write(self.path, error) if isinstance(error, OSError) else error
        covered.set_exception(self._error)
        if self._covered is not None:
            self._covered.set_exception(self._error)
            self._covered, self._lines = None, []

    @property
    def is_durable(self) -> bool:
        """Whether all that the snapshot holds is on disk."""
        return self._pump is None and self._error is None

    async def settled(self) -> None:
        """Wait for what is being written. Raises nothing: who wrote it hears of what went wrong."""
        if self._pump is not None:
            await asyncio.shield(self._pump)

    async def close(self) -> None:
        """Wait for what is being written, then let go of file and lock."""
        await self.settled()
        self.release()

    def release(self) -> None:
        """Let go of file and lock without waiting: for a ledger that nothing was appended to."""
        self._undo.close()


def _retrieve(future: asyncio.Future[None]) -> None:
    """A line that nobody waits for may fail without a word: the next append raises the same."""
    if not future.cancelled():
        future.exception()


def _check_version(run: RunEvent | None) -> None:
    major = str(run.version).split(".")[0] if run is not None and run.version is not None else ""
    if major.isdigit() and int(major) > FORMAT_VERSION:
        raise LedgerError(
            f"{LEDGER_NAME}: written by a newer batcher (format {major}, this one knows "
            f"{FORMAT_VERSION}); use that version here"
        )
