"""The book: what an account has spent over all run directories, in one file per user.

A line is about one attempt of one job: ``reserve`` before its intent is recorded, ``settle`` when its
request has ended. The last line of an attempt counts. A reservation under a limit holds the lock from
reading the others' lines to writing its own. All other lines are noted, and written in groups: by
``write``, which a run calls before it writes the lines of its ledger. So after any crash the book
counts at least what was submitted; when the next run begins, its ledger corrects the reservations of a
dead run.

Amounts are USD. Days and months are in the machine's time zone. An entry dated in the future (the
clock was set back) counts for the current day and month.
"""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, tzinfo
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Lock, RLock
from typing import NamedTuple

import msgspec

from batcher.clock import Clock, iso
from batcher.errors import ModelCapReached, StoppedError
from batcher.ledger.book_attempts import Attempts, EndedAttempts, is_begun_anew
from batcher.ledger.book_file import FOLD, RESERVE, SETTLE, UNTIL, WAIT, BookFile, Entry, Key
from batcher.ledger.book_fold import paid_number
from batcher.ledger.costs import DUST_USD
from batcher.ledger.packed import PackedMap
from batcher.terminal import money

UNFINISHED_AT_MOST = timedelta(days=1)
"""No request counts as unfinished for longer."""
WAITS_FOR = timedelta(seconds=45)
"""How long a run that said so counts as waiting."""
SAY_AGAIN = timedelta(seconds=20)


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


def _midnight(day: date, local: datetime, zone: tzinfo | None) -> datetime:
    """The start of ``day``, with the UTC offset of that moment: a day may have 23 or 25 hours."""
    naive = datetime.combine(day, time())
    return naive.replace(tzinfo=zone) if zone is not None else naive.astimezone()


@dataclass(frozen=True, slots=True)
class Limits:
    """``caps``: USD by period, of some models or all: ``{"day": 20.0, "day:fal:*": 5.0}``.

    ``unfinished``: requests of all runs together.
    """

    caps: Mapping[str, float] = field(default_factory=dict)
    unfinished: int | None = None

    def __bool__(self) -> bool:
        return bool(self.caps) or self.unfinished is not None


class PeriodRoom(NamedTuple):
    """What ``--max-cost-per`` leaves of the current day or month, and when the next one begins.

    ``name`` is the period, or ``day:PATTERN`` if the cap is about the models that match.
    """

    name: str
    cap_usd: float
    spent_usd: float
    ends: datetime

    @property
    def period(self) -> str:
        """``day`` or ``month``."""
        return self.name.partition(":")[0]

    @property
    def models(self) -> str | None:
        """The pattern of the models that count; None if all do."""
        return self.name.partition(":")[2] or None

    def covers(self, model: str | None) -> bool:
        """Whether the cost of ``model`` counts."""
        return is_among(model, self.models)

    def has(self, usd: float) -> bool:
        """Whether ``usd`` more fit."""
        return self.spent_usd + usd <= self.cap_usd + DUST_USD

    @property
    def left_usd(self) -> float:
        """USD that may still be spent."""
        return max(self.cap_usd - self.spent_usd, 0.0)

    @property
    def opens(self) -> str:
        """When the cap opens again, in the machine's time zone."""
        return self.ends.isoformat(" ", "minutes")

    def __str__(self) -> str:
        typed = shlex.quote(f"{self.name}={self.cap_usd:.10g}")
        spent = f"--max-cost-per {typed}: {money(self.spent_usd)} of this {self.period} is spent"
        return spent if self.models is None else f"{spent} on these models"


@dataclass(frozen=True, slots=True)
class Crowded:
    """``--account-concurrency`` leaves no room now; ``reason`` says why."""

    reason: str


