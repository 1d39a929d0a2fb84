"""A map from texts to numbers in some 17 bytes an entry, for a million entries at a time.

A dict of a million strings takes ten times as much. Two words an entry, in sorted ``array('Q')``s,
split into shards by the text's hash, so short that to find and to insert are two calls into C each. The
hash is the same everywhere, so that the map can be kept in a file.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from hashlib import blake2b

import msgspec

SHARDS = 4096
_HASH_BYTES = 8


class SavedMap(msgspec.Struct, array_like=True):
    """A map as bytes, in this machine's byte order: sizes of the shards, then their keys and values."""

    counts: memoryview
    keys: memoryview
    values: memoryview


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
        key = _key(text)
        keys, values = self._shards[key % SHARDS]
        at = bisect_left(keys, key)
        return values[at] if at < len(keys) and keys[at] == key else None

    def setdefault(self, text: str, value: int) -> int:
        """What ``text`` stands for: ``value``, from now on, where it stood for nothing."""
        key = _key(text)
        keys, values = self._shards[key % SHARDS]
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            return values[at]
        keys.insert(at, key)
        values.insert(at, value)
        return value

    def drop(self, text: str) -> None:
        """Forget ``text``, if it is there."""
        key = _key(text)
        keys, values = self._shards[key % SHARDS]
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            del keys[at], values[at]

    def saved(self) -> SavedMap:
        """All of it, as bytes."""
        counts = array("Q", map(len, (keys for keys, _ in self._shards)))
        parts = [memoryview(b"".join(part)) for part in zip(*self._shards, strict=True)]
        return SavedMap(memoryview(counts.tobytes()), *parts)

    def restore(self, saved: SavedMap) -> None:
        """Become what ``saved`` was made of."""
        counts = array("Q", saved.counts.tobytes())
        at = 0
        for (keys, values), count in zip(self._shards, counts, strict=True):
            end = at + count * keys.itemsize
            keys.frombytes(saved.keys[at:end])
            values.frombytes(saved.values[at:end])
            at = end


def _key(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=_HASH_BYTES).digest(), "little")
