"""The source of an export's media: the run directory, or the bucket that has them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from batcher.dataset.export.writer import Filed
from batcher.disk import Disk
from batcher.errors import InputError
from batcher.store.bucket import open_run_dir
from batcher.store.local import RunDir
from batcher.store.objects.failures import NoSuchObject

Source = Callable[[list[dict[str, Any]]], Filed]
"""Rows, each with the path of its media file, which is only valid until the next row."""


def unread(run_dir: Path, rows: list[dict[str, Any]]) -> Filed:
    """For formats that only contain the names of their media."""
    return ((row, run_dir / row["file_name"]) for row in rows)


@contextmanager
def media_of(run_dir: Path, disk: Disk) -> Iterator[Source]:
    """The media of a run directory; from a bucket they are fetched one by one, as they are read.

    Iterating raises InputError if a file is missing or damaged, RunDirError and CredentialsError if a
    bucket can't be read. Needs a thread without an event loop.
    """
    store = open_run_dir(run_dir, disk)
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory(prefix="batcher-") as folder:
        yield partial(_checked, store, runner, Path(folder))


def _checked(store: RunDir, runner: asyncio.Runner, folder: Path, rows: list[dict[str, Any]]) -> Filed:
    for row in rows:
        if (obstacle := store.obstacle(row["file_name"], row["bytes"])) is not None:
            raise _refusal(store.place(row["file_name"]), obstacle)
    return _read(store, runner, folder, rows)


def _read(store: RunDir, runner: asyncio.Runner, folder: Path, rows: list[dict[str, Any]]) -> Filed:
    for row in rows:
        place = store.place(row["file_name"])
        try:
            path, sha256_hex = runner.run(store.fetch_output(row["file_name"], folder))
        except NoSuchObject:
            raise _refusal(place, "missing") from None
        _check(sha256_hex, row, place)
        yield row, path
        if path.parent == folder:
            path.unlink()


def _check(sha256_hex: str, row: dict[str, Any], name: str) -> None:
    if sha256_hex != row["sha256"]:
        raise _refusal(name, "not what the ledger says (SHA-256 differs)")


def _refusal(name: str, what: str) -> InputError:
    return InputError(
        f"{name}: {what}: run the batch again to fetch it, or leave the job out with --except"
    )
