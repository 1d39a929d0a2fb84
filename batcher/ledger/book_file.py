"""The file of the account's book: ``book.jsonl`` in the user's state directory.

A line is about one attempt of one job, or (``fold``) about all attempts of one day, model and run
directory that ended long ago. Lines are appended whole. Appending takes a shared ``flock`` of the
file, replacing it an exclusive one, so that no line goes to a file that was replaced.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec

from batcher.disk import Disk, writing
from batcher.errors import LedgerError, LockedError, RunDirError

BOOK_VARIABLE = "BATCHER_BOOK_DIR"
XDG_STATE_VARIABLE = "XDG_STATE_HOME"
BOOK_NAME = "book.jsonl"
LOCK_S = 30.0
RESERVE, SETTLE, FOLD, UNTIL, WAIT = "reserve", "settle", "fold", "until", "wait"
Key = tuple[str, str, int]
"""Run directory, job, number of the attempt."""


class Entry(msgspec.Struct, omit_defaults=True, gc=False):
    """One line. ``at`` is UTC in ISO 8601: the time of the reservation, also in a ``settle`` line.

    ``reserve``: the attempt's request may be unfinished. ``settle``: it has ended, at this cost.
    ``fold``: many attempts that ended; ``paid`` has a number for each that cost something. ``until``:
    those that ended and were reserved before ``at`` are folded.
    ``wait``: a run waits for ``--account-concurrency``.
    """

    kind: str
    at: str
    api: str
    run_dir: str
    job: str
    attempt: int
    usd: float
    model: str | None = None
    digest: str | None = None
    paid: tuple[int, ...] = ()

    @property
    def key(self) -> Key:
        """The attempt that the line is about."""
        return self.run_dir, self.job, self.attempt


def state_dir(env: Mapping[str, str], home: Path) -> Path:
    """The folder of the book. A relative XDG path is ignored, as the XDG spec asks."""
    if chosen := env.get(BOOK_VARIABLE, "").strip():
        return Path(chosen)
    xdg = Path(env.get(XDG_STATE_VARIABLE, "").strip())
    return (xdg if xdg.is_absolute() else home / ".local" / "state") / "batcher"


_decode = msgspec.json.Decoder(Entry).decode
_encode = msgspec.json.Encoder().encode


class BookFile:
    """Reads complete lines, appends lines, replaces the whole file."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.path = folder / BOOK_NAME
        self.lines = 0
        """How many lines were read."""
        self.disk = disk
        self._read_bytes = 0
        self._last_line = b""
        self._inode = 0

    def lock(self, patience_s: float = LOCK_S) -> Callable[[], None]:
        """Lock the book for a decision that depends on its content; returns a function that unlocks.

        Raises RunDirError.
        """
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return self.disk.lock(self.path.with_name(f"{BOOK_NAME}.lock"), patience_s)
            except LockedError:
                raise RunDirError(f"{self.path}: another process holds it for {LOCK_S:.0f} s") from None

    def news(self, forget: Callable[[], None] = lambda: None) -> Iterator[Entry]:
        """The lines since the last call; all lines, after ``forget()``, if the file was replaced.

        Raises LedgerError for a line that can't be read.
        """
        try:
            with self.path.open("rb") as file:
                if not self._is_the_same(file.fileno()):
                    self._read_bytes = self.lines = 0
                    forget()
                file.seek(self._read_bytes)
                yield from self._entries(file)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise LedgerError(f"{self.path}: {error.strerror or error}") from error

    def _is_the_same(self, descriptor: int) -> bool:
        """Whether the file still begins with what was read. An inode alone may be used again."""
        inode, known = os.fstat(descriptor).st_ino, self._inode
        self._inode = inode
        begin = self._read_bytes - len(self._last_line)
        return inode == known and os.pread(descriptor, len(self._last_line), begin) == self._last_line

    def _entries(self, file: Iterable[bytes]) -> Iterator[Entry]:
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            self.lines += 1
            self._read_bytes += len(raw)
            self._last_line = raw
            if raw.strip():
                yield self._entry(raw)

    def _entry(self, raw: bytes) -> Entry:
        try:
            entry = _decode(raw)
            datetime.fromisoformat(entry.at)
        except (msgspec.MsgspecError, ValueError):
            raise LedgerError(
                f"{self.path}:{self.lines}: not a line of the book; `batcher spend --rebuild` makes it "
                "again from the ledgers"
            ) from None
        # Each is the same in thousands of lines, which a run keeps.
        entry.api, entry.run_dir = sys.intern(entry.api), sys.intern(entry.run_dir)
        entry.model = sys.intern(entry.model) if entry.model is not None else None
        return entry

    def line_count(self) -> int:
        """How many lines the file has now; 0 if it can't be read."""
        with suppress(OSError), self.path.open("rb") as file:
            return sum(1 for _ in file)
        return 0

    def readable(self) -> Iterator[Entry]:
        """Every readable line from the beginning; skips the others without an error."""
        with suppress(OSError), self.path.open("rb") as file:
            for raw in file:
                with suppress(LedgerError):
                    yield self._entry(raw)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """While it is open, no process appends. Needs the lock; keep it short. Raises RunDirError."""
        with writing(self.path):
            descriptor = self._opened(fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(descriptor)

    def replace(self, entries: Iterable[Entry]) -> None:
        """Replace the content with ``entries``. Needs ``exclusive``. Raises RunDirError."""
        with writing(self.path):
            for left in self.path.parent.glob(f".{BOOK_NAME}.*.tmp"):  # of a process that was killed
                left.unlink(missing_ok=True)
            self.disk.write_whole(self.path, (_encode(entry) + b"\n" for entry in entries))

    def append(self, entries: list[Entry]) -> None:
        """Add lines, in one write. Raises RunDirError."""
        data = b"".join(_encode(entry) + b"\n" for entry in entries)
        with writing(self.path):
            descriptor = self._opened(fcntl.LOCK_SH)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    data = b"\n" + data  # end the partial line of a dead process
                if os.write(descriptor, data) != len(data):
                    raise RunDirError(f"{self.path}: no space left on the disk")
            finally:
                os.close(descriptor)

    def _opened(self, operation: int) -> int:
        """The descriptor of the file, locked; made if there is none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, operation)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), self.path.stat()):
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # it was replaced meanwhile
