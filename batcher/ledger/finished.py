"""Done jobs, packed: about 55 bytes each in memory; the rest of each record stays in the ledger.

A batch may end with a million done jobs, and hardly any of them is read again. So a done job keeps one
row with what a plan needs, and the places of its lines for the rest.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from batcher.jobs.identity import HASH_CHARS
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import Event, Record, State
from batcher.ledger.packed import Bulk, PackedMap, SavedWords

LineAt = Callable[[int], Event]
"""Reads the line at a place of the ledger."""

_ORPHANED, _LISTED, _UNPRICED, _REPORTED, _POOR, _GONE = (1 << bit for bit in range(6))
_UNLISTED = bytes(flags & ~_LISTED for flags in range(256))
RECENT_JOBS = 2048
"""A job is looked for when it is submitted and packed when it is done: this many may be under way."""
_CELLS = struct.Struct("<QII8sdHH")
_PIECE_BYTES = 1 << 20
_DIGEST_BYTES = HASH_CHARS // 2


class Cells(NamedTuple):
    """A row: places of lines, the digest of the inputs, the attempt's possible cost, and numbers.

    The other lines of an attempt are within 4 GiB before its ``done`` line.
    """

    done_at: int
    intent_before: int
    answer_before: int
    digest: bytes
    charge_usd: float
    attempt: int
    model_number: int


class Finished:
    """A done job: reads like a :class:`Record`, and can be marked."""

    __slots__ = ("_answer", "_cells", "_done", "_intent", "_jobs", "_row")

    state = State.DONE
    stage = code = message = replaced = None
    cancelling = retry_due = is_refused = False
    retry = 0

    def __init__(self, jobs: FinishedJobs, row: int) -> None:
        self._jobs = jobs
        self._row = row
        self._cells = jobs.cells(row)
        self._intent: Event | None = None
        self._answer: Event | None = None
        self._done: Event | None = None

    @property
    def attempt(self) -> int:
        return self._cells.attempt

    @property
    def model(self) -> str | None:
        return self._jobs.models[self._cells.model_number]

    @property
    def digest(self) -> str:
        return self._cells.digest.hex()

    @property
    def charge_usd(self) -> float | None:
        return None if self._has(_UNPRICED) else self._cells.charge_usd

    @property
    def reported_usd(self) -> float | None:
        return self._cells.charge_usd if self._has(_REPORTED) else None

    @property
    def orphaned(self) -> bool:
        return self._has(_ORPHANED)

    @orphaned.setter
    def orphaned(self, orphaned: bool) -> None:
        self._mark(_ORPHANED, orphaned)

    @property
    def listed(self) -> bool:
        return self._has(_LISTED)

    @listed.setter
    def listed(self, listed: bool) -> None:
        self._mark(_LISTED, listed)

    @property
    def submitting_offset(self) -> int:
        return self._cells.done_at - self._cells.intent_before

    @property
    def input_offset(self) -> int:
        return self._jobs.inputs_at.get(self._row, self.submitting_offset)

    @property
    def answer_offset(self) -> int:
        return self._cells.done_at - self._cells.answer_before

    @property
    def done_offset(self) -> int:
        return self._cells.done_at

    @property
    def submitting_at(self) -> str:
        return self._intent_line().at

    @property
    def price_usd(self) -> float | None:
        price_usd = self._intent_line().price_usd
        return price_usd if isinstance(price_usd, int | float) else None

    @property
    def priced_as(self) -> str | None:
        return self._intent_line().priced_as

    @property
    def request_id(self) -> str | None:
        return self._answer_line().request_id

    @property
    def urls(self) -> dict[str, str] | None:
        return self._answer_line().urls

    def _answer_line(self) -> Event:
        if self._answer is None:
            self._answer = self._jobs.line_at(self.answer_offset)
        return self._answer

    @property
    def job(self) -> str:
        return self._done_line().job

    @property
    def files(self) -> tuple[Artifact, ...]:
        return self._done_line().files or ()

    @property
    def quality(self) -> str | None:
        return self._done_line().quality if self._has(_POOR) else None

    def _intent_line(self) -> Event:
        if self._intent is None:
            self._intent = self._jobs.line_at(self.submitting_offset)
        return self._intent

    def _done_line(self) -> Event:
        if self._done is None:
            self._done = self._jobs.line_at(self.done_offset)
        return self._done

    def _has(self, flag: int) -> bool:
        return bool(self._jobs.flags[self._row] & flag)

    def _mark(self, flag: int, on: bool) -> None:
        flags = self._jobs.flags[self._row]
        self._jobs.flags[self._row] = flags | flag if on else flags & ~flag


JobRecord = Record | Finished
"""The record of one job."""


class DoneCount(NamedTuple):
    """Done jobs of the manifest, and those of them whose outputs have a note on their quality."""

    listed: int
    poor: int


class SavedJobs(msgspec.Struct, array_like=True):
    """Done jobs as bytes."""

    flags: Bulk
    cells: Bulk
    inputs_at: dict[int, int]
    models: list[str | None]
    rows: SavedWords

    @property
    def is_sound(self) -> bool:
        """Whether there are as many rows of cells as flags."""
        is_whole = self.cells.size_bytes == self.flags.size_bytes * _CELLS.size
        return is_whole and self.rows.is_sound(PackedMap.words_each)


class FinishedJobs:
    """The done jobs of one ledger, one row each, in the order of completion."""

    def __init__(self, line_at: LineAt) -> None:
        self.line_at = line_at
        self.flags = bytearray()
        self.inputs_at: dict[int, int] = {}
        """For rows whose inputs are not in the line of their last intent: the place of the inputs."""
        self.models: list[str | None] = []
        self._model_numbers: dict[str | None, int] = {}
        self._cells = bytearray()
        self._rows = PackedMap(recent=RECENT_JOBS)
        self._gone = 0

    def __len__(self) -> int:
        return len(self.flags) - self._gone

    def cells(self, row: int) -> Cells:
        """What a row holds."""
        return Cells(*_CELLS.unpack_from(self._cells, row * _CELLS.size))

    def get(self, job_id: str) -> Finished | None:
        """A done job; None if no job of this id is packed."""
        row = self._rows.get(job_id)
        return Finished(self, row) if row is not None else None

    def all(self) -> Iterator[Finished]:
        """All of them, in the order of completion."""
        for row, flags in enumerate(self.flags):
            if not flags & _GONE:
                yield Finished(self, row)

    def astray(self) -> Iterator[Finished]:
        """Those that are not in the manifest now, or were orphaned before."""
        for row, flags in enumerate(self.flags):
            if not flags & _GONE and flags & (_LISTED | _ORPHANED) != _LISTED:
                yield Finished(self, row)

    def tally(self) -> DoneCount:
        """The number in the manifest, and how many of these have a quality note."""
        counts = Counter(self.flags)
        listed = {flags: n for flags, n in counts.items() if not flags & (_GONE | _ORPHANED)}
        return DoneCount(sum(listed.values()), sum(n for flags, n in listed.items() if flags & _POOR))

    def has(self, key: int) -> bool:
        """Whether a job is packed, by the hash of its id."""
        return self._rows.has(key)

    def take(self, job_id: str, record: Record) -> bool:
        """Pack a done job; False if its record is not like others."""
        if min(record.input_offset, record.submitting_offset, record.answer_offset) < 0:
            return False
        digest = digest_bytes(record.digest)
        if digest is None or record.reported_usd not in (None, record.charge_usd):
            return False
        cells = Cells(
            record.done_offset,
            record.done_offset - record.submitting_offset,
            record.done_offset - record.answer_offset,
            digest,
            record.charge_usd or 0.0,
            record.attempt,
            self.model_number(record.model),
        )
        flags = flags_of(record.charge_usd, record.reported_usd, record.quality)
        if record.orphaned:
            flags |= _ORPHANED
        if record.listed:
            flags |= _LISTED
        if not self.add(self._rows.key(job_id), cells, flags):
            return False
        if record.input_offset != record.submitting_offset:
            self.inputs_at[len(self.flags) - 1] = record.input_offset
        return True

    def add(self, key: int, cells: tuple[Any, ...], flags: int) -> bool:
        """Add a row by the hash of its job's id; False if one of its ``cells`` is not as in others."""
        try:
            self._cells += _CELLS.pack(*cells)
        except struct.error:
            return False
        self._rows.insert(key, len(self.flags))
        self.flags.append(flags)
        return True

    def model_number(self, model: str | None) -> int:
        """The number that stands for a model in rows."""
        number = self._model_numbers.get(model)
        if number is None:
            number = self._model_numbers[model] = len(self.models)
            self.models.append(model)
        return number

    def saved(self) -> SavedJobs:
        """Everything as it is now, except the marks of this process; ``release_saved`` when written."""
        cells, size_bytes = self._cells, len(self._cells)

        def pieces() -> Iterator[bytes]:  # rows are only ever added
            for begin in range(0, size_bytes, _PIECE_BYTES):
                yield bytes(cells[begin : min(begin + _PIECE_BYTES, size_bytes)])

        flags = Bulk.of(self.flags.translate(_UNLISTED))
        rows = self._rows.saved()
        return SavedJobs(flags, Bulk(size_bytes, pieces), self.inputs_at, self.models, rows)

    def release_saved(self) -> None:
        """What was saved is written, or will not be."""
        self._rows.release()

    def restore(self, saved: SavedJobs) -> None:
        """Restore the state in ``saved``."""
        self.flags, self._cells = saved.flags.whole(), saved.cells.whole()
        self.inputs_at, self.models = saved.inputs_at, saved.models
        self._model_numbers = {model: number for number, model in enumerate(self.models)}
        self._rows.restore(saved.rows)
        self._gone = sum(bool(flags & _GONE) for flags in self.flags)

    def release(self, job_id: str) -> Record | None:
        """Unpack a job; returns its record as it was before."""
        row = self._rows.get(job_id)
        if row is None:
            return None
        record = _unpacked(Finished(self, row))
        self._rows.drop(job_id)
        self.flags[row] |= _GONE
        self._gone += 1
        return record


def flags_of(charge_usd: float | None, reported_usd: float | None, quality: str | None) -> int:
    """The flags of a row whose job is not marked."""
    flags = 0 if reported_usd is None else _REPORTED
    if charge_usd is None:
        flags |= _UNPRICED
    if quality is not None:
        flags |= _POOR
    return flags


def digest_bytes(digest: str | None) -> bytes | None:
    """A digest as rows hold it; None if it is not as we write them."""
    try:
        packed = bytes.fromhex(digest or "")
    except ValueError:
        return None
    return packed if len(packed) == _DIGEST_BYTES and packed.hex() == digest else None


def _unpacked(packed: Finished) -> Record:
    names = (
        *("state", "attempt", "request_id", "urls", "model", "digest", "price_usd", "charge_usd"),
        *("reported_usd", "files", "quality", "orphaned", "listed", "submitting_at"),
        *("submitting_offset", "input_offset", "answer_offset", "done_offset", "priced_as"),
    )
    return Record(**{name: getattr(packed, name) for name in names})
