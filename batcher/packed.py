"""A map from texts to numbers in some 17 bytes an entry, for a million entries at a time.

A dict of a million strings takes ten times as much. Two words an entry, in sorted ``array('Q')``s, split
into shards by the text's hash, so short that to find and to insert are two calls into C each. The hash
is Python's own (SipHash, keyed for each process): the map never leaves the process.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left

SHARDS = 4096
HASH_MASK = 2**64 - 1


class PackedMap:
    """Text → a number of up to 64 bits.

    Two texts whose 64-bit hashes are equal are taken for one: of a million, with a chance of 3e-8.
    """

    def __init__(self) -> None:
        self._shards = [(array("Q"), array("Q")) for _ in range(SHARDS)]

    def __len__(self) -> int:
        return sum(len(keys) for keys, _ in self._shards)

    def get(self, text: str) -> int | None:
        """What ``text`` stands for; None where it isn't there."""
        key = hash(text) & HASH_MASK
        keys, values = self._shards[key % SHARDS]
        at = bisect_left(keys, key)
        return values[at] if at < len(keys) and keys[at] == key else None

    def setdefault(self, text: str, value: int) -> int:
        """What ``text`` stands for: ``value``, from now on, where it stood for nothing."""
        key = hash(text) & HASH_MASK
        keys, values = self._shards[key % SHARDS]
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            return values[at]
        keys.insert(at, key)
        values.insert(at, value)
        return value

    def drop(self, text: str) -> None:
        """Forget ``text``, if it is there."""
        key = hash(text) & HASH_MASK
        keys, values = self._shards[key % SHARDS]
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            del keys[at], values[at]
