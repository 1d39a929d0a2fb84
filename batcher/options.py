"""What a user may ask of a run: plain facts, filled from the table of options."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from batcher.clock import Clock, SystemClock
from batcher.config.given import Given
from batcher.config.ids import ids_in
from batcher.config.sources import environment_layer, file_layers, gathered, named
from batcher.config.table import TABLE
from batcher.disk import Disk, LocalDisk
from batcher.engine.canary import DEFAULT_CANARY_FAILURES, GoOn, JobShare, just_go_on
from batcher.engine.limits import Pace
from batcher.engine.stop import Control
from batcher.engine.view import Observer, Silence
from batcher.errors import InterruptedRunError, UsageError
from batcher.manifest.load import Overrides
from batcher.manifest.reading import reading_of
from batcher.manifest.rows import Lined
from batcher.manifest.run_map import run_map
from batcher.pacing.adaptive import AUTO_START
from batcher.planning.plan import Plan, Policy, Selection
from batcher.store.objects.place import is_bucket_url
from batcher.terminal import legible

DEFAULT_MAX_FILE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Money:
    """Limits on what a run may buy. ``assume_price_usd`` prices jobs that nobody else prices."""

    max_cost_usd: float | None = None
    assume_price_usd: float | None = None
    max_failures: float | None = None
    max_failures_percent: bool = False
    canary: int | None = None
    """So many jobs first; the rest only where no more than ``canary_failures`` of them failed."""
    canary_failures: JobShare = DEFAULT_CANARY_FAILURES
    assume_yes: bool = False
    """Buy without asking, also while jobs already paid for have left the manifest."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Where outputs may come from, and how large one may be."""

    allow_hosts: tuple[str, ...] = ()
    max_file_bytes: int = DEFAULT_MAX_FILE_BYTES


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """The embedded stand-in for the API: how fast it works, and which share of calls it spoils."""

    speed: float = 1.0
    faults: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything about one run."""

    manifest: Path
    given: Given = field(default_factory=Given, compare=False)
    """What was asked for, as it was named: the commands that we print are made from it."""
    output: Path | None = None
    """The run directory. With ``bucket_url``, which takes the outputs, it keeps the ledger."""
    bucket_url: str | None = None
    overrides: Overrides = field(default_factory=Overrides)
    skip_invalid: bool = False
    selection: Selection = field(default_factory=Selection)
    policy: Policy = field(default_factory=Policy)
    pace: Pace = field(default_factory=Pace)
    money: Money = field(default_factory=Money)
    trust: Trust = field(default_factory=Trust)
    sandbox: SandboxOptions | None = None
    ignore_old_failures: bool = False
    dask: str | None = None
    check_urls: bool = False
    """A plan asks about each media URL. Needs the network."""


def no_signals(control: Control) -> AbstractContextManager[None]:
    """For callers that handle signals themselves."""
    del control
    return nullcontext()


def home_folder() -> Path:
    """The user's home; for a user that has none, a folder that nothing can be in."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


@dataclass(slots=True)
class Host:
    """The machine that a run runs on: injected, so that tests can bring their own."""

    disk: Disk = field(default_factory=LocalDisk)
    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)
    observer: Observer = field(default_factory=Silence)
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    home: Path = field(default_factory=home_folder)
    confirm: Callable[[Plan, Path, str | None], bool] | None = None
    """Shows a plan with its run directory, and a warning, and asks; None: nobody to ask."""
    go_on: GoOn = just_go_on
    """Shows how the canary fared, and asks where there is somebody to ask."""
    signals: Callable[[Control], AbstractContextManager[None]] = no_signals
    """Makes signals reach a run's control while it runs."""


def interrupted(signal_number: int) -> InterruptedRunError:
    """The reason to stop that a signal is; its exit code is 128 + the signal's number."""
    error = InterruptedRunError(f"interrupted by signal {signal_number}")
    error.exit_code = 128 + signal_number  # type: ignore[misc]
    return error


def asked_of(manifest: str | None, typed: Mapping[str, Any], env: Mapping[str, str]) -> Given:
    """What was asked for: ``typed`` values by key, over those of files, environment and manifest.

    Without a manifest: what would be asked for in the working directory. Raises UsageError, also for a
    name in any of these places that is no option.
    """
    if manifest is None:
        return gathered(typed, [], [*file_layers([Path()]), environment_layer(env)])
    path = Path(manifest)
    layers = [*file_layers([Path(), path.parent]), environment_layer(env)]
    found = run_map(path, typed.get("format"), typed.get("encoding"))
    if found is not None:
        layers.append(named(found, partial(_in_manifest, path, found), path.parent))
    return gathered(typed, [manifest], layers)


def _in_manifest(path: Path, found: Lined, name: str) -> str:
    return f"{legible(path)}:{found.lines.get(name, found.line)}: run: {name}"


def options_from(given: Given) -> Options:
    """The options of a run. Raises UsageError for those that don't go together."""
    values = given.complete()
    if values["redo"] and values["only"] is None:
        raise UsageError("--redo buys jobs again: say which with --only")
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
    return Options(manifest=Path(given.manifests[0]), given=given, **facts[""], **groups)


def _places(values: Mapping[str, Any]) -> dict[str, Any]:
    """``--output`` is a run directory, or a bucket; then ``--state-dir`` is the run directory."""
    output, state_dir = values["output"], values["state_dir"]
    if output is not None and is_bucket_url(output):
        return {"output": Path(state_dir) if state_dir is not None else None, "bucket_url": output}
    if state_dir is not None:
        raise UsageError("--state-dir goes with --output s3://..., gs://, az:// or file://")
    return {"output": Path(output) if output is not None else None}


def _reading(values: Mapping[str, Any]) -> dict[str, Any]:
    """``--format``, ``--encoding`` and ``--delimiter`` are one fact."""
    try:
        return {"overrides.reading": reading_of(values)}
    except ValueError as error:
        raise UsageError(f"--{error}") from None


def _concurrency(values: Mapping[str, Any]) -> dict[str, Any]:
    adapts = values["concurrency"] == "auto"
    slots = AUTO_START if adapts else values["concurrency"]
    return {"pace.concurrency": slots, "pace.adapts": adapts}


def _only(values: Mapping[str, Any]) -> dict[str, Any]:
    only = values["only"]
    if isinstance(only, str) and only.startswith("@"):
        only = ids_in(Path(only[1:]), "--only")
    return {"selection.only": only}


def _poll(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"pace.poll_interval_s": None if values["poll"] == "auto" else values["poll"]}


def _max_failures(values: Mapping[str, Any]) -> dict[str, Any]:
    number, percent = values["max_failures"] or (None, False)
    return {"money.max_failures": number, "money.max_failures_percent": percent}


def _canary_failures(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"money.canary_failures": JobShare(*values["canary_failures"])}


def _on_interrupt(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"pace.cancel_on_interrupt": values["on_interrupt"] == "cancel"}


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
    "format": _reading,
    "encoding": _reading,
    "delimiter": _reading,
    "only": _only,
    "concurrency": _concurrency,
    "poll": _poll,
    "max_failures": _max_failures,
    "canary_failures": _canary_failures,
    "on_interrupt": _on_interrupt,
}
"""Options that fill more than one field, or a field in other terms than they are written in."""
