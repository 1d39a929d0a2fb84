"""The media URLs that the API will fetch, and the problems that are visible before the run."""

from __future__ import annotations

import heapq
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from batcher.jobs.job import Job, Source
from batcher.jobs.signatures import mask_url
from batcher.schema.dialect import media_kind
from batcher.schema.spec import ModelSpec
from batcher.terminal import counted

EXAMPLES_SHOWN = 3
UNKNOWN_RUN_S = 3600.0
"""If a run's duration is unknown, warn about URLs that expire within this time. Seconds."""

_PRIVATE_LABELS = frozenset(
    {
        "internal",
        "intranet",
        "intra",
        "corp",
        "private",
        "vpn",
        "lan",
        "local",
        "localnet",
        "nas",
        "home",
    }
)
_RESERVED_DOMAINS = frozenset({"test", "invalid", "onion", "corp", "home"})
_PAGE_HOSTS = frozenset(
    {
        *("drive.google.com", "docs.google.com", "photos.google.com", "photos.app.goo.gl"),
        *("dropbox.com", "www.dropbox.com", "1drv.ms", "onedrive.live.com"),
        *("github.com", "huggingface.co", "imgur.com", "www.imgur.com"),
    }
)
_FILE_ON_SUCH_A_HOST = re.compile(
    r"drive\.google\.com/uc\?|(?:www\.)?dropbox\.com/.*[?&](?:dl|raw)=1\b|(?:www\.)?imgur\.com/.*\.\w{3,4}$|"
    r"github\.com/[^/]+/[^/]+/(?:raw|releases/download)/|github\.com/.*[?&]raw=|huggingface\.co/.*/resolve/",
    re.IGNORECASE,
)
_STAMP = re.compile(r"\d{8}T\d{6}Z")
_STAMP_FORMAT = "%Y%m%dT%H%M%SZ"
_VENDORS = ("x-amz-", "x-goog-", "x-oss-")


class MediaUrl(NamedTuple):
    """A URL in a media field of the job at ``source``; ``kind`` is image, video, audio, None for any."""

    url: str
    kind: str | None
    field: str
    source: Source

    def __str__(self) -> str:
        return f"{self.source}: {self.field}: {mask_url(self.url)}"


def media_urls(job: Job, spec: ModelSpec | None) -> Iterator[MediaUrl]:
    """Each URL that the API will fetch for ``job``; inline media are not included."""
    for url, kind, name in _urls_of(job, spec):
        yield MediaUrl(url, kind, name, job.source)


def _urls_of(job: Job, spec: ModelSpec | None) -> list[tuple[str, str | None, str]]:
    """Each URL with the kind of its media and its field."""
    if spec is not None:
        fields: Mapping[str, str | None] = spec.media
    else:
        fields = {name: kind for name in job.input if (kind := media_kind(name)) is not None}
    found = []
    for name, kind in fields.items():
        value = job.input.get(name)
        for text in (value,) if isinstance(value, str) else _texts_in(value):
            if text[:8].lower() == "https://":
                found.append((text, kind, name))  # noqa: PERF401 (for one URL twice as fast)
    return found


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)


def expires_at(url: str) -> datetime | None:
    """The expiry time that a signed URL contains; None if it contains none.

    Knows the formats of S3-like stores (``X-Amz-Date`` + ``X-Amz-Expires``), of CloudFront and older S3
    (``Expires``, in Unix time), and of Azure (``se``, beside its ``sig``).
    """
    if "?" not in url:
        return None
    query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
    try:
        return _expiry_in(query)
    except (ValueError, OverflowError):
        return None


def _expiry_in(query: Mapping[str, str]) -> datetime | None:
    for prefix in _VENDORS:
        signed, lasts_s = query.get(f"{prefix}date", ""), query.get(f"{prefix}expires")
        if lasts_s is not None and _STAMP.fullmatch(signed):
            began = datetime.strptime(signed, _STAMP_FORMAT).replace(tzinfo=UTC)
            return began + timedelta(seconds=int(lasts_s))
    if (unix_s := query.get("expires", "")).isdigit():
        return datetime.fromtimestamp(int(unix_s), UTC)
    if "sig" in query and "se" in query:
        moment = datetime.fromisoformat(query["se"])
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return None


def looks_private(url: str) -> bool:
    """Whether the host's name looks like one that exists only in a company's or home network."""
    return _is_private_name(url.partition("://")[2].partition("/")[0])


def looks_like_page(url: str) -> bool:
    """Whether it is a known kind of link to a page that shows a file, and not to the file."""
    address = url.partition("://")[2]
    return address.partition("/")[0].lower() in _PAGE_HOSTS and not _FILE_ON_SUCH_A_HOST.match(address)


