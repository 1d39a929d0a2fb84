"""Maps and sets of texts with about 9 bytes per entry and number, for millions of entries.

A dict of a million strings takes ten times as much. Each text is one word, its hash, in a sorted
``array('Q')``; the hash's last bits choose one of so many arrays that lookup and insertion are two calls
into C each. The hash is the same on every machine, so that all can be saved in a file.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b

import msgspec

SHARDS = 4096
_HASH_BYTES = 8
_WORD_BYTES = 8
_new_hash = blake2b(digest_size=_HASH_BYTES).copy  # a copy costs less than a new one


class Bulk:
    """Many bytes that are made piece by piece, so that they can be written to a file without a copy."""

    __slots__ = ("_whole", "pieces", "size_bytes")

    def __init__(self, size_bytes: int, pieces: Callable[[], Iterable[bytes]]) -> None:
        self.size_bytes = size_bytes
        self.pieces = pieces
        self._whole: bytearray | None = None

    @classmethod
    def of(cls, whole: bytearray) -> Bulk:
        """A bulk that was read."""
        bulk = cls(len(whole), lambda: (bytes(whole),))
        bulk._whole = whole
        return bulk

    def whole(self) -> bytearray:
        """All bytes; without a copy if they were read."""
        return self._whole if self._whole is not None else bytearray().join(self.pieces())


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
        self.key = lru_cache(recent)(hash_of) if recent else hash_of
        self._shards = [_EMPTY] * SHARDS
        self._before: dict[int, array[int]] | None = None
        """While it is saved: the shards that have changed since, as they were."""

    def __len__(self) -> int:
        return sum(map(len, self._shards)) // self.words_each

    def saved(self) -> SavedWords:
        """All of it as it is now, for any thread to write; ``release`` when that is done."""
        shards = self._shards
        before: dict[int, array[int]] = {}
        self._before = before
        sizes = [len(shard) // self.words_each for shard in shards]

        def pieces() -> Iterator[bytes]:
            for number, size in enumerate(sizes):
                if size:
                    now = shards[number].tobytes()  # before the look into what changed: no lock needed
                    yield before[number].tobytes() if number in before else now

        return SavedWords(sizes, Bulk(sum(sizes) * self.words_each * _WORD_BYTES, pieces))

    def release(self) -> None:
        """What was saved is written, or will not be."""
        self._before = None

    def restore(self, saved: SavedWords) -> None:
        """Restore ``saved``."""
        words, begin = memoryview(saved.words.whole()).cast("Q"), 0
        for number, size in enumerate(saved.sizes):
            end = begin + size * self.words_each
            if size:
                self._shards[number] = array("Q", words[begin:end])
            begin = end

    def _to_change(self, key: int) -> array[int]:
        """The shard of ``key``, to insert into or delete from."""
        number = key % SHARDS
        shard = self._shards[number]
        if self._before is not None and number not in self._before:
            self._before[number] = shard[:]
        if shard is _EMPTY:
            shard = self._shards[number] = array("Q")
        return shard


class PackedSet(_Shards):
    """Texts. Two with equal 64-bit hashes count as one: for a million texts, the chance is 3e-8."""

    def __contains__(self, text: str) -> bool:
        key = self.key(text)
        keys = self._shards[key % SHARDS]
        at = bisect_left(keys, key)
        return at < len(keys) and keys[at] == key

    def add(self, text: str) -> None:
        """Add ``text``, if it isn't there."""
        key = self.key(text)
        keys = self._shards[key % SHARDS]
        at = bisect_left(keys, key)
        if at == len(keys) or keys[at] != key:
            self._to_change(key).insert(at, key)


class PackedMap(_Shards):
    """Text → a number of up to 64 bits; texts are told apart as in a :class:`PackedSet`.

    A shard has its keys first, then their values in the same order.
    """

    words_each = 2

    def has(self, key: int) -> bool:
        """Whether a text is there, by its hash."""
        shard = self._shards[key % SHARDS]
        size = len(shard) >> 1
        at = bisect_left(shard, key, 0, size)
        return at < size and shard[at] == key

    def get(self, text: str) -> int | None:
        """The number of ``text``; None if it isn't there."""
        key = self.key(text)
        shard = self._shards[key % SHARDS]
        size = len(shard) >> 1
        at = bisect_left(shard, key, 0, size)
        return shard[size + at] if at < size and shard[at] == key else None

    def setdefault(self, text: str, value: int) -> int:
        """The number of ``text``; set to ``value`` first if it isn't there."""
        return self.insert(self.key(text), value)

    def insert(self, key: int, value: int) -> int:
        """The same for a text's hash."""
        shard = self._shards[key % SHARDS]
        size = len(shard) >> 1
        at = bisect_left(shard, key, 0, size)
        if at < size and shard[at] == key:
            return shard[size + at]
        if shard is _EMPTY or self._before is not None:
            shard = self._to_change(key)
        shard.insert(size + at, value)
        shard.insert(at, key)
        return value

    def put(self, text: str, value: int) -> None:
        """Set the number of ``text``."""
        self.drop(text)
        self.setdefault(text, value)

    def drop(self, text: str) -> None:
        """Remove ``text``, if it is there."""
        key = self.key(text)
        shard = self._shards[key % SHARDS]
        size = len(shard) >> 1
        at = bisect_left(shard, key, 0, size)
        if at < size and shard[at] == key:
            shard = self._to_change(key)
            del shard[size + at], shard[at]


class PackedPairs(_Shards):
    """Text → two numbers of up to 64 bits; texts are told apart as in a :class:`PackedSet`.

    A shard has its keys first, then their first numbers, then their second numbers.
    """

    words_each = 3

    def get(self, text: str) -> tuple[int, int] | None:
        """The numbers of ``text``; None if it isn't there."""
        shard, size, at = self._place(key := self.key(text))
        is_there = at < size and shard[at] == key
        return (shard[size + at], shard[2 * size + at]) if is_there else None

    def put(self, text: str, first: int, second: int) -> None:
        """Set the numbers of ``text``."""
        shard, size, at = self._place(key := self.key(text))
        is_there = at < size and shard[at] == key
        shard = self._to_change(key)
        if is_there:
            shard[size + at], shard[2 * size + at] = first, second
            return
        shard.insert(2 * size + at, second)
        shard.insert(size + at, first)
        shard.insert(at, key)

    def drop(self, text: str) -> bool:
        """Remove ``text``; returns whether it was there."""
        shard, size, at = self._place(key := self.key(text))
        is_there = at < size and shard[at] == key
        if is_there:
            shard = self._to_change(key)
            del shard[2 * size + at], shard[size + at], shard[at]
        return is_there

    def _place(self, key: int) -> tuple[array[int], int, int]:
        """The shard of a key, how many keys it has, and at which of them the key is or would be."""
        shard = self._shards[key % SHARDS]
        size = len(shard) // 3
        return shard, size, bisect_left(shard, key, 0, size)


_EMPTY = array("Q")
"""Stands for shards without entries; nothing is inserted into it."""
_number = int.from_bytes


def hash_of(text: str) -> int:
    """A text's hash: 64 bits, the same on every machine."""
    digest = _new_hash()
    digest.update(text.encode())
    return _number(digest.digest(), "little")
