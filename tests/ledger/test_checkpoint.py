"""The checkpoint of a ledger: it counts only where the ledger still begins with what it is the fold of."""

import asyncio
import hashlib
import io
import os
from itertools import pairwise

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batcher.clock import SystemClock
from batcher.disk import LocalAppendFile, LocalDisk
from batcher.errors import LedgerError
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import EventName, RunEvent, State
from batcher.jobs.shard import Shard
from batcher.ledger import checkpoint
from batcher.ledger.ledger import Ledger, read_ledger, read_snapshot
from batcher.ledger.lines import LineReader
from batcher.ledger.packed import SHARDS, Bulk, SavedWords
from batcher.ledger.snapshot import Snapshot

RUN = RunEvent(run="a", at="2026-01-01T00:00:00.000Z", total=9, manifest="m.yaml", version=1)
DIGEST = "0123456789abcdef"
ANY_FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


class Refolded(Snapshot):
    may_restore = False


@pytest.fixture(autouse=True)
def worth_it(monkeypatch):
    """However short the ledger is; and done jobs are packed at once."""
    monkeypatch.setattr(checkpoint, "CHECKPOINT_STEP_BYTES", 1)
    monkeypatch.setattr("batcher.ledger.snapshot.KEPT_OPEN", 1)


def opened(path, shard=None):
    return Ledger(path, LocalDisk(), SystemClock(), shard)


async def write(path, *jobs, shard=None):
    """A run that finishes ``jobs``, leaves one running and one failed, and closes its ledger."""
    ledger = opened(path, shard)
    ledger.announce(RUN)
    for name in jobs:
        fields = {"model": "m", "digest": DIGEST, "input": {"prompt": name, "duration": 5}}
        ledger.append(EventName.SUBMITTING, name, attempt=1, price_usd=1.5, **fields)
        ledger.append(EventName.SUBMITTED, name, request_id=f"r-{name}")
        if name.startswith("running"):
            continue
        if name.startswith("failed"):
            ledger.append(EventName.FAILED, name, stage="generate", code=7, message="no")
            continue
        ledger.append(EventName.COMPLETED, name, cost_usd=1.25, unfinished_s=3.0)
        file = Artifact(f"media/{name}.mp4", 10, f"{len(name):064x}")
        quality = "black" if name.startswith("poor") else None
        await ledger.record(EventName.DONE, name, files=(file,), quality=quality)
    ledger.close_run(RunEvent(run="a", at=RUN.at, ended=True))
    await ledger.close()
    return path


def facts(snapshot):
    """All that a snapshot tells."""
    fields = ("state", "attempt", "request_id", "model", "digest", "charge_usd", "price_usd", "files")
    more = ("quality", "orphaned", "code", "message", "submitting_at", "input_offset", "done_offset")
    jobs = {job: [getattr(r, name) for name in fields + more] for job, r in snapshot.items()}
    sums = (snapshot.counts, snapshot.poor, snapshot.spent_usd, snapshot.reported_usd, snapshot.bytes)
    runs = [(run.opening, run.ended) for run in snapshot.runs.values()]
    timings = snapshot.timings.by_model()
    return jobs, sums, snapshot.dataset_changes, snapshot.last_run, runs, timings


def refolded(path):
    lines = LineReader(path, LocalDisk())
    return read_ledger(Refolded(lines.at), path, lines, LocalDisk())


def was_used(path):
    return read_snapshot(path, LocalDisk()).restored_bytes > 0


JOBS = ("a", "b", "poor", "running", "failed", "c")


async def test_a_snapshot_that_begins_with_a_checkpoint_tells_all_that_the_ledger_does(tmp_path):
    await write(tmp_path, *JOBS)
    restored = read_snapshot(tmp_path, LocalDisk())
    assert restored.restored_bytes == (tmp_path / "ledger.jsonl").stat().st_size
    assert facts(restored) == facts(refolded(tmp_path))
    assert restored.counts[State.DONE] == 4


async def killed(path, jobs, disk):
    """A run that is killed: its ledger is never closed."""
    ledger = Ledger(path, disk, SystemClock())
    ledger.announce(RUN)
    for name in jobs:
        fields = {"model": "m", "digest": DIGEST, "input": {"prompt": name, "duration": 5}}
        ledger.append(EventName.SUBMITTING, name, attempt=1, price_usd=1.5, **fields)
        ledger.append(EventName.SUBMITTED, name, request_id=f"r-{name}")
        ledger.append(EventName.COMPLETED, name, cost_usd=1.25, unfinished_s=3.0)
        file = Artifact(f"media/{name}.mp4", 10, hashlib.sha256(name.encode()).hexdigest())
        await ledger.record(EventName.DONE, name, files=(file,))
    ledger.release()


async def test_a_run_that_is_killed_leaves_one(tmp_path):
    await killed(tmp_path, [f"job-{number}" for number in range(40)], LocalDisk())
    size_bytes = (tmp_path / "ledger.jsonl").stat().st_size
    restored = read_snapshot(tmp_path, LocalDisk())
    assert size_bytes / 2 < restored.restored_bytes < size_bytes
    assert facts(restored) == facts(refolded(tmp_path))


