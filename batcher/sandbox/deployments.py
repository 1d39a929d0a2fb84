"""Serverless deployments: workflows and a LoRA of the user's own, with their instances.

Documented paths have ``v1``, the URLs in answers ``v2``: both are served.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from batcher.clock import iso
from batcher.sandbox.answers import (
    INSUFFICIENT_RESOURCES,
    INTERNAL,
    INVALID_INPUT,
    USER_ACCOUNT,
    Refusal,
    gone_wrong,
    hang_up,
    not_found,
)
from batcher.sandbox.backend import origin_of
from batcher.sandbox.catalogue import MEDIA_SCHEMES, Model
from batcher.sandbox.faults import FAILURES, Fault
from batcher.sandbox.gate import Gatekeeper
from batcher.sandbox.outputs import names
from batcher.sandbox.store import Request, RequestPhase

if TYPE_CHECKING:
    from batcher.sandbox.backend import Backend
    from batcher.sandbox.journal import JobCreated

API: Final = "deployments"
NO_FUNDS, DISABLED, DELETED = 10001, 10002, 10003
UNAUTHORISED = 401001
_CODES = {INSUFFICIENT_RESOURCES: NO_FUNDS, USER_ACCOUNT: UNAUTHORISED}
_GATES = {DISABLED: (403, "Deployment is disabled"), DELETED: (404, "Deployment has been deleted")}
_BASE = "/prod/{version:v[12]}/deployments"
WORDS = {
    RequestPhase.IN_QUEUE: "in_queue",
    RequestPhase.IN_PROGRESS: "in_progress",
    RequestPhase.FINISHED: "completed",
    RequestPhase.CANCELLED: "cancelled",
}
STRANGE_WORD = "uploading"

OBJECT_INFO: Final[dict[str, Any]] = {
    "KSampler": {
        "seed": ["INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}],
        "steps": ["INT", {"default": 20, "min": 1, "max": 10000}],
        "cfg": ["FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1}],
        "sampler_name": [["euler", "dpmpp_2m", "uni_pc"], {}],
        "denoise": ["FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0}],
        **{name: [kind] for name, kind in (("model", "MODEL"), ("latent_image", "LATENT"))},
        **{name: ["CONDITIONING"] for name in ("positive", "negative")},
    },
    "CheckpointLoaderSimple": {"ckpt_name": [["portrait.safetensors", "landscape.safetensors"]]},
    "EmptyLatentImage": {
        side: ["INT", {"default": 512, "min": 16, "max": 4096, "step": 8}]
        for side in ("width", "height")
    },
    "CLIPTextEncode": {"text": ["STRING", {"multiline": True}], "clip": ["CLIP"]},
    "SaveImage": {"filename_prefix": ["STRING", {"default": "ComfyUI"}], "images": ["IMAGE"]},
    "LoadImage": {"image": [["example.png"], {"image_upload": True}]},
}
"""What ComfyUI says of the nodes; not of all: custom nodes are missing."""


class Deployment(Model, frozen=True):
    """A deployment. ``reads`` says which input of which node is the prompt, the seed, the width, ...

    Without a ``workflow`` it takes flat inputs. ``gate`` is the code by which it refuses all requests.
    """

    workflow: dict[str, Any] | None = None
    reads: dict[str, tuple[str, str]] = msgspec.field(default_factory=dict)
    gate: int | None = None


@cache
def _deployments() -> dict[str, Deployment]:
    data = resources.files(__package__).joinpath("catalogues", f"{API}.json").read_bytes()
    listed = msgspec.json.decode(data, type=list[Deployment])
    named = ((one.model_id.rpartition("/")[2], one) for one in listed)
    return {name: msgspec.structs.replace(one, api=API) for name, one in named}


def routes(backend: Backend) -> list[web.RouteDef]:
    """The calls about deployments, below ``/prod``."""
    api, gate = DeploymentApi(backend), Gatekeeper(backend, says_no=_says_no)
    one, passed = _BASE + "/{deployment}", gate.passed
    request = one + "/requests/{request_id}"
    return [
        web.get(_BASE, passed(api.all)),
        web.get(one, passed(api.one)),
        web.get(one + "/object_info", passed(api.object_info)),
        web.post(one + "/inference", passed(api.submit, "posts")),
        web.get(request + "/status", passed(api.status, "polls")),
        web.get(request + "/result", passed(api.result, "polls")),
        web.post(request + "/cancel", passed(api.cancel, "cancels")),
    ]


def _says_no(refusal: Refusal) -> web.Response:
    code = refusal.error_code
    refusal.error_code = code if code is None else _CODES.get(code, code)
    return refusal.response()


class DeploymentApi:
    """Handlers of the calls. Each raises Refusal if the API would refuse the call."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = backend.store

    async def all(self, _: web.Request) -> web.Response:
        """``GET …/deployments``."""
        return web.json_response([_told(name, one) for name, one in _deployments().items()])

    async def one(self, request: web.Request) -> web.Response:
        """``GET …/deployments/{id}``, with ``payload`` if ``includes`` asks for it."""
        name, found = _named(request)
        told = _told(name, found)
        if "payload" in request.query.getall("includes", []):
            told["payload"] = _payload(request, found)
        return web.json_response(told)

    async def object_info(self, request: web.Request) -> web.Response:
        """ComfyUI's description of the nodes."""
        _named(request)
        told = {name: {"input": {"required": inputs}} for name, inputs in OBJECT_INFO.items()}
        return web.json_response(told)

    async def submit(self, request: web.Request) -> web.Response:
        """``POST …/inference``: check, charge, enqueue, and only then answer."""
        _, deployment = _named(request)
        if self._backend.drops_unread(request):
            return hang_up(request)
        if deployment.gate is not None:
            status, message = _GATES[deployment.gate]
            raise Refusal(status, message, error_code=deployment.gate)
        made = self._backend.submit(deployment, _inputs(await request.read(), deployment))
        if made.fault is not None:
            return gone_wrong(request, made.fault, self._backend.now())
        return web.json_response({"request_id": made.order.id, **_links(request, made.order)})

    async def status(self, request: web.Request) -> web.Response:
        """``GET …/status``."""
        return self._tell(request, ended=False)

    async def result(self, request: web.Request) -> web.Response:
        """``GET …/result``; before the end, what the status is."""
        return self._tell(request, ended=True)

    async def cancel(self, request: web.Request) -> web.Response:
        """``POST …/cancel``: of a request that waits or runs. The time that it ran is paid for."""
        asked = self._asked(request)
        if (fault := self._backend.poll_fault(asked)) is not None:
            return gone_wrong(request, fault, self._backend.now())
        with self._store.alone():
            phase = asked.phase(self._store.now_s())
            if not phase.terminal:
                self._store.cancel(asked, charged=phase is RequestPhase.IN_PROGRESS)
        word = {RequestPhase.IN_QUEUE: "cancelled", RequestPhase.IN_PROGRESS: "cancellation_requested"}
        return web.json_response(
            {"request_id": asked.order.id, "status": word.get(phase, "not_cancellable")}
        )

    def _asked(self, request: web.Request) -> Request:
        """The request, which its own deployment alone knows."""
        asked = self._backend.find(API, request.match_info["request_id"])
        if asked.order.model.rpartition("/")[2] != request.match_info["deployment"]:
            raise not_found("request")
        return asked

    def _tell(self, request: web.Request, *, ended: bool) -> web.Response:
        asked = self._asked(request)
        if (fault := self._backend.poll_fault(asked)) is not None:
            return gone_wrong(request, fault, self._backend.now())
        phase = asked.phase(self._store.now_s())
        told: dict[str, Any] = {"request_id": asked.order.id, "status": _word(asked, phase)}
        if phase is RequestPhase.IN_QUEUE:
            told["queue_position"] = self._store.queue_position(asked.order.id)
        elif not phase.terminal:
            told["instance_id"] = "sandbox-instance"
        if ended and phase is RequestPhase.FINISHED:
            told |= self._ending(request, asked)
        return web.json_response(told | _links(request, asked.order))

    def _ending(self, request: web.Request, asked: Request) -> dict[str, Any]:
        order = asked.order
        at = {"created_at": _iso(order.at), "finished_at": _iso(asked.ended_s or order.at)}
        if order.fate in FAILURES:
            error = {"errorCode": INTERNAL, "error": "Node 3 (KSampler) failed", "debugInfo": "worker 7"}
            return {"status": "failed", "error": [error], **at}
        outputs = {} if order.fate == Fault.GENERATE_NO_OUTPUT else self._outputs(request, order)
        return {"status": "succeeded", "outputs": outputs, **at}

    def _outputs(self, request: web.Request, order: JobCreated) -> dict[str, Any]:
        """By node and channel, in no order that means anything."""
        urls = self._backend.output_urls(request, order)
        files = [
            {"filename": name, "subfolder": "", "type": "output", "url": url}
            for name, url in zip(names(order), urls, strict=True)
        ]
        if len(files) == 1:
            return {"9": {"images": files}}
        image, clip, preview = files
        return {
            "10": {"videos": [clip]},
            "9": {"images": [image]},
            "2": {"images": [preview | {"type": "temp"}]},
        }


