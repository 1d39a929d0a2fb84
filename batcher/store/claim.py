"""The claim on a bucket: only the runs of one state directory may write to it.

An object in the bucket names the state directory; only that directory knows its content, so that no
other can mistake it for its own. It outlives its run: a dead run's state is only on its disk. In the
state directory each run has a lock, which ends with it: the last run to end releases the bucket.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from batcher.disk import Disk, writing
from batcher.errors import LockedError
from batcher.jobs.shard import Shard
from batcher.layout import AT_WORK_NAME, HOLDER_KEY, SETTLING_NAME
from batcher.store.objects.interface import Bucket

SETTLING_PATIENCE_S = 600.0
"""How long a run waits, in seconds, for another shard that fetches or copies its ledger."""


class Holder(msgspec.Struct, frozen=True):
    """The object in the bucket while it is held."""

    host: str
    state_dir: str
    token: str


class Presence:
    """The runs that use one state directory, as seen by one of them."""

    def __init__(self, hidden: Path, shard: Shard | None, disk: Disk) -> None:
        self.shard = shard
        self._hidden = hidden
        self._own = AT_WORK_NAME if shard is None else f"{AT_WORK_NAME}.{shard}"
        self._disk = disk

    @asynccontextmanager
    async def settling(self) -> AsyncIterator[None]:
        """For code during which no run may start or end. Raises LockedError."""
        path = self._hidden / SETTLING_NAME
        leave = await asyncio.to_thread(self._disk.lock, path, SETTLING_PATIENCE_S)
        try:
            yield
        finally:
            leave()

    def enter(self) -> Callable[[], None]:
        """Mark this run active; returns what ends that. Raises LockedError if the same run is."""
        return self._disk.lock(self._hidden / self._own)

    def is_alone(self) -> bool:
        """Whether no other run is active."""
        names = self._disk.list_dir(self._hidden)
        others = [name for name in names if name.partition(".")[0] == AT_WORK_NAME and name != self._own]
        try:
            for name in others:
                self._disk.lock(self._hidden / name)()
        except LockedError:
            return False
        return True


async def is_ours(bucket: Bucket, root: Path) -> bool:
    """Whether this state directory holds the bucket; False if none does.

    Raises LockedError if another one does.
    """
    held = await bucket.get_bytes(HOLDER_KEY)
    if held is None:
        return False
    if held != _own_words(root):
        raise _refusal(bucket, held)
    return True


async def claim(bucket: Bucket, root: Path, disk: Disk) -> bool:
    """Hold the bucket; returns whether it was free before. Raises LockedError if another holds it."""
    if await is_ours(bucket, root):
        return False
    path = root / HOLDER_KEY
    words = _own_words(root)
    if words is None:
        ours = Holder(socket.gethostname(), str(root.resolve()), uuid.uuid4().hex)
        words = msgspec.json.encode(ours)
        with writing(path):
            disk.write_whole(path, [words])
    if not await bucket.put_new(HOLDER_KEY, words):
        disk.remove(path)
        raise _refusal(bucket, await bucket.get_bytes(HOLDER_KEY) or b"")
    return True


async def release(bucket: Bucket, root: Path, disk: Disk) -> None:
    """Release the bucket; does nothing if another directory holds it by now."""
    if await bucket.get_bytes(HOLDER_KEY) == _own_words(root):
        await bucket.delete(HOLDER_KEY)
    with writing(root / HOLDER_KEY):
        disk.remove(root / HOLDER_KEY)


def _own_words(root: Path) -> bytes | None:
    try:
        return (root / HOLDER_KEY).read_bytes()
    except OSError:
        return None


def _refusal(bucket: Bucket, held: bytes) -> LockedError:
    try:
        holder = msgspec.json.decode(held, type=Holder)
        whose = f"{holder.host}:{holder.state_dir}"
    except (msgspec.MsgspecError, UnicodeDecodeError):
        whose = "an unknown state directory"
    return LockedError(
        f"{bucket.url}: a run with the state directory {whose} holds it, or died holding it; continue "
        f"there. If that disk is lost for good, delete the object {HOLDER_KEY}: what was bought since "
        "that run began is then unknown here, and would be bought again"
    )
