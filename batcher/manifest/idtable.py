"""Which job ids are taken, and by what: 24 bytes each, for a million ids at a time.

Open addressing with linear probing over ``array('Q')``, three words an entry: a hash of the
case-folded id, a hash of what it stands for, and the place of its row. A dict of a million id strings
takes four times as much. Split into shards, so that growing copies a 256th at a time. The hash is
Python's own (SipHash, keyed for each process): the table never leaves the process.
"""

from __future__ import annotations

from array import array
from enum import Enum

SHARDS = 256
HASH_MASK = 2**64 - 1
FIRST_SLOTS = 16
WORDS = 3
WORD_BYTES = 8
LOAD_MAX = 0.75


class Claim(Enum):
    """What became of a claim to an id."""

    NEW = "new"
    SAME = "same"
    """The same id for the same inputs: the same job once more."""
    TAKEN = "taken"
    """The id stands for something else, or differs only by case."""


class IdTable:
    """Ids claimed so far.

    Two ids whose 64-bit hashes are equal are taken for one: of a million, with a chance of 3e-8.
    """

    def __init__(self) -> None:
        self._slots = [array("Q", bytes(WORD_BYTES * WORDS * FIRST_SLOTS)) for _ in range(SHARDS)]
        self._counts = [0] * SHARDS

    def __len__(self) -> int:
        return sum(self._counts)

    def claim(self, job_id: str, meaning: str, place: int) -> tuple[Claim, int]:
        """Claim ``job_id`` for ``meaning`` at ``place`` (up to 64 bits, the caller's).

        Returns the place of the first claim with it: ``place`` itself where this is the first.
        """
        key = hash(job_id.casefold()) & HASH_MASK or 1  # 0 marks an empty slot
        value = hash(f"{job_id}\0{meaning}") & HASH_MASK
        shard = key % SHARDS
        slots = self._slots[shard]
        at = _find(slots, key)
        if slots[at]:
            return Claim.SAME if slots[at + 1] == value else Claim.TAKEN, slots[at + 2]
        slots[at], slots[at + 1], slots[at + 2] = key, value, place
        self._counts[shard] += 1
        if self._counts[shard] * WORDS > LOAD_MAX * len(slots):
            self._slots[shard] = _grown(slots)
        return Claim.NEW, place


def _find(slots: array[int], key: int) -> int:
    """Where the entry of ``key`` begins, or the empty slot where it belongs."""
    mask = len(slots) // WORDS - 1
    slot = (key // SHARDS) & mask
    while slots[slot * WORDS] not in (0, key):
        slot = (slot + 1) & mask
    return slot * WORDS


def _grown(slots: array[int]) -> array[int]:
    grown = array("Q", bytes(2 * WORD_BYTES * len(slots)))
    for at in range(0, len(slots), WORDS):
        if slots[at]:
            to = _find(grown, slots[at])
            grown[to : to + WORDS] = slots[at : at + WORDS]
    return grown
