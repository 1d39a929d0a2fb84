"""The messages between the caller and the shards: small structs, never a token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from batcher.errors import BatcherError
from batcher.options.run import Options
from batcher.ports import RunView

VIEWS = "batcher-views"
ORDERS = "batcher-orders"
"""One topic for all runs, so that the events that Dask keeps stay bounded."""
BEAT_S = 2.0
REPORT_S = 1.0
SILENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What a worker must see: the run directory (by a marker file in it) and the same manifest."""

    mark: Path
    manifest: Path
    manifest_sha256: str
    version: str


@dataclass(frozen=True, slots=True)
class Task:
    """One shard as a Dask task. ``run`` identifies the run among others on the cluster."""

    run: str
    options: Options
    sight: Sight

    @property
    def number(self) -> int:
        assert self.options.selection.shard is not None
        return self.options.selection.shard.number


class Directive(msgspec.Struct, frozen=True):
    """The caller's order to all shards, sent repeatedly so that none misses it. By default: continue.

    ``drain`` is a reason to submit nothing more; ``halt`` is a signal's number; ``abort`` is set after a
    second signal. ``more_slots`` and ``more_per_s`` are what each shard may use in addition to its own
    part of the concurrency and the rate, because others have ended; neither ever falls.
    """

    run: str
    drain: str | None = None
    halt: int | None = None
    abort: bool = False
    more_slots: int = 0
    more_per_s: float = 0.0


class Report(msgspec.Struct, frozen=True):
    """A shard's state. ``stopped``: why it submits nothing more, if the reason applies to all shards."""

    run: str
    number: int
    counts: dict[str, int]
    stopped: str | None = None
    warnings: tuple[str, ...] = ()


class Trouble(msgspec.Struct, frozen=True):
    """An error as a message: the name of one of our classes, whose constructor takes only a message."""

    kind: str
    message: str
    exit_code: int

    def error(self) -> BatcherError:
        """The error, rebuilt."""
        error = _plain_classes().get(self.kind, BatcherError)(self.message)
        error.exit_code = self.exit_code  # type: ignore[misc]
        return error


class Ended(msgspec.Struct, frozen=True):
    """The result of a shard. ``counts`` is None if nothing ran.

    ``left_out``: some jobs did not fit into the shard's part of the budget. ``held``: how many of its
    requests may still be unfinished at the API; None if unknown.
    """

    number: int
    counts: dict[str, int] | None = None
    trouble: Trouble | None = None
    left_out: bool = False
    held: int | None = None


def trouble_of(error: BaseException) -> Trouble:
    """``error`` as a message, with its nearest class that can be built from a message."""
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
    """The counts of a view, by name."""
    names = RunView.__slots__
    return {name: value for name in names if isinstance(value := getattr(view, name), int)}


def view_of(counts: dict[str, int]) -> RunView:
    """A view with these counts; unknown names come from another version and are ignored."""
    view = RunView()
    for name in counts.keys() & set(RunView.__slots__):
        setattr(view, name, counts[name])
    return view


def packed(message: msgspec.Struct) -> dict[str, Any]:
    """A message as JSON types, as Dask takes it."""
    built: dict[str, Any] = msgspec.to_builtins(message)
    return built
