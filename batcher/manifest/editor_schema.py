"""The YAML manifest as JSON Schema, with which editors complete keys and mark mistakes.

It is less strict than the manifest's own checks: the values of a matrix, a template or another file are
only known when the manifest is read. So no input is required here, and a template is allowed anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batcher.manifest.reading import INCLUDE_KEYS, MAPPING_KEYS
from batcher.manifest.rows import GLOB, REPEAT_MAX
from batcher.schema.spec import ModelSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TOLD = ("title", "description", "default")
_TEXT = {"type": "string", "minLength": 1}
_MAPPING = {"type": ["object", "null"]}
_GLOB = {
    "type": "object",
    "description": "One job for each file that matches, relative to this manifest.",
    "properties": {GLOB: _TEXT},
    "required": [GLOB],
    "additionalProperties": False,
}
_TEMPLATE = {"type": "string", "pattern": r"\{\{.*\}\}", "description": "Filled from vars and matrix."}
_MEDIA = {"type": "string", "description": "A public HTTPS URL, or a local file's path."}
_NAMES = {"anyOf": [_TEXT, {"type": "array", "items": {"type": "string"}}]}
_FROM = {
    "description": "Rows of another manifest file, relative to this one.",
    "anyOf": [
        _TEXT,
        {
            "type": "object",
            "properties": {
                **dict.fromkeys(INCLUDE_KEYS, _TEXT),
                **dict.fromkeys(MAPPING_KEYS, _NAMES),
                "columns": {"type": "object", "additionalProperties": _TEXT},
            },
            "required": ["file"],
            "additionalProperties": False,
        },
    ],
}
_MATRIX = {
    "type": ["object", "null"],
    "description": "Every combination: of inputs, or of variables that templates name.",
    "additionalProperties": {
        "anyOf": [{"type": "array", "minItems": 1}, {"$ref": "#/$defs/glob"}, {"type": "null"}]
    },
}
_SHARED: Mapping[str, Any] = {
    "model": {**_TEXT, "description": "Model id, as `batcher models` lists them."},
    "matrix": {"$ref": "#/$defs/matrix"},
    "vars": {**_MAPPING, "description": "Values for {{ templates }}; never sent."},
    "meta": {**_MAPPING, "description": "Kept with the results; never sent."},
    "repeat": {
        "type": "integer",
        "minimum": 1,
        "maximum": REPEAT_MAX,
        "description": "Number of samples of the same input.",
    },
}


def manifest_schema(spec: ModelSpec | None = None) -> dict[str, Any]:
    """JSON Schema (2020-12) of a YAML manifest; with ``spec``, of one whose jobs are that model's."""
    about = "" if spec is None else f" for {spec.model_id}"
    return {
        "$schema": DIALECT,
        "title": f"A batcher manifest{about}",
        "type": "object",
        "properties": {
            "name": {**_TEXT, "description": "Names the run directory, output/<name>; may use --var."},
            **_SHARED,
            "defaults": {"$ref": "#/$defs/inputs", "description": "Inputs of every job below."},
            "jobs": {"type": "array", "items": {"$ref": "#/$defs/job"}},
        },
        "required": ["jobs"],
        "additionalProperties": False,
        "$defs": {
            "glob": _GLOB,
            "template": _TEMPLATE,
            "matrix": _MATRIX,
            "inputs": _inputs(spec, {}),
            "job": _job(spec),
        },
    }


def _job(spec: ModelSpec | None) -> dict[str, Any]:
    """A job of the manifest's model; one that names another model may have any input."""
    reserved = {
        "id": {"type": ["string", "integer"], "description": "Unique; names the output files."},
        "from": _FROM,
        "input": {**_MAPPING, "description": "Inputs whose names are taken by a key here."},
        **_SHARED,
    }
    if spec is None:
        return {"type": "object", "properties": reserved}
    ours = {"properties": {"model": {"const": spec.model_id}}}
    return {"type": "object", "properties": reserved, "if": ours, "then": _inputs(spec, reserved)}


def _inputs(spec: ModelSpec | None, reserved: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping of inputs; ``reserved`` keys may be among them."""
    if spec is None:
        return {"type": ["object", "null"]}
    fields = {name: _field(spec, name) for name in spec.fields if name not in reserved}
    return {
        "type": ["object", "null"],
        "properties": {**dict.fromkeys(reserved, True), **fields},
        "additionalProperties": False,
    }


def _field(spec: ModelSpec, name: str) -> dict[str, Any]:
    schema = dict(spec.fields[name])
    if "$ref" in repr(schema):  # it refers outside the field: allow any value, `plan` checks it
        return {}
    told: dict[str, Any] = {
        key: schema.pop(key) for key in ("title", "description", "default") if key in schema
    }
    forms: list[Any] = [schema]
    if name in spec.media:
        forms = [_MEDIA, {"$ref": "#/$defs/glob"}]
        forms += [{"type": "array", "items": _MEDIA}] if schema.get("type") == "array" else []
    return {**told, "anyOf": [*forms, {"$ref": "#/$defs/template"}, {"type": "null"}]}
