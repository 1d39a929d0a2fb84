"""Replicate's predictions as a provider: ``replicate:owner/name[:version]``, and deployments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import msgspec

from batcher.errors import CredentialsError, NotFound, Rejected, UsageError
from batcher.http.bodies import usable_id
from batcher.http.endpoint import Endpoint, Token, safe_base_url
from batcher.http.exchange import ApiAnswer, Call, Connection, ExchangeTimeouts, is_at
from batcher.http.words import clean
from batcher.ports import CancelOutcome, CostSource, Handle, Result, Tracing, Traits
from batcher.providers import replicate_answers as answers
from batcher.providers.catalog import Catalog
from batcher.providers.replicate_answers import OUTPUT_DOMAIN, PREFIX, ModelName, model_name
from batcher.providers.replicate_files import Uploads
from batcher.providers.replicate_tracing import Listing, verdicts
from batcher.providers.vendor import Surroundings, Vendor

if TYPE_CHECKING:
    from batcher.clock import Clock
    from batcher.jobs.job import Job
    from batcher.ports import Lost, Trace

TOKEN_VARIABLE: Final = "REPLICATE_API_TOKEN"  # noqa: S105 - a name
BASE_VARIABLE: Final = "REPLICATE_API_BASE_URL"
DEFAULT_BASE_URL: Final = "https://api.replicate.com"
SANDBOX_PATH: Final = "/replicate"
HOUR_S: Final = 3600.0
BODY_MAX_BYTES: Final = 512 << 10
"""Large media are uploaded, so that no POST takes long: see ``replicate_tracing.SETTLED``."""
TIMEOUTS: Final = ExchangeTimeouts(post_silence_s=30.0, post_s=30.0)
"""A POST creates a prediction in moments. One that stays unanswered can be found by the list."""


class Replicate:
    """Replicate's API: :class:`batcher.ports.Provider`, and the service behind its catalogue."""

    name = "replicate"
    traits = Traits(
        output_domains=(OUTPUT_DOMAIN,),
        results_kept_s=HOUR_S,
        cancels_running=True,
        traces=Tracing.BY_LIST,
        cost=CostSource.NONE,
    )

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._base = connection.endpoint.base_url
        self._uploads = Uploads(self._ask, clock)

    async def prepare(self, job: Job) -> bytes:
        """The body of the POST. Uploads local media, once per content."""
        named = model_name(job.model)
        versioned = {"version": named.version} if named.version else {}
        body = msgspec.json.encode({**versioned, "input": await self._uploads.sent(job.input)})
        if len(body) > BODY_MAX_BYTES:
            raise ValueError(
                f"the request body has {len(body)} bytes, at most {BODY_MAX_BYTES} are sent"
            )
        return body

    async def submit(self, model: str, body: bytes) -> Handle:
        """See :meth:`batcher.ports.Provider.submit`. Never asks the API to wait for the result."""
        named = model_name(model)
        answer = await self._connection.submit(Call("POST", _door(named), body=body))
        try:
            found, document = answers.submission(answer, self._clock.now())
        except NotFound as error:
            raise NotFound(f"{error.message}{_advice(named)}", http_status=error.http_status) from error
        return Handle(model, found, self._other_urls(found, document.get("urls")))

    async def result(self, request: Handle) -> Result:
        """See :meth:`batcher.ports.Provider.result`."""
        call = Call("GET", (request.urls or {}).get("result") or _of_prediction(request.id))
        answer = await self._connection.ask(call)
        document = answers.prediction(answer, self._clock.now(), request.id)
        return answers.result(document, answer, request.model, self._base)

    async def cancel(self, request: Handle) -> CancelOutcome:
        """See :meth:`batcher.ports.Provider.cancel`. What runs can be cancelled; its time is charged."""
        path = (request.urls or {}).get("cancel") or f"{_of_prediction(request.id)}/cancel"
        document = await self._ask(Call("POST", path))
        if not isinstance(document.get("status"), str):
            return CancelOutcome.REQUESTED
        return answers.cancellation(document)

    async def trace(self, lost: Sequence[Lost], known: Callable[[str], bool]) -> dict[str, Trace]:
        """See :meth:`batcher.ports.Provider.trace`: by the list of predictions and their inputs."""
        listing = Listing(self._connection.ask, self._ask, self._clock, self._base)
        return await verdicts(lost, known, listing, self._defaults)

    async def model(self, model_id: str) -> dict[str, Any]:
        """A model's catalogue entry. May be repeated. Raises like ``result``."""
        named = model_name(model_id)
        if named.deployment:
            deployed = await self._ask(Call("GET", f"/deployments/{named.path}"))
            release = deployed.get("current_release")
            release = release if isinstance(release, dict) else {}
            named = model_name(f"{PREFIX}{release.get('model')}:{release.get('version')}")
        described = await self._ask(Call("GET", f"/models/{named.path}"))
        if named.version is None:
            version = described.get("latest_version")
        else:
            version = await self._ask(Call("GET", f"/models/{named.path}/versions/{named.version}"))
        return answers.entry(model_id, described, version if isinstance(version, dict) else {})

    async def models(
        self, search: str = "", category: str = "", *, limit: int, offset: int = 0
    ) -> dict[str, Any]:
        """The models that a search finds, at most one page of them: ``{"models", "total"}``."""
        if offset or category:
            return {"models": [], "total": 0}
        body, headers = search.encode() or None, {"Content-Type": "text/plain"}
        call = Call("QUERY", "/models", body=body, headers=headers) if body else Call("GET", "/models")
        found = (await self._ask(call)).get("results")
        listed = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        models = [
            answers.entry(f"{PREFIX}{one['owner']}/{one['name']}", one, {})
            for one in listed[:limit]
            if isinstance(one.get("owner"), str) and isinstance(one.get("name"), str)
        ]
        return {"models": models, "total": len(models)}

    async def _ask(self, call: Call) -> dict[str, Any]:
        """The object in the answer to a call that may be repeated. Raises like ``result``."""
        answer: ApiAnswer = await self._connection.ask(call)
        return answers.called(answer, self._clock.now())

    async def _defaults(self, model: str) -> Mapping[str, Any]:
        """The defaults of a model's inputs. Raises like ``result``."""
        properties = (await self.model(model)).get("input_schema", {}).get("properties")
        named = properties.items() if isinstance(properties, dict) else ()
        return {
            name: schema["default"]
            for name, schema in named
            if isinstance(schema, dict) and "default" in schema
        }

    def _other_urls(self, prediction: str, urls: Any) -> dict[str, str] | None:
        """The URLs of this API in an answer, if they differ from those made from the id."""
        if not isinstance(urls, dict):
            return None
        usual = {
            "result": f"{self._base}{_of_prediction(prediction)}",
            "cancel": f"{self._base}{_of_prediction(prediction)}/cancel",
        }
        told = {"result": urls.get("get"), "cancel": urls.get("cancel")}
        usable = {
            kind: url for kind, url in told.items() if isinstance(url, str) and is_at(self._base, url)
        }
        return usable if usable and usable != usual else None


