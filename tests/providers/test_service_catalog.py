"""The catalogue: which source a spec comes from, how that is told, and what the cache survives."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.errors import CallError, NotFound, NotSent, TurnedAway, Unavailable
from batcher.http.endpoint import Endpoint
from batcher.pacing.gate import CATALOGUE_PAUSE_MAX_S, CATALOGUE_PAUSE_S
from batcher.providers.catalog import (
    CALLS_AT_ONCE,
    PAGE_MODELS,
    TRIES,
    Catalog,
    SpecOrigin,
    SpecSource,
)
from batcher.providers.catalog_cache import CachedEntry, CatalogCache, cache_dir
from batcher.schema.spec import BUILT_IN, ModelSpec
from tests.support.model_api import model_api
from tests.support.scripted import ScriptedServer, answer, json_answer

API = "https://api.example.com"
MODEL = "acme/paint/text-to-image"
BUILT_IN_MODEL = next(iter(BUILT_IN))
UNUSABLE = {"model_id": MODEL, "input_schema": 7, "base_price_usd": "free"}


def entry_of(model: str, **more: Any) -> dict[str, Any]:
    return {
        "model_id": model,
        "display_name": model.title(),
        "kind": "model",
        "categories": ["text-to-image"],
        "base_price_usd": 0.04,
        "price_unit": "output",
        "input_schema": {
            "type": "object",
            "properties": {"prompt": {"type": "string"}},
            "required": ["prompt"],
        },
        **more,
    }


class VirtualClock:
    """Time that passes only by sleeping."""

    pauses = 0

    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
        self.slept_s: list[float] = []

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        self.moment += timedelta(seconds=delay_s)


class FakeApi:
    """The catalogue's calls, answered from memory; ``failures`` are raised first, one a call."""

    def __init__(self, *models: str) -> None:
        self.entries = {model: entry_of(model) for model in models}
        self.failures: list[CallError] = []
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.pages: list[tuple[str, str, int, int]] = []

    async def model(self, model_id: str) -> dict[str, Any]:
        self.asked.append(model_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await _turn()
            if self.failures:
                raise self.failures.pop(0)
            if model_id not in self.entries:
                raise NotFound("HTTP 404: no such model")
            return self.entries[model_id]
        finally:
            self.at_once -= 1

    async def models(
        self, search: str = "", category: str = "", *, limit: int, offset: int = 0
    ) -> dict[str, Any]:
        self.pages.append((search, category, limit, offset))
        matching = [entry for model, entry in self.entries.items() if search in model]
        return {"models": matching[offset : offset + limit], "total": len(matching)}


async def _turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def cache(tmp_path: Path) -> CatalogCache:
    return CatalogCache(tmp_path / "cache", API, LocalDisk())


def cache_file(tmp_path: Path) -> Path:
    [path] = (tmp_path / "cache").iterdir()
    return path


async def source_of(catalog: Catalog, model: str = MODEL, **options: bool) -> SpecSource:
    return (await catalog.specs({model}, **options)).sources[model]


# --- which source ---------------------------------------------------------------------------------


async def test_a_spec_comes_from_the_api_first(cache: CatalogCache, clock: VirtualClock) -> None:
    specs = await Catalog(FakeApi(MODEL), cache, clock).specs({MODEL})
    assert isinstance(specs.get(MODEL), ModelSpec)
    assert specs.sources == {MODEL: SpecSource(SpecOrigin.CATALOGUE, 0.0)}
    assert specs.unknown == ()


async def test_a_day_long_it_then_comes_from_the_cache(cache: CatalogCache, clock: VirtualClock) -> None:
    api = FakeApi(MODEL)
    await source_of(Catalog(api, cache, clock))
    clock.moment += timedelta(hours=23)
    assert await source_of(Catalog(api, cache, clock)) == SpecSource(SpecOrigin.CACHE, 23 * 3600.0)
    assert api.asked == [MODEL]


async def test_after_a_day_the_api_is_asked_again(cache: CatalogCache, clock: VirtualClock) -> None:
    catalog = Catalog(FakeApi(MODEL), cache, clock)
    await source_of(catalog)
    clock.moment += timedelta(hours=24)
    assert (await source_of(catalog)).origin is SpecOrigin.CATALOGUE


async def test_an_entry_from_the_future_is_not_trusted(cache: CatalogCache, clock: VirtualClock) -> None:
    catalog = Catalog(FakeApi(MODEL), cache, clock)
    await source_of(catalog)
    clock.moment -= timedelta(seconds=1)
    assert (await source_of(catalog)).origin is SpecOrigin.CATALOGUE


async def test_refresh_asks_whatever_the_cache_holds(cache: CatalogCache, clock: VirtualClock) -> None:
    catalog = Catalog(FakeApi(MODEL), cache, clock)
    await source_of(catalog)
    assert (await source_of(catalog, refresh=True)).origin is SpecOrigin.CATALOGUE


async def test_an_api_out_of_reach_leaves_the_stale_entry(
    cache: CatalogCache, clock: VirtualClock
) -> None:
    api = FakeApi(MODEL)
    await source_of(Catalog(api, cache, clock))
    clock.moment += timedelta(days=3)
    api.failures = [NotSent("no route")]
    specs = await Catalog(api, cache, clock).specs({MODEL})
    assert specs.sources[MODEL] == SpecSource(SpecOrigin.STALE, 3 * 86_400.0, "no route")
    assert specs.get(MODEL) is not None


async def test_without_any_entry_the_built_in_spec_must_do(
    cache: CatalogCache, clock: VirtualClock
) -> None:
    api = FakeApi()
    api.failures = [NotSent("no route")]
    specs = await Catalog(api, cache, clock).specs({BUILT_IN_MODEL})
    assert specs.get(BUILT_IN_MODEL) is BUILT_IN[BUILT_IN_MODEL]
    assert specs.sources[BUILT_IN_MODEL] == SpecSource(
        SpecOrigin.BUILT_IN, None, "no route", outage=True
    )


async def test_of_any_other_model_nothing_is_known(cache: CatalogCache, clock: VirtualClock) -> None:
    api = FakeApi()
    api.failures = [NotSent("no route")]
    specs = await Catalog(api, cache, clock).specs({MODEL})
    assert specs.get(MODEL) is None
    assert specs.sources[MODEL] == SpecSource(SpecOrigin.NONE, None, "no route", outage=True)
    assert specs.unknown == ()


async def test_a_model_that_the_api_does_not_know_is_reported(
    cache: CatalogCache, clock: VirtualClock
) -> None:
    specs = await Catalog(FakeApi(MODEL), cache, clock).specs({MODEL, "acme/typo"})
    assert specs.unknown == ("acme/typo",)
    assert specs.get("acme/typo") is None
    assert specs.get(MODEL) is not None


async def test_a_model_that_has_gone_is_unknown_though_cached(
    cache: CatalogCache, clock: VirtualClock
) -> None:
    api = FakeApi(MODEL)
    await source_of(Catalog(api, cache, clock))
    api.entries.clear()
    assert (await source_of(Catalog(api, cache, clock), refresh=True)).origin is SpecOrigin.UNKNOWN


async def test_a_documented_model_outlives_its_absence_from_the_catalogue(
    cache: CatalogCache, clock: VirtualClock
) -> None:
    source = await source_of(Catalog(FakeApi(), cache, clock), BUILT_IN_MODEL)
    assert source == SpecSource(SpecOrigin.BUILT_IN, None, "HTTP 404: no such model")


async def test_offline_the_cache_and_the_built_in_specs_must_do(
    cache: CatalogCache, clock: VirtualClock
) -> None:
    await source_of(Catalog(FakeApi(MODEL), cache, clock))
    offline = Catalog(None, cache, clock)
    assert await source_of(offline, refresh=True) == SpecSource(SpecOrigin.CACHE, 0.0)
    clock.moment += timedelta(days=2)
    assert await source_of(offline) == SpecSource(SpecOrigin.STALE, 2 * 86_400.0, "offline")
    assert (await source_of(offline, BUILT_IN_MODEL)).origin is SpecOrigin.BUILT_IN
    assert (await source_of(offline, "acme/other")).origin is SpecOrigin.NONE
    assert clock.slept_s == []


async def test_an_unusable_entry_is_told_and_gives_no_spec(
    cache: CatalogCache, clock: VirtualClock
) -> None:
    api = FakeApi()
    api.entries = {MODEL: UNUSABLE, BUILT_IN_MODEL: {**UNUSABLE, "model_id": BUILT_IN_MODEL}}
    specs = await Catalog(api, cache, clock).specs({MODEL, BUILT_IN_MODEL})
    assert specs.get(MODEL) is None
    assert specs.get(BUILT_IN_MODEL) is BUILT_IN[BUILT_IN_MODEL]
    for source in specs.sources.values():
        assert "is unusable: " in (source.problem or "")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (SpecSource(SpecOrigin.CATALOGUE, 0.0), "catalogue, 0 s old"),
        (SpecSource(SpecOrigin.CACHE, 3700.0), "cache, 1 h old"),
        (SpecSource(SpecOrigin.CACHE, 90.0), "cache, 1 min old"),
        (SpecSource(SpecOrigin.STALE, 200_000.0, "offline"), "stale, 2 d old (offline)"),
        (SpecSource(SpecOrigin.NONE, None, "offline"), "none (offline)"),
    ],
)
def test_a_source_reads_as_a_phrase(source: SpecSource, shown: str) -> None:
    assert str(source) == shown


