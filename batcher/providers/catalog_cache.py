"""Catalogue entries on disk, beside each other for every API that was asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

if TYPE_CHECKING:
    from batcher.disk import Disk

XDG_CACHE_VARIABLE: Final = "XDG_CACHE_HOME"


class CachedEntry(msgspec.Struct, frozen=True):
    """A catalogue entry as the API gave it, and when."""

    at: Annotated[datetime, msgspec.Meta(tz=True)]
    entry: dict[str, Any]


class _CacheFile(msgspec.Struct):
    api: str
    entries: dict[str, CachedEntry] = msgspec.field(default_factory=dict)


class CatalogCache:
    """Entries on disk, one JSON file for each API origin in ``folder``; with None nothing is kept."""

    def __init__(self, folder: Path | None, origin: str, disk: Disk) -> None:
        digest = hashlib.sha256(origin.encode()).hexdigest()[:16]
        self._path = None if folder is None else folder / f"catalogue-{digest}.json"
        self._origin = origin
        self._disk = disk

    async def read(self) -> dict[str, CachedEntry]:
        """All entries; none if the file is missing, broken, or another API's."""
        path = self._path
        return {} if path is None else await self._disk.run(lambda: self._read(path))

    async def add(self, entries: Mapping[str, CachedEntry]) -> None:
        """Add to the file's current content. Two runs at once may lose an entry, never the file."""
        path = self._path
        if path is not None:
            await self._disk.run(lambda: self._add(path, entries))

    def _read(self, path: Path) -> dict[str, CachedEntry]:
        try:
            with self._disk.open_read(path) as file:
                cached = msgspec.json.decode(file.read(), type=_CacheFile)
        except (OSError, msgspec.DecodeError, ValueError, RecursionError):
            return {}
        return cached.entries if cached.api == self._origin else {}

    def _add(self, path: Path, entries: Mapping[str, CachedEntry]) -> None:
        content = _CacheFile(self._origin, {**self._read(path), **entries})
        try:
            self._disk.make_dirs(path.parent)
            self._disk.write_whole(path, [msgspec.json.encode(content)])
        except OSError:
            return  # read-only or full: the next run asks again


def cache_dir(env: Mapping[str, str], home: Path) -> Path:
    """The folder for caches. A relative XDG path is ignored, as the XDG spec asks."""
    xdg = Path(env.get(XDG_CACHE_VARIABLE, "").strip())
    return (xdg if xdg.is_absolute() else home / ".cache") / "batcher"
