"""A folder of media, or single media files: each is a job; captions beside them are prompts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from batcher.errors import ManifestError
from batcher.layout import EXPORTED_NAME, HIDDEN_NAME, LEDGER_NAME
from batcher.manifest.rows import LocalPath, Row
from batcher.terminal import legible

FILE_NAME = "file_name"
"""The input name of a listed file, until the model's schema tells which field takes media."""

_SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif", ".heic"), "image"),
    **dict.fromkeys((".tif", ".tiff", ".jxl"), "image"),
    **dict.fromkeys((".mp4", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".m4v"), "video"),
    **dict.fromkeys((".mp3", ".wav", ".flac", ".ogg", ".m4a", ".aac"), "audio"),
}  # fmt: skip
_CAPTIONS = (".txt", ".caption")
_INDEXES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
CAPTION_MAX_BYTES = 64 * 1024


def media_of(path: PurePath) -> str | None:
    """``image``, ``video`` or ``audio``, by a file's name; None for anything else."""
    return _SUFFIXES.get(path.suffix.lower())


def index_in(folder: Path) -> Path | None:
    """The file that describes a dataset folder, if there is one."""
    return next((folder / name for name in _INDEXES if (folder / name).is_file()), None)


def holds_results(folder: Path) -> bool:
    """Whether ``folder`` is a run directory, or an export of one: its files are the results of jobs.

    A search for inputs at any depth leaves them out. Else each run would buy more jobs, made from the
    results of the run before.
    """
    is_run_dir = (folder / HIDDEN_NAME).is_dir() or (folder / LEDGER_NAME).is_file()
    return is_run_dir or (folder / EXPORTED_NAME).is_file()


def media_in(folder: Path) -> list[LocalPath]:
    """The media files at any depth, each real file once, relative to ``folder``, sorted.

    Those in run directories below it are left out.
    """
    found = []
    for place, folders, names in os.walk(folder):
        below = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in below if not holds_results(Path(place, name))]
        paths = (Path(place, name) for name in names if not name.startswith("."))
        found += [path for path in paths if media_of(path) and path.is_file()]
    by_file: dict[str, Path] = {}
    for path in sorted(found):
        by_file.setdefault(os.path.realpath(path), path)
    return [LocalPath(path.relative_to(folder)) for path in by_file.values()]


def media_rows(paths: Iterable[LocalPath], directory: Path) -> Iterator[Row]:
    """One row for each file; ``line`` counts them. Raises ManifestError for a bad caption."""
    for number, path in enumerate(paths, 1):
        inputs: dict[str, Any] = {FILE_NAME: path}
        caption = _caption(directory / path)
        if caption is not None:
            inputs["prompt"] = caption
        yield Row(number, inputs, vars={"file": about_file(PurePath(path))})


def about_file(path: PurePath) -> dict[str, str]:
    """The variables of templates about a file: ``{{ file.stem }}``."""
    return {"path": str(path), "name": path.name, "stem": path.stem, "suffix": path.suffix}


def _caption(path: Path) -> str | None:
    """The text file beside a media file, on one line: the format of captions for training."""
    for suffix in _CAPTIONS:
        beside = path.with_suffix(suffix)
        if beside.is_file():
            try:
                text = beside.read_bytes()[:CAPTION_MAX_BYTES].decode("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise ManifestError([f"{legible(beside)}: {error}"]) from None
            return " ".join(text.split()) or None
    return None
