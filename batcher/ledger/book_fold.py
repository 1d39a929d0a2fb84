"""Keeps the book short: attempts that ended more than a week ago become one line for each day, model
and run directory.

Sums by day, month, model and run stay the same, and what was paid for is still known by its number. A
correction of an attempt that was folded is ignored: `batcher spend --rebuild` takes it from the ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

from batcher.clock import iso
from batcher.ledger.book_attempts import Attempts
from batcher.ledger.book_file import FOLD, SETTLE, UNTIL, BookFile, Entry

FOLD_FROM_LINES = 20_000
FOLD_AFTER = timedelta(days=8)
FOLD_RESERVED_AFTER = timedelta(days=92)


def paid_number(job: str, digest: str | None) -> int:
    """A hash of a job and its inputs, as folds keep it."""
    hashed = hashlib.blake2b(f"{job}\0{digest}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(hashed, "big") >> 1


class _Fold(NamedTuple):
    usd: list[float]
    paid: list[int]


def folded(entries: Iterable[Entry], now: datetime, zone: tzinfo | None = None) -> list[Entry]:
    """The same book in fewer lines. Days are those of ``zone``; None is the machine's."""
    noon_of, attempts = _noons(zone), Attempts.of(entries)
    ended = max(iso(now - FOLD_AFTER), attempts.folded_until)
    reserved = iso(now - FOLD_RESERVED_AFTER)
    folds: dict[tuple[str, str, str, str | None], _Fold] = {}
    kept = []
    for entry in attempts.by_key.values():
        if entry.at >= (ended if entry.kind in (SETTLE, FOLD) else reserved):
            kept.append(entry)
            continue
        at = entry.at if entry.kind == FOLD else noon_of(entry.at)
        fold = folds.setdefault((at, entry.api, entry.run_dir, entry.model), _Fold([], []))
        fold.usd.append(entry.usd)
        fold.paid.extend(entry.paid)
        if entry.usd > 0 and entry.kind != FOLD:
            fold.paid.append(paid_number(entry.job, entry.digest))
    until = Entry(UNTIL, ended, "", "", "", 0, 0.0)
    return [until, *(_entry(key, fold) for key, fold in folds.items()), *kept]


def _entry(key: tuple[str, str, str, str | None], fold: _Fold) -> Entry:
    at, api, run_dir, model = key
    name, paid = f"{at} {model} {api}", tuple(sorted(set(fold.paid)))
    return Entry(FOLD, at, api, run_dir, name, 0, sum(fold.usd), model, paid=paid)


def _noons(zone: tzinfo | None) -> Callable[[str], str]:
    """From a time to noon of its day, both UTC in ISO 8601: a fold keeps its day in nearby zones too."""
    known: dict[str, str] = {}

    def noon_of(at: str) -> str:
        minute = at[:16]
        if minute not in known:
            local = datetime.fromisoformat(at).astimezone(zone)
            noon = local.replace(hour=12, minute=0, second=0, microsecond=0)
            known[minute] = iso(noon.astimezone(UTC))
        return known[minute]

    return noon_of


def fold_file(file: BookFile, now: datetime, zone: tzinfo | None = None) -> bool:
    """Fold the book if that makes it much shorter; returns whether it did.

    After a crash at any point the file is the old one or the new one. Raises RunDirError if the book is
    in use or can't be written, LedgerError if a line can't be read.
    """
    release = file.lock(0.0)
    try:
        if sum(entry.at < iso(now - FOLD_AFTER) for entry in file.readable()) < FOLD_FROM_LINES // 2:
            return False  # without keeping them: a week's lines may be a million
        reader = BookFile(file.path.parent, file.disk)
        short = folded(reader.news(), now, zone)
        if reader.lines - len(short) < max(FOLD_FROM_LINES // 2, len(short)):
            return False
        with file.exclusive():
            file.replace([*short, *reader.news()])
        return True
    finally:
        release()
