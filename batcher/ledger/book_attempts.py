"""The attempts in the book: the last line of each, packed once it has ended.

A run keeps all of them, since a cost that is reported late must replace what was counted before. There
may be a million. As an object a line takes some 500 bytes, packed 27 (45 if the id of its job was chosen
by hand).
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
from batcher.ledger.packed import PackedMap, PackedPairs

_WORD, _FLOAT = struct.Struct("<Q"), struct.Struct("<d")
_HEX = frozenset("0123456789abcdef")
_MODEL_BITS = 16
_AT_BITS = 47
"""Until the year 6429; with the model's bits and the mark of a digest they fill a word."""


class EndedAttempts:
    """Ended attempts of one API. Two with equal 64-bit hashes count as one, as in :class:`PackedPairs`.

    The numbers of an attempt are its time in milliseconds with the number of its model, and its USD. Its
    digest is not kept if the id of its job ends with it, which is so unless the id was chosen by hand.
    """

    def __init__(self, api: str) -> None:
        self._api = api
        self._rows = PackedPairs()
        self._digests = PackedMap()
        self._models: list[str | None] = []
        self._model_numbers: dict[str | None, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def keeps(self, entry: Entry) -> bool:
        """Keep an ended attempt; False if it isn't one, or can't be made again from its numbers."""
        if entry.kind != SETTLE or entry.api != self._api or entry.digest is None or entry.paid:
            return False
        at_ms = round(datetime.fromisoformat(entry.at).timestamp() * 1000)
        model = self._model_number(entry.model)
        is_exact = _is_digest(entry.digest) and 0 <= at_ms < 1 << _AT_BITS and _at(at_ms) == entry.at
        if not is_exact or model is None:
            return False
        text, is_named = _text(entry.key), entry.job.endswith(entry.digest)
        if not is_named:
            self._digests.put(text, int(entry.digest, 16))
        first = (at_ms << 1 | is_named) << _MODEL_BITS | model
        self._rows.put(text, first, _WORD.unpack(_FLOAT.pack(entry.usd))[0])
        return True

    def get(self, key: Key) -> Entry | None:
        """The line of an attempt, as it was kept."""
        text = _text(key)
        if (numbers := self._rows.get(text)) is None:
            return None
        at_and_mark, model = divmod(numbers[0], 1 << _MODEL_BITS)
        usd = _FLOAT.unpack(_WORD.pack(numbers[1]))[0]
        is_named = at_and_mark & 1
        digest = key[1][-HASH_CHARS:] if is_named else f"{self._digests.get(text):0{HASH_CHARS}x}"
        return Entry(SETTLE, _at(at_and_mark >> 1), self._api, *key, usd, self._models[model], digest)

    def drop(self, key: Key) -> None:
        """Forget an attempt, if it is here."""
        text = _text(key)
        if self._rows.drop(text):
            self._digests.drop(text)

    def _model_number(self, model: str | None) -> int | None:
        """None if there are too many models."""
        if model not in self._model_numbers and len(self._models) < 1 << _MODEL_BITS:
            self._model_numbers[model] = len(self._models)
            self._models.append(model)
        return self._model_numbers.get(model)


def _is_digest(text: str) -> bool:
    """Whether it is a digest as we write them."""
    return len(text) == HASH_CHARS and _HEX.issuperset(text)


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
