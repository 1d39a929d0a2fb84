"""What the user asked for, and from where: the command line, or a call from Python, with all layers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batcher.options.command import with_options
from batcher.options.option import Shapes
from batcher.options.table import BY_KEY, defaults

COMMAND_LINE = "the command line"


@dataclass(frozen=True, slots=True)
class Given:
    """Manifests as they were named, and ``values`` of the options that somebody gave, by key.

    ``origins`` says of each where it stands: ``"the command line"``, ``"batcher.toml:3"``.
    """

    manifests: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    folder: str = field(default_factory=os.getcwd)
    """What relative names are relative to."""

    def complete(self) -> dict[str, Any]:
        """A value for each option. What a mapping has by default, it has beside what was given."""
        values = defaults()
        for key, value in self.values.items():
            values[key] = {**values[key], **value} if isinstance(value, dict) else value
        return values

    def command(self, verb: str = "run", **more: Any) -> str:
        """The command that does the same with the same ledger (``plan``: says what that would do).

        ``more`` are options by key that this command has besides, None: that it doesn't have.
        """
        values = {key: value for key, value in {**self.values, **more}.items() if value is not None}
        return with_options(verb, self.manifests, values, leave_out=(Shapes.TALK,))

    def resume_command(self, **more: Any) -> str:
        """The command that goes on with the batch: without permissions that were for one run."""
        lasting = {key: value for key, value in self.values.items() if not _once(key)}
        return with_options("run", self.manifests, {**lasting, **more}, leave_out=(Shapes.TALK,))


def _once(key: str) -> bool:
    return BY_KEY[key].shapes is Shapes.ONCE
