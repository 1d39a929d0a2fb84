"""``plan --check-urls``: each distinct media URL asked about once, before anything is bought with it."""

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
"""docs/api.md, "Inputs": what the vendor recommends at most."""
_ANY_TYPE = frozenset({"application/octet-stream", "binary/octet-stream"})


class Looks(Protocol):
    """What is needed of :class:`batcher.download.lookup.Lookup`."""

    async def look(self, url: str) -> Looked: ...


@dataclass(slots=True)
class UrlReport:
    """How many distinct URLs were asked about, and the first of those that are not as they should be."""

    checked: int = 0
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)


async def check_urls(media: Iterable[MediaUrl], lookup: Looks) -> UrlReport:
    """Ask about each distinct URL of ``media`` once, in its order, some at a time."""
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
    """Each URL the first time it comes; a digest of 16 bytes stands for it afterwards."""
    seen: set[bytes] = set()
    for one in media:
        digest = hashlib.blake2b(one.url.encode(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield one


def problem_of(media: MediaUrl, looked: Looked) -> str | None:
    """What is wrong with a URL, given what its server says; None if nothing is."""
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
