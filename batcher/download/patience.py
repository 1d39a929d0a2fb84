"""How long to go on trying: what is decided after each attempt that failed. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batcher.errors import (
    DownloadError,
    DownloadInterrupted,
    DownloadRefused,
    DownloadStalled,
    UrlExpired,
)
from batcher.pacing.gate import full_jitter_s

if TYPE_CHECKING:
    from random import Random

    from batcher.clock import Clock

PROMPT_REFRESHES: Final = 2


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """The bounds of downloading.

    ``downloads`` transfers at a time, each of at most ``max_file_bytes``. Once ``stall_s`` seconds have
    passed without a byte of progress, a failed attempt was the last; before that, retries wait up to
    ``backoff_base_s * 2**n`` and at most ``backoff_cap_s`` seconds. An answer that is no media, or may
    not be whole, is asked for ``not_media_tries`` times. A connection may take ``connect_timeout_s`` to
    open and ``read_timeout_s`` between two bytes; a transfer that moves may take as long as it likes.
    """

    downloads: int = 8
    max_file_bytes: int = 2 << 30
    stall_s: float = 120.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 15.0
    not_media_tries: int = 3
    max_redirects: int = 5


class ServerBusy(DownloadInterrupted):
    """A 5xx or 429. ``retry_after_s`` is the wait that the server named, 0 if it named none."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotMedia(UrlExpired):
    """A 200 with an empty body or a page. It may be a passing fault, so it is asked for again."""


class Endless(DownloadInterrupted):
    """A body that ended without any word that this was its end."""


class Patience:
    """Keeps count for one download: progress, failures in a row, and time since the last new byte.

    Progress is a byte beyond all that ever arrived: a server that always breaks off at the same place
    and can't resume makes none, however much it sends.
    """

    def __init__(self, limits: DownloadLimits, clock: Clock, rng: Random) -> None:
        self._limits = limits
        self._clock = clock
        self._rng = rng
        self._furthest_bytes = 0
        self._moved_at_s = clock.monotonic()
        self._pauses = clock.pauses
        self._failures = 0
        self._not_media = 0
        self._endless = 0

    def arrived(self, size_bytes: int) -> None:
        """The file has grown to ``size_bytes``."""
        if size_bytes > self._furthest_bytes:
            self._furthest_bytes = size_bytes
            self._moved_at_s = self._clock.monotonic()
            self._failures = 0

    def forgive(self, waited_s: float) -> None:
        """Seconds that were spent waiting for a turn are nobody's failure."""
        self._moved_at_s += waited_s

    def wait_s(self, error: DownloadError) -> float:
        """Seconds to wait after ``error`` before the next attempt.

        The first URLs that expired are replaced at once. A server's ``Retry-After`` is kept up to the
        end of our patience. Raises DownloadStalled when that is over, and DownloadRefused (code
        ``not_media``) when too many answers were pages.
        """
        self._count(error)
        now_s = self._clock.monotonic()
        if self._clock.pauses != self._pauses:  # this process was stopped, not the server
            self._pauses, self._moved_at_s = self._clock.pauses, now_s
        left_s = self._limits.stall_s - (now_s - self._moved_at_s)
        if left_s <= 0:
            raise DownloadStalled(
                f"no progress for {self._limits.stall_s:g} s; last: {error}"
            ) from error
        if type(error) is UrlExpired and self._failures <= PROMPT_REFRESHES:
            return 0.0
        return min(max(self._jitter_s(), getattr(error, "retry_after_s", 0.0)), left_s)

    def _count(self, error: DownloadError) -> None:
        self._failures += 1
        if isinstance(error, Endless):
            self._endless += 1
            if self._endless >= self._limits.not_media_tries:
                raise DownloadRefused(str(error), "no_length") from error
        if not isinstance(error, NotMedia):
            return
        self._not_media += 1
        if self._not_media >= self._limits.not_media_tries:
            raise DownloadRefused(str(error), "not_media") from error

    def _jitter_s(self) -> float:
        return full_jitter_s(
            self._failures - 1,
            self._rng,
            base_s=self._limits.backoff_base_s,
            cap_s=self._limits.backoff_cap_s,
        )