def _word(asked: Request, phase: RequestPhase) -> str:
    fate = asked.order.fate
    if phase is RequestPhase.CANCELLED and fate == Fault.GENERATE_SYNONYMS:
        return "canceled"
    if phase is RequestPhase.IN_PROGRESS and fate == Fault.GENERATE_STRANGE_WORD:
        return STRANGE_WORD
    return WORDS[phase]


def _named(request: web.Request) -> tuple[str, Deployment]:
    name = request.match_info["deployment"]
    found = _deployments().get(name)
    if found is None:
        raise not_found("deployment")
    return name, found


def _told(name: str, deployment: Deployment) -> dict[str, Any]:
    simulation = deployment.simulation
    return {
        "id": name,
        "name": deployment.display_name,
        "hardware": ["AMPERE_48"],
        "min_instances": 0,
        "max_instances": simulation.instances,
        "keep_warm_duration_in_seconds": 60,
        "is_enabled": True,
    }


def _payload(request: web.Request, deployment: Deployment) -> dict[str, Any]:
    if deployment.workflow is None:
        return {"input_schema": deployment.input_schema}
    url = f"{origin_of(request)}{request.path}/object_info"
    return {"workflow_api_json": deployment.workflow, "overrides": {}, "object_info_url": url}


class Overriding(msgspec.Struct):
    """What one node gets."""

    inputs: dict[str, Any]


