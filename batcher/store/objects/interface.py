"""What every bucket does, whatever is behind it.

An object is whole or absent: nobody ever sees a part of one, and an upload that fails or is cancelled
leaves what was under the key before. When a call that writes returns, what it wrote is durable and can
be read. Each of them may be repeated.

Keys are relative to the place that the bucket was opened at, ``media/hero.mp4``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True, slots=True)
class StoreRetries:
    """How long a store that fails is asked again, in one call of a bucket.

    ``retries`` and ``retry_s`` bound one request (a part, a piece) with its repetitions, which are
    ``backoff_s`` apart at first, then longer, up to ``max_backoff_s``. ``request_s`` bounds one try.
    A cancelled upload gets ``cancel_s`` to take back the parts that it sent.
    """

    retries: int = 10
    retry_s: float = 120.0
    backoff_s: float = 0.2
    max_backoff_s: float = 15.0
    connect_s: float = 10.0
    request_s: float = 90.0
    cancel_s: float = 3.0

    def retry_config(self) -> dict[str, object]:
        """The same in the words of the library."""
        return {
            "max_retries": self.retries,
            "retry_timeout": timedelta(seconds=self.retry_s),
            "backoff": {
                "init_backoff": timedelta(seconds=self.backoff_s),
                "max_backoff": timedelta(seconds=self.max_backoff_s),
            },
        }


class Bucket(Protocol):
    """One place in a store.

    Every call raises RunDirError if the store can't do it (StoreUnavailable of ``failures`` if a
    later call may fare better: it was tried for as long as :class:`StoreRetries` allows),
    CredentialsError if it refuses us, and UsageError for a key that isn't one. Messages never hold
    what a store said in its own words, which may quote credentials.
    """

    @property
    def url(self) -> str:
        """What was opened, as people write it: ``s3://clips/summer``. Holds no credentials."""
        ...

    async def put_file(self, path: Path, key: str, sha256_hex: str, media_type: str | None) -> None:
        """Store the file at ``path``, whose SHA-256 is known. A file that differs is not stored."""
        ...

    async def put_bytes(self, key: str, data: bytes) -> None:
        """Store ``data``, which fits into memory, in place of whatever is there."""
        ...

    async def put_new(self, key: str, data: bytes) -> bool:
        """Store ``data`` if nothing is there yet; whether what is there now is ``data``.

        Of any number that call this at once with differing data, one gets True. So ``data`` has to be
        the caller's alone (with a run's id in it); then a repeated call gets the same answer again.
        """
        ...

    async def get_bytes(self, key: str) -> bytes | None:
        """All of an object that fits into memory; None if there is none."""
        ...

    async def get_file(self, key: str, path: Path) -> str:
        """Fetch an object to ``path``: whole and durable, or not there. Returns its SHA-256 in hex.

        The folder of ``path`` must exist. An object that isn't there is a RunDirError, NoSuchObject.
        """
        ...

    async def size(self, key: str) -> int | None:
        """Size in bytes, or None if there is no such object."""
        ...

    async def sha256(self, key: str) -> str | None:
        """SHA-256 in hex of what the store returns, all of it read; None if there is no object."""
        ...

    def list(self, folder: str = "") -> AsyncIterator[tuple[str, int]]:
        """Key and size in bytes of every object below ``folder`` (by default all), in no order."""
        ...

    async def sizes(self) -> dict[str, int]:
        """Sizes in bytes, by key, of what lies at the place itself and not in a folder below."""
        ...

    async def move(self, old: str, new: str) -> None:
        """Copy within the store, then delete ``old``. If only ``new`` is there, it was done."""
        ...

    async def delete(self, key: str) -> None:
        """Delete an object; one that is already gone is fine."""
        ...
