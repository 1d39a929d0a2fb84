"""The inputs of a ComfyUI workflow as JSON Schema: from the workflow, and from ``object_info``.

``object_info`` is ComfyUI's own description of its nodes: ``{class: {"input": {"required": {name:
[type, options]}, "optional": {...}}}}``. Without it, the names are known and the types are those of the
workflow's own values. Both come from the network: what is odd in them is left out, and so unchecked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from batcher.jobs.nodes import INPUTS, WORKFLOW, node_order, node_path

ANYTHING: Final[dict[str, Any]] = {"type": ["array", "object", "string", "number", "boolean"]}
"""Said in types, so that no name is taken for the name of media."""
CHOICES_MAX: Final = 5000
_TYPES: Final = {"INT": "integer", "FLOAT": "number", "STRING": "string", "BOOLEAN": "boolean"}
_UPLOADS: Final = {
    "image_upload": "image_uri",
    "animated_image_upload": "image_uri",
    "video_upload": "video_uri",
    "audio_upload": "audio_uri",
}
"""Options of an input that names a file on the server; there a URL or a ``data:`` URI is taken too."""
_BOUNDS: Final = (("min", "minimum"), ("max", "maximum"))


def workflow_schema(graph: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of all inputs that can be overridden in the workflow ``graph``.

    The names are ``overrides.NODE.inputs.NAME``; a stored value is the default.
    """
    properties = {WORKFLOW: {"description": "A whole workflow instead of the stored one."}}
    for node, about in sorted(graph.items(), key=lambda item: node_order(item[0])):
        for name, schema in _inputs_of(about, object_info):
            properties[node_path(node, name)] = schema
    return {"type": "object", "properties": properties}


def _inputs_of(about: Any, object_info: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(about, dict):
        return
    class_type = about.get("class_type")
    stored = _mapping(about.get(INPUTS))
    known = _described(object_info.get(class_type) if isinstance(class_type, str) else None)
    title = _mapping(about.get("_meta")).get("title", class_type)
    for name in dict.fromkeys([*stored, *known]):
        schema = _by_class(known[name]) if name in known else _by_value(stored.get(name))
        yield name, _with_stored(schema, stored.get(name), title)


def _described(about: Any) -> dict[str, Any]:
    inputs = _mapping(_mapping(about).get("input"))
    return {**_mapping(inputs.get("required")), **_mapping(inputs.get("optional"))}


def _by_class(entry: Any) -> dict[str, Any]:
    """The schema of ``[type, options]``; ``{}``, which takes anything, for types that are not known."""
    kind, options = (*entry, None, None)[:2] if isinstance(entry, list) else (None, None)
    options = _mapping(options)
    for option, media_format in _UPLOADS.items():
        if options.get(option) is True:
            return {"type": "string", "format": media_format}
    choices = kind if isinstance(kind, list) else options.get("options") if kind == "COMBO" else None
    if choices is not None:
        return _one_of(choices)
    if not isinstance(kind, str) or kind not in _TYPES:
        return {}
    bounds = {keyword: options[key] for key, keyword in _BOUNDS if _is_number(options.get(key))}
    return {"type": _TYPES[kind], **(bounds if kind in ("INT", "FLOAT") else {})}


def _one_of(choices: Any) -> dict[str, Any]:
    usable = isinstance(choices, list) and 0 < len(choices) <= CHOICES_MAX
    if not usable or not all(isinstance(one, str | int | float) for one in choices):
        return {}
    return {"enum": choices}


def _by_value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int | float):
        return {"type": "number"}
    return {"type": "string"} if isinstance(value, str) else {}


def _with_stored(schema: dict[str, Any], value: Any, title: object) -> dict[str, Any]:
    """The input with its stored value, and the node's title.

    What another node's output goes into may take the output of a third, or a value: anything, then.
    """
    about = title if isinstance(title, str) else ""
    if isinstance(value, list | dict):
        schema = ANYTHING
        about = f"{about}, fed by node {value[0]}" if isinstance(value, list) and value else about
    given = {"default": value, "description": about}
    return {**schema, **{key: one for key, one in given.items() if one not in (None, "")}}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
