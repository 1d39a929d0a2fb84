"""``plan --check-urls``: requests each distinct media URL once, before any job with it is submitted."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from batcher.download.lookup import Looked
from batcher.planning.media_urls import MediaUrl

WORKERS = 32
PROBLEMS_KEPT = 50
MB = 1_000_000
SIZE_LIMITS_BYTES: Mapping[str, int] = {"image": 50 * MB, "video": 100 * MB}
"""docs/api.md, "Inputs": the vendor's recommended maximum."""
_ANY_TYPE = frozenset({"application/octet-stream", "binary/octet-stream"})


class Looks(Protocol):
    """The part of :class:`batcher.download.lookup.Lookup` that is needed here."""

    async def look(self, url: str) -> Looked: ...


@dataclass(slots=True)
class UrlReport:
    """The number of distinct URLs checked, and the first of those with a problem."""

    checked: int = 0
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)


async def check_urls(media: Iterable[MediaUrl], lookup: Looks) -> UrlReport:
    """Check each distinct URL of ``media`` once, in order, several at a time."""
    numbered = enumerate(_distinct(media))
    report, found = UrlReport(), list[tuple[int, str]]()

    async def work() -> None:
        for number, one in numbered:
            what = problem_of(one, await lookup.look(one.url))
            report.checked += 1
            if what is not None:
                report.problem_count += 1
                if len(found) < PROBLEMS_KEPT:
                    found.append((number, f"{one}: {what}"))

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    report.problems = [line for _, line in sorted(found)]
    return report


def _distinct(media: Iterable[MediaUrl]) -> Iterator[MediaUrl]:
    """Each URL at its first occurrence; remembers only a 16-byte digest of it."""
    seen: set[bytes] = set()
    for one in media:
        digest = hashlib.blake2b(one.url.encode(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield one


def problem_of(media: MediaUrl, looked: Looked) -> str | None:
    """What is wrong with a URL, given its server's answer; None if it is fine."""
    if looked.problem is not None:
        return looked.problem
    found = looked.media_type
    told = found is not None and found not in _ANY_TYPE
    if told and media.kind is not None and str(found).partition("/")[0] != media.kind:
        return f"is {found}, not {media.kind}"
    limit_bytes = SIZE_LIMITS_BYTES.get(media.kind or "")
    if limit_bytes is not None and looked.size_bytes is not None and looked.size_bytes > limit_bytes:
        size_mb = looked.size_bytes / MB
        return f"has {size_mb:.1f} MB; the API takes {media.kind}s up to {limit_bytes // MB} MB"
    return None
