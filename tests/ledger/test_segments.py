"""Segments: a history that several divisions wrote, one after the other, reads as if it were one file."""

import asyncio
import io
import itertools
import json
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batcher.ledger.snapshot
from batcher.disk import LocalDisk
from batcher.errors import LedgerError
from batcher.jobs.lifecycle import Event, EventName, State
from batcher.jobs.shard import Shard, shard_number
from batcher.layout import LEDGER_NAME
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.lines import encode_line
from batcher.ledger.segments import division, is_segment, segments_in, shard_of_segment
from tests.support.histories import (
    AT,
    HISTORIES,
    JOBS,
    USUAL_HISTORIES,
    facts,
    folded,
    open_ledger,
    play,
    told,
    written,
)

DIVISIONS = st.sampled_from([0, 2, 3])
SCARS = st.sampled_from(["", "", "torn", "no newline"])
EPOCHS = st.lists(st.tuples(DIVISIONS, st.integers(1, 15), SCARS), min_size=1, max_size=6)
TORN = b'{"event":"completed","at":"2026-'


@pytest.fixture(autouse=True)
def packed_at_once(monkeypatch):
    monkeypatch.setattr(batcher.ledger.snapshot, "KEPT_OPEN", 0)


def shard_for(job, count):
    return Shard(count, shard_number(job, count)) if count else None


def by_shard(events, count):
    parts = {}
    for event in events:
        parts.setdefault(shard_for(event.job, count), []).append(event)
    return parts


def write_at_once(path, events, count):
    """All shards of a division that have something to say, side by side."""

    async def run():
        ledgers = {shard: open_ledger(path, shard) for shard in by_shard(events, count)}
        for event in events:
            ledger = ledgers[shard_for(event.job, count)]
            play(ledger, event)
            await ledger.settled()
        for ledger in ledgers.values():
            await ledger.close()

    asyncio.run(run())
    return [
        path / f"ledger.{shard}.jsonl" if shard else path / LEDGER_NAME
        for shard in by_shard(events, count)
    ]


def scar(paths, kind):
    """What a crash leaves of the last line of the runs that wrote ``paths``."""
    for path in paths:
        content = path.read_bytes()
        if kind == "torn":
            path.write_bytes(content + TORN)
        elif kind == "no newline":
            path.write_bytes(content.removesuffix(b"\n"))


def write_split(path, history, epochs):
    """``history`` in stretches, the last one to its end; returns it again."""
    left = list(history)
    for number, (count, length, kind) in enumerate(epochs):
        last = number == len(epochs) - 1
        stretch, left = (left, []) if last else (left[:length], left[length:])
        scar(write_at_once(path, stretch, count), kind)
    return history


@settings(max_examples=60)
@given(HISTORIES | USUAL_HISTORIES, EPOCHS)
def test_stretches_of_many_divisions_read_as_one_history(history, epochs):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_split(path, history, epochs)
        if segments_in(path, LocalDisk()):
            assert facts(folded(path)) == facts(told(history))
            assert facts(folded(path, shards=3)) == facts(told(history, shards=3))
            assert facts(read_snapshot(path, LocalDisk())) == facts(told(history))
            open_ledger(path, Shard(5, 1)).release()


def reaches(path):
    """How far each segment reached when one of another division last went on after it."""
    found = {}
    for name in segments_in(path, LocalDisk()):
        for line in (path / name).read_bytes().splitlines():
            if line.startswith(b'{"event":"follows"'):
                for other, reach in json.loads(line)["segments"].items():
                    found[other] = max(found.get(other, 0), reach)
    return {name: reach for name, reach in found.items() if reach}


