"""How long to retry: the decision after each failed attempt. No I/O."""

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
    """The limits of downloads.

    ``downloads`` transfers at a time, each of at most ``max_file_bytes``. After ``stall_s`` seconds
    without a byte of progress, a failed attempt is not retried; before that, retries wait up to
    ``backoff_base_s * 2**n`` and at most ``backoff_cap_s`` seconds. An answer that is not media, or may
    be incomplete, is requested ``not_media_tries`` times. A connection may take ``connect_timeout_s`` to
    open and ``read_timeout_s`` between two bytes; a transfer with progress has no time limit.
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
    """A 5xx or 429. ``retry_after_s`` is the server's ``Retry-After``, 0 without one."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotMedia(UrlExpired):
    """A 200 with an empty body or a page. It may be a temporary fault, so it is requested again."""


class Endless(DownloadInterrupted):
    """A body whose length was not announced and whose end can't be verified."""


class Patience:
    """Counts for one download: progress, consecutive failures, and time since the last new byte.

    Progress is a byte beyond the furthest so far: a server that always stops at the same place and
    can't resume makes none, however much it sends.
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
        """Do not count ``waited_s`` seconds of waiting for a slot."""
        self._moved_at_s += waited_s

    def wait_s(self, error: DownloadError) -> float:
        """Seconds to wait after ``error`` before the next attempt.

        The first expired URLs are replaced at once. A server's ``Retry-After`` is respected up to
        ``stall_s``. Raises DownloadStalled when that is over, and DownloadRefused (code
        ``not_media``) after too many answers that were pages.
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
