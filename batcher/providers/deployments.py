"""RunComfy's serverless deployments: workflows and LoRAs that the user has deployed.

A deployment is named ``deployment/ID``. Token, wallet and life cycle are those of the Model API; the
origin is another one. The documented paths of requests have ``v1``, those of deployments ``v2``.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from batcher.clock import Clock
from batcher.errors import CallError, CredentialsError, NotFound, OutcomeUnknown, Rejected, UsageError
from batcher.http.bodies import document_of, usable_id
from batcher.http.endpoint import Endpoint, Token, origin_of, safe_base_url
from batcher.http.exchange import ApiAnswer, Call, Connection, is_at
from batcher.http.network import Network
from batcher.http.words import clean
from batcher.jobs.job import Job
from batcher.jobs.nodes import (
    DEPLOYMENT,
    INPUTS,
    OVERRIDES,
    PARTNER_VARIABLE,
    WORKFLOW,
    is_override,
    put_together,
)
from batcher.ports import CancelOutcome, CostSource, Handle, Lost, Result, Trace, Traits
from batcher.providers import deployments_answers as meaning
from batcher.providers.catalog import Catalog
from batcher.providers.json_body import encoded, inline, is_quick
from batcher.providers.registry import DEPLOYMENTS
from batcher.providers.runcomfy import answers
from batcher.providers.runcomfy.balance import (
    BALANCE_VARIABLE,
    DEFAULT_BALANCE_BASE,
    WALLET,
    balance_usd,
)
from batcher.providers.runcomfy.credentials import BASE_VARIABLE, DEFAULT_BASE_URL, base_url, find_token
from batcher.providers.vendor import Surroundings, Vendor, no_balance
from batcher.schema.object_info import workflow_schema

ASKS_ALWAYS_S: Final = 0.0
"""For how long an answer about a deployment counts: its owner may change it at any time."""
DESCRIPTION_MAX_BYTES: Final = 64 << 20
"""ComfyUI's description is long if it has many custom nodes."""
WEEK_S: Final = 7 * 86_400.0
DOMAINS: Final = ("runcomfy.net", "runcomfy.com")
VERSIONS: Final = ("/v1", "/v2")
PRICING_NOTE: Final = (
    "GPU time is billed; buy one job with --limit 1, look up its cost in your account, and give it as "
    "--assume-price"
)


def body_of(job: Job) -> bytes:
    """The body of a job's POST. Reads local media. Raises OSError, ValueError."""
    inputs = {name: inline(value) for name, value in job.input.items()}
    nodes = put_together(inputs)
    graph = inputs.pop(WORKFLOW, None)
    flat = {name: value for name, value in inputs.items() if not is_override(name)}
    if graph is not None:
        return encoded({**flat, WORKFLOW: _overridden(graph, nodes)})
    return encoded({**flat, OVERRIDES: nodes} if nodes else flat)


def _overridden(graph: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, Any]:
    """A workflow with the inputs of some nodes replaced: beside it, the API takes no overrides."""
    made = {str(node): about for node, about in graph.items()}
    for node, about in nodes.items():
        if node not in made:
            raise ValueError(f"the workflow has no node {node!r}")
        made[node] = {**made[node], INPUTS: {**made[node].get(INPUTS, {}), **about[INPUTS]}}
    return made


