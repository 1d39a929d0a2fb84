"""A map from texts to numbers with about 17 bytes per entry, for millions of entries.

A dict of a million strings takes ten times as much. Each entry is two words in sorted ``array('Q')``s,
split by the text's hash into shards so short that lookup and insertion are two calls into C each. The
hash is the same on every machine, so that the map can be saved in a file.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

SHARDS = 4096
_HASH_BYTES = 8
_WORD_BYTES = 8


class Bulk:
    """Many bytes in several pieces, so that they can be written to a file without a copy."""

    __slots__ = ("pieces",)

    def __init__(self, pieces: Sequence[bytearray | array[int]]) -> None:
        self.pieces = pieces

    @property
    def size_bytes(self) -> int:
        """Total size of the pieces."""
        return sum(memoryview(piece).nbytes for piece in self.pieces)

    def whole(self) -> bytearray:
        """All bytes; without a copy if there is one piece, as after reading."""
        first = self.pieces[0] if len(self.pieces) == 1 else None
        return first if isinstance(first, bytearray) else bytearray().join(map(memoryview, self.pieces))


class SavedMap(msgspec.Struct, array_like=True):
    """A map as bytes, in this machine's byte order: keys, shard by shard, and their values."""

    keys: Bulk
    values: Bulk

    @property
    def is_sound(self) -> bool:
        """Whether there are as many keys as values, all of them complete."""
        return self.keys.size_bytes == self.values.size_bytes and not self.keys.size_bytes % _WORD_BYTES


class PackedMap:
    """Text → a number of up to 64 bits.

    Two texts with equal 64-bit hashes count as one: for a million texts, the chance is 3e-8.
    """

    def __init__(self) -> None:
        self._shards: dict[int, tuple[array[int], array[int]]] = {}

    def __len__(self) -> int:
        return sum(len(keys) for keys, _ in self._shards.values())

    def get(self, text: str) -> int | None:
        """The number of ``text``; None if it isn't there."""
        key = _key(text)
        keys, values = self._shards.get(key % SHARDS, _EMPTY)
        at = bisect_left(keys, key)
        return values[at] if at < len(keys) and keys[at] == key else None

    def setdefault(self, text: str, value: int) -> int:
        """The number of ``text``; set to ``value`` first if it isn't there."""
        key = _key(text)
        shard = self._shards.get(key % SHARDS)
        if shard is None:
            shard = self._shards[key % SHARDS] = (array("Q"), array("Q"))
        keys, values = shard
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            return values[at]
        keys.insert(at, key)
        values.insert(at, value)
        return value

    def drop(self, text: str) -> None:
        """Remove ``text``, if it is there."""
        key = _key(text)
        keys, values = self._shards.get(key % SHARDS, _EMPTY)
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            del keys[at], values[at]

    def saved(self) -> SavedMap:
        """All of it, as the map's own bytes: it must not change before they are written."""
        shards = self._shards.values()
        return SavedMap(Bulk([keys for keys, _ in shards]), Bulk([values for _, values in shards]))

    def restore(self, saved: SavedMap) -> None:
        """Restore ``saved``: whole shards, each sorted, one after the other."""
        keys, values = (memoryview(bulk.whole()).cast("Q") for bulk in (saved.keys, saved.values))
        begin = 0
        while begin < len(keys):
            shard, end = keys[begin] % SHARDS, begin + 1
            while end < len(keys) and keys[end] % SHARDS == shard:
                end += 1
            self._shards[shard] = (array("Q", keys[begin:end]), array("Q", values[begin:end]))
            begin = end


_EMPTY = (array("Q"), array("Q"))


def _key(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=_HASH_BYTES).digest(), "little")
