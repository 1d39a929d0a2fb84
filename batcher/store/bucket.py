"""Opens a run directory: its outputs beside it, or in a bucket."""

from __future__ import annotations

from pathlib import Path

from batcher.disk import Disk
from batcher.errors import UsageError
from batcher.jobs.shard import Shard
from batcher.layout import HOLDER_KEY, MEDIA_NAME
from batcher.ledger.segments import segments_in
from batcher.store.bucket_outputs import BucketRunDir, bucket_url_of
from batcher.store.local import RunDir
from batcher.store.objects.opening import open_bucket


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
