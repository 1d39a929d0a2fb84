"""The options that the user gave, on the command line or in Python, with the source of each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batcher.options.command import as_path, command, with_options
from batcher.options.option import Shapes
from batcher.options.table import BY_KEY, defaults

COMMAND_LINE = "the command line"
STDIN = "-"
_STREAM = re.compile(r"-|/dev/stdin|/(?:dev|proc/self)/fd/[0-9]+")


def is_stream(manifest: str) -> bool:
    """Whether it is standard input, or what a shell passes for ``<(command)``."""
    return _STREAM.fullmatch(manifest) is not None


@dataclass(frozen=True, slots=True)
class Given:
    """Manifests as they were named, and ``values`` of the given options, by key.

    ``origins`` holds the source of each: ``"the command line"``, ``"batcher.toml:3"``.
    """

    manifests: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    folder: str = field(default_factory=os.getcwd)
    """The folder that relative paths are relative to."""
    shared: frozenset[tuple[str, str]] = frozenset()
    """Entries of mappings, by key and name, that files and variables give for any manifest."""
    is_passing: bool = False
    """Whether the manifest exists only during this call: jobs of a Python program."""

    def complete(self) -> dict[str, Any]:
        """A value for each option. A mapping's defaults are merged with what was given."""
        values = defaults()
        for key, value in self.values.items():
            values[key] = {**values[key], **value} if isinstance(value, dict) else value
        return values

    def command(self, verb: str = "run", **more: Any) -> str:
        """The command that does the same with the same ledger (``plan``: shows what it would do).

        ``more`` are additional options by key; None removes an option.
        """
        values = {key: value for key, value in {**self.values, **more}.items() if value is not None}
        manifests = [STDIN if is_stream(manifest) else manifest for manifest in self.manifests]
        return with_options(verb, manifests, values, leave_out=(Shapes.TALK,))

    def resume_command(self, **more: Any) -> str:
        """The command that resumes the batch: without permissions for one run only.

        ``more`` as in ``command``.
        """
        lasting = {key: None for key in self.values if _once(key)}
        return self.command(**{**lasting, **more})

    @property
    def chosen(self) -> list[str]:
        """The options by which the run takes only some of the manifest's jobs, as they are typed."""
        return [f"--{key}" for key in ("limit", "only", "shard") if self.values.get(key)]

    def resume_listed(self, run_dir: str, states: str, **more: Any) -> str:
        """``resume_command`` for the jobs that are in ``states`` then, and no others.

        ``states`` as in ``status --list``.
        """
        listing = command("status", as_path(run_dir), "--list", states)
        file = f"{states.partition(',')[0]}.jsonl"
        return f"{listing} > {file} && {self.resume_command(**more, only=f'@{file}', limit=None)}"


def _once(key: str) -> bool:
    return BY_KEY[key].shapes is Shapes.ONCE
