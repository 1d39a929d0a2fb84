"""The book: what an account has spent over all run directories, in one file per user.

``book.jsonl`` lies in the user's state directory. A line is about one attempt of one job: ``reserve``
before its intent is recorded, ``settle`` each time its amount in the ledger changes. The last line of an
attempt counts. Lines are appended whole, so ``settle`` needs no lock; a reservation under a cap holds
the lock from reading the others' lines to writing its own. So after any crash the book counts at least
what was submitted; when the next run begins, its ledger corrects the reservations of a dead run.

Amounts are USD. Days and months are in the machine's time zone. An entry dated in the future (the
clock was set back) counts for the current day and month.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import NamedTuple

import msgspec

from batcher.clock import Clock, iso
from batcher.disk import Disk, writing
from batcher.errors import LedgerError, LockedError, RunDirError, StoppedError

BOOK_VARIABLE = "BATCHER_BOOK_DIR"
XDG_STATE_VARIABLE = "XDG_STATE_HOME"
BOOK_NAME = "book.jsonl"
LOCK_S = 30.0
PERIODS = ("day", "month")
RESERVE, SETTLE = "reserve", "settle"
_DUST_USD = 1e-9


class Entry(msgspec.Struct, omit_defaults=True, gc=False):
    """One line. ``at`` is UTC in ISO 8601: the time of the reservation, also in a ``settle`` line."""

    kind: str
    at: str
    api: str
    run_dir: str
    job: str
    attempt: int
    usd: float
    model: str | None = None
    digest: str | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """The attempt that the line is about."""
        return self.run_dir, self.job, self.attempt


class Periods(NamedTuple):
    """When the current day and month began, and when the next ones begin."""

    begins: Mapping[str, datetime]
    ends: Mapping[str, datetime]

    @classmethod
    def at(cls, now: datetime, zone: tzinfo | None = None) -> Periods:
        """The periods at ``now`` in ``zone``; None is the machine's."""
        local = now.astimezone(zone)
        today, first = local.date(), local.date().replace(day=1)
        days = {"day": today, "month": first}
        nexts = {"day": today + timedelta(days=1), "month": (first + timedelta(days=32)).replace(day=1)}
        return cls(
            {name: _midnight(day, local, zone) for name, day in days.items()},
            {name: _midnight(day, local, zone) for name, day in nexts.items()},
        )


def _midnight(day: object, local: datetime, zone: tzinfo | None) -> datetime:
    """The start of ``day``, with the UTC offset of that moment: a day may have 23 or 25 hours."""
    naive = datetime.combine(day, time())  # type: ignore[arg-type]
    return naive.replace(tzinfo=zone) if zone is not None else naive.astimezone()


def state_dir(env: Mapping[str, str], home: Path) -> Path:
    """The folder of the book. A relative XDG path is ignored, as the XDG spec asks."""
    if chosen := env.get(BOOK_VARIABLE, "").strip():
        return Path(chosen)
    xdg = Path(env.get(XDG_STATE_VARIABLE, "").strip())
    return (xdg if xdg.is_absolute() else home / ".local" / "state") / "batcher"


_decode = msgspec.json.Decoder(Entry).decode
_encode = msgspec.json.Encoder().encode


