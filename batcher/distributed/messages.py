"""What the caller and the shards say to each other: plain facts, small, and never a token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from batcher.engine.view import RunView
from batcher.errors import BatcherError
from batcher.options.run import Options

VIEWS = "batcher-views"
ORDERS = "batcher-orders"
"""Topics of all runs, so that what Dask keeps of them stays bounded."""
BEAT_S = 2.0
REPORT_S = 1.0
SILENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What a worker has to see: the run directory by a mark in it, and the same manifest."""

    mark: Path
    manifest: Path
    manifest_sha256: str
    version: str


@dataclass(frozen=True, slots=True)
class Task:
    """One shard as Dask carries it. ``run`` names the run among others of the cluster."""

    run: str
    options: Options
    sight: Sight

    @property
    def number(self) -> int:
        assert self.options.selection.shard is not None
        return self.options.selection.shard.number


class Directive(msgspec.Struct, frozen=True):
    """The caller's word, repeated so that nobody misses it: go on, unless something is set.

    ``drain`` is a reason to submit nothing more; ``halt`` the number of a signal; ``abort`` says that
    there was a second one. ``more_slots`` and ``more_per_s`` is what each shard may have besides its own
    part of the cap and the rate, because others have ended; neither ever falls.
    """

    run: str
    drain: str | None = None
    halt: int | None = None
    abort: bool = False
    more_slots: int = 0
    more_per_s: float = 0.0


class Report(msgspec.Struct, frozen=True):
    """How a shard stands. ``stopped``: why it submits nothing more, where that is true of all shards."""

    run: str
    number: int
    counts: dict[str, int]
    stopped: str | None = None
    warnings: tuple[str, ...] = ()


class Trouble(msgspec.Struct, frozen=True):
    """An error in transit: the name of a class of ours that takes a message alone."""

    kind: str
    message: str
    exit_code: int

    def error(self) -> BatcherError:
        """The error again."""
        error = _plain_classes().get(self.kind, BatcherError)(self.message)
        error.exit_code = self.exit_code  # type: ignore[misc]
        return error


class Ended(msgspec.Struct, frozen=True):
    """What came of a shard. Without ``counts`` nothing ran.

    ``left_out``: some jobs did not fit into the shard's part of the budget. ``held``: how many of its
    requests may be unfinished at the API all the same; None where nobody can say.
    """

    number: int
    counts: dict[str, int] | None = None
    trouble: Trouble | None = None
    left_out: bool = False
    held: int | None = None


def trouble_of(error: BaseException) -> Trouble:
    """``error`` for the wire, as the nearest class of ours that can be made from its message."""
    if not isinstance(error, BatcherError):
        return Trouble(
            "BatcherError", f"internal error: {type(error).__name__}: {error}", BatcherError.exit_code
        )
    plain = _plain_classes()
    kind = next(cls.__name__ for cls in type(error).__mro__ if cls.__name__ in plain)
    return Trouble(kind, str(error), error.exit_code)


def _plain_classes() -> dict[str, type[BatcherError]]:
    found = {"BatcherError": BatcherError}
    new = [BatcherError]
    while new:
        new = [below for cls in new for below in cls.__subclasses__()]
        found |= {cls.__name__: cls for cls in new if cls.__init__ is BatcherError.__init__}
    return found


def counts_of(view: RunView) -> dict[str, int]:
    """The numbers of a view."""
    names = RunView.__slots__
    return {name: value for name in names if isinstance(value := getattr(view, name), int)}


def view_of(counts: dict[str, int]) -> RunView:
    """A view with these numbers; what it doesn't know of comes from another version."""
    view = RunView()
    for name in counts.keys() & set(RunView.__slots__):
        setattr(view, name, counts[name])
    return view


def packed(message: msgspec.Struct) -> dict[str, Any]:
    """A message as Dask takes it."""
    built: dict[str, Any] = msgspec.to_builtins(message)
    return built