@settings(max_examples=60)
@given(HISTORIES.filter(len), EPOCHS, st.data())
def test_a_segment_that_others_stand_on_is_missed_when_it_is_lost_or_shortened(history, epochs, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_split(path, history, [(count, length, "") for count, length, _ in epochs])
        stood_on = reaches(path)
        if not stood_on:
            return
        name = data.draw(st.sampled_from(sorted(stood_on)), label="segment")
        kept = data.draw(st.none() | st.integers(0, stood_on[name] - 1), label="bytes kept")
        if kept is None:
            (path / name).unlink()
        else:
            (path / name).write_bytes((path / name).read_bytes()[:kept])
        before = {one: (path / one).read_bytes() for one in segments_in(path, LocalDisk())}
        with pytest.raises(
            LedgerError,
            match=f"/{name}: has .* lost or shortened|contradict each other|holds no line any more",
        ):
            read_snapshot(path, LocalDisk())
        with pytest.raises(LedgerError, match=f"/{name}: has .* lost or shortened"):
            open_ledger(path, Shard(3, 1))
        for one, content in before.items():
            assert (path / one).read_bytes() == content


@pytest.fixture
def three_stretches(tmp_path):
    """A run of everything, one of a shard after it, and one of everything after that."""
    events = list(attempts("cat", [FORWARD[0]]))
    written(tmp_path, events[:2])
    written(tmp_path, events[2:3], shard_for("cat", 2))
    written(tmp_path, events[3:])
    assert facts(folded(tmp_path)) == facts(told(events))
    return tmp_path


@pytest.mark.parametrize("lost", [LEDGER_NAME, f"ledger.{shard_for('cat', 2)}.jsonl"])
@pytest.mark.parametrize("others", [0, 1])
def test_a_segment_that_is_gone_is_missed_however_few_are_left(three_stretches, lost, others):
    if others:
        open_ledger(three_stretches, Shard(7, 1)).release()
    (three_stretches / lost).unlink()
    with pytest.raises(LedgerError, match=f"/{lost}: has 0 whole bytes, but had"):
        read_snapshot(three_stretches, LocalDisk())


def test_a_newline_that_a_crash_took_is_put_back_though_others_went_on_since(tmp_path):
    events = list(attempts("cat", [FORWARD[0]]))
    shard = shard_for("cat", 2)
    written(tmp_path, events[:2], shard)
    scar([tmp_path / f"ledger.{shard}.jsonl"], "no newline")
    written(tmp_path, events[2:3])
    written(tmp_path, events[3:], shard)
    assert facts(folded(tmp_path)) == facts(told(events))


FORWARD = [
    ["submitting", "submitted", "completed", "done"],
    ["submitting", "unanswered", "submitted", "completed", "failed"],
    ["submitting", "submitted", "failed"],
    ["submitting", "deferred", "submitting", "submitted", "cancelled"],
    ["submitting", "submitted", "deferred"],
    ["submitting", "unanswered"],
    ["submitting", "failed"],
]


def attempts(job, ways):
    for attempt, way in enumerate(ways, 1):
        for name in way:
            yield Event(
                EventName(name), AT, job, attempt, request_id="r" if name == "submitted" else None
            )


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.sampled_from(FORWARD), min_size=1, max_size=3), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=3, max_size=3),
)
def test_segments_put_together_by_hand_are_ordered_by_attempt_and_lifecycle(ways, cuts):
    """Each job began in one and went on in the other, this one here, that one there."""
    jobs = [list(attempts(job, way)) for job, way in zip(JOBS, ways, strict=False)]
    first, second = [], []
    for events, (cut, swapped) in zip(jobs, cuts, strict=False):
        (second if swapped else first).extend(events[:cut])
        (first if swapped else second).extend(events[cut:])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / LEDGER_NAME).write_bytes(as_lines(first))
        (path / "ledger.1-of-2.jsonl").write_bytes(as_lines(second))
        assert facts(folded(path))["jobs"] == facts(told(itertools.chain(*jobs)))["jobs"]


def as_lines(events):
    return b"".join(encode_line(event, 0) for event in events)