class Deployments:
    """Deployments: :class:`batcher.ports.Provider`."""

    name = DEPLOYMENTS
    traits = Traits(
        output_domains=DOMAINS, results_kept_s=WEEK_S, cancels_running=True, cost=CostSource.NONE
    )

    def __init__(self, connection: Connection, clock: Clock, secret: Token | None = None) -> None:
        """``secret`` is the user's key for partner nodes."""
        self._connection = connection
        self._clock = clock
        self._secret = secret

    async def prepare(self, job: Job) -> bytes:
        """The overrides or the workflow as JSON, local media inline; without the user's keys."""
        return body_of(job) if is_quick(job) else await asyncio.to_thread(body_of, job)

    async def submit(self, model: str, body: bytes) -> Handle:
        call = Call("POST", f"{_path(model, 1)}/inference", body=self._with_secret(body))
        try:
            answer = self._masked(await self._connection.submit(call))
        except OutcomeUnknown as error:
            return Handle(model, self._connection.id_told(error))
        return meaning.submission(answer, self._clock.now(), model, self._connection.endpoint.origin)

    async def result(self, request: Handle) -> Result:
        call = Call("GET", self._address(request, "result"))
        answer = self._masked(await self._connection.ask(call))
        return meaning.result(answer, self._clock.now(), request.id)

    async def cancel(self, request: Handle) -> CancelOutcome:
        call = Call("POST", self._address(request, "cancel"))
        answer = self._masked(await self._connection.ask(call))
        return meaning.cancellation(answer, self._clock.now(), request.id)

    async def trace(self, lost: Sequence[Lost], known: Callable[[str], bool]) -> dict[str, Trace]:
        """Nothing: the API lists no requests."""
        return {}

    def _address(self, request: Handle, call: str) -> str:
        """The path to ask at: the one in the answer to the POST, else the documented one.

        A ledger holds paths, so that no token goes elsewhere even if the file was edited.
        """
        if usable_id(request.id) is None:
            raise Rejected(f"not a usable request id: {clean(request.id)!r}")
        named = (request.urls or {}).get(call, "")
        url = f"{self._connection.endpoint.origin}{named}"
        if named.startswith("/") and request.id in named.split("/") and is_at(url, url):
            return url
        return f"{_path(request.model, 1)}/requests/{request.id}/{call}"

    def _with_secret(self, body: bytes) -> bytes:
        if self._secret is None or not body.endswith(b"}"):
            return body
        extra = encoded({"extra_data": {"api_key_comfy_org": self._secret.reveal()}})[1:]
        return body[:-1] + (b"," if len(body) > len(b"{}") else b"") + extra

    def _masked(self, answer: ApiAnswer) -> ApiAnswer:
        if self._secret is None:
            return answer
        secret, redact = self._secret, answer.redact
        return replace(answer, redact=lambda text: secret.redact(redact(text)))


def _path(model: str, version: int) -> str:
    """A deployment's path below the base. Raises Rejected if it would be another path."""
    name = model.removeprefix(DEPLOYMENT)
    if usable_id(name) is None:
        raise Rejected(f"not a usable id of a deployment: {clean(name)!r}")
    return f"/v{version}/deployments/{name}"


