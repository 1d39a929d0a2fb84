"""Batch runner for the RunComfy Model API.

::

    summary = await batcher.run("manifests/quickstart.yaml", output="output/quickstart", concurrency=8)

The same engine as the command line's, without signal handlers and without questions; errors are
:class:`BatcherError` and its subclasses, one for the cause of each exit code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batcher.errors import (
    BatcherError,
    CredentialsError,
    IncompleteError,
    InputError,
    InterruptedRunError,
    LedgerError,
    LockedError,
    ManifestError,
    OutputError,
    RunDirError,
    StoppedError,
    UnreachableError,
    UsageError,
)

if TYPE_CHECKING:
    from batcher.api import plan, raise_if_incomplete, run, status, stream

__version__ = "0.1.0"

__all__ = [
    "BatcherError",
    "CredentialsError",
    "IncompleteError",
    "InputError",
    "InterruptedRunError",
    "LedgerError",
    "LockedError",
    "ManifestError",
    "OutputError",
    "RunDirError",
    "StoppedError",
    "UnreachableError",
    "UsageError",
    "__version__",
    "plan",
    "raise_if_incomplete",
    "run",
    "status",
    "stream",
]
_FUNCTIONS = ("plan", "raise_if_incomplete", "run", "status", "stream")


def __getattr__(name: str) -> Any:
    """The functions, imported when first used: ``import batcher`` stays light."""
    if name in _FUNCTIONS:
        from batcher import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """All names, including the functions that are not imported yet."""
    return sorted({*globals(), *_FUNCTIONS})
