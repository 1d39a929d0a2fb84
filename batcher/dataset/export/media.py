"""Where an export takes media from: the run directory, or the bucket that has them."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from batcher.dataset.export.writer import Filed
from batcher.disk import Disk
from batcher.errors import InputError
from batcher.store.bucket import open_run_dir
from batcher.store.bucket_outputs import BucketRunDir
from batcher.store.objects.failures import NoSuchObject

Source = Callable[[list[dict[str, Any]]], Filed]
"""Rows, each with the path of its media file: whole, as long as it is the row at hand."""


def unread(run_dir: Path, rows: list[dict[str, Any]]) -> Filed:
    """For formats that only name their media."""
    return ((row, run_dir / row["file_name"]) for row in rows)


@contextmanager
def media_of(run_dir: Path, disk: Disk) -> Iterator[Source]:
    """The media of a run directory; from a bucket they are fetched one by one, as they are read.

    What it yields raises InputError for what is missing or damaged, RunDirError and CredentialsError
    where a bucket can't be read. Needs a thread without an event loop.
    """
    tree = open_run_dir(run_dir, disk)
    if not isinstance(tree, BucketRunDir):
        yield partial(_beside, run_dir)
        return
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory(prefix="batcher-") as folder:
        yield partial(_fetched, tree, runner, Path(folder))


def _beside(run_dir: Path, rows: list[dict[str, Any]]) -> Filed:
    """Media on this disk. A link to a file elsewhere will do, if the bytes are right."""
    for row in rows:
        path, name = run_dir / row["file_name"], PurePosixPath(row["file_name"])
        if name.is_absolute() or ".." in name.parts:
            raise InputError(f"{path}: lies outside the run directory: this ledger isn't one of ours")
        if not path.is_file() or path.stat().st_size != row["bytes"]:
            raise _refusal(str(path), "missing, or not as long as the ledger says")
    return _unchanged(unread(run_dir, rows))


def _unchanged(rows: Filed) -> Filed:
    for row, path in rows:
        with path.open("rb") as file:
            sha256_hex = hashlib.file_digest(file, "sha256").hexdigest()
        _check(sha256_hex, row, str(path))
        yield row, path


def _fetched(
    tree: BucketRunDir, runner: asyncio.Runner, folder: Path, rows: list[dict[str, Any]]
) -> Filed:
    for row in rows:
        key, path = row["file_name"], folder / Path(row["file_name"]).name
        try:
            sha256_hex = runner.run(tree.bucket.get_file(key, path))
        except NoSuchObject:
            raise _refusal(f"{tree.bucket.url}/{key}", "missing") from None
        _check(sha256_hex, row, f"{tree.bucket.url}/{key}")
        yield row, path
        path.unlink()


def _check(sha256_hex: str, row: dict[str, Any], name: str) -> None:
    if sha256_hex != row["sha256"]:
        raise _refusal(name, "not what the ledger says (SHA-256 differs)")


def _refusal(name: str, what: str) -> InputError:
    return InputError(
        f"{name}: {what}: run the batch again to fetch it, or leave the job out with --except"
    )