class Book:
    """The book as one run sees it: the entries of its API, with the run's own.

    Can be used by several threads.
    """

    def __init__(self, file: BookFile, owner: tuple[str, str], limits: Limits, clock: Clock) -> None:
        self.api, self.run_dir = owner
        self.limits = limits
        self.zone: tzinfo | None = None
        self._file = file
        self._clock = clock
        self._threads = RLock()
        self._noted: deque[Entry] = deque()
        self._writing = Lock()
        self._forget()

    def _forget(self) -> None:
        self._attempts = Attempts(EndedAttempts(self.api))
        self._unfinished: dict[Key, Entry] = {}
        self._waiting: dict[str, datetime] = {}
        self._spent_usd: defaultdict[tuple[datetime, str | None], float] = defaultdict(float)
        self._paid = PackedMap()
        self._payers: list[str] = []
        self._payer_numbers: dict[str, int] = {}
        self._days: dict[str, datetime] = {}

    def refresh(self) -> None:
        """Write what was noted, then read the lines since the last read.

        Raises LedgerError, RunDirError. Our own lines are read too: an old one must not be the last.
        """
        with self._threads:
            self.write()
            for entry in self._file.news(self._forget):
                self._take(entry)

    @property
    def knows_others(self) -> bool:
        """Whether another run directory has paid for anything."""
        return len(self._paid) > 0

    def paid_elsewhere(self, job: str, digest: str) -> str | None:
        """Another directory that has already paid for this same job, if there is one and it exists."""
        payer = self._paid.get(str(paid_number(job, digest)))
        run_dir = None if payer is None else self._payers[payer]
        return run_dir if run_dir is not None and Path(run_dir).exists() else None

    def paid_here(self, is_known: Callable[[str], bool], *, is_empty: bool) -> set[int]:
        """Jobs that this directory has paid for and its ledger doesn't know, as numbers.

        A reservation counts if the ledger ``is_empty``; else its run may have died before the intent.
        """
        kinds = (FOLD, SETTLE, RESERVE) if is_empty else (FOLD, SETTLE)
        ours = (entry for entry in self._file.readable() if entry.run_dir == self.run_dir)
        unknown = (entry for entry in ours if entry.kind == FOLD or not is_known(entry.job))
        found: set[int] = set()
        for entry in Attempts.of(unknown).by_key.values():
            if entry.usd > 0 and entry.api == self.api and entry.kind in kinds:
                found.update(_paid_numbers(entry))
        return found

    def reservations(self) -> list[Entry]:
        """Attempts whose requests may be unfinished, as far as the book says."""
        with self._threads:
            return list(self._unfinished.values())

    def spent_usd(self, period: str, models: str | None = None) -> float:
        """USD counted for the current day or month, of the models that match a pattern or of all."""
        begin = Periods.at(self._clock.now(), self.zone).begins[period]
        sums = self._spent_usd.items()
        return sum(usd for (day, model), usd in sums if day >= begin and is_among(model, models))

    def reserve(self, entry: Entry) -> StoppedError | Crowded | None:
        """Write ``entry`` before its intent; if a limit has no room, returns why, and writes nothing.

        Without a limit it is only noted. Raises RunDirError, LedgerError: what can't be recorded must
        not be submitted.
        """
        if not self.limits:
            self._note(entry)
            return None
        release = self._file.lock()
        try:
            with self._threads:
                self.refresh()
                refused = self.crowded() or self._full(entry)
                if refused is None:
                    self._put(entry)
                return refused
        finally:
            release()

    def settle(self, key: Key, usd: float, *, unfinished: bool = False) -> None:
        """Note the cost of an attempt (run directory, job, number), and if it has ended. Idempotent."""
        kind = RESERVE if unfinished else SETTLE
        with self._threads:
            known = self._attempts.last(key)
            if known is not None and (known.kind != kind or abs(known.usd - usd) > DUST_USD):
                self._note(msgspec.structs.replace(known, kind=kind, usd=usd))

    def write(self) -> None:
        """Append what was noted, in one write. Raises RunDirError, and drops it then."""
        with self._writing:
            if entries := [self._noted.popleft() for _ in range(len(self._noted))]:
                self._file.append(entries)

    def crowded(self) -> Crowded | None:
        """Why one more request of this run may not begin now.

        Of the requests that are left over by runs that don't wait, those that wait get even shares.
        """
        if (limit := self.limits.unfinished) is None:
            return None
        now = self._clock.now()
        since = iso(now - UNFINISHED_AT_MOST)
        with self._threads:
            held = Counter(entry.run_dir for entry in self._unfinished.values() if entry.at >= since)
            waiting = {run for run, at in self._waiting.items() if abs(now - at) < WAITS_FOR}
        others = waiting - {self.run_dir}
        if held.total() < limit:
            for_waiting = limit - sum(n for run, n in held.items() if run not in {*others, self.run_dir})
            if not others or held[self.run_dir] < -(-for_waiting // (len(others) + 1)):
                return None
        most = ", ".join(f"{count} of {run}" for run, count in held.most_common(3))
        return Crowded(f"--account-concurrency {limit}: unfinished are {most or 'none'}")

    def say_waiting(self) -> None:
        """Tell the other runs that this one waits, now and then. Raises RunDirError."""
        now = self._clock.now()
        with self._threads:
            said = self._waiting.get(self.run_dir)
            if said is None or now - said >= SAY_AGAIN:
                self._put(Entry(WAIT, iso(now), self.api, self.run_dir, "", 0, 0.0))

    def _put(self, entry: Entry) -> None:
        self._file.append([entry])
        self._take(entry)

    def _note(self, entry: Entry) -> None:
        with self._threads:
            self._noted.append(entry)
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        """Keep the last line of each attempt. Reading our own line again changes nothing."""
        if entry.kind not in (UNTIL, FOLD) and entry.api != self.api:
            return
        if entry.kind == WAIT:
            self._waiting[entry.run_dir] = datetime.fromisoformat(entry.at)
        before = self._attempts.last(entry.key)
        if before is not None and is_begun_anew(before, entry):
            before = None
        if not self._attempts.takes(entry) or entry.api != self.api:
            return
        self._note_unfinished(entry)
        if before is None or (before.usd, before.at) != (entry.usd, entry.at):
            self._note_spent(before, entry)

    def _note_spent(self, before: Entry | None, entry: Entry) -> None:
        if before is not None:
            self._spent_usd[self._day(before.at), before.model] -= before.usd
        self._spent_usd[self._day(entry.at), entry.model] += entry.usd
        was_paid = before is not None and before.usd > 0
        if entry.run_dir != self.run_dir and (entry.kind == FOLD or was_paid != (entry.usd > 0)):
            self._note_paid(entry)

    def _note_paid(self, entry: Entry) -> None:
        payer = self._payer_numbers.setdefault(entry.run_dir, len(self._payers))
        if payer == len(self._payers):
            self._payers.append(entry.run_dir)
        for number in map(str, _paid_numbers(entry)):
            if entry.usd > 0:
                self._paid.put(number, payer)
            elif self._paid.get(number) == payer:  # it was refused, or given back
                self._paid.drop(number)

    def _note_unfinished(self, entry: Entry) -> None:
        if entry.kind == RESERVE:
            self._unfinished[entry.key] = entry
            self._waiting.pop(entry.run_dir, None)
        else:
            self._unfinished.pop(entry.key, None)

    def _day(self, at: str) -> datetime:
        minute = at[:16]
        day = self._days.get(minute)
        if day is None:
            local = datetime.fromisoformat(at).astimezone(self.zone)
            day = self._days[minute] = _midnight(local.date(), local, self.zone)
        return day

    def rooms(self) -> list[PeriodRoom]:
        """What each cap leaves now."""
        ends = Periods.at(self._clock.now(), self.zone).ends
        found = []
        for name, cap_usd in self.limits.caps.items():
            period, _, models = name.partition(":")
            spent_usd = self.spent_usd(period, models or None)
            found.append(PeriodRoom(name, cap_usd, spent_usd, ends[period]))
        return found

    def _full(self, entry: Entry) -> StoppedError | None:
        """Why ``entry`` doesn't fit. A cap on all models comes first: it ends the run."""
        full = [room for room in self.rooms() if room.covers(entry.model) and not room.has(entry.usd)]
        if not full:
            return None
        room = next((room for room in full if room.models is None), full[0])
        reason = f"{room}, and the next job may cost {money(entry.usd)}; the rest stays pending until "
        kind = StoppedError if room.models is None else ModelCapReached
        return kind(reason + room.opens)


def _paid_numbers(entry: Entry) -> tuple[int, ...]:
    return entry.paid if entry.kind == FOLD else (paid_number(entry.job, entry.digest),)


def is_among(model: str | None, pattern: str | None) -> bool:
    """Whether ``model`` matches ``pattern``; without one every model does, unknown ones too."""
    return pattern is None or (model is not None and fnmatchcase(model, pattern))


def reservation(
    owner: tuple[str, str], job: tuple[str, int, str, str], usd: float, at: datetime
) -> Entry:
    """The line before an intent. ``owner``: API, run directory; ``job``: id, attempt, model, digest."""
    name, attempt, model, digest = job
    return Entry(RESERVE, iso(at), *owner, name, attempt, usd, model, digest)
