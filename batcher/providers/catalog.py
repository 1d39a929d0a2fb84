"""The catalogue: the models, their inputs and prices, and the source of these facts.

A model's spec comes from the first of these that has one, and each answer says which it was:

=============  ================================================================================
source         when
=============  ================================================================================
``cache``      asked for within the last 24 hours, and ``refresh`` was not asked for
``catalogue``  the API answered just now
``stale``      the API could not be asked (or we are offline), and it once answered
``stored``     the same, and an earlier run kept the entry in its run directory
``built-in``   the same, nothing is kept, but the model is documented (docs/api.md, "Inputs")
``none``       the same, and nothing is known of the model
``unknown``    the API says that there is no such model, or none can have such a name
=============  ================================================================================

A model that is built in is documented; a 404 for it says that the catalogue lacks it, not that it
is gone. The cache is optional: a broken one is ignored, and a failed write too.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from batcher.errors import CallError, NotFound, NotSent, TurnedAway, Unavailable
from batcher.pacing.gate import CATALOGUE_PAUSE_MAX_S, catalogue_pause_s
from batcher.providers.catalog_cache import CachedEntry, CatalogCache
from batcher.schema.dialect import SchemaError
from batcher.schema.spec import BUILT_IN, ModelSpec

if TYPE_CHECKING:
    from batcher.clock import Clock

TTL_S: Final = 24 * 3600.0
TRIES: Final = 3
CALLS_AT_ONCE: Final = 8
PAGE_MODELS: Final = 100
SEARCH_MODELS: Final = 10_000

MODEL_ID_MAX_CHARS: Final = 300

_SEGMENT = re.compile(r"(?!\.{1,2}$)[\w.~@:+=,-]+")
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class CatalogueCalls(Protocol):
    """What the catalogue needs of the API; each provider with a catalogue has it."""

    async def model(self, model_id: str) -> dict[str, Any]: ...
    async def models(
        self, search: str = "", category: str = "", *, limit: int, offset: int = 0
    ) -> dict[str, Any]: ...


class SpecOrigin(StrEnum):
    """Where a spec came from: the table above."""

    CATALOGUE = "catalogue"
    CACHE = "cache"
    STALE = "stale"
    STORED = "stored"
    BUILT_IN = "built-in"
    NONE = "none"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SpecSource:
    """Where a model's spec came from, how old it is, and why no newer one was available."""

    origin: SpecOrigin
    age_s: float | None = None
    problem: str | None = None
    outage: bool = False
    """Whether no better source is known because the API could not be reached."""

    @property
    def is_unanswered(self) -> bool:
        """Whether the API was asked and did not answer."""
        return self.outage or self.origin in (SpecOrigin.STALE, SpecOrigin.STORED)

    def __str__(self) -> str:
        age = "" if self.age_s is None else f", {_age(self.age_s)} old"
        return f"{self.origin}{age}" + (f" ({self.problem})" if self.problem else "")


@dataclass(frozen=True, slots=True)
class Specs:
    """The known specs, and for every requested model the source of its spec.

    ``entries`` are the catalogue's own entries, if any: a run keeps them beside its ledger.
    """

    by_model: Mapping[str, ModelSpec]
    sources: Mapping[str, SpecSource]
    entries: Mapping[str, CachedEntry] = field(default_factory=dict)

    def get(self, model: str) -> ModelSpec | None:
        return self.by_model.get(model)

    def __or__(self, other: Specs) -> Specs:
        """Both."""
        return Specs(
            {**self.by_model, **other.by_model},
            {**self.sources, **other.sources},
            {**self.entries, **other.entries},
        )

    @property
    def unknown(self) -> tuple[str, ...]:
        """Models of which the API says that they don't exist."""
        return self._from(SpecOrigin.UNKNOWN)

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Models without any spec: their inputs are sent unchecked."""
        return self._from(SpecOrigin.NONE)

    def _from(self, origin: SpecOrigin) -> tuple[str, ...]:
        return tuple(sorted(m for m, source in self.sources.items() if source.origin is origin))


@dataclass(frozen=True, slots=True)
class _Known:
    """What is on disk about models: in the cache, and in the run directory. Until when to ask."""

    cached: Mapping[str, CachedEntry]
    kept: Mapping[str, CachedEntry]
    ends_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """A model's catalogue entry, or None, and where it came from."""

    cached: CachedEntry | None
    source: SpecSource

    @property
    def entry(self) -> dict[str, Any] | None:
        """The entry as the API gave it."""
        return None if self.cached is None else self.cached.entry


