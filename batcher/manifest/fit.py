"""The inputs of a row against the inputs that its model has: names, extra ones, types."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from batcher.jobs.columns import META, normal
from batcher.jobs.job import LocalMedia
from batcher.jobs.nodes import WORKFLOW, is_override
from batcher.manifest.expand import Draft, FieldProblem, Scope
from batcher.schema.spec import ModelSpec

NO_SCHEMA_FOR_ALL = (
    "'*' means whatever is no input of the model, and the inputs of {model} are not known: "
    "name the columns"
)


def fit_names(draft: Draft, spec: ModelSpec | None, scope: Scope) -> Iterator[FieldProblem]:
    """Give inputs the names that the schema writes, or the user's where there is none.

    What the model doesn't have becomes metadata, or is left out, if the user said so of all such
    columns, or if a template of ``--set`` has used it. Yields what is wrong.
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
    """Those inputs that the schema is asked about: without the extra ones that it doesn't list.

    With a workflow of the job's own, a deployment's schema knows nothing of the nodes.
    """
    if WORKFLOW in inputs:
        inputs = {name: value for name, value in inputs.items() if not is_override(name)}
    extra = scope.setting.extra
    if not extra:
        return inputs
    return {n: v for n, v in inputs.items() if n in spec.fields or normal(n) not in extra}


def give_types(inputs: dict[str, Any], spec: ModelSpec) -> None:
    """Let text become what the schema says the field is, and 5.0 an integer where one is wanted."""
    for name, read in spec.typed.items():
        value = inputs.get(name)
        if isinstance(value, str):
            inputs[name] = read(value)
        elif isinstance(value, float) and value.is_integer():
            inputs[name] = read(repr(value))
        elif isinstance(value, list) and name in spec.lists:
            inputs[name] = [
                spec.item_of(name, item) if isinstance(item, str) else item for item in value
            ]
        elif isinstance(value, LocalMedia) and name in spec.lists:
            inputs[name] = [value]


def hinted(name: str, what: str) -> str:
    """A problem, with the options that would settle it."""
    if what != "unknown field":
        return what
    word = shlex.quote(name)
    return (
        f"{what} (--meta {word} keeps it with the results, --ignore {word} drops it, --extra {word} "
        "sends it all the same)"
    )
