"""Which job ids are taken, and by what: some 50 bytes each, for a million ids at a time.

Four words an id, in the order of the claims: a hash of the case-folded id, a hash of what it stands
for, the place of its row, and what tells that row from others of the same job. A table of slots, never
more than half full, leads from the first hash to their number. A dict of a million id strings takes
four times as much. The hash is Python's own (SipHash, keyed for each process): the table never leaves
the process.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from enum import Enum

FEWEST_SLOTS = 1024


class Claim(Enum):
    """What became of a claim to an id."""

    NEW = "new"
    SAME = "same"
    """The same id for the same inputs: the same job once more."""
    TAKEN = "taken"
    """The id stands for something else, or differs only by case."""


class IdTable:
    """Ids claimed so far, up to four billion.

    Two ids whose 64-bit hashes are equal are taken for one: of a million, with a chance of 3e-8.
    """

    def __init__(self) -> None:
        self._keys = array("q", [0])  # number 0 stands for an empty slot
        self._values = array("q", [0])
        self._places = array("Q", [0])
        self._marks = array("Q", [0])
        self._slots = _empty_slots(FEWEST_SLOTS)

    def __len__(self) -> int:
        return len(self._keys) - 1

    def claim(self, job_id: str, meaning: Hashable, place: int, mark: int = 0) -> tuple[Claim, int, int]:
        """Claim ``job_id`` for ``meaning`` at ``place``, with ``mark``: up to 64 bits, the caller's.

        Returns place and mark of the first claim with it: its own where this is the first.
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
