"""Which job ids are taken, and by what: some 26 bytes each, for a million ids at a time.

Three words an id, in sorted ``array('Q')``s: a hash of the case-folded id, a hash of what it stands for,
and the place of its row. A dict of a million id strings takes seven times as much. Split into shards
by the hash, so short that to find and to insert are two calls into C each. The hash is Python's own
(SipHash, keyed for each process): the table never leaves the process.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Hashable
from enum import Enum

SHARDS = 4096
HASH_MASK = 2**64 - 1


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
        self._shards = [(array("Q"), array("Q"), array("Q")) for _ in range(SHARDS)]

    def __len__(self) -> int:
        return sum(len(keys) for keys, _, _ in self._shards)

    def claim(self, job_id: str, meaning: Hashable, place: int) -> tuple[Claim, int]:
        """Claim ``job_id`` for ``meaning`` at ``place`` (up to 64 bits, the caller's).

        Returns the place of the first claim with it: ``place`` itself where this is the first.
        """
        key = hash(job_id.casefold()) & HASH_MASK
        value = hash((job_id, meaning)) & HASH_MASK
        keys, values, places = self._shards[key % SHARDS]
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            return Claim.SAME if values[at] == value else Claim.TAKEN, places[at]
        keys.insert(at, key)
        values.insert(at, value)
        places.insert(at, place)
        return Claim.NEW, place