def _door(named: ModelName) -> str:
    """The path of a submission."""
    if named.version is not None:
        return "/predictions"
    return f"/{'deployments' if named.deployment else 'models'}/{named.path}/predictions"


def _advice(named: ModelName) -> str:
    if named.version is not None or named.deployment:
        return ""
    return (
        " (only official models run without a version: take one from the model's page and write "
        f"{PREFIX}{named.path}:VERSION)"
    )


def _of_prediction(request_id: str) -> str:
    """The path of a prediction. Ids also come from the ledger, which may have been edited."""
    if usable_id(request_id) is None:
        raise Rejected(f"not a usable prediction id: {clean(request_id)!r}")
    return f"/predictions/{request_id}"


@asynccontextmanager
async def open_replicate(around: Surroundings) -> AsyncIterator[Vendor]:
    """Replicate's API, or the sandbox's. Raises CredentialsError, UsageError."""
    endpoint = _sandboxed(around.sandbox) if around.sandbox else _real(around)
    connection = Connection(endpoint, around.clock, TIMEOUTS, around.network)
    async with connection:
        provider = Replicate(connection, around.clock)
        catalog = Catalog(provider, around.cache(endpoint.origin), around.clock)
        yield Vendor(endpoint.base_url, provider, catalog, endpoint)


def _sandboxed(origin: str) -> Endpoint:
    return Endpoint(f"{origin}{SANDBOX_PATH}/v1", Token(uuid4().hex))


def _real(around: Surroundings) -> Endpoint:
    text = around.env.get(TOKEN_VARIABLE, "").strip()
    if not text and around.needs_token:
        raise CredentialsError(
            f"no token for Replicate: set {TOKEN_VARIABLE} to one of "
            "replicate.com/account/api-tokens; `batcher plan` and `--sandbox` need none"
        )
    try:
        token = Token(text) if text else None
    except CredentialsError as error:
        raise CredentialsError(f"${TOKEN_VARIABLE}: {error}") from None
    return Endpoint(_base_url(around.env), token)


def _base_url(env: Mapping[str, str]) -> str:
    """The API's base URL, with ``/v1``; the variable has none, as Replicate's own client reads it."""
    try:
        url = safe_base_url(env.get(BASE_VARIABLE, "").strip() or DEFAULT_BASE_URL)
    except UsageError as error:
        raise UsageError(f"{BASE_VARIABLE}: {error}") from None
    return f"{url.removesuffix('/v1')}/v1"
