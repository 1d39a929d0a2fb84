"""All options of one run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from batcher.options.facts import (
    Money,
    Overrides,
    Pace,
    Policy,
    SandboxOptions,
    Selection,
    Trust,
)
from batcher.options.given import Given


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All options of one run."""

    manifest: Path
    also: tuple[Path, ...] = ()
    """More manifests, whose jobs follow those of the first."""
    given: Given = field(default_factory=Given, compare=False)
    """The options as the user gave them: the commands that we print are made from them."""
    output: Path | None = None
    """The run directory. With ``bucket_url``, where the outputs go, it holds only the ledger."""
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
    show: int | None = None
    """How many bodies a plan shows of each model and set of inputs."""
    lock_wait_s: float = 0.0
    """How long to wait for another run that holds the run directory."""
    check_urls: bool = False
    """Whether a plan checks each media URL. Needs the network."""