class CountingDisk(LocalDisk):
    """Says of each checkpoint how much it covers, and how much of the ledger was synced then."""

    def __init__(self):
        super().__init__()
        self.synced_bytes, self.kept = 0, []

    def open_append(self, path):
        disk = self

        class Counting(LocalAppendFile):
            def sync(self):
                super().sync()
                disk.synced_bytes = path.stat().st_size

        return Counting(path)

    def write_whole(self, path, chunks):
        super().write_whole(path, chunks)
        if path.name == "checkpoint":
            with path.open("rb") as file:
                self.kept.append((msgspec.json.decode(file.readline())[1], self.synced_bytes))


async def test_they_are_few_and_none_covers_more_than_is_on_disk(tmp_path):
    disk = CountingDisk()
    await killed(tmp_path, [f"job-{number}" for number in range(100)], disk)
    covered = [covered_bytes for covered_bytes, _ in disk.kept]
    assert all(covered_bytes <= synced_bytes for covered_bytes, synced_bytes in disk.kept)
    assert all(after >= before * 5 // 4 for before, after in pairwise(covered))
    assert 5 <= len(covered) <= 30


async def test_each_ends_with_a_group_of_lines_while_many_are_written(tmp_path):
    """What follows a checkpoint is folded, and a line begins its group or continues it."""
    kept = tmp_path / ".batcher" / "checkpoint"
    copies = []

    class Copying(LocalDisk):
        def write_whole(self, path, chunks):
            super().write_whole(path, chunks)
            if path == kept:
                copies.append(path.read_bytes())

    ledger = Ledger(tmp_path, Copying(), SystemClock())

    def answer(event):
        if event.event is EventName.SUBMITTING:
            ledger.append(EventName.SUBMITTED, event.job, request_id=f"r-{event.job}")

    ledger.on_durable = answer

    for number in range(400):  # also while others are written
        if number % 20 == 0:
            await ledger.settled()
            await ledger._checkpoints.settled()
        fields = {"model": "m", "digest": DIGEST, "input": {"prompt": "a"}}
        ledger.append(EventName.SUBMITTING, f"job-{number}", attempt=1, price_usd=1.5, **fields)
        await asyncio.sleep(0)
    await ledger.settled()
    await ledger._checkpoints.settled()
    ledger.release()
    told = facts(refolded(tmp_path))
    assert len(copies) > 2
    for copy in copies:
        kept.write_bytes(copy)
        assert was_used(tmp_path)
        assert facts(read_snapshot(tmp_path, LocalDisk())) == told


async def test_one_that_covers_lines_not_yet_on_disk_waits_for_them(tmp_path):
    (tmp_path / ".batcher").mkdir()
    (tmp_path / "ledger.jsonl").write_bytes(bytes(30))
    kept = tmp_path / ".batcher" / "checkpoint"
    snapshot = Snapshot(line_at=lambda place: None)
    checkpoints = checkpoint.Checkpoints(snapshot, tmp_path, LocalDisk())
    checkpoints.committed(10, 20)
    await checkpoints.settled()
    assert not kept.exists()
    checkpoints.committed(25, 30)
    await checkpoints.settled()
    assert msgspec.json.decode(kept.read_bytes().partition(b"\n")[0])[1] == 20


async def test_none_is_made_while_many_jobs_are_open(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "OPEN_MAX", 0)
    await killed(tmp_path, [f"job-{number}" for number in range(10)], LocalDisk())
    assert not was_used(tmp_path)


async def test_what_came_after_it_is_folded(tmp_path, monkeypatch):
    await write(tmp_path, *JOBS)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_STEP_BYTES", 1 << 30)
    await write(tmp_path, "later", "d")
    restored = read_snapshot(tmp_path, LocalDisk())
    assert 0 < restored.restored_bytes < (tmp_path / "ledger.jsonl").stat().st_size
    assert facts(restored) == facts(refolded(tmp_path))
    assert restored.records["later"].state is State.DONE


async def test_whose_an_output_is_stays_known(tmp_path):
    await write(tmp_path, "a", "b")
    ledger = opened(tmp_path)
    assert ledger.snapshot.restored_bytes
    assert ledger.snapshot.line_at(ledger.snapshot.owners.get(f"{1:064x}")).job == "a"
    ledger.release()


async def test_a_packed_job_can_be_bought_again(tmp_path):
    await write(tmp_path, "a", "b", "c")
    ledger = opened(tmp_path)
    ledger.append(EventName.SUBMITTING, "a", attempt=2, model="m", digest=DIGEST, price_usd=2.0)
    await ledger.settled()
    assert ledger.snapshot.spent_usd == 3 * 1.25 + 2.0
    assert ledger.snapshot.records["a"].replaced.files[0].path == "media/a.mp4"
    await ledger.close()
    assert facts(read_snapshot(tmp_path, LocalDisk())) == facts(refolded(tmp_path))


@ANY_FIXTURE
@given(data=st.data())
async def test_it_does_not_count_for_a_ledger_that_differs_in_any_byte(tmp_path, data):
    path = tmp_path / "ledger.jsonl"
    if not path.exists():
        await write(tmp_path, "a", "b")
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    try:
        assert not was_used(tmp_path)
    except LedgerError:
        pass  # damage, and found: the checkpoint didn't hide it
    finally:
        path.write_bytes(whole)


@ANY_FIXTURE
@given(data=st.data())
async def test_one_that_is_not_whole_is_as_good_as_none(tmp_path, data):
    path = tmp_path / ".batcher" / "checkpoint"
    if not path.exists():
        await write(tmp_path, "a", "b", "running")
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    path.write_bytes(data.draw(st.sampled_from([whole[:at], flipped, whole + b"x", b""])))
    snapshot = read_snapshot(tmp_path, LocalDisk())
    assert facts(snapshot) == facts(refolded(tmp_path))
    path.write_bytes(whole)
    assert was_used(tmp_path)


COVERED = b"a ledger"


class Odd(Snapshot):
    """Saves what ``change`` makes of what there is to save."""

    change = staticmethod(lambda saved: None)

    def saved(self):
        saved = super().saved()
        self.change(saved)
        return saved


def encoded(snapshot):
    sha256 = hashlib.sha256(COVERED).hexdigest()
    return b"".join(checkpoint.Checkpoint(snapshot, len(COVERED)).encoded(sha256))


def restored(data):
    """How many bytes a checkpoint stands for."""
    snapshot = Snapshot(line_at=lambda place: None)
    return checkpoint.restore_checkpoint(snapshot, io.BytesIO(data), lambda: io.BytesIO(COVERED))


@pytest.mark.parametrize("body_bytes", [-1, 0, 1 << 62, 1 << 63, (1 << 64) - 1])
def test_a_head_that_promises_a_body_of_any_size_is_as_good_as_none(body_bytes):
    whole = encoded(Odd(lambda place: None))
    assert restored(whole) == len(COVERED)
    head, _, rest = whole.partition(b"\n")
    facts = msgspec.json.decode(head)
    facts[3] = body_bytes
    assert restored(msgspec.json.encode(facts) + b"\n" + rest) == 0


@pytest.mark.parametrize(
    ("sizes", "words", "cells", "fits"),
    [
        ([1], 16, 36, True),
        ([1], 15, 36, False),
        ([1], 24, 36, False),
        ([2, -1], 16, 36, False),
        ([1, 0], 16, 36, False),
        ([1], 16, 35, False),
        ([1], 16, 72, False),
    ],
)
def test_bulks_that_do_not_fit_together_are_not_taken_apart(sizes, words, cells, fits):
    def change(saved):
        saved.finished.flags = Bulk.of(bytearray(1))
        shards = [*sizes, *[0] * (SHARDS - 1)]
        saved.finished.rows = SavedWords(shards, Bulk.of(bytearray(words)))
        saved.finished.cells = Bulk.of(bytearray(cells))

    odd = Odd(lambda place: None)
    odd.change = change
    assert (restored(encoded(odd)) > 0) is fits


async def test_a_shortened_ledger_is_folded_anew(tmp_path):
    await write(tmp_path, "a", "b")
    path = tmp_path / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3]))
    assert not was_used(tmp_path)
    assert read_snapshot(tmp_path, LocalDisk()).records["b"].state is State.SUBMITTED