def is_possible(model: str) -> bool:
    """Whether ``model`` is a possible name: letters, digits and a few signs, between single slashes."""
    return len(model) <= MODEL_ID_MAX_CHARS and all(map(_SEGMENT.fullmatch, model.split("/")))


@dataclass(slots=True)
class Catalog:
    """The catalogue through its cache. ``service`` None is offline: only local sources are used.

    No inquiry takes longer than ``limit_s``. With ``persists``, an API that can't be reached is asked
    again until then if no spec of a model is known.
    """

    service: CatalogueCalls | None
    cache: CatalogCache
    clock: Clock
    ttl_s: float = TTL_S
    limit_s: float = math.inf
    persists: bool = False
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CALLS_AT_ONCE))

    async def specs(
        self,
        models: Iterable[str],
        *,
        refresh: bool = False,
        kept: Mapping[str, CachedEntry] | None = None,
    ) -> Specs:
        """The spec of each model, by the table above; ``kept`` is what the run directory holds.

        Raises nothing: each source contains its problem.
        """
        found = await self.entries(models, refresh=refresh, kept=kept)
        by_model: dict[str, ModelSpec] = {}
        sources: dict[str, SpecSource] = {}
        for model, one in found.items():
            spec, sources[model] = spec_of(model, one)
            if spec is not None:
                by_model[model] = spec
        entries = {model: one.cached for model, one in found.items() if one.cached is not None}
        return Specs(by_model, sources, entries)

    async def entries(
        self,
        models: Iterable[str],
        *,
        refresh: bool = False,
        kept: Mapping[str, CachedEntry] | None = None,
    ) -> dict[str, Found]:
        """The catalogue entry of each model as the API gave it; new ones go into the cache."""
        cached = await self.cache.read()
        known = _Known(cached, kept or {}, self.clock.monotonic() + self.limit_s)
        wanted = sorted(set(models))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._entry(model, known, refresh)) for model in wanted]
        found = dict(zip(wanted, (task.result() for task in tasks), strict=True))
        await self._remember({model: one.cached for model, one in found.items() if _is_new(one)})
        return found

    async def search(
        self, query: str = "", *, category: str = "", limit: int = SEARCH_MODELS
    ) -> list[dict[str, Any]]:
        """Up to ``limit`` entries that match, each with its ``model_id``. Offline: those in the cache.

        Raises CallErrors.
        """
        if self.service is None:
            known = await self.cache.read()
            matching = (_matching(model, known[model], query, category) for model in sorted(known))
            return list(filter(None, matching))[:limit]
        found: dict[str, dict[str, Any]] = {}
        offset, total = 0, 1
        while offset < min(total, limit):
            page = await self.service.models(query, category, limit=PAGE_MODELS, offset=offset)
            entries, total = _page(page)
            new = [entry for entry in entries if entry["model_id"] not in found]
            if not new:  # the end, or a server that ignores the offset
                break
            found.update((entry["model_id"], entry) for entry in new)
            offset += len(page["models"])
        return list(found.values())[:limit]

    async def _entry(self, model: str, known: _Known, refresh: bool) -> Found:
        if not is_possible(model):
            return Found(None, SpecSource(SpecOrigin.UNKNOWN, None, "no model can have this name"))
        cached, kept = known.cached.get(model), known.kept.get(model)
        age_s = self._age_s(cached)
        fresh = age_s is not None and 0 <= age_s < self.ttl_s
        if cached is not None and fresh and not (refresh and self.service):
            return Found(cached, SpecSource(SpecOrigin.CACHE, age_s))
        try:
            persists = self.persists and cached is None and kept is None
            entry = await self._ask(model, known.ends_s, persists=persists)
        except NotFound as error:
            return Found(None, SpecSource(SpecOrigin.UNKNOWN, None, error.message))
        except CallError as error:
            return self._outdated(cached, kept, error.message)
        now = self.clock.now().astimezone(UTC)
        return Found(CachedEntry(now, entry), SpecSource(SpecOrigin.CATALOGUE, 0.0))

    def _outdated(self, cached: CachedEntry | None, kept: CachedEntry | None, problem: str) -> Found:
        """The newer entry of cache and run directory, if any."""
        if kept is not None and (cached is None or kept.at > cached.at):
            return Found(kept, SpecSource(SpecOrigin.STORED, self._age_s(kept), problem))
        if cached is not None:
            return Found(cached, SpecSource(SpecOrigin.STALE, self._age_s(cached), problem))
        return Found(None, SpecSource(SpecOrigin.NONE, None, problem, outage=True))

    def _age_s(self, cached: CachedEntry | None) -> float | None:
        return None if cached is None else (self.clock.now() - cached.at).total_seconds()

    async def _ask(self, model: str, ends_s: float, *, persists: bool) -> dict[str, Any]:
        """The API's entry; retries if the API is busy, and with ``persists`` if it can't be reached."""
        for tries_left in itertools.count(TRIES - 1, -1):
            try:
                return await self._in_time(model, ends_s)
            except (NotSent, TurnedAway, Unavailable) as error:
                is_last = isinstance(error, NotSent) or tries_left <= 0
                wait_s, left_s = _wait_s(error), ends_s - self.clock.monotonic()
                if is_last and persists:
                    wait_s = CATALOGUE_PAUSE_MAX_S
                    await self.clock.sleep(min(wait_s, left_s))
                elif not is_last and wait_s < left_s:
                    await self.clock.sleep(wait_s)
                if (is_last and not persists) or wait_s >= left_s:
                    raise
        raise AssertionError("unreachable")

    async def _in_time(self, model: str, ends_s: float) -> dict[str, Any]:
        left_s = ends_s - self.clock.monotonic()
        try:
            async with asyncio.timeout(None if math.isinf(left_s) else left_s):
                return await self._call(model)
        except TimeoutError:
            raise Unavailable(f"no answer for {self.limit_s:g} s") from None

    async def _call(self, model: str) -> dict[str, Any]:
        if self.service is None:
            raise NotSent("offline")
        async with self._gate:
            entry = await self.service.model(model)
        if "model_id" not in entry and "input_schema" not in entry:
            raise Unavailable("the catalogue answered with something that is no entry")
        return entry

    async def _remember(self, entries: Mapping[str, CachedEntry | None]) -> None:
        fresh = {model: cached for model, cached in entries.items() if cached is not None}
        if fresh:
            await self.cache.add(fresh)


