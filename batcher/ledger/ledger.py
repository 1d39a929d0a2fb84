"""The ledger: append-only JSONL files, the only state.

``segments`` says which files there are, ``run_dir_lock`` who may write, ``lines`` what is in them,
``commit`` how it is written, ``replay`` and ``merge_segments`` how it is read, ``torn_tail`` what a
crash leaves. Every line carries the number of its group, which is the byte at which the group begins:
after a power loss that spoils several lines, it distinguishes the torn last group from damage before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from batcher.clock import Clock, iso
from batcher.disk import Disk, writing
from batcher.errors import LedgerError, RunDirError
from batcher.jobs.lifecycle import Event, EventName, RunEvent
from batcher.jobs.shard import Shard
from batcher.layout import HIDDEN_NAME, LEDGER_NAME
from batcher.ledger.checkpoint import Checkpoints
from batcher.ledger.commit import GroupCommit
from batcher.ledger.finished import JobRecord
from batcher.ledger.lines import Follows, LineReader, encode_line
from batcher.ledger.merge_segments import read_into
from batcher.ledger.packed import PackedMap, PackedSet
from batcher.ledger.replay import check_version
from batcher.ledger.run_dir_lock import take_hold
from batcher.ledger.segments import SEGMENT_SHIFT, begun_mark, others, segment_name
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.torn_tail import Tail, mend, save_torn

RESERVE_BYTES = 256 * 1024
AnySnapshot = TypeVar("AnySnapshot", bound=Snapshot)


def read_snapshot(run_dir: Path, disk: Disk) -> Snapshot:
    """The state in the ledger of ``run_dir``, in use or not; writes nothing and takes no lock.

    Raises LedgerError if there is no ledger or it is damaged.
    """
    lines = LineReader(run_dir, disk)
    return read_ledger(Snapshot(lines.at), run_dir, lines, disk)


def read_ledger(snapshot: AnySnapshot, run_dir: Path, lines: LineReader, disk: Disk) -> AnySnapshot:
    """``snapshot`` with the ledger in ``run_dir`` folded into it, as ``read_snapshot`` does."""
    if not read_into(snapshot, run_dir, lines, disk):
        raise LedgerError(f"{run_dir}: {_what_it_is(run_dir, disk)}")
    return snapshot


def _what_it_is(run_dir: Path, disk: Disk) -> str:
    """Why there is no ledger in ``run_dir``."""
    if disk.device_and_inode(run_dir) is None:
        return "no such directory; `batcher ls` lists run directories"
    if run_dir.is_file():
        return "not a run directory but a file; `batcher ls` lists run directories"
    return f"no {LEDGER_NAME} here: not a run directory"


class Ledger:
    """The ledger of one run directory, with one segment locked for writing."""

    def __init__(
        self,
        run_dir: Path,
        disk: Disk,
        clock: Clock,
        shard: Shard | None = None,
        *,
        ready: bool = True,
    ) -> None:
        """Take the lock and replay; then, if ``ready``, do what ``make_ready`` does.

        Raises LockedError, LedgerError (damaged, or written by a newer version), RunDirError.
        """
        self.path = run_dir / segment_name(shard)
        self.warnings: list[str] = []
        self.on_durable: Callable[[Event], None] | None = None
        """Called with each line about a job that this run writes, once it is on disk."""
        self.on_change: Callable[[str, JobRecord], None] | None = None
        """Called after each line about a job, with the job's new record."""
        self._disk = disk
        self._clock = clock
        self._run_dir = run_dir
        self._hidden = run_dir / HIDDEN_NAME
        self._shard = shard
        self._opening: RunEvent | None = None
        self.run_id: str | None = None
        self._after: dict[str, int] = {}
        self._not_durable: deque[tuple[int, Event]] = deque()
        self._ready: GroupCommit | None = None
        lines = self._lines = LineReader(run_dir, disk)
        self._base = lines.number(self.path.name) << SEGMENT_SHIFT
        self.snapshot = Snapshot(lines.at, shards=shard.count if shard is not None else 0)
        self.snapshot.owners, self.snapshot.requests = PackedMap(), PackedSet()
        with ExitStack() as undo, writing(self.path):
            disk.make_dirs(self._hidden)
            undo.callback(take_hold(self._hidden, shard, disk))
            self._tails = read_into(self.snapshot, run_dir, lines, disk)
            check_version(self.snapshot)
            self._checkpoints = Checkpoints(self.snapshot, run_dir, disk)
            self._undo = undo.pop_all()
        if ready:
            self.make_ready()

    def make_ready(self) -> None:
        """Open the file for writing and repair its end. Before this call, nothing on disk changes.

        Raises RunDirError, after releasing the lock.
        """
        with ExitStack() as undo, writing(self.path):
            undo.push(self._undo)
            tail = self._tails.get(self.path.name, Tail())
            if tail.torn_bytes:
                saved = save_torn(self.path, tail, self._hidden, self._disk)
                self.warnings.append(
                    f"{self.path.name}: dropped {tail.torn_bytes} bytes that a crash left of its last "
                    f"lines (kept in {saved})"
                )
            file = self._disk.open_append(self.path)
            undo.callback(file.close)
            commit = GroupCommit(self.path, file, self._set_room_aside(), self._disk, self._committed)
            commit.begin_at(mend(file, tail))
            # Sync the file's name too: else a power loss could lose every line that was fsynced.
            self._disk.sync_dir(self.path.parent)
            mark = begun_mark(self._run_dir, self.path.name)
            if not commit.end:
                commit.first_written = partial(self._disk.write_whole, mark, [])
            elif self._disk.size(mark) is None:
                file.sync()  # the mark must not outlive the lines that it speaks of
                self._disk.write_whole(mark, [])
            self._note_others(self._tails)
            self._ready, self._undo = commit, undo.pop_all()

    @property
    def _commit(self) -> GroupCommit:
        assert self._ready is not None, "this ledger was not made ready for writing"
        return self._ready

    def call_before_writes(self, function: Callable[[], None]) -> None:
        """Call ``function`` in the disk's thread before each group of lines is written."""
        self._commit.before_write = function

    def call_if_moved(self, function: Callable[[RunDirError], None]) -> None:
        """Call ``function`` with the error to stop with, if the ledger was moved from its path.

        What is appended after that goes to its new place.
        """
        self._commit.if_moved = function

    def _set_room_aside(self) -> Path:
        """A reserve, so that pending answers can be recorded when the disk is full."""
        path = self._hidden / ("reserve" if self._shard is None else f"reserve.{self._shard}")
        if self._disk.size(path) != RESERVE_BYTES:
            self._disk.write_whole(path, [bytes(RESERVE_BYTES)])
        return path

    def _note_others(self, tails: dict[str, Tail]) -> None:
        """Record that the lines of other divisions come before anything this run does.

        They are synced first, because later lines depend on them and a dead run may not have.
        """
        for name in others(self.path.name, list(tails)):
            file = self._disk.open_append(self._run_dir / name)
            file.sync()
            file.close()
            self._after[name] = tails[name].good_bytes

    def announce(self, run: RunEvent) -> None:
        """Write ``run`` before the next line; a run that changes nothing appends nothing.

        A new total or manifest counts as a change: the last run's values no longer hold.
        """
        before = self.snapshot.last_run
        self._opening, self.run_id = run, run.run
        if before is not None and (before.total, before.manifest) != (run.total, run.manifest):
            self._begin()

    def _begin(self) -> None:
        """Write the lines that precede this run's first line."""
        if self._after:
            after, self._after = self._after, {}
            self._add(Follows(iso(self._clock.now()), after))
        if self._opening is not None:
            opening, self._opening = self._opening, None
            place = self._place
            self._add(opening)
            self.snapshot.apply_run(opening, place)

    @property
    def announced(self) -> bool:
        """Whether this run has written anything yet."""
        return self._opening is None

    def append(self, name: EventName, job: str, **fields: Any) -> asyncio.Future[None]:
        """Add one line about ``job``; the future is done when it is durable, or fails with RunDirError.

        ``attempt`` defaults to the job's current one. Raises IllegalTransition, and the error that
        ended the ledger if a write failed before.
        """
        commit = self._commit
        if commit.error is not None:
            raise commit.error
        if "attempt" not in fields:
            record = self.snapshot.get(job)
            fields["attempt"] = record.attempt if record is not None else 0
        event = Event(event=name, at=iso(self._clock.now()), job=job, **fields)
        if self._opening is not None or self._after:
            self._begin()
        place = self._base + commit.end
        record = self.snapshot.apply(event, place)
        if self.on_change is not None:
            self.on_change(job, record)
        if event.input is not None or event.files is not None:
            self._lines.remember(place, event)
        if self.on_durable is not None:
            self._not_durable.append((place, event))
        return commit.add(encode_line(event, commit.group_start))

    def close_run(self, run: RunEvent) -> None:
        """Add the line that ends a run, if the run wrote anything."""
        if self.announced and self._commit.error is None:
            self.snapshot.apply_run(run, self._place)
            self._add(run)

    async def record(self, name: EventName, job: str, **fields: Any) -> None:
        """Append and wait until the line is durable; cancelling the caller does not stop the write."""
        await self.append(name, job, **fields)

    @property
    def _place(self) -> int:
        """The place of the next line."""
        return self._base + self._commit.end

    def _add(self, event: Event | RunEvent | Follows) -> asyncio.Future[None]:
        return self._commit.add(encode_line(event, self._commit.group_start))

    def _committed(self, size_bytes: int) -> None:
        self.snapshot.pack(self._base + size_bytes)
        while self._not_durable and self._not_durable[0][0] < self._base + size_bytes:
            _, event = self._not_durable.popleft()
            if self.on_durable is not None:
                self.on_durable(event)
        if self._shard is None and self._commit.moved is None:
            # Last, so that what it covers ends with a group of lines: the next one begins now.
            self._checkpoints.committed(size_bytes, self._commit.end)

    @property
    def full(self) -> bool:
        """Whether the disk is full: the remaining space is for pending answers."""
        return self._commit.full

    @property
    def is_durable(self) -> bool:
        """Whether everything in the snapshot is on disk."""
        return self._commit.is_idle

    async def settled(self) -> None:
        """Wait for pending writes. Raises nothing: errors go to the callers that added the lines."""
        await self._commit.settled()

    async def close(self) -> None:
        """Wait for pending writes, then close the file and release the lock."""
        if self._ready is not None:
            await self.settled()
            await self._checkpoints.settled()
            if self._shard is None and self.is_durable and self._ready.moved is None:
                await self._checkpoints.finish(self._ready.end)
        self.release()

    def release(self) -> None:
        """Close the file and release the lock without waiting, if nothing was appended."""
        self._undo.close()
