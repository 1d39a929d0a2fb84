"""fal's queue API as a provider. A model's name is ``fal:`` and its endpoint: ``fal:fal-ai/flux/dev``.

Three hosts of one vendor take the same key, each over a separate connection: the queue, the Platform
API (catalogue, prices, costs, balance) and the storage of uploads.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec

from batcher.clock import Clock
from batcher.errors import CallError, CredentialsError, OutcomeUnknown, Rejected, UsageError
from batcher.http.bodies import usable_id
from batcher.http.endpoint import Endpoint, Token
from batcher.http.exchange import Call, Connection, is_at
from batcher.http.words import clean
from batcher.jobs.job import Job
from batcher.ports import (
    CancelOutcome,
    CostSource,
    Handle,
    Lost,
    Phase,
    Result,
    Trace,
    Tracing,
    Traits,
)
from batcher.providers.catalog import Catalog
from batcher.providers.fal_answers import ENDED, cancellation, outcome, standing, submission
from batcher.providers.fal_platform import PREFIX, BilledCosts, Platform
from batcher.providers.fal_storage import Storage
from batcher.providers.fal_trace import found_among, unused
from batcher.providers.matching import IN_FLIGHT, SKEW
from batcher.providers.registry import FAL
from batcher.providers.vendor import Surroundings, Vendor

QUEUE: Final = "https://queue.fal.run"
PLATFORM: Final = "https://api.fal.ai/v1"
STORAGE: Final = "https://rest.fal.ai"
QUEUE_HOSTS: Final = frozenset({"queue.fal.run", "queue.falrun.com"})
"""The vendor's own; the second is its backup."""
QUEUE_VARIABLE: Final = "FAL_QUEUE_RUN_HOST"
KEY_VARIABLE: Final = "FAL_KEY"
SCHEME: Final = "Key"
NAMESPACES: Final = frozenset({"workflows", "comfy"})
MODEL_ID_MAX_CHARS: Final = 300
MODELS_KEPT: Final = 256
WEEK_S: Final = 7 * 86_400.0
NO_RETRY: Final = {"x-fal-no-retry": "1"}
"""One POST buys one generation. By default fal restarts a request that lost its runner, up to 10 times,
and each start may cost money. Our own attempts are in the ledger and the budget, and the user limits
them."""


@dataclass(frozen=True, slots=True)
class Places:
    """The base URLs of the three hosts."""

    queue: str
    platform: str
    storage: str


class Fal:
    """The queue: :class:`batcher.ports.Provider`."""

    name = FAL
    traits = Traits(
        output_domains=("fal.media",),
        results_kept_s=WEEK_S,  # not documented; what is known is that outputs live "long"
        cancels_running=True,
        traces=Tracing.BY_LIST,
        cost=CostSource.BILLING,
    )

    def __init__(
        self, connection: Connection, platform: Platform, storage: Storage, clock: Clock
    ) -> None:
        self._connection = connection
        self._platform = platform
        self._storage = storage
        self._clock = clock
        self._costs = BilledCosts(platform)
        self._succeeded: set[str] = set()
        self._new: set[str] = set()
        """Requests of this process whose result has not been seen: not billed yet."""

    async def prepare(self, job: Job) -> bytes:
        """The inputs as JSON; local media inline or uploaded."""
        return await self._storage.body(job)

    async def submit(self, model: str, body: bytes) -> Handle:
        """POST one job. An answer that HTTP readers refuse still counts if its id can be read."""
        call = Call("POST", f"/{endpoint_path(model)}", body=body, headers=NO_RETRY)
        try:
            answer = await self._connection.submit(call)
        except OutcomeUnknown as error:
            return Handle(model, self._connection.id_told(error))
        base_url = self._connection.endpoint.base_url
        request = submission(answer, self._clock.now(), model, base_url)
        self._new.add(request.id)
        return request

    async def result(self, request: Handle) -> Result:
        """The status; once it has ended, the result with its cost.

        The first result of a new request does not wait for the cost, which is billed some time later.
        """
        seen = ENDED
        if request.id not in self._succeeded:
            status = await self._connection.ask(Call("GET", self._url(request, "status")))
            seen = standing(status, self._clock.now(), request.id)
        if seen.phase is not Phase.SUCCEEDED:
            return Result(seen.phase, seen.word, queue_position=seen.queue_position)
        answer = await self._connection.ask(Call("GET", self._url(request, "result")))
        result = outcome(answer, self._clock.now(), seen)
        is_new = request.id in self._new
        self._new.discard(request.id)
        if result.phase is Phase.SUCCEEDED:
            self._succeeded.add(request.id)
        if is_new or result.phase is not Phase.SUCCEEDED:
            return result
        return msgspec.structs.replace(result, cost_usd=await self._costs.of(request.id))

    async def cancel(self, request: Handle) -> CancelOutcome:
        """Ask to cancel; a running request may still end well."""
        answer = await self._connection.ask(Call("PUT", self._url(request, "cancel")))
        return cancellation(answer, self._clock.now())

    async def trace(self, lost: Sequence[Lost], known: Callable[[str], bool]) -> dict[str, Trace]:
        """The requests of lost attempts, found in fal's list. Attempts not listed stay undecided."""
        traces: dict[str, Trace] = {}
        for model in dict.fromkeys(one.model for one in lost):
            traces |= await self._found([one for one in lost if one.model == model], known)
        return traces

    async def _found(self, lost: Sequence[Lost], known: Callable[[str], bool]) -> dict[str, Trace]:
        sent, model = [one.sent_at for one in lost], lost[0].model
        endpoint, last = model.removeprefix(PREFIX), max(sent) + IN_FLIGHT + SKEW
        items = unused(await self._platform.requests(endpoint, min(sent) - SKEW, last) or (), known)
        return found_among(lost, items, await self._schema(model)) if items else {}

    async def _schema(self, model: str) -> dict[str, Any] | None:
        try:
            return (await self._platform.model(model)).get("input_schema")
        except CallError:
            return None

    def _url(self, request: Handle, call: str) -> str:
        """The URL from the answer if it is this queue's, else the one that follows from the id.

        Ids and URLs also come from the ledger, which may have been edited.
        """
        if usable_id(request.id) is None:
            raise Rejected(f"not a usable request id: {clean(request.id)!r}")
        url = (request.urls or {}).get(call, "")
        if is_at(self._connection.endpoint.base_url, url) and request.id in url.split("/"):
            return url
        path = f"/{app_path(request.model)}/requests/{request.id}"
        return path if call == "result" else f"{path}/{call}"


