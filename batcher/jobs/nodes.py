"""The inputs of a workflow, each by its node: ``overrides.6.inputs.text``.

A deployment takes a map ``{"6": {"inputs": {"text": ...}}}``. In jobs each value has its own name
instead, so that templates, matrices, columns and types work as for any other input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

DEPLOYMENT: Final = "deployment/"
"""What the names of deployments begin with."""
OVERRIDES: Final = "overrides"
INPUTS: Final = "inputs"
WORKFLOW: Final = "workflow_api_json"
"""The input that is a whole workflow."""
EXTRA_DATA: Final = "extra_data"
"""A field of the API that holds keys of other services."""
PARTNER_VARIABLE: Final = "COMFY_ORG_API_KEY"

_PREFIX: Final = f"{OVERRIDES}."
_PARTS: Final = 4
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


def node_path(node: object, name: object) -> str:
    """The name of a node's input."""
    return f"{_PREFIX}{node}.{INPUTS}.{name}"


def is_override(name: str) -> bool:
    """Whether an input is meant for a node."""
    return name.startswith(_PREFIX)


def node_and_name(path: str) -> tuple[str, str] | None:
    """The node of a path, and the name in it; None if the path is not an input of a node."""
    parts = path.split(".", _PARTS - 1)
    is_path = len(parts) == _PARTS and (parts[0], parts[2]) == (OVERRIDES, INPUTS)
    return (parts[1], parts[3]) if is_path and parts[1] and parts[3] else None


def node_order(node: str) -> list[tuple[int, int, str]]:
    """Sorts nodes: ``2`` before ``10``, and ``57:3`` (a node in a group) before ``57:8``."""
    parts = node.split(":")
    return [(0, int(p), "") if p.isascii() and _NUMBER.fullmatch(p) else (1, 0, p) for p in parts]


def taken_apart(inputs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The inputs, with a map ``overrides`` as one input for each value in it; null is no value."""
    for name, value in inputs.items():
        if name == OVERRIDES and isinstance(value, dict):
            yield from _of_nodes(value)
        else:
            yield name, value


def _of_nodes(nodes: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for node, about in nodes.items():
        for key, value in about.items() if isinstance(about, dict) else ((None, about),):
            if key == INPUTS and isinstance(value, dict):
                given = ((name, one) for name, one in value.items() if one is not None)
                yield from ((node_path(node, name), one) for name, one in given)
            elif value is not None:
                yield f"{_PREFIX}{node}" + (f".{key}" if key is not None else ""), value


def put_together(inputs: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The map that the API takes: the inverse of :func:`taken_apart`. Other inputs are left out."""
    nodes: dict[str, dict[str, dict[str, Any]]] = {}
    for path, value in inputs.items():
        if (place := node_and_name(path)) is not None:
            node, name = place
            nodes.setdefault(node, {INPUTS: {}})[INPUTS][name] = value
    return nodes


def problems_of(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the names of a deployment's inputs, each with the input."""
    if EXTRA_DATA in inputs:
        yield EXTRA_DATA, f"a key must not stand in a manifest; set the variable {PARTNER_VARIABLE}"
    form = f"{OVERRIDES}.NODE.{INPUTS}.NAME"
    for name, value in inputs.items():
        if name == OVERRIDES:
            yield name, f"not a map of nodes; write {form}, or {{NODE: {{{INPUTS}: {{NAME: value}}}}}}"
        elif is_override(name) and node_and_name(name) is None:
            yield name, f"leads to no input of a node: write {form}"
        elif is_override(name) and isinstance(value, dict) and value.keys() == {"glob"}:
            yield (
                name,
                f"write a pattern of files under its path, {name}: {{glob: ...}}, and not inside a map",
            )


def is_link(name: str, value: object) -> bool:
    """Whether a node's input takes another node's output: ``["10", 0]``. It is no media then."""
    return is_override(name) and isinstance(value, list)


def workflow_problem(graph: object) -> str | None:
    """Why a JSON value is no workflow that the API takes; None if it is one."""
    if not isinstance(graph, dict) or not graph:
        return "no workflow: a JSON object of nodes is needed"
    if isinstance(graph.get("nodes"), list):
        return "a workflow as the editor saves it; export it once more for the API (Export (API))"
    for node, about in graph.items():
        if not isinstance(about, dict) or not isinstance(about.get("class_type"), str):
            return f"no workflow for the API: its node {node} has no class_type"
    return None
