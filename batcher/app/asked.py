"""Turns the given values into the options of a run, by the table of options."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from batcher.errors import UsageError
from batcher.jobs.column_rules import Mapped
from batcher.jobs.marks import marks_named
from batcher.manifest.reading import reading_of
from batcher.manifest.rows import Lined
from batcher.manifest.run_map import run_map
from batcher.options.facts import (
    JobShare,
    Money,
    Outage,
    Overrides,
    Pace,
    Policy,
    SandboxOptions,
    Selection,
    Trust,
)
from batcher.options.given import Given
from batcher.options.ids import ids_in
from batcher.options.kinds import ALL_MODELS
from batcher.options.run import Options
from batcher.options.sources import environment_layer, file_layers, gathered, named
from batcher.options.table import TABLE
from batcher.pacing.adaptive import AUTO_START
from batcher.store.objects.place import is_bucket_url
from batcher.terminal import legible


def asked_of(manifests: Sequence[str], typed: Mapping[str, Any], env: Mapping[str, str]) -> Given:
    """The given values: ``typed`` by key, over those of files, environment and manifest.

    Without a manifest: those that apply in the working directory. Raises UsageError, also for a name in
    any of these places that is not an option.
    """
    if not manifests:
        return gathered(typed, [], [*file_layers([Path()]), environment_layer(env)])
    paths = [Path(manifest) for manifest in manifests]
    layers = [*file_layers([Path(), *(path.parent for path in paths)]), environment_layer(env)]
    for path in paths:
        found = run_map(path, typed.get("format"), typed.get("encoding"))
        if found is not None:
            layers.append(named(found, partial(_in_manifest, path, found), path.parent))
    return gathered(typed, manifests, layers)


def _in_manifest(path: Path, found: Lined, name: str) -> str:
    return f"{legible(path)}:{found.lines.get(name, found.line)}: run: {name}"


def options_from(given: Given) -> Options:
    """The options of a run. Raises UsageError for contradictory ones."""
    values = given.complete()
    if values["redo"] and values["only"] is None:
        raise UsageError("--redo buys jobs again: say which with --only")
    if (retries := values["retries"]) >= max(values["max_attempts"], 1) and retries:
        raise UsageError(
            f"--retries {retries} makes {retries + 1} attempts of a job, more than --max-attempts "
            f"{values['max_attempts']}: add --max-attempts {retries + 1}"
        )
    facts: dict[str, dict[str, Any]] = defaultdict(dict)
    for option in TABLE:
        rule = RULES.get(option.key)
        filled = rule(values) if rule is not None else {option.to: values[option.key]}
        for place, value in filled.items():
            owner, _, name = (place or "").rpartition(".")
            facts[owner][name] = value
    groups = {name: made(**facts[name]) for name, made in _GROUPS.items()}
    if not values["sandbox"]:
        groups["sandbox"] = None
    facts[""].pop("", None)
    first, *also = map(Path, given.manifests)
    return Options(manifest=first, also=tuple(also), given=given, **facts[""], **groups)


def _places(values: Mapping[str, Any]) -> dict[str, Any]:
    """``--output`` is a run directory, or a bucket; then ``--state-dir`` is the run directory."""
    output, state_dir = values["output"], values["state_dir"]
    if output is not None and is_bucket_url(output):
        return {"output": Path(state_dir) if state_dir is not None else None, "bucket_url": output}
    if state_dir is not None:
        raise UsageError("--state-dir goes with --output s3://..., gs://, az:// or file://")
    return {"output": Path(output) if output is not None else None}


def _columns(values: Mapping[str, Any]) -> dict[str, Any]:
    named = (values[key] for key in ("vars", "meta", "ignore"))
    return {"overrides.columns": Mapped(tuple(values["rename"].items()), *named)}


def _reading(values: Mapping[str, Any]) -> dict[str, Any]:
    """``--format``, ``--encoding`` and ``--delimiter`` make one value."""
    try:
        return {"overrides.reading": reading_of(values)}
    except ValueError as error:
        raise UsageError(f"--{error}") from None


def _concurrency(values: Mapping[str, Any]) -> dict[str, Any]:
    caps = dict(values["concurrency"])
    total = caps.pop(ALL_MODELS)
    if found := [pattern for pattern, limit in caps.items() if limit == "auto"]:
        raise UsageError(f"--concurrency {found[0]}=auto: only the number for all models may be auto")
    adapts = total == "auto"
    slots = AUTO_START if adapts else total
    return {"pace.concurrency": slots, "pace.adapts": adapts, "pace.model_caps": caps}


def _only(values: Mapping[str, Any]) -> dict[str, Any]:
    only = values["only"]
    if isinstance(only, str) and only.startswith("@") and marks_named(only, "--only") is None:
        only = ids_in(Path(only[1:]), "--only")
    return {"selection.only": only}


def _poll(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"pace.poll_interval_s": None if values["poll"] == "auto" else values["poll"]}


def _outage_timeout(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"pace.outage": Outage.of(values["outage_timeout"])}


def _max_failures(values: Mapping[str, Any]) -> dict[str, Any]:
    number, percent = values["max_failures"] or (None, False)
    return {"money.max_failures": number, "money.max_failures_percent": percent}


def _max_cost_per(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"money.max_cost_per": dict(values["max_cost_per"])}


def _canary_failures(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"money.canary_failures": JobShare(*values["canary_failures"])}


def _on_interrupt(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"pace.cancel_on_interrupt": values["on_interrupt"] == "cancel"}


def _on_lock(values: Mapping[str, Any]) -> dict[str, Any]:
    """``skip`` is up to the caller: it means another exit code, not another run."""
    on_lock = values["on_lock"]
    return {"lock_wait_s": 0.0 if isinstance(on_lock, str) else on_lock}


_GROUPS: Mapping[str, Callable[..., Any]] = {
    "overrides": Overrides,
    "selection": Selection,
    "policy": Policy,
    "pace": Pace,
    "money": Money,
    "trust": Trust,
    "sandbox": SandboxOptions,
}
RULES: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "output": _places,
    **dict.fromkeys(("rename", "vars", "meta", "ignore"), _columns),
    "format": _reading,
    "encoding": _reading,
    "delimiter": _reading,
    "only": _only,
    "concurrency": _concurrency,
    "poll": _poll,
    "outage_timeout": _outage_timeout,
    "max_failures": _max_failures,
    "max_cost_per": _max_cost_per,
    "canary_failures": _canary_failures,
    "on_interrupt": _on_interrupt,
    "on_lock": _on_lock,
}
"""Options that fill several fields, or a field in another form than the user writes."""
