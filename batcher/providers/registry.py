"""The vendors by the names of their models: ``replicate:owner/name``; without a prefix, RunComfy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Final

from batcher.providers.runcomfy.provider import NAME as RUNCOMFY
from batcher.providers.runcomfy.provider import open_runcomfy
from batcher.providers.vendor import Surroundings, Vendor

Opener = Callable[[Surroundings], AbstractAsyncContextManager[Vendor]]

OPENERS: Final[dict[str, Opener]] = {RUNCOMFY: open_runcomfy}
PREFIXES: Final[dict[str, str]] = {}
"""What the names of a vendor's models begin with, and the vendor. All others are RunComfy's."""


def vendor_of(model: str) -> str:
    """The name of the vendor that a model's name belongs to."""
    for prefix, name in PREFIXES.items():
        if model.startswith(prefix):
            return name
    return RUNCOMFY


def vendors_of(models: Iterable[str]) -> list[str]:
    """The names of the vendors of ``models``, each once, RunComfy's first."""
    named = dict.fromkeys(map(vendor_of, models))
    return sorted(named, key=list(OPENERS).index)
