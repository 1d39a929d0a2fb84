"""Lines of the ledger: as bytes, as structs, and read back from their places."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from batcher.disk import Disk
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import Event, EventName, RunEvent
from batcher.layout import LEDGER_NAME
from batcher.ledger.segments import SEGMENT_SHIFT
from batcher.ledger.usual_lines import Anything
from batcher.pacing.timings import Lengths

BLOCK_BYTES = 1 << 17
"""Larger ones are memory that is mapped anew each time."""
PIECE_BYTES = 1 << 14
RECENT_MAX = 4096
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
FOLLOWS = "follows"
OFFSET_MASK = (1 << SEGMENT_SHIFT) - 1
_CONTROLS = bytes(code for code in range(0x20) if code not in b"\t\n\r")
_EVENTS = frozenset(EventName)


class Line(Event, omit_defaults=True, gc=False, kw_only=True):
    """Any line about a job, as the fold reads it: fields that the fold doesn't need are skipped."""

    input: Lengths | None = None  # type: ignore[assignment]
    meta: Anything | None = None  # type: ignore[assignment]
    vars: Anything | None = None  # type: ignore[assignment]
    files: tuple[Artifact, ...] | None = None  # type: ignore[assignment]
    job: str = ""
    group: int = -1


class Follows(msgspec.Struct, tag_field="event", tag=FOLLOWS):
    """The line that says how many bytes of other segments precede the lines after it."""

    at: str
    segments: dict[str, int]


class _Foreign(msgspec.Struct):
    """A line of an event that this version doesn't know."""

    event: str
    group: int = -1


decode_line = msgspec.json.Decoder(Line).decode
decode_run = msgspec.json.Decoder(RunEvent).decode
decode_follows = msgspec.json.Decoder(Follows).decode
_decode_event = msgspec.json.Decoder(Event).decode
_decode_foreign = msgspec.json.Decoder(_Foreign).decode
encode = msgspec.json.Encoder().encode


def is_clean(data: bytes) -> bool:
    """Whether ``data`` is text without control characters.

    The decoder skips unknown names unchecked, and one of them may be a corrupted known name.
    """
    return len(data.translate(None, _CONTROLS)) == len(data) and is_text(data)


def is_text(data: bytes) -> bool:
    """Whether ``data`` is UTF-8."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_line(raw: bytes) -> Line | None:
    """A line as a struct; None for an event that this version doesn't know. Raises UNREADABLE."""
    if not is_clean(raw):
        raise msgspec.DecodeError("control characters, or not UTF-8")
    try:
        return decode_line(raw)
    except msgspec.ValidationError:
        if _decode_foreign(raw).event in _EVENTS:
            raise
        return None


def group_of(raw: bytes) -> int:
    """The byte at which a line's group begins. Raises UNREADABLE."""
    read_line(raw)
    return _decode_foreign(raw).group


def foreign_group(raw: bytes) -> int:
    """The same for a line with an event that this version doesn't know; -1 for a blank line."""
    return _decode_foreign(raw).group if raw.strip() else -1


def blocks_of(file: BinaryIO, offset: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Whole lines, some hundreds at a time, each block with its byte offset; from ``file``'s position.

    A last line without its newline is a separate block.
    """
    while data := file.read(BLOCK_BYTES if end is None else min(BLOCK_BYTES, end - offset)):
        if not data.endswith(b"\n"):
            data += file.readline()
        if not data.endswith(b"\n"):
            cut = data.rfind(b"\n") + 1
            if cut:
                yield offset, data[:cut]
            offset, data = offset + cut, data[cut:]
        yield offset, data
        offset += len(data)


def pieces_of(data: bytes) -> Iterator[bytes]:
    """Whole lines, some dozens at a time."""
    begin = 0
    while begin < len(data):
        end = data.find(b"\n", begin + PIECE_BYTES) + 1 or len(data)
        yield data[begin:end]
        begin = end


def lines_of(file: BinaryIO, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Each line with its byte offset and its newline; read in blocks, so that files may be large."""
    for begin, data in blocks_of(file, offset):
        at = begin
        for line in data.removesuffix(b"\n").split(b"\n"):
            raw = data[at - begin : at - begin + len(line) + 1]
            yield at, raw
            at += len(raw)


def events_naming(path: Path, request_id: str, disk: Disk) -> Iterator[Event]:
    """The lines of a segment that contain ``request_id``, in any state of its job."""
    named = encode(request_id)
    with disk.open_read(path) as file:
        for _, raw in lines_of(file):
            if named in raw:
                with suppress(*UNREADABLE):
                    event = _decode_event(raw)
                    if event.request_id == request_id:
                        yield event


class LineReader:
    """Reads lines of a ledger by their places. Segments are opened when needed."""

    def __init__(self, run_dir: Path, disk: Disk) -> None:
        self._run_dir = run_dir
        self._disk = disk
        self._names = [LEDGER_NAME]
        self._files: dict[int, BinaryIO] = {}
        self._recent: dict[int, Event] = {}
        self.close = weakref.finalize(self, _close, self._files)

    def number(self, name: str) -> int:
        """The number of a segment, which is part of its lines' places."""
        if name not in self._names:
            self._names.append(name)
        return self._names.index(name)

    def remember(self, place: int, event: Event) -> None:
        """Cache a line that was just written: most lines are read again soon or never."""
        self._recent[place] = event
        if len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]

    def at(self, place: int) -> Event:
        """The job event at ``place``: the snapshot does not keep it in memory."""
        if (event := self._recent.get(place)) is not None:
            return event
        number = place >> SEGMENT_SHIFT
        file = self._files.get(number)
        if file is None:
            file = self._files[number] = self._disk.open_read(self._run_dir / self._names[number])
        file.seek(place & OFFSET_MASK)
        return _decode_event(file.readline())


def _close(files: dict[int, BinaryIO]) -> None:
    for file in files.values():
        file.close()
    files.clear()


def encode_line(event: Any, group: int) -> bytes:
    """An event as its line, with the byte at which its group begins."""
    return b'%s,"group":%d}\n' % (encode(event)[:-1], group)
