"""A run's place in the account's book: what it is about to spend, and what became of that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from batcher.clock import Clock
from batcher.disk import Disk
from batcher.engine.unwatched import age_s, may_take_s
from batcher.errors import BatcherError
from batcher.jobs.job import Job
from batcher.jobs.lifecycle import Record, State
from batcher.ledger.book import Book, Crowded, reservation
from batcher.ledger.finished import JobRecord
from batcher.ledger.ledger import Ledger
from batcher.ledger.snapshot import Snapshot

LOOK_S = 1.0
"""Seconds between two looks for room under ``--account-concurrency``."""
LOOK_AT_DEAD_S = 10.0
_UNFINISHED = frozenset({State.SUBMITTED, State.UNKNOWN})


@dataclass(slots=True)
class Account:
    """Records attempts before they are submitted, and their cost afterwards.

    Lines that need no answer are written to the book with the next lines of the ledger.
    Without a limit, a book that can't be written causes one warning and is then ignored. ``settle_dead``
    corrects what runs that were killed have left in the book.
    """

    book: Book
    disk: Disk
    clock: Clock
    warn: Callable[[str], None]
    assume_price_usd: float = 0.0
    settle_dead: Callable[[], None] = lambda: None
    crowded: Crowded | None = field(init=False, default=None)
    """Why jobs wait for other runs of the account now, if they do."""
    _broken: bool = field(init=False, default=False)
    _snapshot: Snapshot | None = field(init=False, default=None)
    _first_in_line: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _looked_s: float | None = field(init=False, default=None)

    async def room(self, is_stopping: Callable[[], bool]) -> None:
        """Wait until one more request may be unfinished, or the run stops. One job looks for all."""
        if self.book.limits.unfinished is None:
            return
        async with self._first_in_line:
            try:
                while not is_stopping():
                    self.crowded = await asyncio.to_thread(self._look)
                    if self.crowded is None:
                        return
                    await self.clock.sleep(LOOK_S)
            finally:
                self.crowded = None

    def _look(self) -> Crowded | None:
        """Why there is no room. A book that can't be read is left to ``reserve``, which says so."""
        try:
            self.book.refresh()
            if self.book.crowded() is None:
                return None
            now_s = self.clock.monotonic()
            if self._looked_s is None or now_s - self._looked_s >= LOOK_AT_DEAD_S:
                self._looked_s = now_s
                self.settle_dead()
            self.book.say_waiting()
            return self.book.crowded()
        except BatcherError:
            return None

    async def reserve(
        self, job: Job, attempt: int, price_usd: float | None
    ) -> BatcherError | Crowded | None:
        """Reserve for an attempt; why not, if a limit has no room or nothing can be written."""
        book = self.book
        usd = self.assume_price_usd if price_usd is None else price_usd
        owner, named = (book.api, book.run_dir), (job.id, attempt, job.model, job.digest)
        entry = reservation(owner, named, usd, self.clock.now())
        try:
            if book.limits:
                return await self.disk.run(lambda: book.reserve(entry))
            if not self._broken:
                book.reserve(entry)
        except BatcherError as error:
            if book.limits:
                return error
            self._give_up(error)
        return None

    def give_back(self, job_id: str, attempt: int) -> None:
        """The attempt was not submitted after all."""
        self._settle((self.book.run_dir, job_id, attempt), 0.0)
        self.write()

    def changed(self, job_id: str, record: JobRecord) -> None:
        """The ledger has a new line about a job."""
        self._correct((self.book.run_dir, job_id, record.attempt), record, record.state in _UNFINISHED)

    def lingered(self, job_id: str) -> None:
        """A request that nothing watches must have ended."""
        record = self._snapshot.get(job_id) if self._snapshot is not None else None
        if record is not None:
            self._correct((self.book.run_dir, job_id, record.attempt), record, unfinished=False)
            self.write()

    def follow(self, ledger: Ledger, is_ours: Callable[[str], bool]) -> None:
        """Correct what a dead run of this directory left, then follow each line of ``ledger``."""
        self._snapshot = ledger.snapshot
        self.correct_costs(ledger.snapshot, self.book.run_dir, is_ours)
        ledger.on_change = self.changed
        ledger.call_before_writes(self.write)

    def correct_costs(self, snapshot: Snapshot, run_dir: str, is_ours: Callable[[str], bool]) -> None:
        """Correct the reservations of ``run_dir``, whose run is dead, by its ledger.

        A request that the ledger does not see ended counts as unfinished for as long as it may take. An
        empty ledger is not the one of that run, and says nothing about it.
        """
        is_empty = snapshot.last_run is None
        for entry in self.book.reservations():
            if entry.run_dir != run_dir or not is_ours(entry.job):
                continue
            record = snapshot.get(entry.job)
            if record is None or record.attempt < entry.attempt:
                self._settle(entry.key, entry.usd if is_empty else 0.0)
            elif record.attempt > entry.attempt:
                self._settle(entry.key, entry.usd)
            else:
                self._correct(entry.key, record, self._may_run(record, snapshot))
        self.write()

    def _may_run(self, record: JobRecord, snapshot: Snapshot) -> bool:
        if not isinstance(record, Record) or record.state not in _UNFINISHED:
            return False
        return age_s(record, self.clock) < may_take_s(snapshot, record.model)

    def _correct(self, key: tuple[str, str, int], record: JobRecord, unfinished: bool) -> None:
        usd = self.assume_price_usd if record.charge_usd is None else record.charge_usd
        self._settle(key, usd, unfinished)

    def _settle(self, key: tuple[str, str, int], usd: float, unfinished: bool = False) -> None:
        """If a cost can't be written, the book counts too much, never too little."""
        if self._broken:
            return
        try:
            self.book.settle(key, usd, unfinished=unfinished)
        except BatcherError as error:
            self._give_up(error)

    def write(self) -> None:
        """Append what was noted; can be called from any thread. A failure causes one warning."""
        if self._broken:
            return
        try:
            self.book.write()
        except BatcherError as error:
            self._give_up(error)

    def _give_up(self, error: BatcherError) -> None:
        self._broken = True
        self.warn(f"the account's book is not kept from here on: {error}")
