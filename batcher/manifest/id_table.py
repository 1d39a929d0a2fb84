"""Compact tables for a million jobs: the ids in use, and the jobs that the first pass counted.

:class:`IdTable` takes about 50 bytes per id. It holds four words each, in the order of the claims: a
hash of the case-folded id, a hash of the job's meaning, the place of its row, and the mark that
distinguishes that row from others of the job. A table of slots, never more than half full, maps the
first hash to their number. A dict of a million id strings would be four times as large. The hash is
Python's own (SipHash, keyed per process): the tables never leave the process.

:class:`Roll` takes 8 bytes per job. Jobs that a later pass adds are never bought.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from batcher.jobs.job import Job

FEWEST_SLOTS = 1024
_MASK = (1 << 64) - 1


class Claim(Enum):
    """The outcome of a claim to an id."""

    NEW = "new"
    SAME = "same"
    """The same id for the same inputs: the same job once more."""
    TAKEN = "taken"
    """The id belongs to another job, or differs only by case."""


class Claims(NamedTuple):
    """Many claims: id, meaning, place and mark of each."""

    ids: Sequence[str]
    meanings: Sequence[Hashable]
    places: Sequence[int]
    marks: Sequence[int]


class IdTable:
    """Ids claimed so far, up to four billion.

    Two ids with equal 64-bit hashes count as one: the chance is 3e-8 for a million ids.
    """

    def __init__(self) -> None:
        self._keys = array("q", [0])  # number 0 means an empty slot
        self._values = array("q", [0])
        self._places = array("Q", [0])
        self._marks = array("Q", [0])
        self._slots = _empty_slots(FEWEST_SLOTS)

    def __len__(self) -> int:
        return len(self._keys) - 1

    def claim(self, job_id: str, meaning: Hashable, place: int, mark: int = 0) -> tuple[Claim, int, int]:
        """Claim ``job_id`` for ``meaning`` at ``place``, with ``mark``: up to 64 bits, the caller's.

        Also returns place and mark of the first claim to the id: its own if this is the first.
        """
        key, value = hash(job_id.casefold()), hash((job_id, meaning))
        slots, keys = self._slots, self._keys
        mask = len(slots) - 1
        slot = key & mask
        while number := slots[slot]:
            if keys[number] == key:
                claim = Claim.SAME if self._values[number] == value else Claim.TAKEN
                return claim, self._places[number], self._marks[number]
            slot = slot + 1 & mask
        slots[slot] = len(keys)
        keys.append(key)
        self._values.append(value)
        self._places.append(place)
        self._marks.append(mark)
        if 2 * len(keys) > mask:
            self._grow()
        return Claim.NEW, place, mark

    def claim_all(self, claims: Claims) -> bool:
        """Make all ``claims`` at once if all are new; else none, and return False."""
        first = len(self._keys)
        while 2 * (first + len(claims.ids)) > len(self._slots) - 1:
            self._grow()
        self._keys.extend([*map(hash, map(str.casefold, claims.ids))])
        if not self._fill_slots(first):
            del self._keys[first:]
            return False
        self._values.extend([*map(hash, zip(claims.ids, claims.meanings, strict=True))])
        self._places.extend(claims.places)
        self._marks.extend(claims.marks)
        return True

    def _fill_slots(self, first: int) -> bool:
        """Give the keys from number ``first`` on their slots; none of them if any is there already."""
        slots, keys = self._slots, self._keys
        mask = len(slots) - 1
        filled: list[int] = []
        for number, key in enumerate(keys[first:], first):
            slot = key & mask
            while other := slots[slot]:
                if keys[other] == key:
                    for again_empty in filled:
                        slots[again_empty] = 0
                    return False
                slot = slot + 1 & mask
            slots[slot] = number
            filled.append(slot)
        return True

    def _grow(self) -> None:
        slots = self._slots = _empty_slots(2 * len(self._slots))
        mask = len(slots) - 1
        for number in range(1, len(self._keys)):
            slot = self._keys[number] & mask
            while slots[slot]:
                slot = slot + 1 & mask
            slots[slot] = number


def _empty_slots(count: int) -> array[int]:
    """``count`` is a power of two."""
    return array("I", bytes(array("I").itemsize * count))


@dataclass(slots=True)
class Roll:
    """The jobs that a plan counted, eight bytes each, in their order.

    ``added`` counts the additional jobs that the last pass over the manifest found.
    """

    added: int = 0
    _keys: array[int] = field(default_factory=lambda: array("Q"))

    def note(self, blocks: Iterable[Sequence[Job]]) -> Iterator[Sequence[Job]]:
        """The first pass: blocks of jobs, all of which count."""
        for block in blocks:
            self._keys.extend([_key(job) for job in block])
            yield block

    def keep(self, blocks: Iterable[Sequence[Job]]) -> Iterator[Sequence[Job]]:
        """A later pass: those of the blocks' jobs that were counted, each once."""
        self.added = position = 0
        left: set[int] | None = None
        for block in blocks:
            keys = array("Q", [_key(job) for job in block])
            if left is None:
                if self._keys[position : position + len(keys)] == keys:
                    position += len(keys)
                    yield block
                    continue
                left = set(self._keys[position:])  # the manifest has changed
            kept = []
            for job, key in zip(block, keys, strict=True):
                if key in left:
                    left.discard(key)
                    kept.append(job)
            self.added += len(block) - len(kept)
            yield kept


def _key(job: Job) -> int:
    return hash((job.id, job.digest)) & _MASK
