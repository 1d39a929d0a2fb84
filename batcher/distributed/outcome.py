"""How a run of many shards ended: the most severe reason, and the sums of the counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from batcher.disk import Disk
from batcher.distributed.fleet import Fleet
from batcher.distributed.messages import Ended, Trouble, view_of
from batcher.errors import BatcherError, StoppedError
from batcher.jobs.lifecycle import EventName
from batcher.ledger.lines import lines_of
from batcher.ledger.segments import segments_in
from batcher.options.run import Options
from batcher.ports import RunView
from batcher.terminal import money

_SEVEREST_FIRST = (70, 65, 73, 77, 75, 64, 69, 3, 1)


class _Line(msgspec.Struct):
    """The fields of a ledger line that tell which POSTs were accepted."""

    event: str
    job: str = ""


_decode = msgspec.json.Decoder(_Line).decode


@dataclass(frozen=True, slots=True)
class End:
    """The counts of all shards, and why the run stopped early, if it did."""

    view: RunView
    error: BatcherError | None


def verdict(fleet: Fleet, halted_by: BatcherError | None, options: Options) -> End:
    """The combined result of the shards. Raises the most severe error if none of them ran anything."""
    ended = list(fleet.ended.values())
    troubles = sorted((one.trouble for one in ended if one.trouble is not None), key=_severity)
    if halted_by is None and troubles and not any(one.counts for one in ended):
        raise troubles[0].error()
    return End(_summed(fleet, ended), halted_by or _reason(fleet, troubles, options))


def _summed(fleet: Fleet, ended: list[Ended]) -> RunView:
    """The sums of each shard's final counts; for a shard that was given up, of its last report."""
    view = RunView(selected=fleet.view.selected)
    last = fleet.counts() | {one.number: one.counts for one in ended if one.counts is not None}
    for each in map(view_of, last.values()):
        view.done += each.done
        view.cancelled_now += each.cancelled_now
        view.cancelled_running += each.cancelled_running
        view.not_cancellable += each.not_cancellable
    return view


def _reason(fleet: Fleet, troubles: list[Trouble], options: Options) -> BatcherError | None:
    if troubles:
        worst = troubles[0]
        shards = [one.number for one in fleet.ended.values() if one.trouble == worst]
        where = "" if len(shards) == fleet.shards else f"shard {shards[0]} of {fleet.shards}: "
        return msgspec.structs.replace(worst, message=where + worst.message).error()
    if any(one.left_out for one in fleet.ended.values()):
        return StoppedError(
            "some jobs did not fit into their shard's part of --max-cost "
            f"{money(options.money.max_cost_usd)}: they stay pending; a run without --dask can use what "
            "other shards left unspent"
        )
    return None


def _severity(trouble: Trouble) -> int:
    codes = _SEVEREST_FIRST
    return codes.index(trouble.exit_code) if trouble.exit_code in codes else len(codes)


def sizes_of(run_dir: Path, disk: Disk) -> dict[str, int]:
    """The size in bytes of each segment of the ledger, by name."""
    return {name: disk.size(run_dir / name) or 0 for name in segments_in(run_dir, disk)}


def accepted_since(run_dir: Path, sizes: dict[str, int], disk: Disk) -> int:
    """How many POSTs were accepted since the segments had these sizes.

    Counted from the ledger, because the counts of a dead worker are lost. A request that was only polled
    again has a ``submitted`` without a ``submitting``.
    """
    count = 0
    for name in segments_in(run_dir, disk):
        under_way: set[str] = set()
        with disk.open_read(run_dir / name) as file:
            file.seek(sizes.get(name, 0))
            for _, raw in lines_of(file):
                event, job = _event(raw)
                if event == EventName.SUBMITTING:
                    under_way.add(job)
                elif event == EventName.SUBMITTED and job in under_way:
                    under_way.discard(job)
                    count += 1
    return count


def _event(raw: bytes) -> tuple[str, str]:
    try:
        line = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "", ""  # torn by a kill
    return line.event, line.job
