"""Histories of a few jobs that the table allows, drawn by Hypothesis and played into real ledgers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from batcher.disk import LocalDisk
from batcher.jobs.job import Probed
from batcher.jobs.lifecycle import TRANSITIONS, Event, EventName, Stage, State
from batcher.jobs.shard import Shard
from batcher.ledger.ledger import Ledger, read_ledger
from batcher.ledger.lines import LineReader
from batcher.ledger.snapshot import Snapshot
from tests.support.engine import FakeClock, QuickDisk

AT = "2026-01-01T00:00:00.000Z"
JOBS = [f"job-{number}" for number in range(6)]
MOVES = {
    state: sorted(
        event for before, event in TRANSITIONS if before is state and event is not EventName.RUN
    )
    for state in State
}
USUAL_NEXT = {
    State.PENDING: EventName.SUBMITTING,
    State.UNKNOWN: EventName.SUBMITTED,
    State.SUBMITTED: EventName.COMPLETED,
    State.COMPLETED: EventName.DONE,
}
USUAL = -1
"""Picks the event of :data:`USUAL_NEXT`."""
PICKS = st.tuples(st.integers(0, len(JOBS) - 1), st.integers(0, 11), st.integers(0, 5))
"""Which job, which of the events that it may see next, and what that event carries."""


class SwiftDisk(QuickDisk):
    """Real files, of which none has to survive a power loss."""

    def write_whole(self, path, chunks):
        path.write_bytes(b"".join(chunks))

    def make_dirs(self, path):
        path.mkdir(parents=True, exist_ok=True)


def steps(picks: Iterable[tuple[int, int, int]]) -> list[Event]:
    """The history that a list of picks amounts to."""
    told, events = Snapshot(), []
    for number, pick, flavour in picks:
        job = JOBS[number]
        record = told.get(job)
        names = list(MOVES[record.state if record is not None else State.PENDING])
        if record is not None:
            names.append(EventName.RELISTED if record.orphaned else EventName.ORPHANED)
        name = names[pick % len(names)]
        if pick == USUAL and record is not None:
            name = USUAL_NEXT.get(record.state, name)
        attempt = record.attempt if record is not None else 0
        if name is EventName.SUBMITTING and (record is None or record.state is not State.PENDING):
            attempt += 1
        at = f"2026-01-01T00:00:00.{len(events):03d}Z"
        events.append(Event(name, at, job, max(attempt, 1), **_fields(name, job, len(events), flavour)))
        told.apply(events[-1])
    return events


def _fields(name: EventName, job: str, number: int, flavour: int) -> dict[str, Any]:
    cost_usd = [None, None, 0.0, 1.25, 2.0, 0.5][flavour]
    match name:
        case EventName.SUBMITTING:
            inputs = (
                {"input": {"prompt": job, "duration": flavour}} if flavour % 3 or number == 0 else {}
            )
            digest = f"{number:016x}" if flavour != 4 else None
            model = f"acme/{flavour % 2}" if flavour != 5 else None
            priced = {"priced_as": f"set {flavour % 2}"} if flavour % 3 else {}
            return {
                "model": model,
                "digest": digest,
                "price_usd": [None, 1.5, 2][flavour % 3],
                **inputs,
                **priced,
            }
        case EventName.SUBMITTED:
            return {"request_id": f"r{number}" if flavour else None}
        case EventName.COMPLETED:
            return {"cost_usd": cost_usd, "unfinished_s": 3.0}
        case EventName.COST:
            return {"cost_usd": cost_usd or 0.75}
        case EventName.DONE:
            file = Probed(f"media/{job}.mp4", number, f"{number:064x}", "video/mp4", width=320)
            return {"files": (file,) * (flavour % 3), "quality": [None, "black"][flavour % 2]}
        case EventName.FAILED:
            stage = list(Stage)[flavour % 3]
            return {"stage": stage, "code": flavour or None, "message": "no", "cost_usd": cost_usd}
        case EventName.DEFERRED:
            return {"reason": "later"}
        case EventName.UNANSWERED:
            return {"message": "silence"}
    return {}


HISTORIES = st.lists(PICKS, max_size=60).map(steps)
USUAL_HISTORIES = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(-8, 5).map(lambda pick: max(pick, USUAL)), st.integers(0, 5)
    ),
    min_size=12,
    max_size=60,
).map(steps)
"""Most jobs of these have the usual four lines, or begin with them."""


class Days(FakeClock):
    """Says what the events say, so that a ledger can be given them again."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def now(self):
        self.at_s = self.number / 1000
        return super().now()


def open_ledger(path: Path, shard: Shard | None = None) -> Ledger:
    return Ledger(path, SwiftDisk(), Days(), shard)


def play(ledger: Ledger, event: Event) -> None:
    """Append one event of a history, with all that it carries, at the time that it says."""
    ledger._clock.number = int(event.at[-4:-1])
    given = {name: getattr(event, name) for name in Event.__struct_fields__[3:]}
    absent = {name: getattr(Event(event.event, AT, "x"), name) for name in given}
    ledger.append(event.event, event.job, **{n: v for n, v in given.items() if v != absent[n]})


def written(path: Path, events: Iterable[Event], shard: Shard | None = None) -> None:
    """A run that writes ``events``."""

    async def run() -> None:
        ledger = open_ledger(path, shard)
        for event in events:
            play(ledger, event)
            await ledger.settled()
        await ledger.close()

    asyncio.run(run())


def told(events: Iterable[Event], shards: int = 0) -> Snapshot:
    """What a history amounts to, without a file and without packing anything."""
    snapshot = Snapshot(shards=shards)
    for event in events:
        snapshot.apply(event)
    return snapshot


class Folded(Snapshot):
    """The whole ledger folded, whatever a checkpoint says."""

    may_restore = False


def folded(path: Path, shards: int = 0) -> Snapshot:
    """What the ledger at ``path`` amounts to."""
    lines = LineReader(path, LocalDisk())
    return read_ledger(Folded(lines.at, shards=shards), path, lines, LocalDisk())


RECORD_FIELDS = (
    *("state", "attempt", "request_id", "model", "digest", "stage", "code", "message", "price_usd"),
    *("charge_usd", "reported_usd", "quality", "orphaned", "submitting_at", "priced_as"),
)


def record_facts(record: Any) -> dict[str, Any]:
    """All that a record says, but for places and marks of the process."""
    facts = {name: getattr(record, name) for name in RECORD_FIELDS}
    facts["files"] = [(file.path, file.bytes, file.sha256) for file in record.files]
    replaced = record.replaced
    facts["replaced"] = replaced and (replaced.attempt, [file.path for file in replaced.files])
    return facts


def facts(snapshot: Snapshot) -> dict[str, Any]:
    """All that a snapshot says of jobs and money, whatever is packed and wherever it stands."""
    return {
        "jobs": {job: record_facts(record) for job, record in snapshot.items()},
        "counts": snapshot.counts,
        "poor": snapshot.poor,
        "orphaned": snapshot.orphaned,
        "bytes": snapshot.bytes,
        "unpriced": snapshot.unpriced_attempts,
        "changes": snapshot.dataset_changes,
        "spent": round(snapshot.spent_usd, 6),
        "reported": round(snapshot.reported_usd, 6),
        "reported_price": round(snapshot.reported_price_usd, 6),
        "costs": msgspec.to_builtins(snapshot.costs.saved()),
        "by_shard": [round(usd, 6) for usd in snapshot.spent_by_shard_usd],
    }