def _may_need_look(name: str, jobs: Sequence[Job]) -> bool:
    """Whether :func:`_needs_look` may be true for the input ``name`` of any of ``jobs``."""
    urls = [url for job in jobs if (url := job.input.get(name)) is not None]
    if not {str}.issuperset(map(type, urls)):
        return True
    hosts = {url.partition("://")[2].partition("/")[0] for url in urls}
    return any("?" in url for url in urls) or any(map(_is_odd_host, hosts))


def _needs_look(url: str) -> bool:
    """Whether it may be the URL of media that can't be fetched, or not for long."""
    return "?" in url or _is_odd_host(url.partition("://")[2].partition("/")[0])


def _is_odd_host(authority: str) -> bool:
    return _is_private_name(authority) or authority.lower() in _PAGE_HOSTS


@lru_cache(maxsize=1024)
def _is_private_name(authority: str) -> bool:
    labels = authority.partition(":")[0].lower().rstrip(".").split(".")
    return labels[-1] in _RESERVED_DOMAINS or not _PRIVATE_LABELS.isdisjoint(labels[:-2])


@dataclass(slots=True)
class UrlWatch:
    """Collects URLs that the API may not be able to fetch, or only for too short a time."""

    private: int = 0
    pages: int = 0
    _private_examples: list[MediaUrl] = field(default_factory=list)
    _page_examples: list[MediaUrl] = field(default_factory=list)
    _expiries_s: array[float] = field(default_factory=lambda: array("d"))
    _soonest: list[tuple[float, int, MediaUrl]] = field(default_factory=list)

    def look_at(self, jobs: Sequence[Job], spec: ModelSpec | None) -> None:
        """Check the URLs of jobs of one model: most are neither signed nor on a private host."""
        if spec is not None and not any(_may_need_look(name, jobs) for name in spec.media):
            return
        for job in jobs:
            for url, kind, name in _urls_of(job, spec):
                if _needs_look(url):
                    self.add(MediaUrl(url, kind, name, job.source))

    def add(self, media: MediaUrl) -> None:
        """Check one URL, without any request."""
        if looks_private(media.url):
            self.private += 1
            if len(self._private_examples) < EXAMPLES_SHOWN:
                self._private_examples.append(media)
        if looks_like_page(media.url):
            self.pages += 1
            if len(self._page_examples) < EXAMPLES_SHOWN:
                self._page_examples.append(media)
        expiry = expires_at(media.url)
        if expiry is not None:
            self._note_expiry(expiry.timestamp(), media)

    def _note_expiry(self, at_s: float, media: MediaUrl) -> None:
        self._expiries_s.append(at_s)
        # A heap of the soonest: a sooner one replaces the latest of them.
        entry = (-at_s, -len(self._expiries_s), media)
        if len(self._soonest) < EXAMPLES_SHOWN:
            heapq.heappush(self._soonest, entry)
        else:
            heapq.heappushpop(self._soonest, entry)

    def warnings(self, now: datetime, duration_s: float | None) -> Iterator[str]:
        """One line for each kind of problem; ``duration_s`` is how long the run may take, if known."""
        if self.private:
            what = "on hosts whose names sound private: the API has to reach them"
            yield _line(self.private, what, self._private_examples)
        if self.pages:
            what = (
                "probably of a page that shows a file, not of the file: use its direct link (Dropbox: "
                "?raw=1; GitHub: /raw/ and Hugging Face: /resolve/ for /blob/; Google Drive: "
                "/uc?export=download&id=ID)"
            )
            yield _line(self.pages, what, self._page_examples)
        within_s = UNKNOWN_RUN_S if duration_s is None else duration_s
        end_s = now.timestamp() + within_s
        late = sum(at_s <= end_s for at_s in self._expiries_s)
        if late:
            until = "within the hour" if duration_s is None else "before the run's likely end"
            soonest = sorted((-at_s, number, media) for at_s, number, media in self._soonest)
            first = datetime.fromtimestamp(soonest[0][0], UTC)
            expire = "expires" if late == 1 else "expire"
            what = f"signed and {expire} {until}, the first at {first:%Y-%m-%d %H:%M} UTC"
            yield _line(late, what, [media for at_s, _, media in soonest if at_s <= end_s])


def _line(count: int, what: str, examples: list[MediaUrl]) -> str:
    shown = "; ".join(map(str, examples))
    more = f"; and {count - len(examples)} more" if count > len(examples) else ""
    return f"{counted(count, 'media URL is', 'media URLs are')} {what} ({shown}{more})"
