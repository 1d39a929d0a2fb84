"""The ledger: order, durability, replay, torn tails, damage, and the lock."""

import asyncio
import contextlib
import errno
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.clock import SystemClock
from batcher.disk import LocalAppendFile, LocalDisk
from batcher.errors import LedgerError, LockedError, RunDirError
from batcher.jobs.lifecycle import EventName, IllegalTransition, RunEvent, Stage, State
from batcher.layout import LEDGER_NAME
from batcher.ledger.ledger import Ledger, read_snapshot

CLOCK = SystemClock()
RUN = RunEvent(run="abc", at="2026-01-01T00:00:00.000Z", total=2, manifest="m.yaml", version=1)


def open_ledger(path, disk=None):
    return Ledger(path, disk or LocalDisk(), CLOCK)


async def buy(ledger, job="cat", request_id="r1"):
    await ledger.record(
        EventName.SUBMITTING, job, attempt=1, model="m", input={"prompt": job}, price_usd=1.0
    )
    await ledger.record(EventName.SUBMITTED, job, request_id=request_id)


def lines(path):
    return [json.loads(line) for line in (path / LEDGER_NAME).read_bytes().splitlines()]


async def test_what_is_recorded_is_there_after_reopening(tmp_path):
    ledger = open_ledger(tmp_path)
    ledger.announce(RUN)
    await buy(ledger)
    await ledger.close()
    again = open_ledger(tmp_path)
    assert again.snapshot.records["cat"].state is State.SUBMITTED
    assert again.snapshot.records["cat"].request_id == "r1"
    assert again.snapshot.last_run.total == 2
    again.release()


async def test_a_run_that_changes_nothing_appends_nothing(tmp_path):
    ledger = open_ledger(tmp_path)
    ledger.announce(RUN)
    ledger.close_run(RUN)
    await ledger.close()
    assert (tmp_path / LEDGER_NAME).read_bytes() == b""


async def test_the_run_line_comes_first_and_a_new_total_is_a_change_of_its_own(tmp_path):
    ledger = open_ledger(tmp_path)
    ledger.announce(RUN)
    await buy(ledger)
    await ledger.close()
    ledger = open_ledger(tmp_path)
    ledger.announce(RunEvent(run="def", at="x", total=3, manifest="m.yaml"))
    await ledger.close()
    assert [line["event"] for line in lines(tmp_path)] == ["run", "submitting", "submitted", "run"]


async def test_price_is_written_also_where_it_is_null(tmp_path):
    ledger = open_ledger(tmp_path)
    await ledger.record(EventName.SUBMITTING, "cat", attempt=1, price_usd=None)
    await ledger.close()
    assert lines(tmp_path)[0]["price_usd"] is None


async def test_every_line_carries_the_byte_at_which_its_group_begins(tmp_path):
    ledger = open_ledger(tmp_path)
    await asyncio.gather(*(buy(ledger, f"job-{n}") for n in range(20)))
    await ledger.close()
    raw = (tmp_path / LEDGER_NAME).read_bytes()
    starts = {json.loads(line)["group"] for line in raw.splitlines()}
    assert min(starts) == 0
    assert len(starts) < 40, "lines that gather during an fsync share a group"
    assert all(start == 0 or raw[start - 1 : start] == b"\n" for start in starts)


async def test_lines_of_one_producer_each_are_committed_in_few_syncs(tmp_path):
    class Counting(LocalDisk):
        syncs = 0

        async def run(self, function):
            type(self).syncs += 1
            return await super().run(function)

    ledger = open_ledger(tmp_path, Counting())
    await asyncio.gather(
        *(ledger.record(EventName.SUBMITTING, f"j{n}", attempt=1, price_usd=None) for n in range(500))
    )
    await ledger.close()
    assert Counting.syncs <= 3


async def test_an_illegal_event_is_refused_before_it_is_written(tmp_path):
    ledger = open_ledger(tmp_path)
    with pytest.raises(IllegalTransition):
        ledger.append(EventName.DONE, "cat", files=())
    await ledger.close()
    assert (tmp_path / LEDGER_NAME).read_bytes() == b""


async def test_a_cancelled_caller_does_not_take_its_line_along(tmp_path):
    ledger = open_ledger(tmp_path)
    task = asyncio.create_task(ledger.record(EventName.SUBMITTING, "cat", attempt=1, price_usd=None))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ledger.close()
    assert [line["event"] for line in lines(tmp_path)] == ["submitting"]


async def test_a_line_can_be_read_back_from_its_offset(tmp_path):
    ledger = open_ledger(tmp_path)
    await buy(ledger, "a")
    await buy(ledger, "b")
    place = ledger.snapshot.records["b"].input_offset
    assert ledger.snapshot.line_at(place).input == {"prompt": "b"}
    await ledger.close()


async def test_two_runs_can_not_hold_one_directory(tmp_path):
    ledger = open_ledger(tmp_path)
    with pytest.raises(LockedError, match="another run"):
        open_ledger(tmp_path)
    await ledger.close()
    open_ledger(tmp_path).release()