class BookFile:
    """The file: reads complete lines, appends lines, replaces the whole file."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.path = folder / BOOK_NAME
        self._disk = disk
        self._read_bytes = 0
        self._lines = 0

    def lock(self) -> Callable[[], None]:
        """Take the lock; returns a function that releases it. Raises RunDirError."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return self._disk.lock(self.path.with_name(f"{BOOK_NAME}.lock"), LOCK_S)
            except LockedError:
                raise RunDirError(f"{self.path}: another process holds it for {LOCK_S:.0f} s") from None

    def news(self) -> Iterator[Entry]:
        """The lines since the last call. Raises LedgerError for one that can't be read."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read_bytes)
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise LedgerError(f"{self.path}: {error.strerror or error}") from error
        whole = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for raw in whole.splitlines():
            self._lines += 1
            if raw.strip():
                yield self._entry(raw)

    def _entry(self, raw: bytes) -> Entry:
        try:
            entry = _decode(raw)
            datetime.fromisoformat(entry.at)
        except (msgspec.MsgspecError, ValueError):
            raise LedgerError(
                f"{self.path}:{self._lines}: not a line of the book; `batcher spend --rebuild` makes it "
                "again from the ledgers"
            ) from None
        return entry

    def readable(self) -> Iterator[Entry]:
        """Every readable line from the beginning; skips the others without an error."""
        try:
            lines = self.path.read_bytes().splitlines()
        except OSError:
            return
        for raw in lines:
            with suppress(LedgerError):
                yield self._entry(raw)

    def replace(self, entries: Iterable[Entry]) -> None:
        """Replace the content with ``entries``. Needs the lock. Raises RunDirError."""
        with writing(self.path):
            self._disk.write_whole(self.path, [_encode(entry) + b"\n" for entry in entries])

    def append(self, entries: list[Entry]) -> None:
        """Add lines, in one write. Raises RunDirError."""
        data = b"".join(_encode(entry) + b"\n" for entry in entries)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    data = b"\n" + data  # end the partial line of a dead process
                if os.write(descriptor, data) != len(data):
                    raise RunDirError(f"{self.path}: no space left on the disk")
            finally:
                os.close(descriptor)


class Book:
    """The book as one run sees it: the entries of its API, with the run's own.

    ``caps`` are USD by period: ``{"day": 20.0}``.
    """

    def __init__(
        self, file: BookFile, owner: tuple[str, str], caps: Mapping[str, float], clock: Clock
    ) -> None:
        self.api, self.run_dir = owner
        self.zone: tzinfo | None = None
        self._file = file
        self._caps = caps
        self._clock = clock
        self._entries: dict[tuple[str, str, int], Entry] = {}
        self._spent_usd: dict[datetime, float] = {}
        self._paid: dict[tuple[str, str | None], str] = {}
        self._days: dict[str, datetime] = {}

    def refresh(self) -> None:
        """Read the lines written since the last read. Raises LedgerError."""
        for entry in self._file.news():
            if entry.api == self.api:
                self._take(entry)

    def entries(self) -> list[Entry]:
        """The last line of each attempt."""
        return list(self._entries.values())

    @property
    def knows_others(self) -> bool:
        """Whether another run directory has paid for anything."""
        return bool(self._paid)

    def paid_elsewhere(self, job: str, digest: str) -> str | None:
        """Another directory that has already paid for this same job, if there is one and it exists."""
        run_dir = self._paid.get((job, digest))
        return run_dir if run_dir is not None and Path(run_dir).exists() else None

    @property
    def is_capped(self) -> bool:
        """Whether reservations can be refused."""
        return bool(self._caps)

    def open_reservations(self) -> list[Entry]:
        """Attempts that were reserved and have no later line."""
        return [entry for entry in self._entries.values() if entry.kind == RESERVE]

    def spent_usd(self, period: str) -> float:
        """USD counted for the current day or month."""
        begin = Periods.at(self._clock.now(), self.zone).begins[period]
        return sum(usd for day, usd in self._spent_usd.items() if day >= begin)

    def reserve(self, entry: Entry) -> StoppedError | None:
        """Write ``entry`` before its intent; returns the reason to stop if it exceeds a cap.

        Raises RunDirError, LedgerError: what can't be recorded must not be submitted.
        """
        if not self._caps:
            self._put(entry)
            return None
        release = self._file.lock()
        try:
            self.refresh()
            reason = self._full(entry.usd)
            if reason is None:
                self._put(entry)
            return reason
        finally:
            release()

    def settle(self, key: tuple[str, str, int], usd: float) -> None:
        """Set the cost of an attempt (run directory, job, number) to ``usd``. Idempotent."""
        known = self._entries.get(key)
        if known is not None and (known.kind != SETTLE or abs(known.usd - usd) > _DUST_USD):
            self._put(msgspec.structs.replace(known, kind=SETTLE, usd=usd))

    def _put(self, entry: Entry) -> None:
        self._file.append([entry])
        self._take(entry)

    def _take(self, entry: Entry) -> None:
        """Keep the last line of each attempt. Reading our own line again changes nothing."""
        before = self._entries.get(entry.key)
        if before is not None:
            self._spent_usd[self._day(before.at)] -= before.usd
        day = self._day(entry.at)
        self._spent_usd[day] = self._spent_usd.get(day, 0.0) + entry.usd
        self._entries[entry.key] = entry
        if entry.run_dir != self.run_dir and entry.usd > 0:
            self._paid[entry.job, entry.digest] = entry.run_dir

    def _day(self, at: str) -> datetime:
        minute = at[:16]
        day = self._days.get(minute)
        if day is None:
            day = Periods.at(datetime.fromisoformat(at), self.zone).begins["day"]
            self._days[minute] = day
        return day

    def _full(self, usd: float) -> StoppedError | None:
        periods = Periods.at(self._clock.now(), self.zone)
        for period, cap_usd in self._caps.items():
            spent_usd = self.spent_usd(period)
            if spent_usd + usd > cap_usd + _DUST_USD:
                opens = periods.ends[period].isoformat(" ", "minutes")
                return StoppedError(
                    f"--max-cost-per {period}={cap_usd:g}: ${spent_usd:.2f} of this {period} is spent, "
                    f"and the next job may cost ${usd:.2f}; the rest stays pending until {opens}"
                )
        return None


def reservation(
    owner: tuple[str, str], job: tuple[str, int, str, str], usd: float, at: datetime
) -> Entry:
    """The line before an intent. ``owner``: API, run directory; ``job``: id, attempt, model, digest."""
    name, attempt, model, digest = job
    return Entry(RESERVE, iso(at), *owner, name, attempt, usd, model, digest)
