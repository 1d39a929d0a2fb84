"""Copies of the outputs as a folder: with ``metadata.jsonl`` for loaders, or captions for trainers.

Copies rather than links: trainers may resize and convert the files, and the run directory must not
change.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from batcher.dataset.export.media import Source
from batcher.dataset.export.shards import Row, RowSource, splits
from batcher.dataset.metadata import TypedHead
from batcher.disk import Disk
from batcher.errors import RunDirError, UsageError
from batcher.layout import EXPORTED_NAME, METADATA_NAME

PIECE_BYTES = 1 << 20
_PENDING = ""


class _Files(msgspec.Struct):
    """Files in the folder that an export wrote, each with its SHA-256; ``""``: unknown."""

    files: dict[str, str] = {}


class Folder:
    """The target of an export: files are written atomically, and none twice."""

    def __init__(self, target: Path, disk: Disk) -> None:
        self.target, self.disk = target, disk
        self.written: list[str] = []
        self.kept: list[str] = []
        self._ours = self._read()
        self._now: dict[str, str] = {}

    def begin(self, names: set[str]) -> None:
        """Claim ``names`` before anything is written. Raises RunDirError for foreign files."""
        for name in sorted(names - self._ours.files.keys()):
            if self.disk.size(self.target / name) is not None:
                raise RunDirError(
                    f"{self.target / name}: is there, and not of an export of ours; choose another -o"
                )
        self._ours.files |= dict.fromkeys(names - self._ours.files.keys(), _PENDING)
        self._write(self._ours)

    def put(self, name: str, sha256_hex: str, content: Iterator[bytes], size_bytes: int) -> None:
        """Write a file, unless it exists with this content already."""
        self._now[name] = sha256_hex
        path = self.target / name
        if self._ours.files.get(name) == sha256_hex and self.disk.size(path) == size_bytes:
            self.kept.append(name)
            return
        self.disk.make_dirs(path.parent)
        self.disk.write_whole(path, content)
        self.written.append(name)

    def put_text(self, name: str, text: bytes) -> None:
        """Write a small file, unless it exists with this content already."""
        self.put(name, hashlib.sha256(text).hexdigest(), iter([text]), len(text))

    def end(self) -> None:
        """Remove files of an earlier export that this one doesn't have, and record those it wrote."""
        for name in self._ours.files.keys() - self._now.keys():
            self.disk.remove(self.target / name)
        self._write(_Files(self._now))

    def _read(self) -> _Files:
        try:
            return msgspec.json.decode((self.target / EXPORTED_NAME).read_bytes(), type=_Files)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return _Files({})

    def _write(self, files: _Files) -> None:
        self.disk.make_dirs(self.target)
        self.disk.write_whole(self.target / EXPORTED_NAME, [msgspec.json.encode(files, order="sorted")])


def fill(
    folder: Folder, rows: RowSource, split_by: str | None, source: Source, *, captions: bool
) -> Iterator[int]:
    """Copy the media of ``rows`` with their captions, or with metadata; one subfolder per split.

    Yields the size in bytes of each copied media file.

    Raises UsageError (two outputs with one name), RunDirError, InputError (a media file is missing).
    """
    parts = [(label if split_by else "", part) for label, part in splits(rows, split_by)]
    folder.begin(_names(parts, captions=captions))
    for label, part in parts:
        for row, media in source(list(part())):
            folder.put(_place(label, row), row["sha256"], _pieces(media), row["bytes"])
            yield row["bytes"]
            if captions:
                folder.put_text(_caption_place(label, row), (row["prompt"] or "").encode())
        if not captions:
            folder.put_text(_join(label, METADATA_NAME), b"".join(_metadata(list(part()))))
    folder.end()


def _names(parts: list[tuple[str, RowSource]], *, captions: bool) -> set[str]:
    counted: Counter[str] = Counter()
    for label, part in parts:
        for row in part():
            counted[_place(label, row)] += 1
            counted[_caption_place(label, row)] += captions
        counted[_join(label, METADATA_NAME)] += not captions
    twice = [name for name, count in counted.items() if count > 1]
    if twice:
        raise UsageError(f"two outputs would be called {twice[0]}: leave one out with --except")
    return set(+counted)


def _metadata(rows: list[Row]) -> Iterator[bytes]:
    """One line per row; rows with the first value of a column first, for readers that infer types."""
    head = TypedHead(0)
    first = [row for row in rows if head.take(row, 0)]
    names = {row["file_name"] for row in first}
    for row in [*first, *(row for row in rows if row["file_name"] not in names)]:
        yield msgspec.json.encode({**row, "file_name": Path(row["file_name"]).name}) + b"\n"


def _place(label: str, row: Row) -> str:
    return _join(label, Path(row["file_name"]).name)


def _caption_place(label: str, row: Row) -> str:
    return str(Path(_place(label, row)).with_suffix(".txt"))


def _join(label: str, name: str) -> str:
    return f"{label}/{name}" if label else name


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
