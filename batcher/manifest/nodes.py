"""The inputs of a deployment's workflow: splits maps into inputs, and checks their nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from batcher.jobs.columns import normal
from batcher.jobs.nodes import (
    DEPLOYMENT,
    OVERRIDES,
    WORKFLOW,
    node_and_name,
    node_order,
    problems_of,
    taken_apart,
)
from batcher.manifest.expand import Draft, FieldProblem
from batcher.manifest.media import LocalFiles, MediaError

NODES_SHOWN = 12


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