@pytest.fixture
async def whole(tmp_path):
    ledger = open_ledger(tmp_path)
    ledger.announce(RUN)
    for job in ("a", "b", "c"):
        await buy(ledger, job, f"r-{job}")
    await ledger.close()
    return tmp_path


async def test_every_prefix_of_a_ledger_replays_to_a_state_that_was_true_once(whole):
    path = whole / LEDGER_NAME
    raw = path.read_bytes()
    (whole / ".batcher/begun.ledger").unlink()  # as long as the first group is not durable
    seen = []
    for size in range(len(raw) + 1):
        path.write_bytes(raw[:size])
        ledger = open_ledger(whole)
        (whole / ".batcher/begun.ledger").unlink(missing_ok=True)
        seen.append(sum(r.request_id is not None for r in ledger.snapshot.records.values()))
        kept = path.read_bytes()
        assert raw.startswith(kept) or kept == raw[:size] + b"\n"
        assert kept == b"" or kept.endswith(b"\n")
        ledger.release()
    assert seen == sorted(seen)
    assert seen[-1] == 3


async def test_a_torn_tail_is_dropped_with_a_warning_by_the_holder_only(whole):
    path = whole / LEDGER_NAME
    torn = path.read_bytes() + b'{"event":"completed","at"'
    path.write_bytes(torn)
    snapshot = read_snapshot(whole, LocalDisk())
    assert len(snapshot.records) == 3
    assert path.read_bytes() == torn
    ledger = open_ledger(whole)
    assert "dropped 25 bytes" in ledger.warnings[0]
    ledger.release()


async def test_several_spoiled_lines_of_the_last_group_are_a_torn_tail(whole):
    path = whole / LEDGER_NAME
    raw = path.read_bytes()
    group = len(raw)
    good = b'{"event":"completed","at":"x","job":"b","attempt":1,"group":%d}\n' % group
    path.write_bytes(raw + b"\0" * 40 + b"\n" + good)
    ledger = open_ledger(whole)
    assert ledger.snapshot.records["b"].state is State.SUBMITTED
    assert path.read_bytes() == raw
    ledger.release()


async def test_garbage_with_good_lines_of_later_groups_behind_it_is_damage(whole):
    path = whole / LEDGER_NAME
    rows = path.read_bytes().splitlines(keepends=True)
    rows[3] = b"garbage" + rows[3][7:]
    path.write_bytes(b"".join(rows))
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"ledger\.jsonl:4: unreadable"):
        open_ledger(whole)
    assert path.read_bytes() == before
    open_fails_again_for_the_same_reason = pytest.raises(LedgerError)
    with open_fails_again_for_the_same_reason:
        open_ledger(whole)