def test_segments_that_contradict_each_other_are_refused(tmp_path):
    done = list(attempts("cat", [FORWARD[0]]))
    name = f"ledger.{shard_for('cat', 2)}.jsonl"
    (tmp_path / LEDGER_NAME).write_bytes(as_lines(done))
    (tmp_path / name).write_bytes(as_lines(done[1:2]))
    with pytest.raises(LedgerError, match="contradict each other: job cat") as refusal:
        read_snapshot(tmp_path, LocalDisk())
    assert f"{name}:1" in str(refusal.value)
    subprocess.run(["sh", "-c", str(refusal.value).split("`")[1]], check=True)
    assert read_snapshot(tmp_path, LocalDisk()).records["cat"].state is State.DONE


def test_what_an_interrupted_shard_of_version_0_1_wrote_of_other_shards_locks_nobody_out(tmp_path):
    """Its ``deferred`` stands in its own segment, for jobs whose requests stand in theirs."""
    one, other = (next(n for n in NAMES if shard_number(n, 2) == number) for number in (1, 2))
    begun = {job: list(attempts(job, [FORWARD[0][:2]])) for job in (one, other)}
    deferred = [Event(EventName.DEFERRED, AT, job, 1, reason="cancelled") for job in (one, other)]
    (tmp_path / "ledger.1-of-2.jsonl").write_bytes(as_lines([*begun[one], *deferred]))
    (tmp_path / "ledger.2-of-2.jsonl").write_bytes(as_lines(begun[other]))
    states = {job: record.state for job, record in read_snapshot(tmp_path, LocalDisk()).items()}
    assert states == {one: State.PENDING, other: begun_state(begun[other])}


def begun_state(events):
    return told(events).records[events[0].job].state


NAMES = [f"job-{number}" for number in range(50)]


async def test_what_a_stretch_came_after_is_written_with_its_first_line_and_only_then(tmp_path):
    written_by = list(attempts("cat", [FORWARD[2]]))
    ledger = open_ledger(tmp_path)
    play(ledger, written_by[0])
    await ledger.close()
    size_bytes = (tmp_path / LEDGER_NAME).stat().st_size
    shard = shard_for("cat", 2)
    ledger = open_ledger(tmp_path, shard)
    await ledger.close()
    assert ledger.path.read_bytes() == b""
    ledger = open_ledger(tmp_path, shard)
    play(ledger, written_by[1])
    play(ledger, written_by[2])
    await ledger.close()
    lines = [json.loads(line) for line in ledger.path.read_bytes().splitlines()]
    assert [line["event"] for line in lines] == ["follows", "submitted", "failed"]
    assert lines[0]["segments"] == {LEDGER_NAME: size_bytes}


@pytest.mark.parametrize("count", [0, 2])
async def test_a_torn_tail_is_dropped_by_its_own_holder_only(tmp_path, count):
    shard, other = shard_for("cat", count), Shard(5, 1)
    ledger = open_ledger(tmp_path, shard)
    play(ledger, next(attempts("cat", [FORWARD[0]])))
    await ledger.close()
    torn = ledger.path.read_bytes() + TORN
    ledger.path.write_bytes(torn)
    beside = open_ledger(tmp_path, other)
    assert (beside.warnings, beside.snapshot.records["cat"].state) == ([], State.UNKNOWN)
    await beside.close()
    assert ledger.path.read_bytes() == torn
    again = open_ledger(tmp_path, shard)
    said = f"{ledger.path.name}: dropped {len(TORN)} bytes that a crash left of its last lines"
    assert [warning.startswith(said) for warning in again.warnings] == [True]
    again.release()


def test_damage_names_the_segment_and_the_line(tmp_path):
    events = list(attempts("cat", [FORWARD[0]]))
    shard = shard_for("cat", 2)
    written(tmp_path, events, shard)
    path = tmp_path / f"ledger.{shard}.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"garbage\n" + b"".join(lines[2:]))
    with pytest.raises(LedgerError, match=rf"ledger\.{shard}\.jsonl:2: unreadable"):
        read_snapshot(tmp_path, LocalDisk())


