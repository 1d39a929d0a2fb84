"""Marks of rows: hashes that tell apart what an id leaves out, if two rows are the same job.

A mark has 64 bits: half of them are a hash of the inputs as they are sent, half of the metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any

import msgspec

from batcher.jobs.job import Job

_HALF_BITS = 32
_HALF_MASK = (1 << _HALF_BITS) - 1
_encode_sorted = msgspec.json.Encoder(order="sorted", enc_hook=lambda media: media.sha256).encode


def mark_of(job: Job) -> int:
    """The mark of one job."""
    return (_hash_of(job.input) & _HALF_MASK) << _HALF_BITS | _hash_of(job.meta) & _HALF_MASK


def marks_of(inputs: Sequence[dict[str, Any]], metas: Sequence[dict[str, Any]]) -> list[int]:
    """The mark of each of many jobs. All ``inputs`` have the same names, and all ``metas``."""
    pairs = zip(_hashes_of(inputs), _hashes_of(metas), strict=True)
    return [(sent & _HALF_MASK) << _HALF_BITS | meta & _HALF_MASK for sent, meta in pairs]


def differences(mark: int, other: int) -> tuple[bool, bool]:
    """Whether the inputs differ, and whether the metadata do."""
    return (mark ^ other) >> _HALF_BITS != 0, (mark ^ other) & _HALF_MASK != 0


def _hash_of(values: dict[str, Any]) -> int:
    names = sorted(values)
    try:
        return hash((*names, *map(values.get, names)))
    except TypeError:  # lists and mappings
        return hash(_encode_sorted(values))


def _hashes_of(rows: Sequence[dict[str, Any]]) -> list[int]:
    """:func:`_hash_of` for dicts with the same names."""
    if not rows[0] or all(row is rows[0] for row in rows):
        return [_hash_of(rows[0])] * len(rows)
    names = sorted(rows[0])
    columns = (map(itemgetter(name), rows) for name in names)
    try:
        return [*map(hash, zip(*map(repeat, names), *columns))]  # noqa: B905 (names have no end)
    except TypeError:
        return [*map(_hash_of, rows)]
