"""Group commit: lines added during an fsync share the next one.

Each group of lines is one append and one fsync, in a separate thread, without a timer: the next group is
written when the last one is on disk. A failed write is undone, so that the file holds whole lines; after
a failed fsync nothing more is written, since the kernel may have dropped data that it could not write.
A file that was moved with all that it held takes the answers on their way, and the run ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from batcher.disk import AppendFile, Disk, cannot_write, is_full
from batcher.errors import BatcherError, RunDirError


class GroupCommit:
    """Appends lines to a file with no other writer. ``reserve`` is freed when the disk is full.

    ``committed`` is called after each group with the size up to which the file is durable.
    """

    def __init__(
        self, path: Path, file: AppendFile, reserve: Path, disk: Disk, committed: Callable[[int], None]
    ) -> None:
        self.error: BatcherError | None = None
        self.full = False
        self.end = 0
        """Byte offset of the next line."""
        self.group_start = 0
        """Byte offset of the next line's group."""
        self.before_write: Callable[[], None] = lambda: None
        """Called in the thread before each group is written."""
        self.first_written: Callable[[], None] | None = None
        """Called once, when the first group is durable; only if the file was empty."""
        self.if_moved: Callable[[RunDirError], None] = lambda error: None
        """Called after each group that was written although the file is no longer at its path."""
        self.moved: RunDirError | None = None
        self._path = path
        self._file = file
        self._reserve = reserve
        self._disk = disk
        self._committed = committed
        self._lines: list[bytes] = []
        self._pump: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def begin_at(self, size_bytes: int) -> None:
        """Continue at the end of the file."""
        self.end = self.group_start = size_bytes

    @property
    def is_idle(self) -> bool:
        """Whether all added lines are on disk."""
        return self._pump is None and self.error is None

    def add(self, line: bytes) -> asyncio.Future[None]:
        """Add a line; the future is done when it is durable, and cancelling it does not stop the write.

        Raises the error that ended the file.
        """
        if self.error is not None:
            raise self.error
        durable = asyncio.get_running_loop().create_future()
        self._lines.append(line)
        self._waiting.append(durable)
        self.end += len(line)
        if self._pump is None:
            self._pump = asyncio.create_task(self._commit_groups())
        return durable

    async def settled(self) -> None:
        """Wait for pending writes. Raises nothing: errors go to the callers that added the lines."""
        if self._pump is not None:
            await asyncio.shield(self._pump)

    async def _commit_groups(self) -> None:
        while self._lines:
            waiting, data, start = self._waiting, b"".join(self._lines), self.group_start
            self._waiting, self._lines, self.group_start = [], [], self.end
            try:
                await self._disk.run(partial(self._write_group, data, start))
            except (OSError, BatcherError) as error:
                self._fail(error, waiting)
                break
            if self.moved is not None:
                self.if_moved(self.moved)
            for durable in waiting:
                if not durable.done():  # cancelled by its caller
                    durable.set_result(None)
            self._committed(start + len(data))
        self._pump = None

    def _write_group(self, data: bytes, start: int) -> None:
        self.before_write()
        if self._file.size_at_path() != start:
            self._follow(start)
        try:
            self._write_whole(data, start)
        except OSError as error:
            if self.full or not is_full(error):
                raise
            self.full = True
            self._disk.remove(self._reserve)
            self._write_whole(data, start)
        self._file.sync()
        if self.first_written is not None:
            first_written, self.first_written = self.first_written, None
            with suppress(OSError):  # optional: skipped if there is no room for it
                first_written()

    def _follow(self, start: int) -> None:
        """Go on in a file that was only moved: answers on their way are lost otherwise.

        Raises RunDirError if it is not as this run left it.
        """
        moved = self._file.moved_to()
        if moved is None or moved[1] != start:
            raise RunDirError(
                f"{self._path}: was changed or replaced by something else while this run wrote it; "
                "stopped so as not to lose track"
            )
        self.moved = RunDirError(
            f"{self._path}: was moved to {moved[0]} while this run wrote it. What the API answered is "
            "recorded there: run again with that run directory (-o), or after moving it back"
        )

    def _write_whole(self, data: bytes, start: int) -> None:
        """Write all of ``data`` or, if that fails, none of it."""
        try:
            self._file.write(data)
        except OSError:
            self._file.truncate(start)
            raise

    def _fail(self, error: OSError | BatcherError, waiting: list[asyncio.Future[None]]) -> None:
        """End the file: a failed write or fsync is never retried.

        A line that is not awaited may fail silently: the next one raises the same error.
        """
        self.error = cannot_write(self._path, error) if isinstance(error, OSError) else error
        for durable in (*waiting, *self._waiting):
            if not durable.done():
                durable.set_exception(self.error)
                durable.exception()  # retrieved, so that asyncio doesn't warn
        self._waiting, self._lines = [], []