def test_a_line_inside_an_input_is_no_mark(tmp_path):
    """It looks like what a stretch begins with, and stands in the middle of a line."""
    event = Event(EventName.SUBMITTING, AT, "cat", 1, input={"a": {"event": "follows", "at": "x"}})
    (tmp_path / LEDGER_NAME).write_bytes(as_lines([event]))
    assert b'{"event":"follows"' in (tmp_path / LEDGER_NAME).read_bytes()
    assert folded(tmp_path).records["cat"].attempt == 1


GROWING_JOBS = 400


def test_a_segment_may_be_read_while_it_grows(tmp_path):
    """Whatever moment a reader comes at, it sees a state that was true once; and it never fails."""
    ended = threading.Event()

    def write():
        try:
            asyncio.run(grow())
        finally:
            ended.set()

    async def grow():
        ledger = open_ledger(tmp_path, Shard(2, 1))
        for number in range(GROWING_JOBS):
            for event in attempts(f"job-{number}", [FORWARD[0]]):
                play(ledger, event)
            await asyncio.sleep(0)
        await ledger.close()

    open_ledger(tmp_path, Shard(2, 1)).release()
    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not ended.is_set():
        seen.append(len(read_snapshot(tmp_path, LocalDisk()).records))
    writer.join()
    assert seen == sorted(seen)
    assert len(read_snapshot(tmp_path, LocalDisk()).records) == GROWING_JOBS


class Coming(io.BytesIO):
    """A file of which a reader finds the first part; when it looks again, the rest has come."""

    def __init__(self, content, cut):
        super().__init__(content[:cut])
        self.rest = content[cut:]

    def seek(self, offset, whence=0):
        if offset:
            super().seek(0, io.SEEK_END)
            self.write(self.rest)
            self.rest = b""
        return super().seek(offset, whence)


def test_a_line_of_which_only_a_part_has_come_is_no_damage(tmp_path):
    """However many groups have come behind it when the reader looks again."""
    written(tmp_path, attempts("cat", [FORWARD[0]]))
    content = (tmp_path / LEDGER_NAME).read_bytes()
    (tmp_path / ".batcher/begun.ledger").unlink()  # as long as the first group is being written
    for cut in range(1, len(content)):

        class Growing(LocalDisk):
            def open_read(self, path, cut=cut):
                return Coming(content, cut)

        whole_lines = len([line for line in content[:cut].split(b"\n") if line.endswith(b"}")])
        records = read_snapshot(tmp_path, Growing()).records
        assert len(records) == min(whole_lines, 1)


@pytest.mark.parametrize(
    ("name", "shard"),
    [
        ("ledger.1-of-3.jsonl", Shard(3, 1)),
        ("ledger.12-of-100.jsonl", Shard(100, 12)),
        ("ledger.01-of-3.jsonl", None),
        ("ledger.0-of-3.jsonl", None),
        ("ledger.1-of-3.jsonl.bak", None),
        (".ledger.1-of-3.jsonl.77.fetched", None),
        ("ledger.jsonl", None),
    ],
)
def test_a_name_says_which_shard_a_segment_is_of(name, shard):
    assert shard_of_segment(name) == shard
    assert is_segment(name) is (shard is not None or name == LEDGER_NAME)
    assert division(name) == (shard.count if shard is not None else 0)


def test_segments_come_in_one_order_whatever_the_names_sort_like(tmp_path):
    for name in ("ledger.10-of-10.jsonl", "ledger.2-of-10.jsonl", "ledger.1-of-2.jsonl", LEDGER_NAME):
        (tmp_path / name).touch()
    assert segments_in(tmp_path, LocalDisk()) == [
        LEDGER_NAME,
        "ledger.1-of-2.jsonl",
        "ledger.2-of-10.jsonl",
        "ledger.10-of-10.jsonl",
    ]