@lru_cache(MODELS_KEPT)
def endpoint_path(model: str) -> str:
    """A model's name as the path to POST to. Raises Rejected if it would name another path."""
    segments = model.removeprefix(PREFIX).split("/")
    unsafe = any(part in ("", ".", "..") for part in segments) or not model.isprintable()
    if unsafe or len(segments) < 2 or len(model) > MODEL_ID_MAX_CHARS:
        raise Rejected(f"not a usable model name: {clean(model)!r}; fal's are like fal:fal-ai/flux/dev")
    return "/".join(quote(part, safe="") for part in segments)


def app_path(model: str) -> str:
    """The part of a model's path that the paths of its requests begin with: owner and app."""
    segments = endpoint_path(model).split("/")
    return "/".join(segments[: 3 if segments[0] in NAMESPACES else 2])


def places(env: Mapping[str, str]) -> Places:
    """The hosts: the vendor's, or a stand-in's, whose address ends in ``/queue``. Raises UsageError.

    ``FAL_QUEUE_RUN_HOST`` is the vendor's own variable: a host, asked by https.
    """
    text = env.get(QUEUE_VARIABLE, "").strip().rstrip("/")
    base = text if not text or "://" in text else f"https://{text}"
    if not base:
        return Places(QUEUE, PLATFORM, STORAGE)
    try:
        host = urlsplit(base).hostname
    except ValueError:
        host = None
    if base.startswith("https://") and host in QUEUE_HOSTS:
        return Places(base, PLATFORM, STORAGE)
    if not base.endswith("/queue"):
        raise UsageError(
            f"{QUEUE_VARIABLE}: it names neither queue.fal.run nor a stand-in, whose address ends in "
            "/queue, as in http://127.0.0.1:8787/fal/queue"
        )
    return beside(base.removesuffix("/queue"))


def beside(base: str) -> Places:
    """The three APIs of a stand-in, under one address."""
    return Places(f"{base}/queue", f"{base}/api/v1", f"{base}/rest")


def find_key(env: Mapping[str, str]) -> Token | None:
    """The key, as the vendor's own client finds it: ``FAL_KEY``, or ``FAL_KEY_ID`` and
    ``FAL_KEY_SECRET``. Raises CredentialsError if it is no key."""
    text = env.get(KEY_VARIABLE, "").strip()
    key_id, secret = (env.get(f"{KEY_VARIABLE}_{part}", "").strip() for part in ("ID", "SECRET"))
    if not text and key_id and secret:
        text = f"{key_id}:{secret}"
    try:
        return Token(text) if text else None
    except CredentialsError as error:
        raise CredentialsError(f"${KEY_VARIABLE}: {error}") from None


@asynccontextmanager
async def open_fal(around: Surroundings) -> AsyncIterator[Vendor]:
    """fal, or the sandbox's. Raises CredentialsError, UsageError."""
    sandbox = around.sandbox
    found = beside(f"{sandbox}/fal") if sandbox else places(around.env)
    key = Token(uuid.uuid4().hex) if sandbox else find_key(around.env)
    if key is None and around.needs_token:
        raise CredentialsError(
            f"no key for fal: set {KEY_VARIABLE}, or {KEY_VARIABLE}_ID and {KEY_VARIABLE}_SECRET; "
            "`batcher plan` and `--sandbox` need none"
        )
    async with AsyncExitStack() as stack:

        async def line(base_url: str) -> Connection:
            endpoint = Endpoint(base_url, key, SCHEME)
            connection = Connection(endpoint, around.clock, network=around.network)
            return await stack.enter_async_context(connection)

        queue = await line(found.queue)
        platform = Platform(await line(found.platform), around.clock)
        storage = Storage(await line(found.storage), around.clock, around.network)
        provider = Fal(queue, platform, storage, around.clock)
        cache = around.cache(Endpoint(found.platform).origin)
        catalog = Catalog(platform, cache, around.clock)
        yield Vendor(queue.endpoint.base_url, provider, catalog, queue.endpoint, platform.balance_usd)
