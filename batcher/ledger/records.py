"""Every job of a ledger by its id: a record each, or a packed row if it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from batcher.jobs.lifecycle import Record, State
from batcher.ledger.finished import DoneCount, Finished, FinishedJobs, JobRecord, LineAt


class Records(Mapping[str, JobRecord]):
    """Every job that the ledger mentions: first done jobs in the order of completion, then the others
    in the order of their first lines."""

    def __init__(self, line_at: LineAt | None) -> None:
        self.open: dict[str, Record] = {}
        self.finished = FinishedJobs(line_at) if line_at is not None else None

    def __getitem__(self, job_id: str) -> JobRecord:
        record = self.find(job_id)
        if record is None:
            raise KeyError(job_id)
        return record

    def find(self, job_id: str) -> JobRecord | None:
        """The job's record; None if the ledger doesn't mention it."""
        record = self.open.get(job_id)
        if record is None and self.finished is not None:
            return self.finished.get(job_id)
        return record

    def __contains__(self, job_id: object) -> bool:
        return self.find(str(job_id)) is not None

    def __len__(self) -> int:
        return len(self.open) + (len(self.finished) if self.finished is not None else 0)

    def __iter__(self) -> Iterator[str]:
        return (job_id for job_id, _ in self.pairs())

    def reopen(self, job_id: str) -> Record | None:
        """Unpack a job; returns its record."""
        record = self.finished.release(job_id) if self.finished is not None else None
        if record is not None:
            self.open[job_id] = record
        return record

    def pack(self, job_id: str) -> None:
        """Pack a job if it is done and can be packed."""
        record = self.open.get(job_id)
        if record is None or self.finished is None or record.state is not State.DONE:
            return
        if self.finished.take(job_id, record):
            del self.open[job_id]

    def packed_tally(self) -> DoneCount:
        """The number of packed jobs in the manifest, and how many of these have a quality note."""
        return self.finished.tally() if self.finished is not None else DoneCount(0, 0)

    def packed(self) -> Iterator[Finished]:
        """The packed done jobs."""
        return self.finished.all() if self.finished is not None else iter(())

    def packed_models(self) -> list[str | None]:
        """The models of the packed jobs, each once."""
        return self.finished.models if self.finished is not None else []

    def unfinished(self) -> Iterator[tuple[str, Record]]:
        """The jobs that are not done."""
        return ((job, record) for job, record in self.open.items() if record.state is not State.DONE)

    def values(self) -> Iterator[JobRecord]:  # type: ignore[override]
        """The records, in no order."""
        yield from self.packed()
        yield from self.open.values()

    def astray(self) -> Iterator[tuple[str, JobRecord]]:
        """Jobs that are not in the manifest now, or were orphaned before, in order."""
        if self.finished is not None:
            yield from ((record.job, record) for record in self.finished.astray())
        for job_id, record in self._open_in_order():
            if not record.listed or record.orphaned:
                yield job_id, record

    def pairs(self) -> Iterator[tuple[str, JobRecord]]:
        """Job ids with their records, in order."""
        yield from ((record.job, record) for record in self.packed())
        yield from self._open_in_order()

    def _open_in_order(self) -> Iterator[tuple[str, Record]]:
        done = [pair for pair in self.open.items() if pair[1].state is State.DONE]
        yield from sorted(done, key=lambda pair: pair[1].done_offset)
        yield from self.unfinished()
