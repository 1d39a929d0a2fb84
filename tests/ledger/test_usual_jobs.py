"""Jobs with only usual lines amount to the same as if each line changed a record."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batcher.disk import LocalDisk
from batcher.errors import LedgerError
from batcher.jobs.lifecycle import Event, EventName, RunEvent, State
from batcher.layout import LEDGER_NAME
from batcher.ledger.checkpoint import Checkpoint
from batcher.ledger.ledger import read_ledger
from batcher.ledger.lines import LineReader, encode_line
from batcher.ledger.packed import PackedMap, PackedSet
from batcher.ledger.snapshot import Snapshot
from tests.support.histories import AT, HISTORIES, USUAL_HISTORIES, Folded

ANY_FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
RUN = RunEvent("a", AT, manifest="m.yaml", version=1)
BOUGHT = (
    Event(EventName.SUBMITTING, AT, "cat", 1, "m", {"n": 1}, digest="0123456789abcdef", price_usd=1.0),
    Event(EventName.SUBMITTED, AT, "cat", 1, request_id="r1"),
    Event(EventName.COMPLETED, AT, "cat", 1, cost_usd=1.5),
    Event(EventName.DONE, AT, "cat", 1, files=()),
)


def write(path, events):
    end = 0
    with (path / LEDGER_NAME).open("wb") as file:
        for event in events:
            end += file.write(encode_line(event, end))


def read(cls, path, shards=0, keeps=True):
    """The ledger at ``path``; ``keeps`` also what a run keeps."""
    lines = LineReader(path, LocalDisk())
    snapshot = cls(lines.at, shards=shards)
    if keeps:
        snapshot.owners, snapshot.requests = PackedMap(), PackedSet()
    return read_ledger(snapshot, path, lines, LocalDisk())


def everything(snapshot):
    """All that a snapshot holds, down to the bytes of its maps."""
    _, body, *bulks = Checkpoint(snapshot, 0).encoded("")
    order = list(snapshot.records.open), list(snapshot._ripe)
    return msgspec.msgpack.decode(body), b"".join(bulks), order, sorted(snapshot.costs.under_way)


@ANY_FIXTURE
@given(
    events=USUAL_HISTORIES | HISTORIES,
    runs=st.sets(st.integers(0, 60), max_size=3),
    kept_open=st.integers(0, 4),
    shards=st.sampled_from([0, 2]),
    keeps=st.booleans(),
)
def test_the_snapshot_holds_the_same_as_one_that_changes_a_record_by_each_line(
    tmp_path, events, runs, kept_open, shards, keeps
):
    for at in sorted(runs, reverse=True):
        events.insert(at, RUN)
    write(tmp_path, events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batcher.ledger.lines.BLOCK_BYTES", 2000)
        patch.setattr("batcher.ledger.snapshot.KEPT_OPEN", kept_open)
        expected = everything(read(Folded, tmp_path, shards, keeps))
        assert everything(read(Snapshot, tmp_path, shards, keeps)) == expected


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_job_with_usual_lines_has_a_record_when_the_ledger_ends(tmp_path, length):
    write(tmp_path, [RUN, *BOUGHT[:length]])
    snapshot = read(Snapshot, tmp_path)
    assert everything(snapshot) == everything(read(Folded, tmp_path))
    assert snapshot.records["cat"].state is list(State)[length]


def test_a_job_with_usual_lines_has_no_record_until_the_ledger_ends(tmp_path, monkeypatch):
    """Else reading a million of them would take much longer."""
    made = []
    monkeypatch.setattr("batcher.ledger.snapshot.KEPT_OPEN", 0)
    monkeypatch.setattr(Snapshot, "take", lambda self, event, place: made.append(event))
    write(tmp_path, BOUGHT)
    assert read(Snapshot, tmp_path).counts[State.DONE] == 1
    assert made == []


@pytest.mark.parametrize("odd", [{"digest": "odd"}, {"attempt": 1 << 16}])
def test_a_job_that_cannot_be_packed_gets_a_record(tmp_path, monkeypatch, odd):
    monkeypatch.setattr("batcher.ledger.snapshot.KEPT_OPEN", 0)
    write(tmp_path, [msgspec.structs.replace(BOUGHT[0], **odd), *BOUGHT[1:]])
    snapshot = read(Snapshot, tmp_path)
    assert list(snapshot.records.open) == ["cat"]
    assert everything(snapshot) == everything(read(Folded, tmp_path))


def test_a_packed_job_that_is_bought_again_has_its_record_back(tmp_path, monkeypatch):
    monkeypatch.setattr("batcher.ledger.snapshot.KEPT_OPEN", 0)
    monkeypatch.setattr("batcher.ledger.lines.BLOCK_BYTES", 1)
    write(tmp_path, [*BOUGHT, *(msgspec.structs.replace(event, attempt=2) for event in BOUGHT)])
    snapshot = read(Snapshot, tmp_path)
    assert len(snapshot.records) == 1
    assert everything(snapshot) == everything(read(Folded, tmp_path))


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("next_one", BOUGHT, ids=lambda event: event.event)
def test_any_line_may_follow_that_may_follow_a_record(tmp_path, length, next_one):
    """And what may not is refused with the same words."""
    write(tmp_path, [*BOUGHT[:length], next_one])
    outcomes = []
    for cls in (Snapshot, Folded):
        try:
            outcomes.append(everything(read(cls, tmp_path)))
        except LedgerError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
