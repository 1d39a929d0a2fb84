"""The interface of every bucket.

An object is whole or absent: a partial one is never visible, and an upload that fails or is cancelled
leaves the previous object in place. When a writing call returns, its data is durable and can be read.
All of them are idempotent.

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
    """How long one call of a bucket retries a failing store.

    ``retries`` and ``retry_s`` limit the retries of one request (a part, a piece), which are
    ``backoff_s`` apart at first, then longer, up to ``max_backoff_s``. ``request_s`` limits one try.
    A cancelled upload has ``cancel_s`` to delete the parts that it sent.
    """

    retries: int = 10
    retry_s: float = 120.0
    backoff_s: float = 0.2
    max_backoff_s: float = 15.0
    connect_s: float = 10.0
    request_s: float = 90.0
    cancel_s: float = 3.0

    def retry_config(self) -> dict[str, object]:
        """The same as the library's configuration."""
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
    later call may succeed: all retries of :class:`StoreRetries` were used), CredentialsError if it
    refuses us, and UsageError for an invalid key. Messages never quote the store's own text, which
    may contain credentials.
    """

    @property
    def url(self) -> str:
        """The URL that was opened, as a user writes it: ``s3://clips/summer``. Holds no credentials."""
        ...

    async def put_file(self, path: Path, key: str, sha256_hex: str, media_type: str | None) -> None:
        """Store the file at ``path``, whose SHA-256 is known. A file that differs is not stored."""
        ...

    async def put_bytes(self, key: str, data: bytes) -> None:
        """Store ``data``, which fits into memory; replaces an existing object."""
        ...

    async def put_new(self, key: str, data: bytes) -> bool:
        """Store ``data`` if there is no object yet; returns whether the object is now ``data``.

        If several callers do this at once with different data, one gets True. So ``data`` must be
        unique to the caller (contain a run's id); then a repeated call returns the same answer.
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
        """SHA-256 in hex of the object, read in full from the store; None if there is none."""
        ...

    def list(self, folder: str = "") -> AsyncIterator[tuple[str, int]]:
        """Key and size in bytes of every object below ``folder`` (by default all), in no order."""
        ...

    async def sizes(self) -> dict[str, int]:
        """Sizes in bytes, by key, of the objects at the place itself, without folders below it."""
        ...

    async def move(self, old: str, new: str) -> None:
        """Copy within the store, then delete ``old``. If only ``new`` exists, it is already done."""
        ...

    async def delete(self, key: str) -> None:
        """Delete an object; one that is already gone is fine."""
        ...