# --- asking ---------------------------------------------------------------------------------------


async def test_a_busy_api_is_asked_a_few_times(cache: CatalogCache, clock: VirtualClock) -> None:
    api = FakeApi(MODEL)
    api.failures = [TurnedAway("429", retry_after_s=4.0), Unavailable("500")]
    assert (await source_of(Catalog(api, cache, clock))).origin is SpecOrigin.CATALOGUE
    assert clock.slept_s == [4.0, CATALOGUE_PAUSE_S]


async def test_it_is_not_waited_for_long_nor_asked_for_ever(
    cache: CatalogCache, clock: VirtualClock
) -> None:
    api = FakeApi(MODEL)
    api.failures = [TurnedAway("429", retry_after_s=3600.0)] * TRIES
    source = await source_of(Catalog(api, cache, clock))
    assert (source.origin, source.problem) == (SpecOrigin.NONE, "429")
    assert clock.slept_s == [CATALOGUE_PAUSE_MAX_S] * (TRIES - 1)
    assert len(api.asked) == TRIES


async def test_an_api_out_of_reach_is_not_asked_again(cache: CatalogCache, clock: VirtualClock) -> None:
    api = FakeApi(MODEL)
    api.failures = [NotSent("no route")]
    await source_of(Catalog(api, cache, clock))
    assert (api.asked, clock.slept_s) == ([MODEL], [])


