"""The attempts in the book: the last line of each, packed once it has ended.

A run keeps all of them, since a cost that is reported late must replace what was counted before. There
may be a million: a line as an object takes some 500 bytes, a packed one 45.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Self

import msgspec

from batcher.clock import iso
from batcher.jobs.identity import HASH_CHARS
from batcher.ledger.book_file import RESERVE, SETTLE, UNTIL, WAIT, Entry, Key
from batcher.ledger.packed import PackedMap

_CELLS = struct.Struct(f"<qd{HASH_CHARS // 2}sH")
"""Time of the reservation in milliseconds, USD, digest of the inputs, number of the model."""
_MODELS_MAX = 1 << 16


class EndedAttempts:
    """Ended attempts of one API. Two with equal 64-bit hashes count as one, as in :class:`PackedMap`."""

    def __init__(self, api: str) -> None:
        self._api = api
        self._rows = PackedMap()
        self._cells = bytearray()
        self._models: list[str | None] = []
        self._model_numbers: dict[str | None, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def keeps(self, entry: Entry) -> bool:
        """Keep an ended attempt; False if it isn't one, or can't be made again from a row."""
        row = self._row(entry)
        if row is None:
            return False
        count = len(self._cells) // _CELLS.size
        number = self._rows.setdefault(_text(entry.key), count)
        self._cells[number * _CELLS.size : (number + 1) * _CELLS.size] = row
        return True

    def get(self, key: Key) -> Entry | None:
        """The line of an attempt, as it was kept."""
        number = self._rows.get(_text(key))
        if number is None:
            return None
        at_ms, usd, digest, model = _CELLS.unpack_from(self._cells, number * _CELLS.size)
        return Entry(SETTLE, _at(at_ms), self._api, *key, usd, self._models[model], digest.hex())

    def drop(self, key: Key) -> None:
        """Forget an attempt, if it is here."""
        self._rows.drop(_text(key))

    def _row(self, entry: Entry) -> bytes | None:
        if entry.kind != SETTLE or entry.api != self._api or entry.digest is None or entry.paid:
            return None
        at_ms = round(datetime.fromisoformat(entry.at).timestamp() * 1000)
        try:
            digest = bytes.fromhex(entry.digest)
        except ValueError:
            return None
        is_exact = digest.hex() == entry.digest and len(entry.digest) == HASH_CHARS
        if not is_exact or _at(at_ms) != entry.at or len(self._models) >= _MODELS_MAX:
            return None
        model = self._model_numbers.setdefault(entry.model, len(self._models))
        if model == len(self._models):
            self._models.append(entry.model)
        return _CELLS.pack(at_ms, entry.usd, digest, model)


def _at(at_ms: int) -> str:
    return iso(datetime.fromtimestamp(at_ms / 1000, UTC))


def _text(key: Key) -> str:
    run_dir, job, attempt = key
    return f"{run_dir}\0{job}\0{attempt}"


class Attempts:
    """The last line of each attempt, and the lines that replace many.

    ``by_key`` has all that are not in ``ended``; without that, every one.
    """

    def __init__(self, ended: EndedAttempts | None = None) -> None:
        self.by_key: dict[Key, Entry] = {}
        self.folded_until = ""
        self._ended = ended

    def last(self, key: Key) -> Entry | None:
        """The last line of an attempt."""
        found = self.by_key.get(key)
        return found if found is not None or self._ended is None else self._ended.get(key)

    def takes(self, entry: Entry) -> bool:
        """Whether ``entry`` counts; keeps it if so.

        A correction of an attempt that is part of a fold does not: its amount would count twice. An
        attempt that is reserved once more is set aside and goes on counting, see `is_begun_anew`.
        """
        if entry.kind == UNTIL:
            self.folded_until = max(self.folded_until, entry.at)
            return False
        if entry.kind == WAIT:
            return False
        before = self.last(entry.key)
        if before is None and entry.kind == SETTLE and entry.at < self.folded_until:
            return False
        if before is not None and is_begun_anew(before, entry):
            self._set_aside(before)
        self._keep(entry)
        return True

    def _keep(self, entry: Entry) -> None:
        if self._ended is not None:
            if self._ended.keeps(entry):
                self.by_key.pop(entry.key, None)
                return
            self._ended.drop(entry.key)
        self.by_key[entry.key] = entry

    def _set_aside(self, entry: Entry) -> None:
        """Keep it under a number that no attempt has: -1, -2, ..."""
        number = -1
        while self.last((entry.run_dir, entry.job, number)) is not None:
            number -= 1
        self._keep(msgspec.structs.replace(entry, kind=SETTLE, attempt=number))

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        """What ``entries`` amount to."""
        made = cls()
        for entry in entries:
            made.takes(entry)
        return made


def is_begun_anew(before: Entry, entry: Entry) -> bool:
    """Whether ``entry`` buys what ``before``, of the same number, has bought.

    It does if the run directory was deleted or moved, and its attempts are counted from 1 again.
    """
    return entry.kind == RESERVE and before.usd > 0 and before.at < entry.at
