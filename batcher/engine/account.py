"""A run's place in the account's book: what it is about to spend, and what became of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from batcher.clock import Clock
from batcher.disk import Disk
from batcher.errors import BatcherError
from batcher.jobs.job import Job
from batcher.ledger.book import Book, reservation
from batcher.ledger.finished import JobRecord
from batcher.ledger.ledger import Ledger
from batcher.ledger.snapshot import Snapshot


@dataclass(slots=True)
class Account:
    """Records attempts before they are submitted, and their cost afterwards.

    Without a cap, a book that can't be written causes one warning and is then ignored.
    """

    book: Book
    disk: Disk
    clock: Clock
    warn: Callable[[str], None]
    assume_price_usd: float = 0.0
    _broken: bool = field(init=False, default=False)

    async def reserve(self, job: Job, attempt: int, price_usd: float | None) -> BatcherError | None:
        """Reserve for an attempt; the reason to stop if a cap has no room, or nothing can be written."""
        book = self.book
        usd = self.assume_price_usd if price_usd is None else price_usd
        owner, named = (book.api, book.run_dir), (job.id, attempt, job.model, job.digest)
        entry = reservation(owner, named, usd, self.clock.now())
        try:
            if book.is_capped:
                return await self.disk.run(lambda: book.reserve(entry))
            if not self._broken:
                book.reserve(entry)
        except BatcherError as error:
            if book.is_capped:
                return error
            self._give_up(error)
        return None

    def give_back(self, job_id: str, attempt: int) -> None:
        """The attempt was not submitted after all."""
        self._settle((self.book.run_dir, job_id, attempt), 0.0)

    def changed(self, job_id: str, record: JobRecord) -> None:
        """The ledger has a new line about a job."""
        self._settle((self.book.run_dir, job_id, record.attempt), self._counted_usd(record))

    def follow(self, ledger: Ledger, is_ours: Callable[[str], bool]) -> None:
        """Correct what a dead run of this directory left, then follow each line of ``ledger``."""
        self.put_right(ledger.snapshot, self.book.run_dir, is_ours)
        ledger.on_change = self.changed

    def put_right(self, snapshot: Snapshot, run_dir: str, is_ours: Callable[[str], bool]) -> None:
        """Replace reservations of ``run_dir`` that a dead run left with the ledger's costs."""
        for entry in self.book.open_reservations():
            if entry.run_dir != run_dir or not is_ours(entry.job):
                continue
            record = snapshot.get(entry.job)
            if record is None or record.attempt < entry.attempt:
                self._settle(entry.key, 0.0)
            elif record.attempt == entry.attempt:
                self._settle(entry.key, self._counted_usd(record))

    def _counted_usd(self, record: JobRecord) -> float:
        return self.assume_price_usd if record.charge_usd is None else record.charge_usd

    def _settle(self, key: tuple[str, str, int], usd: float) -> None:
        """If a cost can't be written, the book counts too much, never too little."""
        if self._broken:
            return
        try:
            self.book.settle(key, usd)
        except BatcherError as error:
            self._give_up(error)

    def _give_up(self, error: BatcherError) -> None:
        if not self._broken:
            self._broken = True
            self.warn(f"the account's book is not kept: {error}")
