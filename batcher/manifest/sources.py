"""Opens a manifest by its name: a file, ``-``, a folder, a pattern, or several of them."""

from __future__ import annotations

import glob
import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from batcher.errors import ManifestError
from batcher.jobs.column_rules import ColumnRules
from batcher.manifest.files import ManifestFile
from batcher.manifest.folders import FILE_NAME, holds_results, index_in, media_in, media_of, media_rows
from batcher.manifest.globs import ANY_DEPTH
from batcher.manifest.read import FORMATS, Document, open_document, read_document
from batcher.manifest.reading import Include
from batcher.manifest.rows import Head, LocalPath, Row
from batcher.options.facts import Reading
from batcher.options.given import STDIN, is_stream
from batcher.terminal import legible

_URL = re.compile(r"(https?|s3|gs|hf):/+(.+)", re.IGNORECASE)


def open_source(path: Path, shown_as: str, columns: ColumnRules, reading: Reading) -> Document:
    """Open the manifest at ``path``, and check everything except its rows. Raises ManifestError."""
    text = str(path)
    if text in (STDIN, "/dev/stdin"):
        file = ManifestFile.spooled(sys.stdin.buffer, "stdin", reading.encoding)
        return read_document(file, columns, reading)
    if is_stream(text) and (stream := _piped(path)) is not None:
        with stream:
            return read_document(
                ManifestFile.spooled(stream, shown_as, reading.encoding), columns, reading
            )
    if (url := _URL.match(text)) is not None:
        address = f"{url[1]}://{url[2]}"
        raise ManifestError([f"{address}: a URL; download it first: curl -LO '{address}'"])
    if os.path.isdir(path):  # noqa: PTH112 (false for what can be no path)
        return _open_folder(path, shown_as, columns, reading)
    if glob.has_magic(text) and not os.path.exists(path):  # noqa: PTH110 (as above)
        return listing(_matching(path, shown_as), shown_as, reading)
    if media_of(path) is not None and reading.format is None:
        return media_listing([path], shown_as)
    return open_document(path, shown_as, columns, reading)


def _piped(path: Path) -> BinaryIO | None:
    """The open pipe that a shell passes for ``<(command)``, by the name of its descriptor."""
    return path.open("rb") if path.is_fifo() else None


def listing(paths: Sequence[Path], shown_as: str, reading: Reading) -> Document:
    """Several manifests in sequence, or several media files. Raises ManifestError for a mixture."""
    media = [path for path in paths if media_of(path) is not None and reading.format is None]
    if media and len(media) < len(paths):
        other = next(path for path in paths if media_of(path) is None)
        raise ManifestError([f"{legible(other)}: no media, and {legible(media[0])} is: name one kind"])
    if media:
        return media_listing(media, shown_as)
    rows = [Row(1, {}, include=Include(str(path), reading)) for path in paths]
    return _listed(rows, shown_as, Path())


def media_listing(paths: Sequence[Path], shown_as: str) -> Document:
    """A job for each media file."""
    for path in paths:
        ManifestFile.at(path, legible(path))
    rows = list(media_rows((LocalPath(path) for path in paths), Path()))
    return _listed(rows, shown_as, Path())


def _open_folder(path: Path, shown_as: str, columns: ColumnRules, reading: Reading) -> Document:
    index = index_in(path)
    if index is not None:
        shown = str(Path(shown_as) / index.name)
        inner = open_document(index, shown, columns, reading)
        return replace(inner, rows=partial(_with_media, inner), table=None)
    found = media_in(path)
    if not found:
        raise ManifestError([f"{shown_as}: a folder without media{_manifests_in(path)}"])
    listed = _listed(list(media_rows(found, path)), shown_as, path)
    return replace(listed, warnings=tuple(_unread_indexes(path)))


def _unread_indexes(folder: Path) -> Iterator[str]:
    """A warning for each split of a dataset whose files are listed without its index."""
    for split in _folders_in(folder):
        if (index := index_in(split)) is not None:
            name = legible(split)
            yield f"{name}/{index.name}: not read, only the files beside it; to read it, name {name}"


def _folders_in(folder: Path) -> list[Path]:
    """Its subfolders, sorted, without hidden ones and run directories."""
    below = (each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    return sorted(each for each in below if not holds_results(each))


def _with_media(document: Document) -> Iterator[Row]:
    """The rows of a dataset's index, whose ``file_name`` is a file in the same folder."""
    for row in document.rows():
        name = row.inputs.get(FILE_NAME)
        if isinstance(name, str):
            row.inputs[FILE_NAME] = LocalPath(name)
        yield row


def _listed(rows: list[Row], shown_as: str, directory: Path) -> Document:
    """A document that is not a file: ``rows`` with paths relative to ``directory``."""
    file = ManifestFile(directory / shown_as, shown_as, (-1, hash(shown_as)))
    keys = frozenset({"from"}) if any(row.include for row in rows) else frozenset[str]()
    return Document(file, Head(), lambda: iter(rows), keys, base=directory, is_listing=True)


def _matching(pattern: Path, shown_as: str) -> list[Path]:
    found: dict[Path, Path] = {}
    for name in sorted(glob.iglob(str(pattern), recursive=True)):  # noqa: PTH207 (a pattern may be absolute)
        if Path(name).is_file() and not _is_result(Path(name), pattern):
            found.setdefault(Path(name).resolve(), Path(name))
    if not found:
        raise ManifestError([f"{shown_as}: no file matches"])
    return list(found.values())


def _is_result(path: Path, pattern: Path) -> bool:
    """Whether ``**`` in ``pattern`` went into a run directory to find ``path``."""
    if ANY_DEPTH not in pattern.parts:
        return False
    fixed = len(Path(*itertools.takewhile(lambda part: part != ANY_DEPTH, pattern.parts)).parts)
    return any(holds_results(Path(*path.parts[:end])) for end in range(fixed + 1, len(path.parts)))


def _manifests_in(folder: Path) -> str:
    suffixes = tuple(suffix for kind in FORMATS.values() for suffix in kind.suffixes)
    for place in (folder, *_folders_in(folder)):
        found = sorted(path for path in place.iterdir() if path.name.lower().endswith(suffixes))
        if found:
            return f"; it holds manifests: {legible(place)}/*{found[0].suffix}"
    return ""