async def test_another_version_of_the_fold_does_not_take_it(tmp_path, monkeypatch):
    await write(tmp_path, "a")
    monkeypatch.setattr(checkpoint, "FOLD_VERSION", "2.0")
    assert not was_used(tmp_path)


async def test_beside_segments_of_shards_it_neither_counts_nor_is_made(tmp_path):
    await write(tmp_path, "a")
    name = "b" if Shard(2, 1).has("b") else "c"
    await write(tmp_path, name, shard=Shard(2, 1 if Shard(2, 1).has(name) else 2))
    assert not was_used(tmp_path)
    assert read_snapshot(tmp_path, LocalDisk()).records[name].state is State.DONE


async def test_a_small_ledger_has_none(tmp_path, monkeypatch):
    monkeypatch.undo()
    await write(tmp_path, *JOBS)
    assert not (tmp_path / ".batcher" / "checkpoint").exists()


async def test_a_full_disk_only_means_that_there_is_none(tmp_path, monkeypatch):
    class Full(LocalDisk):
        def write_whole(self, path, chunks):
            if path.name == "checkpoint":
                raise OSError(28, os.strerror(28))
            super().write_whole(path, chunks)

    ledger = Ledger(tmp_path, Full(), SystemClock())
    await ledger.record(EventName.SUBMITTING, "a", attempt=1, price_usd=None)
    await ledger.close()
    assert not (tmp_path / ".batcher" / "checkpoint").exists()
