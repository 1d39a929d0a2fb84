"""``report.html``: one static page that shows a run directory, made from its ledger alone.

``history`` folds the ledger with its times, ``jobs`` and ``series`` make the page's data from it,
``page`` puts data, style and script into one file. Nothing here depends on the runner: a report works
after a crash, during a run, and for a copied run directory.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from batcher.clock import Clock, iso
from batcher.disk import Disk, cannot_write
from batcher.layout import REPORT_NAME
from batcher.ledger.ledger import read_ledger, read_snapshot
from batcher.ledger.lines import LineReader
from batcher.ledger.marks_file import current_marks
from batcher.ledger.segments import segments_in
from batcher.ledger.summary import Status, status_of
from batcher.report.history import TimedSnapshot
from batcher.report.jobs import Jobs
from batcher.report.page import render
from batcher.report.series import series_of


def write_report(run_dir: Path, disk: Disk, clock: Clock, refresh_s: float | None = None) -> Status:
    """Write ``report.html`` into ``run_dir`` atomically; returns the status that it shows.

    ``refresh_s``: the interval in seconds at which the page of a live run reloads. Raises LedgerError if
    the ledger can't be read, RunDirError if the page can't be written.
    """
    data = page_data(run_dir, disk, clock)
    status: Status = data["status"]
    data["refresh_s"] = refresh_s if status.live else None
    path = run_dir / REPORT_NAME
    try:
        disk.write_whole(path, [render(status.batch, data).encode()])
    except OSError as error:
        raise cannot_write(path, error) from error
    return status


def page_data(run_dir: Path, disk: Disk, clock: Clock) -> dict[str, Any]:
    """All data of the page, from the current ledger and marks. Raises BatcherError."""
    history = _history(run_dir, disk)
    status = status_of(run_dir, history, beside=disk)
    jobs = Jobs(run_dir, history)
    return {
        "batch": status.batch,
        "made_at": iso(clock.now()),
        "refresh_s": None,
        "status": status,
        "run": jobs.run(),
        "commands": jobs.commands(),
        "jobs": list(jobs.all()),
        "marks": marks_of(run_dir, history),
        "series": series_of(history, status.total),
    }


async def keep_writing(run_dir: Path, disk: Disk, clock: Clock, every_s: float) -> Status:
    """Rewrite the report every ``every_s`` seconds if the ledger grew, until the run has ended."""
    written: list[int | None] | None = None
    while True:
        size = [disk.size(run_dir / name) for name in segments_in(run_dir, disk)]
        if size != written:
            status = await asyncio.to_thread(write_report, run_dir, disk, clock, every_s)
            written = size
        else:
            status = await asyncio.to_thread(_status, run_dir, disk)
        if not status.live:
            return await asyncio.to_thread(write_report, run_dir, disk, clock)
        await clock.sleep(every_s)


def marks_of(run_dir: Path, history: TimedSnapshot) -> dict[str, dict[str, str | None]]:
    """The marks on the current outputs, by job. Raises RunDirError."""
    marks = current_marks(run_dir, history)
    return {job: {"mark": mark.mark, "note": mark.note} for job, mark in marks.items()}


def _status(run_dir: Path, disk: Disk) -> Status:
    return status_of(run_dir, read_snapshot(run_dir, disk), beside=disk)


def _history(run_dir: Path, disk: Disk) -> TimedSnapshot:
    lines = LineReader(run_dir, disk)
    return read_ledger(TimedSnapshot(lines.at), run_dir, lines, disk)