class Node(msgspec.Struct):
    """One node of a workflow."""

    class_type: str
    inputs: dict[str, Any] = msgspec.field(default_factory=dict)


class WorkflowBody(msgspec.Struct):
    """The body of a POST to a deployment of a workflow: one of the two, or neither."""

    overrides: dict[str, Overriding] | None = None
    workflow_api_json: dict[str, Node] | None = None


def _inputs(body: bytes, deployment: Deployment) -> dict[str, Any]:
    """The inputs as the model takes them. Raises Refusal: 400 (no JSON object), 422."""
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Refusal(400, "Body is not a JSON object", detail=str(error)) from error
    document.pop("extra_data", None)
    if deployment.workflow is not None:
        return {**_read(deployment, body), "sent": document}
    if problems := deployment.problems(document):
        raise _invalid(problems)
    return document


def _read(deployment: Deployment, body: bytes) -> dict[str, Any]:
    """What a workflow would be made of: its prompt, its seed, ... Raises Refusal: 422."""
    try:
        sent = msgspec.json.decode(body, type=WorkflowBody)
        stored = msgspec.convert(deployment.workflow, dict[str, Node])
    except msgspec.ValidationError as error:
        raise _invalid([_problem([], str(error))]) from error
    if sent.workflow_api_json is not None and sent.overrides is not None:
        raise _invalid([_problem(["overrides"], "not beside workflow_api_json")])
    graph = _merged(sent.workflow_api_json or stored, sent.overrides or {})
    places = ((name, graph.get(node), own) for name, (node, own) in deployment.reads.items())
    return {name: node.inputs[own] for name, node, own in places if node and own in node.inputs}


def _merged(graph: dict[str, Node], overrides: dict[str, Overriding]) -> dict[str, Node]:
    """The workflow with overrides. Raises Refusal: 422 for nodes and media that don't exist."""
    for name, given in overrides.items():
        if name not in graph:
            raise _invalid([_problem(["overrides", name], "no such node")])
        graph[name].inputs |= given.inputs
    for name, node in graph.items():
        image = node.inputs.get("image")
        if node.class_type == "LoadImage" and image != "example.png":
            _check_media(name, image)
    return graph


def _check_media(node: str, image: Any) -> None:
    if not isinstance(image, str) or not image.startswith(MEDIA_SCHEMES):
        raise _invalid([_problem(["overrides", node, "inputs", "image"], "Invalid image file")])


def _problem(path: list[str], message: str) -> dict[str, Any]:
    return {"loc": ["body", *path], "msg": message, "type": "value_error"}


def _invalid(problems: list[dict[str, Any]]) -> Refusal:
    return Refusal(422, "Input validation failed", error_code=INVALID_INPUT, detail=problems)


def _links(request: web.Request, order: JobCreated) -> dict[str, str]:
    name = order.model.rpartition("/")[2]
    base = f"{origin_of(request)}/prod/v2/deployments/{name}/requests/{order.id}"
    return {f"{call}_url": f"{base}/{call}" for call in ("status", "result", "cancel")}


def _iso(epoch_s: float) -> str:
    return iso(datetime.fromtimestamp(epoch_s, UTC))
