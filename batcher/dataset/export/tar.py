"""WebDataset: tar files in which the files of one sample are adjacent and share one key."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import msgspec

from batcher.dataset.export.writer import Filed

_MODE = 0o644


class TarWriter:
    """One sample per output: its media, and its row as ``json``. The same rows give the same bytes."""

    extension = ".tar"
    reads_media = True
    fingerprint = "webdataset 1"

    def write(self, path: Path, rows: Filed) -> None:
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            for row, media in rows:
                key = key_of(row["file_name"])
                with media.open("rb") as file:
                    tar.addfile(_member(f"{key}{media.suffix}", row["bytes"]), file)
                text = msgspec.json.encode(row)
                tar.addfile(_member(f"{key}.json", len(text)), io.BytesIO(text))


def key_of(file_name: str) -> str:
    """A sample's key: the job id, with the number of the output if there are several.

    A key ends at its first dot, so dots become ``%2E``. Nothing else in an id needs escaping.
    """
    return Path(file_name).stem.replace(".", "%2E")


def _member(name: str, size_bytes: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size_bytes, _MODE
    return info
