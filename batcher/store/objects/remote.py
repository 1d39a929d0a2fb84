"""A bucket in object storage, through the library ``obstore``."""

from __future__ import annotations

import asyncio
import atexit
import hashlib
from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import AlreadyExistsError, NotSupportedError

from batcher.disk import reading
from batcher.errors import RunDirError
from batcher.store.objects.failures import NoSuchObject, StoreUnavailable, talking
from batcher.store.objects.local_files import Parts, Staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from obstore.store import ObjectStore

    from batcher.store.objects.interface import StoreRetries
    from batcher.store.objects.place import BucketLocation

PART_BYTES: Final = 8 << 20
"""Bytes of one uploaded part or downloaded piece, which a retry repeats. S3 needs at least 5 MiB."""
PARTS_MAX: Final = 9_000
"""S3 accepts 10,000 parts; larger files get larger parts."""
PARTS_AT_ONCE: Final = 2
"""Concurrent parts of one file. They are in memory, and as many again are being read."""
LIST_AT_ONCE: Final = 1000
SHA256_NAME: Final = "sha256"
"""The metadata name of an object's hash, for users and other tools."""

EXIT_WAIT_S: Final = 0.05
"""A library thread that has just returned a result still releases Python objects. If the interpreter
shuts down at that moment, the process aborts (SIGABRT), although all work is done. Seconds."""
atexit.register(Event().wait, EXIT_WAIT_S)