@settings(max_examples=60)
@given(data=st.data())
def test_flipped_bytes_never_raise_anything_but_ledger_errors(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("flip")
    raw = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (path / LEDGER_NAME).write_bytes(bytes(raw))
    with contextlib.suppress(LedgerError):
        open_ledger(path).release()


SAMPLE = b"".join(
    b'{"event":"%s","at":"2026-01-01T00:00:00.000Z","job":"j%d","attempt":1,%s"group":%d}\n' % row
    for row in [
        (b"submitting", 1, b'"price_usd":1.5,"input":{"prompt":"x"},', 0),
        (b"submitting", 2, b'"price_usd":null,', 0),
        (b"submitted", 1, b'"request_id":"r1",', 230),
        (b"completed", 1, b"", 340),
    ]
)


async def test_events_and_fields_of_the_future_are_passed_over(whole):
    path = whole / LEDGER_NAME
    future = b'{"event":"scored","job":7,"at":[],"stage":"beauty"}\n{"event":"completed","at":"x","job":"a","attempt":1,"colour":"red"}\n'
    path.write_bytes(path.read_bytes() + future)
    snapshot = read_snapshot(whole, LocalDisk())
    assert snapshot.records["a"].state is State.COMPLETED


async def test_a_writer_stops_at_a_newer_major_version_and_a_reader_does_not(tmp_path):
    (tmp_path / LEDGER_NAME).write_bytes(b'{"event":"run","run":"x","at":"x","version":"2.1"}\n')
    with pytest.raises(LedgerError, match="newer batcher"):
        open_ledger(tmp_path)
    read_snapshot(tmp_path, LocalDisk())


def test_a_directory_without_a_ledger_is_not_a_run_directory(tmp_path):
    with pytest.raises(LedgerError, match="not a run directory"):
        read_snapshot(tmp_path, LocalDisk())


class Failing(LocalAppendFile):
    """Writes ``room`` bytes, then the disk is full; ``sync_error`` makes fsync fail."""

    room = 10**9
    sync_error = None

    def write(self, data):
        if len(data) > self.room:
            super().write(data[: self.room])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(data)

    def sync(self):
        if self.sync_error:
            raise self.sync_error
        super().sync()


class FailingDisk(LocalDisk):
    def open_append(self, path):
        self.file = Failing(path)
        return self.file

    def remove(self, path):
        if path.name == "reserve":
            self.file.room = 10**9
        super().remove(path)


async def test_a_full_disk_leaves_whole_lines_and_the_reserve_takes_the_answers_on_their_way(tmp_path):
    disk = FailingDisk()
    ledger = open_ledger(tmp_path, disk)
    await ledger.record(EventName.SUBMITTING, "cat", attempt=1, price_usd=None)
    disk.file.room = 20
    await ledger.record(EventName.SUBMITTED, "cat", request_id="r1")
    assert ledger.full
    await ledger.close()
    assert [line["event"] for line in lines(tmp_path)] == ["submitting", "submitted"]


async def test_when_not_even_the_reserve_helps_the_run_ends_with_whole_lines(tmp_path):
    disk = FailingDisk()
    ledger = open_ledger(tmp_path, disk)
    await ledger.record(EventName.SUBMITTING, "cat", attempt=1, price_usd=None)
    disk.remove = lambda path: None
    disk.file.room = 20
    with pytest.raises(RunDirError, match="No space left"):
        await ledger.record(EventName.SUBMITTED, "cat", request_id="r1")
    with pytest.raises(RunDirError):
        ledger.append(EventName.COMPLETED, "cat")
    await ledger.close()
    assert [line["event"] for line in lines(tmp_path)] == ["submitting"]


async def test_a_failed_fsync_ends_the_run_and_is_never_tried_again(tmp_path):
    disk = FailingDisk()
    ledger = open_ledger(tmp_path, disk)
    disk.file.sync_error = OSError(errno.EIO, "Input/output error")
    first = ledger.append(EventName.SUBMITTING, "a", attempt=1, price_usd=None)
    with pytest.raises(RunDirError, match="Input/output error"):
        await first
    disk.file.sync_error = None
    with pytest.raises(RunDirError):
        ledger.append(EventName.SUBMITTING, "b", attempt=1, price_usd=None)
    await ledger.close()


@pytest.mark.parametrize("meddling", ["append", "replace", "remove"])
async def test_a_ledger_that_something_else_touched_ends_the_run(tmp_path, meddling):
    ledger = open_ledger(tmp_path)
    path = tmp_path / LEDGER_NAME
    if meddling == "append":
        path.write_bytes(path.read_bytes() + b"x\n")
    else:
        path.unlink()
        if meddling == "replace":
            path.write_bytes(b"")
    with pytest.raises(RunDirError, match="changed or replaced"):
        await ledger.record(EventName.SUBMITTING, "cat", attempt=1, price_usd=None)
    await ledger.close()


def test_a_run_directory_that_is_a_file_can_not_be_written(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunDirError, match="can't write"):
        open_ledger(tmp_path / "run")


@pytest.mark.parametrize("spoilt", [b"g\x99\xaa\xdd\xce", b"gr\0\0p"], ids=["no text", "zeros"])
async def test_a_spoilt_name_of_a_field_does_not_pass_for_a_field_of_a_newer_version(tmp_path, spoilt):
    ledger = open_ledger(tmp_path)
    await buy(ledger)
    await ledger.close()
    path = tmp_path / LEDGER_NAME
    *kept, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept) + last.replace(b"group", spoilt))
    with pytest.raises(LedgerError, match=r"ledger\.jsonl:2: unreadable"):
        open_ledger(tmp_path)


async def test_lines_are_durable_before_the_mark_that_says_there_were_some(whole):
    (whole / ".batcher/begun.ledger").unlink()  # a run died between its first lines and the mark
    order = []

    class Noting(LocalDisk):
        def open_append(self, path):
            return NotingFile(path)

        def write_whole(self, path, pieces):
            order.append(path.name)
            return super().write_whole(path, pieces)

    class NotingFile(LocalAppendFile):
        def sync(self):
            order.append("sync")
            super().sync()

    open_ledger(whole, Noting()).release()
    assert order[-2:] == ["sync", "begun.ledger"]


async def test_the_end_of_a_job_is_told_once_it_is_durable_also_if_its_waiter_was_cancelled(tmp_path):
    ledger, told = open_ledger(tmp_path), []
    ledger.on_durable = lambda line: told.append((line.job, str(line.event)))
    for job in "ab":
        await ledger.record(EventName.SUBMITTING, job, attempt=1, price_usd=None)
    ends = [ledger.append(EventName.FAILED, job, stage=Stage.SUBMIT, message="no") for job in "ab"]
    ends[0].cancel()
    assert told == [("a", "submitting"), ("b", "submitting")]
    await ends[1]
    await ledger.settled()
    assert told == [(job, event) for event in ("submitting", "failed") for job in "ab"]
    await ledger.close()


async def test_an_end_that_could_not_be_written_is_not_told(tmp_path):
    disk, told = FailingDisk(), []
    ledger = open_ledger(tmp_path, disk)
    ledger.on_durable = lambda line: told.append((line.job, str(line.event)))
    await ledger.record(EventName.SUBMITTING, "a", attempt=1, price_usd=None)
    disk.file.sync_error = OSError(errno.EIO, "Input/output error")
    with pytest.raises(RunDirError):
        await ledger.record(EventName.FAILED, "a", stage=Stage.SUBMIT, message="no")
    await ledger.close()
    assert told == [("a", "submitting")]
