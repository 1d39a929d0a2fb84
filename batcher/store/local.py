"""The run directory: its layout, how complete results get there, and whether they are intact.

::

    output/<batch>/
      ledger.jsonl      the only state
      metadata.jsonl    derived from it: one line per output file
      media/            outputs, each of them whole
      superseded/       outputs of attempts that were bought again
      .batcher/         lock, partial downloads, a reserve for a full disk
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from batcher.disk import Disk, writing
from batcher.errors import BatcherError, RunDirError
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import Replaced
from batcher.jobs.shard import Shard
from batcher.layout import HIDDEN_NAME, MEDIA_NAME, METADATA_NAME, PARTIAL_NAME, SUPERSEDED_NAME
from batcher.ledger.finished import JobRecord
from batcher.store.objects.failures import NoSuchObject

NAMES_NOT_SYNCED = (
    "its file system can't fsync directories; a power failure may lose the names of the newest files, "
    "which the next run fetches again"
)


def superseded_name(name: str, attempt: int) -> str:
    """The name of an output of attempt number ``attempt`` after its job was submitted again."""
    old = PurePosixPath(name)
    return f"{SUPERSEDED_NAME}/{old.stem}.attempt-{attempt}{old.suffix}"


class RunDir:
    """Paths of one run directory, and the moves between them."""

    may_be_a_copy = True
    """Whether another directory may hold the same batch without either knowing."""

    def __init__(self, root: Path, disk: Disk, shard: Shard | None = None) -> None:
        self.root = root
        self._media = root / MEDIA_NAME
        self.metadata = root / METADATA_NAME
        self.hidden = root / HIDDEN_NAME
        self._partials = self.hidden / (PARTIAL_NAME if shard is None else f"{PARTIAL_NAME}.{shard}")
        self._shard = shard
        self._disk = disk
        self._obstacle: str | None = None
        self._moves: list[tuple[Path, Path]] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._settling: asyncio.Task[None] | None = None

    def prepare(self) -> tuple[str, ...]:
        """Make the folders, and delete the partial downloads of dead runs.

        Returns warnings about the file system. Raises RunDirError.
        """
        media = self.root / MEDIA_NAME
        with writing(self.root):
            for folder in (media, self._partials):
                self._disk.make_dirs(folder)
            self._obstacle = self._disk.rename_obstacle(self._partials, media)
            if self._obstacle is None:
                for folder in self._own_partials():
                    for name in self._disk.list_dir(folder):
                        self._disk.remove(folder / name)
            return () if self._disk.sync_dir(self.root) else (f"{self.root}: {NAMES_NOT_SYNCED}",)

    def check_writable(self) -> None:
        """Raises RunDirError if outputs can't be moved into ``media/``. After ``prepare``."""
        if self._obstacle is not None:
            raise RunDirError(
                f"{self._obstacle}: outputs are moved into place whole. Keep the whole run directory on "
                "one file system (move it, and name its new place with -o) or put the folder back"
            )

    def _own_partials(self) -> list[Path]:
        """Folders of partial downloads that no other run can be using; no links to folders."""
        if self._shard is not None:
            return [self._partials]
        names = [
            name
            for name in self._disk.list_dir(self.hidden)
            if name.partition(".")[0] == PARTIAL_NAME and not (self.hidden / name).is_symlink()
        ]
        return [self.hidden / name for name in names]

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Hold the place of the outputs during a run, and leave the ledger there at the end.

        Does nothing if it is this directory, which the ledger's own lock holds.
        Raises LockedError if another state directory holds it, or another run this one; LedgerError if
        the ledger there and the one here are not the same one; RunDirError, CredentialsError.
        """
        yield

    @asynccontextmanager
    async def ledger_folder(self) -> AsyncIterator[Path]:
        """A folder with the ledger that a run would use, only to read. Raises as ``session`` does."""
        yield self.root

    async def segments_elsewhere(self) -> dict[str, int]:
        """The ledger's segments beside the outputs, with their bytes, if the outputs are elsewhere."""
        return {}

    async def fetch_output(self, path: str, folder: Path) -> tuple[Path, str]:
        """A file with an output's bytes, here or as a copy in ``folder``, and its SHA-256.

        Raises NoSuchObject if it is missing.
        """
        here = self.root / path
        try:
            with here.open("rb") as file:
                return here, hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise NoSuchObject(str(here)) from None

    def obstacle(self, path: str, size_bytes: int) -> str | None:
        """Why an output can't be read, as far as that is known without reading it; None if it can."""
        name, here = PurePosixPath(path), self.root / path
        if name.is_absolute() or ".." in name.parts:
            return "is outside the run directory: this ledger isn't one of ours"
        whole = here.is_file() and here.stat().st_size == size_bytes
        return None if whole else "missing, or not as long as the ledger says"

    def place(self, path: str) -> str:
        """Where an output is, for messages."""
        return str(self.root / path)

    async def look(self) -> None:
        """List outputs that are stored elsewhere: nothing to do if they are in this directory."""

    def is_ours(self, job_id: str) -> bool:
        """Whether no other shard can be working on a job."""
        return self._shard is None or self._shard.has(job_id)

    def partial(self, job_id: str, index: int) -> Path:
        """The path to which output ``index`` of a job is downloaded."""
        return self._partials / f"{job_id}.{index}.part"

    async def write_partial(self, job_id: str, index: int, content: bytes) -> None:
        """Write an output that came without a download, durably, to its ``partial`` path."""
        path = self.partial(job_id, index)
        await self._disk.run(partial(self._disk.write_whole, path, [content]))

    def publish(self, source: Path, name: str) -> str:
        """Queue a complete, fsynced file for ``media/``; returns its path in the run directory.

        There, and durable, after ``settle``.
        """
        self.check_writable()
        self._moves.append((source, self._media / name))
        return f"{MEDIA_NAME}/{name}"

    def namesakes(self, name: str) -> list[str]:
        """The files under ``media/`` with this name; in any case if the file system ignores case."""
        if self._disk.size(self._media / name) is None:
            return []
        names = self._disk.list_dir(self._media)
        return [name] if name in names else [n for n in names if n.casefold() == name.casefold()]

    async def outputs(self) -> AsyncIterator[str]:
        """Paths of the files under ``media/`` and ``superseded/``, also those not in the ledger."""
        for folder in (MEDIA_NAME, SUPERSEDED_NAME):
            for name in self._disk.list_dir(self.root / folder):
                yield f"{folder}/{name}"

    async def keep(self, files: tuple[Artifact, ...]) -> None:
        """Store complete outputs from ``media/`` in their final place: here they are already there.

        Durable on return; idempotent.
        """

    def discard_local_copies(self, files: tuple[Artifact, ...]) -> None:
        """Delete copies of outputs that are stored elsewhere: here there are none."""

    async def settle(self) -> None:
        """Move published files into place, durably. Callers during a sync share the next one."""
        settled = asyncio.get_running_loop().create_future()
        self._waiting.append(settled)
        if self._settling is None:
            self._settling = asyncio.create_task(self._settle_groups())
        await settled  # cancelling a caller does not stop the sync

    async def _settle_groups(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                moves, self._moves = self._moves, []
                try:
                    await self._disk.run(partial(self._move, moves))
                except (OSError, BatcherError) as error:
                    for settled in _open(waiting):
                        settled.set_exception(error)
                else:
                    for settled in _open(waiting):
                        settled.set_result(None)
        finally:
            self._settling = None

    def _move(self, moves: list[tuple[Path, Path]]) -> None:
        for source, target in moves:
            self._disk.rename(source, target)
        self._disk.sync_dir(self._media)

    async def set_aside(self, replaced: Replaced) -> None:
        """Move the files of a superseded attempt out of the dataset, durably.

        Idempotent: moved files stay moved, and newer files with the same names are not touched.
        """
        await self._disk.run(partial(self._set_aside, replaced))

    def _set_aside(self, replaced: Replaced) -> None:
        self._disk.make_dirs(self.root / SUPERSEDED_NAME)
        self.supersede(replaced.files, replaced.attempt)
        for folder in (self.root / SUPERSEDED_NAME, self.root / MEDIA_NAME, self.root):
            self._disk.sync_dir(folder)

    def supersede(self, files: tuple[Artifact, ...], attempt: int) -> None:
        """Move the files of attempt number ``attempt`` out of the dataset. Not yet durable."""
        for artifact in files:
            self.make_way(PurePosixPath(artifact.path).name, attempt)

    def make_way(self, name: str, attempt: int) -> None:
        """Move an output of attempt number ``attempt`` with this name, if there is one, out of the way.

        If that was done before, the file with this name is of a later attempt and may be replaced.
        """
        old = self.root / MEDIA_NAME / name
        target = self.root / superseded_name(name, attempt)
        if self._disk.size(old) is not None and self._disk.size(target) is None:
            self._disk.rename(old, target)

    def missing(self, record: JobRecord) -> list[int]:
        """Indexes of a done job's files that are missing or have another size."""
        return [
            index
            for index, artifact in enumerate(record.files)
            if self._disk.size(self.root / artifact.path) != artifact.bytes
        ]

    async def problem_with(self, artifact: Artifact) -> str | None:
        """What is wrong with an output that differs from its record; hashes the file again."""
        path = self.root / artifact.path
        size = self._disk.size(path)
        if size is None:
            return "missing"
        if size != artifact.bytes:
            return f"{size} bytes instead of {artifact.bytes}"
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return f"can't be read: {error.strerror}"
        return None if digest == artifact.sha256 else "its bytes have changed (SHA-256 differs)"


def _open(futures: list[asyncio.Future[None]]) -> Iterator[asyncio.Future[None]]:
    """Those whose callers were not cancelled."""
    return (future for future in futures if not future.done())
