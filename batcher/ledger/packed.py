"""Maps and sets of texts with about 17 and 9 bytes per entry, for millions of entries.

A dict of a million strings takes ten times as much. Each text is one word, its hash, in a sorted
``array('Q')``; the hash's last bits choose one of so many arrays that lookup and insertion are two calls
into C each. The hash is the same on every machine, so that all can be saved in a file.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import msgspec

SHARDS = 4096
_HASH_BYTES = 8
_WORD_BYTES = 8
_new_hash = blake2b(digest_size=_HASH_BYTES).copy  # a copy costs less than a new one


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


class SavedWords(msgspec.Struct, array_like=True):
    """A map or a set as bytes, in this machine's byte order: shard by shard, as in memory."""

    sizes: list[int]
    """The number of entries of each shard."""
    words: Bulk

    def is_sound(self, words_each: int) -> bool:
        """Whether there are so many shards of just these sizes."""
        is_size = len(self.sizes) == SHARDS and min(self.sizes) >= 0
        return is_size and self.words.size_bytes == sum(self.sizes) * words_each * _WORD_BYTES


class _Shards:
    """What map and set share. ``recent``: how many texts are asked for again soon, so that their hashes
    are kept."""

    words_each = 1

    def __init__(self, recent: int = 0) -> None:
        self._key = lru_cache(recent)(_key) if recent else _key
        self._shards = [_EMPTY] * SHARDS

    def __len__(self) -> int:
        return sum(map(len, self._shards)) // self.words_each

    def saved(self) -> SavedWords:
        """All of it, as its own bytes: it must not change before they are written."""
        sizes = [len(shard) // self.words_each for shard in self._shards]
        return SavedWords(sizes, Bulk([shard for shard in self._shards if shard]))

    def restore(self, saved: SavedWords) -> None:
        """Restore ``saved``."""
        words, begin = memoryview(saved.words.whole()).cast("Q"), 0
        for number, size in enumerate(saved.sizes):
            end = begin + size * self.words_each
            if size:
                self._shards[number] = array("Q", words[begin:end])
            begin = end

    def _begun(self, key: int) -> array[int]:
        """The shard of ``key``, to insert into."""
        shard = self._shards[key % SHARDS] or array("Q")
        self._shards[key % SHARDS] = shard
        return shard


class PackedSet(_Shards):
    """Texts. Two with equal 64-bit hashes count as one: for a million texts, the chance is 3e-8."""

    def __contains__(self, text: str) -> bool:
        key = self._key(text)
        keys = self._shards[key % SHARDS]
        at = bisect_left(keys, key)
        return at < len(keys) and keys[at] == key

    def add(self, text: str) -> None:
        """Add ``text``, if it isn't there."""
        key = self._key(text)
        keys = self._shards[key % SHARDS]
        at = bisect_left(keys, key)
        if at == len(keys) or keys[at] != key:
            self._begun(key).insert(at, key)


class PackedMap(_Shards):
    """Text → a number of up to 64 bits; texts are told apart as in a :class:`PackedSet`.

    A shard has its keys first, then their values in the same order.
    """

    words_each = 2

    def get(self, text: str) -> int | None:
        """The number of ``text``; None if it isn't there."""
        key = self._key(text)
        shard = self._shards[key % SHARDS]
        size = len(shard) >> 1
        at = bisect_left(shard, key, 0, size)
        return shard[size + at] if at < size and shard[at] == key else None

    def setdefault(self, text: str, value: int) -> int:
        """The number of ``text``; set to ``value`` first if it isn't there."""
        key = self._key(text)
        shard = self._shards[key % SHARDS]
        size = len(shard) >> 1
        at = bisect_left(shard, key, 0, size)
        if at < size and shard[at] == key:
            return shard[size + at]
        shard = shard or self._begun(key)
        shard.insert(size + at, value)
        shard.insert(at, key)
        return value

    def drop(self, text: str) -> None:
        """Remove ``text``, if it is there."""
        key = self._key(text)
        shard = self._shards[key % SHARDS]
        size = len(shard) >> 1
        at = bisect_left(shard, key, 0, size)
        if at < size and shard[at] == key:
            del shard[size + at], shard[at]


_EMPTY = array("Q")
"""Stands for shards without entries; nothing is inserted into it."""
_number = int.from_bytes


def _key(text: str) -> int:
    digest = _new_hash()
    digest.update(text.encode())
    return _number(digest.digest(), "little")
