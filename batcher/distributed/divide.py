"""Divides the limits among the shards: concurrency, rate, downloads, failures.

The parts of each limit add up to what the user allowed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from batcher.errors import UsageError
from batcher.jobs.shard import Shard, shard_number
from batcher.options.run import Options

_GRACE_SHARE = 0.8
"""The rest of the grace period is for the messages to and from the workers."""


@dataclass(frozen=True, slots=True)
class Division:
    """A batch to be divided: its options, and what its plan says of its jobs.

    ``run_dir`` is absolute. ``resumed`` are the ids of jobs whose requests are polled again; ``chosen``
    those that the options choose from the whole manifest, None for all.
    """

    options: Options
    run_dir: Path
    selected: int
    resumed: tuple[str, ...]
    chosen: frozenset[str] | None


def check_divisible(options: Options) -> None:
    """Raises UsageError for options that independent shards can't honour."""
    if options.selection.shard is not None:
        raise UsageError("--dask divides the batch into shards itself: leave out --shard")
    if options.pace.max_runtime_s is not None:
        raise UsageError("the workers of --dask do not support --max-runtime: leave it out")
    if not all(path.is_file() for path in (options.manifest, *options.also)):
        raise UsageError("--dask needs manifests that are files, which its workers can read too")
    if options.pace.adapts:
        raise UsageError(
            "-c auto searches for the API's limit, and several shards would mistake each other's load "
            "for it: use -c N with --dask"
        )
    if options.pace.model_caps:
        raise UsageError("the workers of --dask do not support --concurrency MODEL=N: leave it out")
    if options.money.canary is not None:
        raise UsageError(
            "--canary holds back the whole batch, but shards don't wait for each other: run it first "
            "without --dask, as in --canary 10 --limit 20"
        )


def split(total: int, count: int) -> list[int]:
    """``total`` divided into ``count`` integers that differ by at most one."""
    part, rest = divmod(total, count)
    return [part + (position < rest) for position in range(count)]


def split_above(floors: Sequence[int], total: int) -> list[int]:
    """``total`` divided as evenly as possible, each part at least its floor while ``total`` suffices.

    A shard's floor is the number of its requests that are unfinished at the API, so that no shard
    starts above its part while the others fill theirs. A shard whose part is 0 waits until another ends.
    """
    parts, left = [], total
    for floor in floors:
        parts.append(min(floor, left))
        left -= parts[-1]
    for _ in range(left):
        lowest = parts.index(min(parts))
        parts[lowest] += 1
    return parts


def divide(division: Division, count: int) -> list[Options]:
    """The options of each of ``count`` shards; shards without jobs are left out."""
    options = division.options
    shards = _with_work(count, division.chosen)
    unfinished = Counter(Shard(count, shard_number(job, count)) for job in division.resumed)
    unwatched = sum(number for shard, number in unfinished.items() if shard not in shards)
    total = max(options.pace.concurrency - unwatched, 1)
    slots = split_above([unfinished[shard] for shard in shards], total)
    parts = []
    for (shard, ids), part in zip(shards.items(), slots, strict=True):
        first, also = options.manifest.absolute(), tuple(path.absolute() for path in options.also)
        given = replace(options, manifest=first, also=also, output=division.run_dir, dask=None)
        selection = replace(options.selection, limit=None, only=ids, shard=shard)
        parts.append(replace(_with_part(given, shard, part), selection=selection))
    return parts


def _with_work(count: int, chosen: frozenset[str] | None) -> dict[Shard, frozenset[str] | None]:
    """The shards that have any of the ``chosen`` jobs, with those jobs; None means all jobs."""
    shards = [Shard(count, number) for number in range(1, count + 1)]
    if chosen is None:
        return dict.fromkeys(shards)
    return {shard: ids for shard in shards if (ids := frozenset(filter(shard.has, chosen)))}


def _with_part(options: Options, shard: Shard, slots: int) -> Options:
    """``options`` with a shard's part of every limit but the budget, which is divided by the ledger."""
    index, pace, money = shard.number - 1, options.pace, options.money
    failures = money.max_failures
    if failures is not None and not money.max_failures_percent:
        failures = split(int(failures), shard.count)[index]
    return replace(
        options,
        pace=replace(
            pace,
            concurrency=slots,
            downloads=max(split(pace.downloads, shard.count)[index], 1),
            rate_per_s=pace.rate_per_s / shard.count if pace.rate_per_s is not None else None,
            grace_s=pace.grace_s * _GRACE_SHARE,
        ),
        money=replace(money, max_failures=failures, assume_yes=True),
    )
