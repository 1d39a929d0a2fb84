"""What Replicate's API tells of models, their versions, deployments, and uploaded files."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aiohttp import web

from batcher.clock import iso
from batcher.sandbox.answers import INVALID_INPUT, Refusal, not_found
from batcher.sandbox.backend import origin_of
from batcher.sandbox.catalogue import Model, catalogue, find

if TYPE_CHECKING:
    from batcher.sandbox.backend import Backend

API = "replicate"
BASE = "/replicate/v1"
OFFICIAL = "official"
DEPLOYMENT = "deployments/"
RELEASED = "black-forest-labs/flux-schnell"
"""The model behind the sandbox's deployment."""
FILE_KEPT = timedelta(hours=24)


class Files:
    """Uploads. A file's id is its SHA-256, so that a URL outlives the process."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._known: dict[str, dict[str, Any]] = {}

    async def create(self, request: web.Request) -> web.Response:
        """``POST /files``: multipart, the part ``content``."""
        field = (await request.post()).get("content")
        if not isinstance(field, web.FileField):
            raise Refusal(422, "content is required", error_code=INVALID_INPUT)
        content = field.file.read()
        self._backend.stats.uploads += 1
        now, sha256 = self._backend.now(), hashlib.sha256(content).hexdigest()
        self._known[sha256] = {
            "content_type": field.content_type,
            "size": len(content),
            "created_at": iso(now),
            "expires_at": iso(now + FILE_KEPT),
        }
        return web.json_response(self._shown(request, sha256), status=201)

    async def listed(self, request: web.Request) -> web.Response:
        """``GET /files``: those of this process."""
        results = [self._shown(request, one) for one in self._known]
        return web.json_response({"next": None, "previous": None, "results": results})

    async def get(self, request: web.Request) -> web.Response:
        """``GET /files/{id}``."""
        return web.json_response(self._shown(request, request.match_info["id"]))

    def _shown(self, request: web.Request, sha256: str) -> dict[str, Any]:
        return {
            "id": sha256,
            "name": sha256[:16],
            "etag": sha256[:32],
            "checksums": {"sha256": sha256},
            "metadata": {},
            "urls": {"get": f"{base_url(request)}/files/{sha256}"},
            "content_type": "application/octet-stream",
            "size": 0,
            "created_at": None,
            "expires_at": None,
            **self._known.get(sha256, {}),
        }


async def listed_models(request: web.Request) -> web.Response:
    """``GET /models``, and ``QUERY /models`` with the words to look for as its body."""
    found = find(API, (await request.text()).strip(), "")
    listed = [_described(model) for model in found if not model.model_id.startswith(DEPLOYMENT)]
    return web.json_response({"next": None, "previous": None, "results": listed})


async def one_model(request: web.Request) -> web.Response:
    return web.json_response(_described(named_model(request)))


async def one_version(request: web.Request) -> web.Response:
    model = named_model(request)
    if request.match_info["version"] != version_of(model.model_id):
        raise not_found("version")
    return web.json_response(_versioned(model))


async def one_deployment(request: web.Request) -> web.Response:
    model = named_model(request)
    release = {"number": 1, "model": RELEASED, "version": version_of(RELEASED)}
    return web.json_response({"owner": "acme", "name": model.display_name, "current_release": release})


def version_of(model_id: str) -> str:
    """The id of a model's only version."""
    return hashlib.sha256(model_id.encode()).hexdigest()


def _described(model: Model) -> dict[str, Any]:
    owner, _, name = model.model_id.rpartition("/")
    return {
        "url": f"https://replicate.com/{model.model_id}",
        "owner": owner,
        "name": name,
        "description": model.description,
        "visibility": "public",
        "run_count": 0,
        "is_official": OFFICIAL in model.categories,
        "latest_version": _versioned(model),
    }


def _versioned(model: Model) -> dict[str, Any]:
    """A version with its schema: enumerations are schemas of their own, as cog writes them."""
    properties = dict(model.input_schema["properties"])
    schemas: dict[str, Any] = {}
    for name, schema in properties.items():
        if "enum" in schema:
            schemas[name] = {key: schema[key] for key in ("enum", "type", "title")}
            rest = {key: value for key, value in schema.items() if key not in ("enum", "type", "title")}
            properties[name] = {"allOf": [{"$ref": f"#/components/schemas/{name}"}], **rest}
    schemas["Input"] = {**model.input_schema, "properties": properties}
    schemas["Output"] = {"title": "Output"}
    openapi = {"openapi": "3.0.2", "info": {"title": "Cog"}, "components": {"schemas": schemas}}
    return {
        "id": version_of(model.model_id),
        "created_at": "2026-01-01T00:00:00.000000Z",
        "cog_version": "0.14.1",
        "openapi_schema": openapi,
    }


def named_model(request: web.Request) -> Model:
    """The model or the deployment that a path names."""
    path = "{owner}/{name}".format(**request.match_info)
    is_deployment = request.path.startswith(f"{BASE}/deployments/")
    model = catalogue(API).get(f"{DEPLOYMENT if is_deployment else ''}{path}")
    if model is None:
        raise not_found("model")
    return model


def model_of_version(version: Any) -> Model:
    """The model of ``owner/name`` (official), ``owner/name:id`` or ``id``."""
    for model in catalogue(API).values():
        whole = version_of(model.model_id)
        official = {model.model_id} if OFFICIAL in model.categories else set()
        if version in {whole, f"{model.model_id}:{whole}", *official}:
            return model
    raise Refusal(422, "Invalid version or not permitted", error_code=INVALID_INPUT)


def base_url(request: web.Request) -> str:
    """The API's base URL, on the host that ``request`` came to."""
    return f"{origin_of(request)}{BASE}"
