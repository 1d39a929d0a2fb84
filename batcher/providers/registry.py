"""The vendors by the names of their models: ``replicate:owner/name``; without a prefix, RunComfy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from batcher.jobs.nodes import DEPLOYMENT

if TYPE_CHECKING:
    from batcher.providers.vendor import Surroundings, Vendor

    Opener = Callable[[Surroundings], AbstractAsyncContextManager[Vendor]]

RUNCOMFY: Final = "runcomfy"
DEPLOYMENTS: Final = "deployments"
FAL: Final = "fal"
OPENERS: Final = {
    RUNCOMFY: "runcomfy.provider:open_runcomfy",
    DEPLOYMENTS: "deployments:open_deployments",
    "replicate": "replicate:open_replicate",
    FAL: "fal:open_fal",
}
"""Each vendor's opener, as ``module:function`` of this package: imported when a run needs it."""
PREFIXES: Final[dict[str, str]] = {
    DEPLOYMENT: DEPLOYMENTS,
    "replicate:": "replicate",
    "fal:": FAL,
}
"""Prefixes of model names, with their vendors. Names without one are RunComfy's."""


def opener_of(name: str) -> Opener:
    """The function that connects to a vendor."""
    module, _, function = OPENERS[name].partition(":")
    return cast("Opener", getattr(import_module(f"batcher.providers.{module}"), function))


def vendor_of(model: str) -> str:
    """The name of the vendor that a model's name belongs to."""
    for prefix, name in PREFIXES.items():
        if model.startswith(prefix):
            return name
    return RUNCOMFY


def vendors_of(models: Iterable[str]) -> list[str]:
    """The names of the vendors of ``models``, each once, in the order of this table."""
    named = set(map(vendor_of, models))
    return [name for name in OPENERS if name in named]