class Hanging:
    """An API that takes a connection and says nothing."""

    async def model(self, model_id: str) -> dict[str, Any]:
        await asyncio.sleep(60.0)
        return {}


async def test_no_inquiry_takes_longer_than_its_limit(cache: CatalogCache, clock: VirtualClock) -> None:
    source = await source_of(Catalog(Hanging(), cache, clock, limit_s=0.05))  # type: ignore[arg-type]
    assert (source.origin, source.outage) == (SpecOrigin.NONE, True)
    api = FakeApi(MODEL)
    api.failures = [TurnedAway("429", retry_after_s=9.0)] * TRIES
    await source_of(Catalog(api, cache, clock, limit_s=15.0))
    assert sum(clock.slept_s) < 15.0


async def test_an_api_out_of_reach_is_asked_until_the_limit_if_it_persists_and_nothing_is_known(
    cache: CatalogCache, clock: VirtualClock
) -> None:
    api = FakeApi(MODEL)
    api.failures = [NotSent("no route")] * 4
    patient = Catalog(api, cache, clock, limit_s=60.0, persists=True)
    assert (await source_of(patient)).origin is SpecOrigin.CATALOGUE
    clock.moment += timedelta(days=2)
    slept_s = sum(clock.slept_s)
    api.failures = [NotSent("no route")] * 99
    assert (await source_of(patient)).origin is SpecOrigin.STALE
    assert sum(clock.slept_s) == slept_s, "what is known from earlier will do"
    assert (await source_of(patient, "acme/other")).problem == "no route"
    assert sum(clock.slept_s) - slept_s == 60.0


async def test_something_that_is_no_entry_is_not_taken_for_one(
    cache: CatalogCache, clock: VirtualClock
) -> None:
    api = FakeApi()
    api.entries = {MODEL: {"ok": True}}
    source = await source_of(Catalog(api, cache, clock))
    assert source.origin is SpecOrigin.NONE
    assert await cache.read() == {}


async def test_many_models_are_asked_for_a_few_at_a_time(
    cache: CatalogCache, clock: VirtualClock
) -> None:
    models = {f"acme/m{number}" for number in range(30)}
    api = FakeApi(*models)
    specs = await Catalog(api, cache, clock).specs(models)
    assert set(specs.by_model) == models
    assert api.most_at_once == CALLS_AT_ONCE


# --- the cache ------------------------------------------------------------------------------------


