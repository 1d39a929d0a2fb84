"""The torn tail of a segment: what a crash can leave of the last group of lines, and how it is removed.

A crash leaves a prefix of the last group of lines, or that group with zeros or garbage where sectors
were not written. Anything else has another cause, and is damage, which is not repaired.
"""

from __future__ import annotations

import re
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from batcher.disk import AppendFile, Disk
from batcher.ledger.lines import UNREADABLE, group_of, lines_of

_BEGINNING = b'{"event":"'
_CUT_SHORT = "Input data was truncated"
_AT_BYTE = re.compile(r"\(byte ([0-9]+)\)")
_UNWRITTEN = re.compile(rb"[\0\x80-\xff]{16,}")
_CONTROLS = bytes(code for code in range(0x20) if code != 0x0A)


class Tail(NamedTuple):
    """The end of a segment: its whole lines take ``good_bytes`` of ``size_bytes``."""

    good_bytes: int = 0
    size_bytes: int = 0
    ends_in_newline: bool = True

    @property
    def torn_bytes(self) -> int:
        """Bytes after the last whole line, left by a crash."""
        return self.size_bytes - self.good_bytes


class Damaged(Exception):
    """A line that can't be read, or that is not at the place where it was written."""

    def __init__(self, offset: int, problem: str) -> None:
        self.offset, self.problem = offset, problem


class Spoilt(NamedTuple):
    """A line that can't be read."""

    offset: int
    error: Exception


def _words(error: Exception) -> str:
    """A decoder's message without backquotes, which mark commands in our messages."""
    return str(error).replace("`", "")


def torn_tail(spoilt: Spoilt, group: int, file: BinaryIO) -> Tail:
    """The torn tail that begins with the first unreadable line; raises Damaged if it is not torn.

    A crash can spoil only lines of the group that was being written, which began at or before the
    spoilt line, and only in the ways that ``_is_torn`` accepts.
    """
    size_bytes = spoilt.offset
    file.seek(spoilt.offset)
    for offset, raw in lines_of(file, spoilt.offset):
        size_bytes = offset + len(raw)
        try:
            its_group = group_of(raw)
        except UNREADABLE as error:
            if _is_torn(raw) or not raw.strip():
                continue
            raise Damaged(offset, f"unreadable ({_words(error)}), and no crash leaves this") from error
        if offset == spoilt.offset:
            return Tail(offset, offset)  # it was being written when it was read
        if its_group not in (group, spoilt.offset):
            problem = (
                f"unreadable ({spoilt.error}), and good lines follow it: this is damage, not a crash"
            )
            raise Damaged(spoilt.offset, problem) from spoilt.error
    return Tail(spoilt.offset, size_bytes)


def _is_torn(raw: bytes) -> bool:
    """Whether a crash can have left the unreadable line ``raw`` in the group that was being written."""
    return _was_cut(raw) or _is_unwritten(raw)


def _was_cut(raw: bytes) -> bool:
    """Whether ``raw`` is only the beginning of a line of ours."""
    if raw.endswith(b"\n") or not _BEGINNING.startswith(raw[: len(_BEGINNING)]):
        return False
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        at = _AT_BYTE.search(str(error))
        return str(error).startswith(_CUT_SHORT) or (at is not None and int(at[1]) >= len(raw))
    except UnicodeDecodeError:  # cut within a character
        return True
    return False


def _is_unwritten(raw: bytes) -> bool:
    """Whether ``raw`` is text with parts that are neither text nor text in another encoding."""
    runs = _UNWRITTEN.findall(raw)
    rest = _UNWRITTEN.sub(b"", raw)
    if not any(map(_is_no_text, runs)):
        return False
    return len(rest.translate(None, _CONTROLS)) == len(rest)


def _is_no_text(run: bytes) -> bool:
    try:
        return "\0" in run.decode()
    except UnicodeDecodeError:
        return True


def save_torn(path: Path, tail: Tail, hidden: Path, disk: Disk) -> Path:
    """Save a copy of the bytes about to be dropped in ``hidden``, so that a user can inspect them."""
    name = f"dropped.{path.name}.at-{tail.good_bytes}"
    taken = set(disk.list_dir(hidden))
    names = chain([name], (f"{name}.{number}" for number in count(2)))
    free = next(name for name in names if name not in taken)
    with disk.open_read(path) as file:
        file.seek(tail.good_bytes)
        disk.write_whole(hidden / free, [file.read(tail.torn_bytes)])
    return hidden / free


def mend(file: AppendFile, tail: Tail) -> int:
    """Make the file end with a whole line; returns its size in bytes."""
    if tail.torn_bytes:
        file.truncate(tail.good_bytes)
        file.sync()
    elif not tail.ends_in_newline:
        file.write(b"\n")
        file.sync()
        return tail.good_bytes + 1
    return tail.good_bytes
