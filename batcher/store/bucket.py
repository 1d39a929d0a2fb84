"""A run directory whose outputs are in a bucket.

The ledger, while it is written, and all our other files are in a *state directory* on a local or shared
disk. Each output goes to ``media/`` in the bucket before its job is ``done``; its local copy is deleted
afterwards. When a run ends, it copies ledger and metadata to the bucket, so that another machine can
resume the batch. During a run, an object in the bucket says so: if the disk is lost, the bucket does not
show what it held, and guessing would buy it again.

``outputs`` is the run directory, ``holding`` locks the bucket for writing, ``copies`` moves the
ledger.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec

from batcher.disk import Disk, writing
from batcher.errors import BatcherError, UsageError
from batcher.jobs.shard import Shard
from batcher.layout import BUCKET_NAME, CARD_NAME, HIDDEN_NAME, HOLDER_KEY, MEDIA_NAME, METADATA_NAME
from batcher.ledger.segments import segment_name, segments_in
from batcher.store.bucket_outputs import BucketRunDir
from batcher.store.claim import Presence, claim, is_ours, release
from batcher.store.ledger_copy import bring, hand_over, is_behind
from batcher.store.local import RunDir
from batcher.store.objects.opening import open_bucket


@asynccontextmanager
async def claimed(run_dir: RunDir, shard: Shard | None, disk: Disk) -> AsyncIterator[None]:
    """Hold the bucket, if there is one, during a run, and copy the ledger to it at the end.

    Raises LockedError if another state directory holds it, or another run this state directory;
    LedgerError if the ledger there and the one here are not the same one; RunDirError,
    CredentialsError.
    """
    if not isinstance(run_dir, BucketRunDir):
        yield
        return
    await is_ours(run_dir.bucket, run_dir.root)  # before anything is made here
    with writing(run_dir.hidden):
        disk.make_dirs(run_dir.hidden)
    presence = Presence(run_dir.hidden, shard, disk)
    with ExitStack() as held:
        async with presence.settling():
            held.callback(presence.enter())
            anew = await _begin(run_dir, disk)
        try:
            yield
        except BatcherError:
            with suppress(BatcherError):
                await _end(run_dir, presence, disk, anew=anew)
            raise
        await _end(run_dir, presence, disk, anew=anew)


async def _begin(run_dir: BucketRunDir, disk: Disk) -> bool:
    """Claim the bucket and fetch its ledger; returns whether it was unclaimed before."""
    bucket, root = run_dir.bucket, run_dir.root
    anew = await claim(bucket, root, disk)
    try:
        if bucket_url_of(root) != bucket.url:
            disk.write_whole(
                root / HIDDEN_NAME / BUCKET_NAME, [msgspec.json.encode({"url": bucket.url})]
            )
        await bring(bucket, root, disk)
    except BatcherError:
        if anew:
            with suppress(BatcherError):
                await release(bucket, root, disk)
        raise
    return anew


async def _end(run_dir: BucketRunDir, presence: Presence, disk: Disk, *, anew: bool) -> None:
    """Copy ledger and metadata to the bucket, and release it if no other shard is running.

    A run that never started its work changes nothing. If the store fails, we keep the claim.
    """
    if run_dir.store_failed:
        return
    async with presence.settling():
        alone = presence.is_alone()
        if run_dir.at_work:
            if await claim(run_dir.bucket, run_dir.root, disk):  # our claim was deleted by hand
                await bring(run_dir.bucket, run_dir.root, disk)
            own = segment_name(presence.shard)
            names = [*segments_in(run_dir.root, disk), METADATA_NAME, CARD_NAME] if alone else [own]
            await hand_over(run_dir.bucket, run_dir.root, names, disk)
        if alone and (anew or run_dir.at_work):
            await release(run_dir.bucket, run_dir.root, disk)


class _Passing(type(Path())):  # type: ignore[misc]
    """A folder that is deleted when its last reference is gone.

    A snapshot keeps a reference, because it reads lines of the ledger when needed.
    """


@asynccontextmanager
async def ledger_to_read(run_dir: RunDir, disk: Disk) -> AsyncIterator[Path]:
    """A folder with the ledger that a run would use, for reading only. Raises as ``claimed`` does."""
    if not isinstance(run_dir, BucketRunDir):
        yield run_dir.root
        return
    bucket, root = run_dir.bucket, run_dir.root
    await is_ours(bucket, root)
    if not await is_behind(bucket, root, disk):
        await bring(bucket, root, disk)  # which only compares
        yield root
        return
    folder = _Passing(tempfile.mkdtemp(prefix="batcher-"))
    weakref.finalize(folder, shutil.rmtree, str(folder), ignore_errors=True)
    for name in segments_in(root, disk):
        (folder / name).symlink_to((root / name).resolve())
    await bring(bucket, folder, disk)
    yield folder


def open_run_dir(
    root: Path, disk: Disk, shard: Shard | None = None, bucket_url: str | None = None
) -> RunDir:
    """The run directory at ``root``, with its bucket if its outputs are in one.

    Raises UsageError if they are in another one than ``bucket_url``, and what ``open_bucket`` does.
    """
    holds_batch = bool(segments_in(root, disk))
    # If a run did nothing, the directory is not bound to the bucket that it tried.
    is_tied = holds_batch or disk.size(root / HOLDER_KEY) is not None
    known_url = bucket_url_of(root) if is_tied else None
    if bucket_url is None and known_url is None:
        return RunDir(root, disk, shard)
    if known_url is None and holds_batch:
        raise UsageError(
            f"{root}: holds a batch with its outputs beside it; choose another --state-dir for "
            f"{bucket_url}"
        )
    bucket = open_bucket(bucket_url or known_url or "")
    if known_url is not None and bucket.url != known_url:
        raise UsageError(
            f"{root}: its outputs lie in {known_url}, not in {bucket.url}; choose another --state-dir"
        )
    return BucketRunDir(root, disk, shard, bucket)


def outputs_place(root: Path) -> str:
    """The place of a run directory's outputs, for messages."""
    bucket_url = bucket_url_of(root)
    return f"{bucket_url}/{MEDIA_NAME}" if bucket_url is not None else str(root / MEDIA_NAME)


def bucket_url_of(root: Path) -> str | None:
    """The bucket URL of a state directory; None for a run directory that holds its own outputs."""
    try:
        found = msgspec.json.decode((root / HIDDEN_NAME / BUCKET_NAME).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return found.get("url")