async def test_the_cache_holds_the_entry_as_the_api_gave_it(
    cache: CatalogCache, clock: VirtualClock, tmp_path: Path
) -> None:
    await source_of(Catalog(FakeApi(MODEL), cache, clock))
    held = json.loads(cache_file(tmp_path).read_bytes())
    assert held == {
        "api": API,
        "entries": {MODEL: {"at": "2026-01-31T12:00:00Z", "entry": entry_of(MODEL)}},
    }


BROKEN = {
    "empty": b"",
    "half a file": b'{"api": "https://api.example.com", "entr',
    "not UTF-8": b'{"api": "\xff"}',
    "a list": b"[]",
    "odd entries": b'{"api": "https://api.example.com", "entries": {"m": 5}}',
    "a time without a zone": b'{"api": "x", "entries": {"m": {"at": "2026-01-31T12:00:00", "entry": {}}}}',
    "too deep": b"[" * 100_000,
    "another API's": json.dumps(
        {
            "api": "https://x",
            "entries": {MODEL: {"at": "2026-01-31T12:00:00Z", "entry": {"model_id": MODEL}}},
        }
    ).encode(),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
async def test_a_broken_cache_is_ignored_and_mended(
    content: bytes, cache: CatalogCache, clock: VirtualClock, tmp_path: Path
) -> None:
    catalog = Catalog(FakeApi(MODEL), cache, clock)
    await source_of(catalog)
    cache_file(tmp_path).write_bytes(content)
    assert (await source_of(catalog)).origin is SpecOrigin.CATALOGUE
    assert (await source_of(catalog)).origin is SpecOrigin.CACHE


async def test_apis_have_caches_of_their_own(clock: VirtualClock, tmp_path: Path) -> None:
    sandbox = CatalogCache(tmp_path / "cache", "http://127.0.0.1:8000", LocalDisk())
    await source_of(Catalog(FakeApi(MODEL), sandbox, clock))
    real = CatalogCache(tmp_path / "cache", API, LocalDisk())
    assert (await source_of(Catalog(None, real, clock))).origin is SpecOrigin.NONE


async def test_new_entries_join_the_old_ones(cache: CatalogCache, clock: VirtualClock) -> None:
    catalog = Catalog(FakeApi("acme/a", "acme/b"), cache, clock)
    await catalog.specs({"acme/a"})
    await catalog.specs({"acme/b"})
    assert set(await cache.read()) == {"acme/a", "acme/b"}


async def test_a_cache_that_cannot_be_written_costs_nothing(clock: VirtualClock, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = CatalogCache(tmp_path / "file", API, LocalDisk())
    assert (await source_of(Catalog(FakeApi(MODEL), cache, clock))).origin is SpecOrigin.CATALOGUE


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({"XDG_CACHE_HOME": "/var/cache/me"}, "/var/cache/me/batcher"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/batcher"),
        ({"XDG_CACHE_HOME": ""}, "/home/me/.cache/batcher"),
        ({}, "/home/me/.cache/batcher"),
    ],
)
def test_caches_go_where_xdg_says(env: dict[str, str], folder: str) -> None:
    assert cache_dir(env, Path("/home/me")) == Path(folder)


# --- searching ------------------------------------------------------------------------------------


async def test_a_search_goes_through_all_pages(cache: CatalogCache, clock: VirtualClock) -> None:
    models = [f"acme/m{number:03}" for number in range(2 * PAGE_MODELS + 5)]
    api = FakeApi(*models, "other/x")
    found = await Catalog(api, cache, clock).search("acme", category="text-to-image")
    assert [entry["model_id"] for entry in found] == models
    assert api.pages == [("acme", "text-to-image", PAGE_MODELS, offset) for offset in (0, 100, 200)]


async def test_a_search_ends_at_its_limit(cache: CatalogCache, clock: VirtualClock) -> None:
    api = FakeApi(*(f"acme/m{number:03}" for number in range(300)))
    assert len(await Catalog(api, cache, clock).search(limit=7)) == 7
    assert len(api.pages) == 1


class OddPages(FakeApi):
    """A catalogue that answers every page alike."""

    page: dict[str, Any]

    async def models(
        self, search: str = "", category: str = "", *, limit: int, offset: int = 0
    ) -> dict[str, Any]:
        self.pages.append((search, category, limit, offset))
        return self.page


ODD_PAGES = {
    "the same page again": ({"models": [{"model_id": "a"}], "total": 500}, ["a"], 2),
    "no total": ({"models": [{"model_id": "a"}, {"model_id": "b"}]}, ["a", "b"], 2),
    "entries that are none": (
        {"models": [{"model_id": "a"}, 5, {"model_id": 7}, {}], "total": 4},
        ["a"],
        1,
    ),
    "nothing": ({"models": [], "total": 0}, [], 1),
    "a total that promises more": ({"models": [], "total": 9}, [], 1),
}


@pytest.mark.parametrize(("page", "found", "calls"), ODD_PAGES.values(), ids=ODD_PAGES)
async def test_a_search_ends_whatever_the_pages_say(
    page: dict[str, Any], found: list[str], calls: int, cache: CatalogCache, clock: VirtualClock
) -> None:
    api = OddPages()
    api.page = page
    assert [entry["model_id"] for entry in await Catalog(api, cache, clock).search()] == found
    assert len(api.pages) == calls


async def test_pages_without_models_are_unavailable(cache: CatalogCache, clock: VirtualClock) -> None:
    api = OddPages()
    api.page = {"total": 3}
    with pytest.raises(Unavailable):
        await Catalog(api, cache, clock).search()


async def test_offline_the_cache_is_searched(cache: CatalogCache, clock: VirtualClock) -> None:
    now = clock.now()
    await cache.add(
        {
            "acme/paint": CachedEntry(now, entry_of("acme/paint")),
            "acme/film": CachedEntry(now, entry_of("acme/film", categories=["text-to-video"])),
            "other/x": CachedEntry(now, {"display_name": "Acme's other", "categories": None}),
        }
    )
    offline = Catalog(None, cache, clock)

    async def ids(query: str = "", **options: Any) -> list[str]:
        return [entry["model_id"] for entry in await offline.search(query, **options)]

    assert await ids("ACME") == ["acme/film", "acme/paint", "other/x"]
    assert await ids("paint") == ["acme/paint"]
    assert await ids(category="text-to-video") == ["acme/film"]
    assert await ids(limit=1) == ["acme/film"]


# --- over the wire --------------------------------------------------------------------------------


async def test_the_catalogue_over_http(cache: CatalogCache, clock: VirtualClock) -> None:
    server = ScriptedServer(
        answer(503), json_answer(entry_of(MODEL)), json_answer({"error_code": 404001}, 404)
    )
    async with server, model_api(Endpoint(server.url), clock) as service:
        catalog = Catalog(service, cache, clock)
        assert (await source_of(catalog)).origin is SpecOrigin.CATALOGUE
        assert (await source_of(catalog, "acme/typo")).origin is SpecOrigin.UNKNOWN
    assert [request.path for request in server.requests] == [f"/v1/models/{MODEL}"] * 2 + [
        "/v1/models/acme/typo"
    ]


IMPOSSIBLE = [
    "../x",
    "a//b",
    "",
    " ",
    "a b",
    "/a",
    "a/",
    "a?b=1",
    "a#b",
    "a%2fb",
    "a/./b",
    "a\\b",
    "a\nb",
]


@pytest.mark.parametrize("model", IMPOSSIBLE)
async def test_a_name_that_no_model_can_have_is_unknown_without_asking(model: str) -> None:
    offline = Catalog(None, CatalogCache(None, API, LocalDisk()), SystemClock())
    assert (await offline.specs([model])).unknown == (model,)


@pytest.mark.parametrize("model", [BUILT_IN_MODEL, "a/b.c/d_e-1", "org/\u00fc", "a:b@c"])
async def test_a_name_that_a_model_may_have_is_looked_up(model: str) -> None:
    offline = Catalog(None, CatalogCache(None, API, LocalDisk()), SystemClock())
    assert (await offline.specs([model])).unknown == ()


@pytest.mark.parametrize("status", [200, 400, 404, 422])
async def test_a_wrong_model_by_its_code_is_unknown_at_any_status(status: int) -> None:
    refusal = json_answer({"error_code": "400001", "message": "InvalidResourceIdentifier"}, status)
    async with (
        ScriptedServer(refusal) as server,
        model_api(Endpoint(server.url), SystemClock()) as service,
    ):
        catalog = Catalog(service, CatalogCache(None, API, LocalDisk()), SystemClock())
        found = await catalog.specs([MODEL])
    assert found.unknown == (MODEL,)
    assert "InvalidResourceIdentifier" in str(found.sources[MODEL])


async def test_without_a_folder_nothing_is_kept() -> None:
    cache = CatalogCache(None, API, LocalDisk())
    await cache.add({MODEL: CachedEntry(datetime.now(UTC), {})})
    assert await cache.read() == {}
