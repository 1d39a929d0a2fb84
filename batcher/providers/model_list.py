"""The whole catalogue as a list: fetched once a day, searched locally, and cached for offline use."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from batcher.clock import Clock
from batcher.disk import Disk
from batcher.errors import CallError
from batcher.providers.catalog import TTL_S, Catalog, SpecOrigin, SpecSource
from batcher.schema.spec import BUILT_IN, ModelSpec


class _ListingFile(msgspec.Struct):
    api: str
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    models: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ModelList:
    """Catalogue entries, each with its ``model_id``, and where they came from."""

    models: list[dict[str, Any]]
    source: SpecSource

    def matching(self, query: str) -> list[dict[str, Any]]:
        """Those that have every word of ``query`` (in any case) in id, name or categories."""
        words = query.lower().split()
        return [model for model in self.models if all(word in _searched(model) for word in words)]


def _searched(model: dict[str, Any]) -> str:
    categories = model.get("categories")
    named = [model.get("model_id"), model.get("display_name")]
    return " ".join(map(str, [*named, *(categories if isinstance(categories, list) else [])])).lower()


@dataclass(frozen=True, slots=True)
class ListingCache:
    """The list on disk, one JSON file for each API ``origin``."""

    folder: Path | None
    """None: nothing is kept."""
    origin: str
    disk: Disk
    clock: Clock

    async def listing(self, catalog: Catalog, *, refresh: bool = False) -> ModelList:
        """The list, by the same order of sources as ``catalog``. Raises nothing."""
        held = await self.disk.run(self._read)
        age_s = None if held is None else (self.clock.now() - held.at).total_seconds()
        if held is not None and age_s is not None and 0 <= age_s < TTL_S and not refresh:
            return ModelList(held.models, SpecSource(SpecOrigin.CACHE, age_s))
        try:
            models = await catalog.search()
        except CallError as error:
            if held is not None:
                return ModelList(held.models, SpecSource(SpecOrigin.STALE, age_s, error.message))
            return await _without_list(catalog, error.message)
        await self.disk.run(lambda: self._write(models))
        return ModelList(models, SpecSource(SpecOrigin.CATALOGUE, 0.0))

    @property
    def _name(self) -> str:
        return f"models-{hashlib.sha256(self.origin.encode()).hexdigest()[:16]}.json"

    def _read(self) -> _ListingFile | None:
        if self.folder is None:
            return None
        try:
            with self.disk.open_read(self.folder / self._name) as file:
                held = msgspec.json.decode(file.read(), type=_ListingFile)
        except (OSError, msgspec.DecodeError, ValueError, RecursionError):
            return None
        return held if held.api == self.origin else None

    def _write(self, models: list[dict[str, Any]]) -> None:
        if self.folder is None:
            return
        content = _ListingFile(self.origin, self.clock.now().astimezone(UTC), models)
        try:
            self.disk.make_dirs(self.folder)
            self.disk.write_whole(self.folder / self._name, [msgspec.json.encode(content)])
        except OSError:
            return  # read-only or full: the next command asks again


async def _without_list(catalog: Catalog, problem: str) -> ModelList:
    """The models that single look-ups left in the cache, and those that are built in."""
    offline = Catalog(None, catalog.cache, catalog.clock)
    known = {model["model_id"]: model for model in _built_in(BUILT_IN.values())}
    known |= {model["model_id"]: model for model in await offline.search()}
    return ModelList(list(known.values()), SpecSource(SpecOrigin.BUILT_IN, None, problem))


def _built_in(specs: Iterable[ModelSpec]) -> Iterable[dict[str, Any]]:
    for spec in specs:
        yield {
            "model_id": spec.model_id,
            "display_name": spec.display_name,
            "categories": list(spec.categories),
            "input_schema": spec.schema,
        }
