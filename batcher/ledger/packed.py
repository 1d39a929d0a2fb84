"""A map from texts to numbers in some 17 bytes an entry, for a million entries at a time.

A dict of a million strings takes ten times as much. Two words an entry, in sorted ``array('Q')``s,
split into shards by the text's hash, so short that to find and to insert are two calls into C each. The
hash is the same everywhere, so that the map can be kept in a file.
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
    """Many bytes, as the pieces in which they lie: to write them to a file takes no copy."""

    __slots__ = ("pieces",)

    def __init__(self, pieces: Sequence[bytearray | array[int]]) -> None:
        self.pieces = pieces

    @property
    def size_bytes(self) -> int:
        """Of all pieces together."""
        return sum(memoryview(piece).nbytes for piece in self.pieces)

    def whole(self) -> bytearray:
        """All of it; the very piece if it is one, as after it was read."""
        first = self.pieces[0] if len(self.pieces) == 1 else None
        return first if isinstance(first, bytearray) else bytearray().join(map(memoryview, self.pieces))


class SavedMap(msgspec.Struct, array_like=True):
    """A map as bytes, in this machine's byte order: keys, shard by shard, and their values."""

    keys: Bulk
    values: Bulk

    @property
    def is_sound(self) -> bool:
        """Whether there are as many keys as values, and no parts of any."""
        return self.keys.size_bytes == self.values.size_bytes and not self.keys.size_bytes % _WORD_BYTES


class PackedMap:
    """Text → a number of up to 64 bits.

    Two texts whose 64-bit hashes are equal are taken for one: of a million, with a chance of 3e-8.
    """

    def __init__(self) -> None:
        self._shards: dict[int, tuple[array[int], array[int]]] = {}

    def __len__(self) -> int:
        return sum(len(keys) for keys, _ in self._shards.values())

    def get(self, text: str) -> int | None:
        """What ``text`` stands for; None if it isn't there."""
        key = _key(text)
        keys, values = self._shards.get(key % SHARDS, _EMPTY)
        at = bisect_left(keys, key)
        return values[at] if at < len(keys) and keys[at] == key else None

    def setdefault(self, text: str, value: int) -> int:
        """What ``text`` stands for: ``value``, from now on, if it stood for nothing."""
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
        """Forget ``text``, if it is there."""
        key = _key(text)
        keys, values = self._shards.get(key % SHARDS, _EMPTY)
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            del keys[at], values[at]

    def saved(self) -> SavedMap:
        """All of it, as bytes: those of the map itself, which must not change meanwhile."""
        shards = self._shards.values()
        return SavedMap(Bulk([keys for keys, _ in shards]), Bulk([values for _, values in shards]))

    def restore(self, saved: SavedMap) -> None:
        """Become what ``saved`` was made of: whole shards, each of them sorted, one after the other."""
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