@dataclass(frozen=True, slots=True)
class DeploymentList:
    """The user's deployments as a catalogue: their nodes' inputs as a schema."""

    api: Connection
    clock: Clock
    network: Network

    async def model(self, model_id: str) -> dict[str, Any]:
        """One deployment. Raises NotFound also if it is disabled, else like ``Provider.result``."""
        path = _path(model_id, 2)
        answer = await self.api.ask(Call("GET", f"{path}?includes=payload&includes=readme"))
        found = answers.catalogue_object(answer, self.clock.now())
        if found.get("is_enabled") is False:
            raise NotFound("the deployment is disabled: enable it on its page")
        return _entry(model_id, found) | await self._schema(found.get("payload"))

    async def models(
        self, search: str = "", category: str = "", *, limit: int, offset: int = 0
    ) -> dict[str, Any]:
        """The deployments with ``search`` in id or name: all of them are one page."""
        answer = await self.api.ask(Call("GET", "/v2/deployments"))
        found = meaning.listed(answer, self.clock.now())
        ids = ((usable_id(one.get("id", one.get("deployment_id"))), one) for one in found)
        entries = [_entry(f"{DEPLOYMENT}{name}", one) for name, one in ids if name is not None]
        shown = [e for e in entries if search.lower() in f"{e['model_id']} {e['display_name']}".lower()]
        return {"models": shown[offset : offset + limit], "total": len(shown)}

    async def _schema(self, payload: object) -> dict[str, Any]:
        """The ``input_schema`` of an entry; empty if the deployment doesn't describe its inputs."""
        if not isinstance(payload, dict):
            return {}
        if isinstance(payload.get("input_schema"), dict):
            return {"input_schema": payload["input_schema"]}
        graph = payload.get(WORKFLOW)
        if not isinstance(graph, dict):
            return {}
        return {"input_schema": workflow_schema(graph, await self._object_info(payload))}

    async def _object_info(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """What ComfyUI says of its nodes; empty if it can't be had: then names alone are checked."""
        url = payload.get("object_info_url")
        if not isinstance(url, str) or not (is_at(self.api.endpoint.origin, url) or is_vendors(url)):
            return {}
        try:
            if is_at(self.api.endpoint.origin, url):
                return await self._described(self.api, url)
            way = Endpoint(origin_of(url))  # without the token
            async with Connection(way, self.clock, network=self.network) as storage:
                return await self._described(storage, url[len(way.origin) :])
        except (CallError, UsageError):
            return {}

    async def _described(self, way: Connection, path: str) -> dict[str, Any]:
        answer = await way.ask(Call("GET", path, answer_max_bytes=DESCRIPTION_MAX_BYTES))
        return await asyncio.to_thread(document_of, answer.body)


def is_vendors(url: str) -> bool:
    """Whether a URL is on one of the vendor's hosts: only these are asked for descriptions."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and not {" ", "\\", "@", "#"} & set(url)
    return plain and parts.scheme == "https" and host.endswith(tuple(f".{name}" for name in DOMAINS))


def _entry(model_id: str, found: Mapping[str, Any]) -> dict[str, Any]:
    name = found.get("name")
    return {
        "model_id": model_id,
        "display_name": name if isinstance(name, str) else model_id,
        "categories": ["deployment"],
        "pricing_note": PRICING_NOTE,
    }


@asynccontextmanager
async def open_deployments(around: Surroundings) -> AsyncIterator[Vendor]:
    """The deployments' API, or the sandbox's. Raises CredentialsError, UsageError."""
    endpoint = _sandboxed(around.sandbox) if around.sandbox else _real(around)
    secret = around.env.get(PARTNER_VARIABLE, "").strip()
    async with Connection(endpoint, around.clock, network=around.network) as api:
        service = DeploymentList(api, around.clock, around.network)
        catalog = Catalog(service, around.cache(endpoint.origin), around.clock, ASKS_ALWAYS_S)
        provider = Deployments(api, around.clock, Token(secret) if secret else None)

        async def ask_balance() -> float | None:
            return await balance_usd(endpoint, around.env)

        balance = no_balance if around.sandbox else ask_balance
        yield Vendor(endpoint.base_url, provider, catalog, endpoint, balance, WALLET)


def _sandboxed(origin: str) -> Endpoint:
    return Endpoint(f"{origin}/prod", Token(uuid.uuid4().hex))


def _real(around: Surroundings) -> Endpoint:
    base = _base(around.env)
    try:
        found = find_token(around.env, around.home)
    except CredentialsError:
        if around.needs_token:
            raise
        return Endpoint(base)
    for warning in found.warnings:
        around.warn(warning)
    return Endpoint(base, found.token)


def _base(env: Mapping[str, str]) -> str:
    """The base without its version. Raises UsageError if the token must not go there."""
    named = env.get(BALANCE_VARIABLE, "").strip()
    if not named and base_url(env) != DEFAULT_BASE_URL:
        raise UsageError(
            f"{BASE_VARIABLE} is set, and the token of that API must not go to {DEFAULT_BALANCE_BASE}: "
            f"set {BALANCE_VARIABLE} as well for deployments"
        )
    try:
        base = safe_base_url(named or DEFAULT_BALANCE_BASE)
    except UsageError as error:
        raise UsageError(f"{BALANCE_VARIABLE}: {error}") from None
    if not base.endswith(VERSIONS):
        raise UsageError(f"{BALANCE_VARIABLE}: it must end in a version, as {DEFAULT_BALANCE_BASE} does")
    return base[: -len(VERSIONS[0])]