def _is_new(found: Found) -> bool:
    return found.source.origin is SpecOrigin.CATALOGUE


def _nothing(problem: str) -> SpecSource:
    return SpecSource(SpecOrigin.NONE, None, problem)


def _wait_s(error: CallError) -> float:
    return catalogue_pause_s(error.retry_after_s if isinstance(error, TurnedAway) else None)


def spec_of(model: str, found: Found) -> tuple[ModelSpec | None, SpecSource]:
    """The spec of an entry, else the built-in one, else None; and its source."""
    source = found.source
    if found.entry is not None:
        try:
            return ModelSpec.from_catalogue(found.entry), source
        except SchemaError as error:
            source = _nothing(f"the entry from {source} is unusable: {error}")
    if model in BUILT_IN:
        return BUILT_IN[model], SpecSource(SpecOrigin.BUILT_IN, None, source.problem, source.outage)
    return None, source


def _matching(model: str, cached: CachedEntry, query: str, category: str) -> dict[str, Any] | None:
    entry = {**cached.entry, "model_id": model}
    shown = f"{model} {entry.get('display_name', '')}".lower()
    categories = entry.get("categories")
    in_category = not category or (isinstance(categories, list) and category in categories)
    return entry if query.lower() in shown and in_category else None


def _page(page: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """The usable entries of one page, and how many there are over all pages."""
    models, total = page.get("models"), page.get("total")
    if not isinstance(models, list):
        raise Unavailable('the catalogue answered without "models"')
    named = [one for one in models if isinstance(one, dict) and isinstance(one.get("model_id"), str)]
    return named, total if isinstance(total, int) else sys.maxsize


def _age(age_s: float) -> str:
    size_s, unit = next((unit for unit in _UNITS if age_s >= unit[0]), _UNITS[-1])
    return f"{int(age_s // size_s)} {unit}"
