"""All run directories below a folder, one per line: the output of ``ls``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path

import msgspec

from batcher.clock import Clock
from batcher.disk import Disk
from batcher.errors import BatcherError
from batcher.jobs.lifecycle import Event, RunEvent
from batcher.ledger.finished import JobRecord
from batcher.ledger.ledger import read_ledger, read_snapshot
from batcher.ledger.lines import LineReader
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.summary import USD_DIGITS, status_of

TAIL_BYTES = 64 * 1024
_RUN_LINE = b'"event":"run"'


class Overview(msgspec.Struct, kw_only=True):
    """One run directory. ``state`` is ``live``, ``done``, ``open`` (some jobs are not) or ``damaged``.

    ``last_run_at`` and ``exit_code`` are of the last run that wrote to the ledger; a run that found
    nothing to do writes nothing. ``exit_code`` is None if that run is active, or was killed.
    """

    run_dir: str
    state: str
    total: int = 0
    done: int = 0
    failed: int = 0
    unknown: int = 0
    cost_usd: float = 0.0
    cost_today_usd: float = 0.0
    """The increase of the ledger's total cost since midnight, local time."""
    bytes: int = 0
    last_run_at: str | None = None
    exit_code: int | None = None
    problem: str | None = None


def overviews(root: Path, disk: Disk, clock: Clock) -> Iterator[Overview]:
    """The run directories below ``root`` (or ``root`` itself), by name."""
    for run_dir in run_dirs(root, disk):
        try:
            yield _overview(run_dir, disk, clock)
        except BatcherError as error:
            yield Overview(run_dir=str(run_dir), state="damaged", problem=str(error))


def run_dirs(root: Path, disk: Disk) -> Iterator[Path]:
    """The run directories below ``root``. Does not look inside them, and follows no links."""
    for folder, names, _ in os.walk(root):
        path = Path(folder)
        if segments_in(path, disk):
            names.clear()
            yield path
        names[:] = sorted(name for name in names if not name.startswith("."))


def _overview(run_dir: Path, disk: Disk, clock: Clock) -> Overview:
    today = clock.now().astimezone().date()
    snapshot, today_usd = _read(run_dir, disk, today)
    status = status_of(run_dir, snapshot, beside=disk)
    last = _last_run(run_dir, disk)
    state = "live" if status.live else "done" if status.done == status.total else "open"
    return Overview(
        run_dir=str(run_dir),
        state=state,
        total=status.total,
        done=status.done,
        failed=status.failed + status.cancelled,
        unknown=status.unknown,
        cost_usd=status.cost_usd,
        cost_today_usd=round(today_usd, USD_DIGITS),
        bytes=status.bytes,
        last_run_at=last.at if last is not None else None,
        exit_code=last.exit_code if last is not None and last.ended else None,
    )


class _Today(Snapshot):
    """Also adds up the changes of the cost by the events of ``day``."""

    may_restore = False

    def __init__(self, lines: LineReader, day: date) -> None:
        super().__init__(lines.at)
        self.today_usd = 0.0
        self._day = day

    def apply(self, event: Event, place: int = -1) -> JobRecord:
        """Apply one job event, like its superclass."""
        before_usd = self.spent_usd
        record = super().apply(event, place)
        if self.spent_usd != before_usd and _local_day(event.at) == self._day:
            self.today_usd += self.spent_usd - before_usd
        return record


def _read(run_dir: Path, disk: Disk, today: date) -> tuple[Snapshot, float]:
    """Read a ledger; from its checkpoint if nothing was written to it today."""
    if not any(_written_on(today, run_dir / name) for name in segments_in(run_dir, disk)):
        return read_snapshot(run_dir, disk), 0.0
    lines = LineReader(run_dir, disk)
    snapshot = read_ledger(_Today(lines, today), run_dir, lines, disk)
    return snapshot, snapshot.today_usd


def _written_on(day: date, path: Path) -> bool:
    with suppress(OSError):
        return datetime.fromtimestamp(path.stat().st_mtime).astimezone().date() >= day
    return True


def _local_day(at: str) -> date | None:
    try:
        return datetime.fromisoformat(at).astimezone().date()
    except ValueError:
        return None


def _last_run(run_dir: Path, disk: Disk) -> RunEvent | None:
    """The newest line about a run near the end of any segment."""
    found = [
        event for name in segments_in(run_dir, disk) for event in _run_lines(_tail(run_dir / name, disk))
    ]
    return max(found, key=lambda event: event.at, default=None)


def _tail(path: Path, disk: Disk) -> bytes:
    with suppress(OSError), disk.open_read(path) as file:
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(size_bytes - TAIL_BYTES, 0))
        return file.read()
    return b""


def _run_lines(data: bytes) -> Iterator[RunEvent]:
    for line in data.splitlines():
        if _RUN_LINE in line:
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                yield msgspec.json.decode(line, type=RunEvent)