class RemoteBucket:
    """See :class:`~batcher.store.objects.interface.Bucket`.

    A file of more than one part is sent as a multipart upload: it becomes visible in one step when all
    parts are there. S3 checks each part against its SHA-256 as it arrives. The size is asked for
    afterwards.
    """

    def __init__(self, place: BucketLocation, store: ObjectStore, patience: StoreRetries) -> None:
        self._place = place
        self._store = store
        self._patience = patience

    @property
    def url(self) -> str:
        return self._place.url

    async def put_file(self, path: Path, key: str, sha256_hex: str, media_type: str | None) -> None:
        self._place.checked(key)
        with reading(path):
            size_bytes = path.stat().st_size
        parts = Parts(path, sha256_hex, max(PART_BYTES, -(-size_bytes // PARTS_MAX)))
        attributes = {SHA256_NAME: sha256_hex} | ({"Content-Type": media_type} if media_type else {})
        try:
            if size_bytes <= PART_BYTES:
                await self._put_whole(key, await _all_of(parts), attributes)
            else:
                await self._put_parts(key, parts, attributes)
        finally:
            parts.close()
        await self._confirm(key, size_bytes)

    async def put_bytes(self, key: str, data: bytes) -> None:
        self._place.checked(key)
        await self._put_whole(key, data, {})
        await self._confirm(key, len(data))

    async def put_new(self, key: str, data: bytes) -> bool:
        self._place.checked(key)
        with talking(self._place, key, "write"):
            try:
                await obstore.put_async(self._store, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                # It may be ours: the library repeats a request whose answer was lost.
                return await self.get_bytes(key) == data
            except NotSupportedError:
                raise RunDirError(
                    f"{self._place.named(key)}: this store can't tell whether an object is new "
                    "(If-None-Match), so two runs could share the place unnoticed; use another store"
                ) from None
        return True

    async def get_bytes(self, key: str) -> bytes | None:
        self._place.checked(key)
        with suppress(NoSuchObject), talking(self._place, key, "read"):
            answer = await obstore.get_async(self._store, key)
            return bytes(await answer.bytes_async())
        return None

    async def get_file(self, key: str, path: Path) -> str:
        staged, digest = await asyncio.to_thread(Staged, path), hashlib.sha256()
        try:
            async for piece in self._pieces(key):
                digest.update(piece)
                await asyncio.to_thread(staged.write, piece)
            await asyncio.to_thread(staged.keep)
        finally:
            staged.drop()
        return digest.hexdigest()

    async def size(self, key: str) -> int | None:
        self._place.checked(key)
        with suppress(NoSuchObject), talking(self._place, key, "look at"):
            return (await obstore.head_async(self._store, key))["size"]
        return None

    async def sha256(self, key: str) -> str | None:
        digest = hashlib.sha256()
        with suppress(NoSuchObject):
            async for piece in self._pieces(key):
                await asyncio.to_thread(digest.update, piece)
            return digest.hexdigest()
        return None

    async def list(self, folder: str = "") -> AsyncIterator[tuple[str, int]]:
        if folder:
            self._place.checked(folder)
        with talking(self._place, folder, "list"):
            async for found in obstore.list(self._store, folder or None, chunk_size=LIST_AT_ONCE):
                for meta in found:
                    yield meta["path"], meta["size"]

    async def sizes(self) -> dict[str, int]:
        with talking(self._place, "", "list"):
            found = await obstore.list_with_delimiter_async(self._store)
        return {meta["path"]: meta["size"] for meta in found["objects"]}

    async def move(self, old: str, new: str) -> None:
        self._place.checked(old)
        self._place.checked(new)
        size_bytes = await self.size(old)
        if size_bytes is None:
            if await self.size(new) is None:
                raise NoSuchObject(f"{self._place.named(old)}: can't move: there is no such object")
            return
        with talking(self._place, old, "copy"):
            await obstore.copy_async(self._store, old, new)
        await self._confirm(new, size_bytes)
        await self.delete(old)

    async def delete(self, key: str) -> None:
        self._place.checked(key)
        with suppress(NoSuchObject), talking(self._place, key, "delete"):
            await obstore.delete_async(self._store, key)

    async def _put_whole(self, key: str, data: bytes, attributes: dict[str, str]) -> None:
        with talking(self._place, key, "write"):
            await obstore.put_async(self._store, key, data, attributes=attributes, use_multipart=False)

    async def _put_parts(self, key: str, parts: Parts, attributes: dict[str, str]) -> None:
        """A multipart upload that fails when cancelled.

        The library deletes the parts if their source fails, but not if its own call is
        cancelled.
        An upload whose last part was already passed on may still complete.
        """
        sending = asyncio.ensure_future(
            obstore.put_async(
                self._store,
                key,
                parts,
                attributes=attributes,
                use_multipart=True,
                chunk_size=parts.part_bytes,
                max_concurrency=PARTS_AT_ONCE,
            )
        )
        try:
            with talking(self._place, key, "write"):
                await asyncio.shield(sending)
        except asyncio.CancelledError:
            parts.stop()
            await asyncio.wait([sending], timeout=self._patience.cancel_s)
            raise
        finally:
            _let_go(sending)

    async def _confirm(self, key: str, size_bytes: int) -> None:
        """Check the size that arrived: not every store checks hashes."""
        stored_bytes = await self.size(key)
        if stored_bytes != size_bytes:
            raise StoreUnavailable(
                f"{self._place.named(key)}: {size_bytes} bytes were sent, but the store has "
                f"{stored_bytes or 0}; run again"
            )

    async def _pieces(self, key: str) -> AsyncIterator[bytes]:
        """All bytes of one version of an object. Raises NoSuchObject if there is none."""
        self._place.checked(key)
        with talking(self._place, key, "read"):
            meta = await obstore.head_async(self._store, key)
            for start in range(0, meta["size"], PART_BYTES):
                answer = await obstore.get_async(
                    self._store,
                    key,
                    options={
                        "range": (start, min(start + PART_BYTES, meta["size"])),
                        "if_match": meta["e_tag"],
                    },
                )
                yield bytes(await answer.bytes_async())


def _let_go(sending: asyncio.Future[obstore.PutResult]) -> None:
    """End it if it still runs; its outcome was handled or is no longer needed."""
    if not sending.cancel() and not sending.cancelled():
        sending.exception()


async def _all_of(parts: Parts) -> bytes:
    return b"".join([part async for part in parts])
