"""``batcher spend``: sums the account's book, and rebuilds the book from the ledgers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from batcher.disk import Disk, reading
from batcher.engine.host import Host
from batcher.jobs.lifecycle import SANDBOX_API
from batcher.ledger.book_attempts import Attempts
from batcher.ledger.book_file import RESERVE, SETTLE, BookFile, Entry, state_dir
from batcher.ledger.book_fold import folded
from batcher.ledger.lines import lines_of
from batcher.ledger.segments import segments_in
from batcher.providers.registry import vendor_of
from batcher.terminal import legible


class By(StrEnum):
    """The grouping of sums."""

    DAY = "day"
    MONTH = "month"
    MODEL = "model"
    VENDOR = "vendor"
    RUN = "run"


class _MoneyLine(msgspec.Struct):
    """The fields of a ledger line that are about money."""

    event: str
    at: str = ""
    job: str = ""
    attempt: int = 0
    api: str | None = None
    model: str | None = None
    digest: str | None = None
    price_usd: float | None = None
    cost_usd: float | None = None
    stage: str | None = None
    may_cost: bool = False


_decode = msgspec.json.Decoder(_MoneyLine).decode
_FREE = frozenset({"deferred", "cancelled"})
"""They cost nothing, unless ``may_cost`` says that the request ran until it was cancelled."""
_ENDS = frozenset({"completed", "failed", "done", "cost"})


def entries_of(host: Host, root: Path | None) -> list[Entry]:
    """The last line of each attempt, from the book or from the ledgers below ``root``.

    Raises LedgerError.
    """
    if root is not None:
        return [entry for folder in run_dirs(root, host.disk) for entry in _by_ledger(folder, host.disk)]
    file = BookFile(state_dir(host.env, host.home), host.disk)
    return list(Attempts.of(file.news()).by_key.values())


def totals(entries: Iterable[Entry], by: By) -> Counter[str]:
    """USD by ``by``, in the user's time zone."""
    sums: Counter[str] = Counter()
    for entry in entries:
        sums[_label(entry, by)] += entry.usd  # type: ignore[assignment]
    return sums


def _label(entry: Entry, by: By) -> str:
    if by is By.MODEL:
        return entry.model or "unknown"
    if by is By.VENDOR:
        return vendor_of(entry.model) if entry.model else "unknown"
    if by is By.RUN:
        return entry.run_dir
    day = datetime.fromisoformat(entry.at).astimezone().date().isoformat()
    return day if by is By.DAY else day[:7]


def rebuild(host: Host, root: Path) -> int:
    """Rebuild the book from the ledgers below ``root`` and of every directory that it names.

    Keeps the costs of deleted directories. Returns the number of attempts. Raises RunDirError.
    """
    file = BookFile(state_dir(host.env, host.home), host.disk)
    release = file.lock()
    try:
        folders = {Path(run_dir) for entry in file.readable() if (run_dir := entry.run_dir)}
        folders |= {folder.absolute() for folder in run_dirs(root, host.disk)}
        made: dict[str, list[Entry]] = {}
        for folder in sorted(folders):
            if segments_in(folder, host.disk) and (found := list(_by_ledger(folder, host.disk))):
                made[legible(folder)] = found
        with file.exclusive():
            attempts = _combined(Attempts.of(file.readable()), made)
            file.replace(folded(attempts, host.clock.now()))
    finally:
        release()
    return len(attempts)


def _combined(known: Attempts, made: Mapping[str, list[Entry]]) -> list[Entry]:
    """The entries made from ledgers, and those of all other run directories.

    Reservations in the book stay, because a run may be about to submit them. So do the costs of deleted
    directories, unless their ledger is found under a path that the book doesn't know.
    """
    found = {entry.key: entry for entries in made.values() for entry in entries}
    named = {entry.run_dir for entry in known.by_key.values()}
    moved = {(entry.job, entry.digest) for entry in found.values() if entry.run_dir not in named}
    others = [
        entry
        for key, entry in known.by_key.items()
        if entry.run_dir not in made
        or (entry.attempt < 0 and (entry.job, entry.digest) not in moved)
        or (entry.kind == RESERVE and key not in found)
    ]
    return [*others, *found.values()]


def run_dirs(root: Path, disk: Disk) -> Iterator[Path]:
    """Every run directory at or below ``root``."""
    for folder, names, _ in os.walk(root):
        names.sort()
        if segments_in(Path(folder), disk):
            names.clear()
            yield Path(folder)


def _by_ledger(folder: Path, disk: Disk) -> Iterator[Entry]:
    """Each attempt that the ledger in ``folder`` counts; none of the sandbox's. Raises LedgerError."""
    found: dict[tuple[str, int], Entry] = {}
    run_dir, api = legible(folder.absolute()), ""
    for name in segments_in(folder, disk):
        with reading(folder / name), disk.open_read(folder / name) as file:
            for _, raw in lines_of(file):
                line = _line(raw)
                if line is None:
                    continue
                api = line.api or api
                _fold(found, line, (api, run_dir))
    if api != SANDBOX_API:
        yield from found.values()


def _fold(found: dict[tuple[str, int], Entry], line: _MoneyLine, owner: tuple[str, str]) -> None:
    key = line.job, line.attempt
    if line.event == "submitting":
        usd = line.price_usd or 0.0
        found[key] = Entry(RESERVE, line.at, *owner, *key, usd, line.model, line.digest)
    elif key in found and (line.event in _FREE or (line.event == "failed" and line.stage == "submit")):
        usd = found[key].usd if line.may_cost else 0.0
        found[key] = msgspec.structs.replace(found[key], kind=SETTLE, usd=usd)
    elif key in found and line.event in _ENDS:
        usd = found[key].usd if line.cost_usd is None else line.cost_usd
        found[key] = msgspec.structs.replace(found[key], kind=SETTLE, usd=usd)


def _line(raw: bytes) -> _MoneyLine | None:
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
