"""fal's Platform API: its catalogue and prices, the account's balance, and the costs of requests.

Its errors mean what ``fal_answers.checked`` says. Some calls are for admin keys only, so each of them
is optional: a fact that a key may not ask for is unknown.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterator
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from batcher.clock import Clock, iso
from batcher.errors import CallError, NotFound, RetryKind, Unavailable
from batcher.http.exchange import Call, Connection
from batcher.http.words import clean
from batcher.providers.fal_answers import checked
from batcher.schema.spec import amount

PREFIX: Final = "fal:"
IDS_PER_CALL: Final = 50
ITEMS_PER_PAGE: Final = 100
PAGES_MAX: Final = 20
NANO: Final = 1e-9
_REFERENCE: Final = "#/components/schemas/"


class Platform:
    """The calls, over a separate connection, because their host differs from the queue's."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._cursors: dict[tuple[str, str, int], str] = {}

    async def model(self, model_id: str) -> dict[str, Any]:
        """A model's entry in the catalogue's form. Raises NotFound and other CallErrors."""
        endpoint = model_id.removeprefix(PREFIX)
        found = await self._get("/models", {"endpoint_id": endpoint, "expand": "openapi-3.0"})
        for item in _listed(found, "models"):
            if item.get("endpoint_id") == endpoint:
                return _entry(item) | (await self._prices([endpoint])).get(endpoint, {})
        raise NotFound(f"fal lists no model {clean(endpoint)!r}")

    async def models(
        self, search: str = "", category: str = "", *, limit: int, offset: int = 0
    ) -> dict[str, Any]:
        """A page of the catalogue. fal pages by cursor, so ``offset`` must be an earlier page's end."""
        asked = search.removeprefix(PREFIX), category
        cursor = self._cursors.pop((*asked, offset), "")
        if offset and not cursor:
            return {"models": [], "total": offset}
        named = {"q": asked[0], "category": category, "limit": str(limit), "cursor": cursor}
        found = await self._get("/models", {key: value for key, value in named.items() if value})
        items = [one for one in _listed(found, "models") if isinstance(one.get("endpoint_id"), str)]
        end = offset + len(items)
        more = _cursor(found)
        if more:
            self._cursors[*asked, end] = more
        prices = await self._prices([item["endpoint_id"] for item in items])
        entries = [_entry(item) | prices.get(item["endpoint_id"], {}) for item in items]
        return {"models": entries, "total": sys.maxsize if more else end}

    async def _prices(self, endpoints: list[str]) -> dict[str, dict[str, Any]]:
        """The prices of one unit, including this account's discounts; unknown ones are left out."""
        known: dict[str, dict[str, Any]] = {}
        for first in range(0, len(endpoints), IDS_PER_CALL):
            asked = endpoints[first : first + IDS_PER_CALL]
            query = urlencode([("endpoint_id", endpoint) for endpoint in asked])
            try:
                found = await self._get(f"/models/pricing?{query}", {})
            except CallError as error:
                if error.kind is RetryKind.TRANSIENT:
                    raise
                break
            known |= {name: price for item in _items(found, "prices") for name, price in _price(item)}
        return known

    async def balance_usd(self) -> float | None:
        """The account's credits in USD; None if the key may not ask. Raises nothing."""
        try:
            found = await self._get("/account/billing", {"expand": "credits"})
        except CallError:
            return None
        credits_left = found.get("credits")
        if not isinstance(credits_left, dict) or not _is_usd(credits_left):
            return None
        return _number(credits_left.get("current_balance"))

    async def costs_usd(self, request_ids: list[str]) -> dict[str, float]:
        """The costs of up to 50 requests, of those that are billed already. Raises CallErrors."""
        named = {"request_id": ",".join(request_ids), "limit": str(ITEMS_PER_PAGE)}
        found = await self._get("/models/billing-events", named)
        costs_usd: dict[str, float] = {}
        for event in _items(found, "billing_events"):
            cost_usd = _cost_usd(event)
            request_id = event.get("request_id")
            if request_id in request_ids and cost_usd is not None:
                costs_usd[request_id] = costs_usd.get(request_id, 0.0) + cost_usd
        return costs_usd

    async def requests(
        self, endpoint: str, start: datetime, end: datetime
    ) -> list[dict[str, Any]] | None:
        """The listed requests of a model with their inputs; None if they are too many to be sure.

        The list lags, and holds requests only once they have ended. Raises CallErrors.
        """
        named = {"endpoint_id": endpoint, "start": iso(start), "end": iso(end), "expand": "payloads"}
        named["limit"] = str(ITEMS_PER_PAGE)
        listed: list[dict[str, Any]] = []
        for _ in range(PAGES_MAX):
            found = await self._get("/models/requests/by-endpoint", named)
            listed += _listed(found, "items")
            if not (cursor := _cursor(found)):
                return listed
            named["cursor"] = cursor
        return None

    async def _get(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        answer = await self._connection.ask(Call("GET", path, query))
        document = checked(answer, self._clock.now())
        if not document:
            raise _not_understood("it is no JSON object", answer.status)
        return document


class BilledCosts:
    """Asks for the costs of requests. Ids that arrive during a call are collected for the next one."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._wanted: dict[str, None] = {}
        self._found: dict[str, float] = {}
        self._turn = asyncio.Lock()
        self._refused = False

    async def of(self, request_id: str) -> float | None:
        """The cost of a request in USD; None if it isn't billed yet or the key may not ask.

        Raises nothing.
        """
        self._wanted[request_id] = None
        async with self._turn:
            while request_id in self._wanted and not self._refused:
                await self._ask(list(self._wanted)[:IDS_PER_CALL])
        self._wanted.pop(request_id, None)
        return self._found.pop(request_id, None)

    async def _ask(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            del self._wanted[request_id]
        try:
            self._found |= await self._platform.costs_usd(request_ids)
        except CallError as error:
            self._refused = error.kind is not RetryKind.TRANSIENT


def _entry(item: dict[str, Any]) -> dict[str, Any]:
    """An item of fal's catalogue as an entry of ours."""
    meta = item.get("metadata")
    meta = meta if isinstance(meta, dict) else {}
    entry: dict[str, Any] = {"model_id": f"{PREFIX}{item['endpoint_id']}"}
    for ours, theirs in (("display_name", "display_name"), ("description", "description")):
        if isinstance(meta.get(theirs), str):
            entry[ours] = meta[theirs]
    if isinstance(meta.get("category"), str):
        entry["categories"] = [meta["category"]]
    schema = input_schema(item.get("openapi"), item["endpoint_id"])
    return entry | ({"input_schema": schema} if schema else {})


def _price(item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A usable price as a part of an entry, with its model. A unit is named in the singular."""
    unit_usd, unit = amount(item.get("unit_price")), item.get("unit")
    named = isinstance(unit, str) and isinstance(item.get("endpoint_id"), str)
    if named and unit_usd is not None and _is_usd(item):
        single = str(unit).removesuffix("s") if str(unit).isalpha() else unit
        yield item["endpoint_id"], {"base_price_usd": unit_usd, "price_unit": single}


def input_schema(document: Any, endpoint: str) -> dict[str, Any] | None:
    """The inputs' JSON Schema in a model's OpenAPI document, its references with it; None if none."""
    posted = _at(document, "paths", f"/{endpoint}", "post") or _only_post(document)
    schema = _at(posted, "requestBody", "content", "application/json", "schema")
    shared = _at(document, "components", "schemas")
    if not isinstance(schema, dict):
        return None
    shared = shared if isinstance(shared, dict) else {}
    root = shared.get(_referred(schema) or "", schema)
    if not isinstance(root, dict):
        return None
    used: dict[str, Any] = {}
    open_ends = list(_references(root))
    while open_ends:
        name = open_ends.pop()
        if name not in used and name in shared:
            used[name] = _rewritten(shared[name])
            open_ends += _references(shared[name])
    whole: dict[str, Any] = {"type": "object", "properties": {}, **_rewritten(root)}
    return whole | ({"$defs": used} if used else {})


def _only_post(document: Any) -> Any:
    paths = _at(document, "paths")
    posts = [path["post"] for path in paths.values() if _at(path, "post")] if paths else []
    return posts[0] if len(posts) == 1 else None


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _referred(schema: dict[str, Any]) -> str | None:
    pointer = schema.get("$ref")
    named = isinstance(pointer, str) and pointer.startswith(_REFERENCE)
    return str(pointer).removeprefix(_REFERENCE) if named else None


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if name := _referred(value):
            yield name
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _rewritten(value: Any) -> Any:
    """``value`` with its references into the OpenAPI document as references into the schema."""
    if isinstance(value, list):
        return [_rewritten(item) for item in value]
    if not isinstance(value, dict):
        return value
    whole = {key: _rewritten(item) for key, item in value.items()}
    name = _referred(value)
    return whole | {"$ref": f"#/$defs/{name}"} if name else whole


def _items(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    listed = document.get(name)
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _listed(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The list that an answer must have. Raises Unavailable."""
    if not isinstance(document.get(name), list):
        raise _not_understood(f'it has no list "{name}"')
    return _items(document, name)


def _not_understood(why: str, status: int = HTTPStatus.OK) -> Unavailable:
    return Unavailable(f"the answer of fal's Platform API was not understood: {why}", http_status=status)


def _cursor(document: dict[str, Any]) -> str:
    cursor = document.get("next_cursor")
    return cursor if isinstance(cursor, str) and document.get("has_more") is not False else ""


def _is_usd(item: dict[str, Any]) -> bool:
    return str(item.get("currency") or "USD").upper() == "USD"


def _cost_usd(event: dict[str, Any]) -> float | None:
    cost_usd = amount(event.get("cost_total"))
    nano_usd = amount(event.get("cost_estimate_nano_usd"))
    return nano_usd * NANO if cost_usd is None and nano_usd is not None else cost_usd


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < math.inf and abs(value) <= sys.float_info.max else None
