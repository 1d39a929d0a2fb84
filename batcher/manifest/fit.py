"""Matches the inputs of a row with those of its model: names, extra ones, types, nodes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from batcher.jobs.column_rules import META, normal
from batcher.jobs.job import LocalMedia
from batcher.jobs.nodes import (
    DEPLOYMENT,
    OVERRIDES,
    WORKFLOW,
    is_override,
    node_and_name,
    node_order,
    problems_of,
    taken_apart,
)
from batcher.manifest.expand import Draft, FieldProblem, Scope
from batcher.manifest.media import LocalFiles, MediaError
from batcher.schema.spec import ModelSpec

NO_SCHEMA_FOR_ALL = (
    "'*' means every column that is no input of the model, and the inputs of {model} are not known: "
    "name the columns"
)
NODES_SHOWN = 12


def fit_names(draft: Draft, spec: ModelSpec | None, scope: Scope) -> Iterator[FieldProblem]:
    """Rename inputs to the schema's spelling, or to the user's if there is no schema.

    Inputs that the model doesn't have become metadata or are dropped, if the user said so for all such
    columns, or if a template of ``--set`` used them. Yields problems.
    """
    inputs = draft.inputs
    spelled = scope.setting.spelled
    if spec is None:
        if scope.rest is not None:
            yield "", NO_SCHEMA_FOR_ALL.format(model=draft.model)
        if any(spelled.get(name, name) != name for name in inputs):
            draft.inputs = {spelled.get(name, name): value for name, value in inputs.items()}
        return
    draft.inputs = fitted = {}
    for name, value in inputs.items():
        own = name if name in spec.fields else spec.capitals.get(name, name)
        if own in spec.fields or name in scope.setting.extra or is_override(name):
            fitted[own if own in spec.fields else spelled.get(name, name)] = value
        elif name in scope.used:
            draft.vars = {**draft.vars, spelled.get(name, name): value}
        elif scope.rest is None:
            fitted[spelled.get(name, name)] = value
        elif scope.rest == META:
            draft.meta = {**draft.meta, name: value}


def judged(inputs: dict[str, Any], spec: ModelSpec, scope: Scope) -> dict[str, Any]:
    """The inputs to check by the schema: all but the extra ones that it doesn't list.

    If the job has its own workflow, the deployment's schema doesn't describe the nodes.
    """
    if WORKFLOW in inputs:
        inputs = {name: value for name, value in inputs.items() if not is_override(name)}
    extra = scope.setting.extra
    if not extra:
        return inputs
    return {n: v for n, v in inputs.items() if n in spec.fields or normal(n) not in extra}


def give_types(inputs: dict[str, Any], spec: ModelSpec) -> None:
    """Convert text to the type of its field in the schema, and 5.0 to an integer if one is required."""
    for name, read in spec.typed.items():
        value = inputs.get(name)
        if isinstance(value, str):
            inputs[name] = read(value)
        elif isinstance(value, float):
            inputs[name] = typed_float(value, read)
        elif isinstance(value, list) and name in spec.lists:
            inputs[name] = [
                spec.item_of(name, item) if isinstance(item, str) else item for item in value
            ]
        elif isinstance(value, LocalMedia) and name in spec.lists:
            inputs[name] = [value]


def typed_float(value: float, read: Callable[[str], Any]) -> Any:
    """``value``, or the same integer if the field, whose texts ``read`` reads, requires one."""
    whole = read(repr(value)) if value.is_integer() else value
    return value if isinstance(whole, str) else whole


def hinted(name: str, what: str) -> str:
    """A problem, with the options that would solve it. They take a comma for the end of a name."""
    if what != "unknown field":
        return what
    if "," in name:
        return f"{what} (--meta '*' keeps all such with the results, --ignore '*' drops them)"
    word = shlex.quote(name)
    return (
        f"{what} (--meta {word} keeps it with the results, --ignore {word} drops it, --extra {word} "
        "sends it anyway)"
    )


def fit_nodes(draft: Draft, model: str) -> Iterator[FieldProblem]:
    """Give each value in a deployment's ``overrides`` its own name. Yields problems.

    So both notations result in the same job.
    """
    if not model.startswith(DEPLOYMENT):
        return
    if isinstance(draft.inputs.get(OVERRIDES), dict):
        base = (draft.bases or {}).get(OVERRIDES)
        own = draft.inputs.keys()
        draft.inputs = dict(taken_apart(draft.inputs))
        if base is not None:
            inner = {normal(name): base for name in draft.inputs.keys() - own}
            draft.bases = {**(draft.bases or {}), **inner}
    yield from problems_of(draft.inputs)


def nodes_missing(inputs: Mapping[str, Any], files: LocalFiles) -> Iterator[FieldProblem]:
    """Inputs whose node is not in the job's own workflow."""
    workflow = inputs.get(WORKFLOW)
    if workflow is None or isinstance(workflow, str):
        return
    try:
        nodes = files.nodes_in(workflow)
    except MediaError as error:
        yield WORKFLOW, str(error)
        return
    for name in inputs:
        place = node_and_name(name)
        if place is not None and place[0] not in nodes:
            yield name, f"the workflow has no node {place[0]!r} (it has {_some(nodes)})"


def _some(nodes: frozenset[str]) -> str:
    listed = sorted(nodes, key=node_order)
    return ", ".join(listed[:NODES_SHOWN]) + (", ..." if len(listed) > NODES_SHOWN else "")
