"""What ``--dask`` decides before and after any worker runs: parts, refusals, words on the wire."""

import asyncio
import signal
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher import errors
from batcher.app.run import run_here
from batcher.disk import LocalDisk
from batcher.distributed import cluster
from batcher.distributed.cluster import ClusterAddress, check_installed, place_of
from batcher.distributed.divide import check_divisible, split, split_above
from batcher.distributed.fleet import Fleet
from batcher.distributed.messages import Ended, Sight, Task, counts_of, packed, trouble_of, view_of
from batcher.distributed.outcome import accepted_since, sizes_of
from batcher.distributed.worker import look, manifest_sha256
from batcher.engine.host import Host
from batcher.engine.stop import Control
from batcher.errors import (
    BatcherError,
    InputError,
    ManifestError,
    UnreachableError,
    UsageError,
    interrupted,
)
from batcher.jobs.shard import Shard
from batcher.options.facts import Money, Pace, Selection
from batcher.options.run import Options
from batcher.ports import RunView
from tests.support.api_server import run_command
from tests.support.faults import line, write_ledger, write_pairs

COUNTS = st.integers(1, 50)


@given(total=st.integers(0, 10_000), count=COUNTS)
def test_parts_add_up_and_differ_by_one_at_most(total, count):
    parts = split(total, count)
    assert (sum(parts), len(parts)) == (total, count)
    assert max(parts) - min(parts) <= 1


@given(floors=st.lists(st.integers(0, 30), min_size=1, max_size=20), spare=st.integers(0, 200))
def test_slots_add_up_to_the_cap_with_every_request_that_was_taken_over(floors, spare):
    parts = split_above(floors, sum(floors) + spare)
    assert sum(parts) == sum(floors) + spare
    assert all(part >= floor for part, floor in zip(parts, floors, strict=True))
    raised = [part for part, floor in zip(parts, floors, strict=True) if part > floor]
    assert not raised or max(raised) - min(parts) <= 1, "room goes to the lowest first"


@given(floors=st.lists(st.integers(0, 30), min_size=1, max_size=20), total=st.integers(0, 20))
def test_requests_that_exceed_the_cap_leave_no_room_for_others(floors, total):
    if total <= sum(floors):
        parts = split_above(floors, total)
        assert sum(parts) == total
        assert all(part <= floor for part, floor in zip(parts, floors, strict=True))


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 30), st.booleans()), min_size=1, max_size=8),
    st.randoms(),
)
def test_what_ended_shards_hand_on_never_exceeds_the_cap(shards, chance):
    """Of each: its part, how many requests it may leave behind, and whether it can say so."""
    tasks = [_task(number, slots, 0.5) for number, (slots, _, _) in enumerate(shards, 1)]
    fleet = Fleet(None, "run", tasks, run_here, Host())
    cap, left_behind, before = sum(slots for slots, _, _ in shards), 0, 0
    for task in chance.sample(tasks, len(tasks)):
        slots, held, says = shards[task.number - 1]
        held = min(held, slots + before)
        left_behind += held if says else slots + before
        fleet._record_end(task, Ended(task.number, held=held if says else None))
        live = [one.options.pace.concurrency for one in tasks if one.number not in fleet.ended]
        more = fleet._order.more_slots
        assert sum(live) + more * len(live) + left_behind <= cap
        assert fleet._order.more_per_s * len(live) + 0.5 * len(live) <= 0.5 * len(shards) + 1e-9
        assert more >= before
        before = more


def test_the_last_shard_has_all_that_the_others_had():
    tasks = [_task(1, 6, 1.0), _task(2, 5, 1.0), _task(3, 5, 1.0)]
    fleet = Fleet(None, "run", tasks, run_here, Host())
    for task, held in zip(tasks, (0, 2), strict=False):
        fleet._record_end(task, Ended(task.number, held=held))
    assert (fleet._order.more_slots, fleet._order.more_per_s) == (9, 2.0)


@pytest.mark.parametrize(
    ("slots", "held", "drains"),
    [((4, 0), 0, False), ((4, 0), 4, True), ((4, 0), None, True), ((4, 2), None, False)],
)
def test_shards_that_no_slot_can_come_to_any_more_are_told_to_end(slots, held, drains):
    tasks = [_task(number, part, None) for number, part in enumerate(slots, 1)]
    fleet = Fleet(None, "run", tasks, run_here, Host())
    fleet._record_end(tasks[0], Ended(1, held=held))
    assert (fleet._order.drain is not None) is drains


class SlowCluster:
    """Takes each order ``turns`` turns of the event loop after it was sent; its shards never end."""

    def __init__(self, turns):
        self.turns = turns
        self.orders = []

    def subscribe_topic(self, topic, received):
        pass

    def submit(self, *shard, **how):
        return asyncio.get_running_loop().create_future()

    async def log_event(self, topic, order):
        for _ in range(self.turns):
            await asyncio.sleep(0)
        self.orders.append(order)


@pytest.mark.parametrize("turns", range(12))
async def test_a_second_signal_ends_the_wait_whatever_order_is_being_sent(turns):
    there, control = SlowCluster(turns), Control()
    fleet = Fleet(there, "run", [_task(1, 4, None)], run_here, Host())
    fleet._heard = {1}
    running = asyncio.create_task(fleet.run(control, grace_s=600.0))
    await asyncio.sleep(0)
    control.halt(interrupted(signal.SIGTERM))
    control.abort(interrupted(signal.SIGTERM))
    _, still = await asyncio.wait([running], timeout=5.0)
    assert not still
    assert (there.orders[-1]["halt"], there.orders[-1]["abort"]) == (signal.SIGTERM, True)


def _task(number, slots, rate_per_s):
    options = Options(
        manifest=Path("m.csv"),
        selection=Selection(shard=Shard(8, number)),
        pace=Pace(concurrency=slots, rate_per_s=rate_per_s),
    )
    return Task("run", options, Sight(Path("mark"), Path("m.csv"), "", ""))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("tcp://10.0.0.1:8786", ClusterAddress("tcp://10.0.0.1:8786")),
        ("tls://scheduler:8786", ClusterAddress("tls://scheduler:8786")),
        ("local:4", ClusterAddress(None, 4)),
    ],
)
def test_a_place_is_an_address_or_a_number_of_processes(text, place):
    assert place_of(text) == place
    assert str(place) == text


@pytest.mark.parametrize(
    "text", ["", "local", "local:0", "local:-1", "local:1000", "10.0.0.1:8786", "tcp://x"]
)
def test_anything_else_is_refused_with_what_to_write(text):
    with pytest.raises(UsageError, match="local:N"):
        place_of(text)


OPTIONS = Options(manifest=Path(__file__))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (replace(OPTIONS, selection=Selection(shard=Shard(2, 1))), "--shard"),
        (replace(OPTIONS, pace=Pace(adapts=True)), "-c auto"),
        (replace(OPTIONS, pace=Pace(max_runtime_s=60.0)), "--max-runtime"),
        (replace(OPTIONS, money=Money(canary=5)), "--canary"),
    ],
)
def test_what_shards_cant_keep_is_refused_with_the_reason(options, word):
    with pytest.raises(UsageError, match=word):
        check_divisible(options)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install distributed"):
        check_installed()


async def test_processes_that_do_not_start_are_no_internal_error(monkeypatch):
    monkeypatch.setitem(cluster._LOCAL_CONFIG, "distributed.worker.preload", ["no_such_module"])
    with pytest.raises(UnreachableError, match=r"local:1: .* did not start, nothing was submitted"):
        async with cluster.connected(ClusterAddress(None, 1)):
            pytest.fail("there is no worker")


def test_the_command_refuses_before_it_asks_the_api_or_starts_anything(tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    ended = run_command(None, tmp_path, "run", "pairs.csv", "--dask", "local:2", "--shard", "1/2")
    assert (ended.returncode, "leave out --shard" in ended.stderr) == (64, True)
    assert not (tmp_path / "output").exists()


ERRORS = [
    cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, BatcherError)
]


@pytest.mark.parametrize("cls", ERRORS)
def test_every_error_of_ours_comes_back_as_one_with_its_words_and_its_exit_code(cls):
    error = cls("what\nhappened", "code") if cls is errors.DownloadRefused else cls("what\nhappened")
    sent = msgspec.convert(packed(Ended(1, trouble=trouble_of(error))), Ended)
    back = sent.trouble.error()
    assert (str(back), back.exit_code) == (str(error), error.exit_code)
    assert isinstance(error, type(back))


def test_a_manifests_problems_come_back_as_an_input_error():
    back = trouble_of(ManifestError(["m.csv:1: id: no", "m.csv:2: id: no"])).error()
    assert type(back) is InputError
    assert str(back) == "m.csv:1: id: no\nm.csv:2: id: no"


def test_a_signal_keeps_its_exit_code():
    assert trouble_of(interrupted(15)).error().exit_code == 143


def test_what_is_no_error_of_ours_is_an_internal_one_in_one_line():
    back = trouble_of(ZeroDivisionError("division by zero")).error()
    assert (str(back), back.exit_code) == ("internal error: ZeroDivisionError: division by zero", 70)


@given(st.builds(RunView, *[st.integers(0, 9)] * 9))
def test_counts_travel_whole(view):
    assert view_of(counts_of(view)) == view


def test_a_worker_that_sees_something_else_says_what(tmp_path):
    manifest = write_pairs(tmp_path / "pairs.csv", 2)
    mark = tmp_path / "out" / ".batcher" / "dask-1"
    sight = Sight(mark, manifest, manifest_sha256(manifest), version("runcomfy-batcher"))
    assert f"does not see the run directory {tmp_path / 'out'}" in look(sight)
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert look(sight) is None
    assert "the caller 0.0.1" in look(replace(sight, version="0.0.1"))
    write_pairs(manifest, 3)
    assert "not see the same manifest" in look(sight)
    manifest.unlink()
    assert "not see the same manifest" in look(sight)


def test_accepted_posts_are_counted_from_where_the_ledger_stood(tmp_path):
    disk, old = LocalDisk(), [line("submitting", "a"), line("submitted", "a", request_id="1")]
    path = write_ledger(tmp_path, *old)
    before = sizes_of(tmp_path, disk)
    write_ledger(
        tmp_path,
        *old,
        line("submitted", "c", request_id="3"),  # asked about again, not bought
        line("submitting", "b"),
        line("submitted", "b", request_id="2"),
        line("submitting", "d"),
        line("deferred", "d", reason="busy"),
    )
    other = path.with_name("ledger.1-of-2.jsonl")
    other.write_bytes(msgspec.json.encode(line("submitting", "e")) + b"\n{torn")
    assert accepted_since(tmp_path, before, disk) == 1


def test_a_run_directory_that_is_held_is_left_alone_and_no_worker_started(tmp_path):
    manifest = write_pairs(tmp_path / "pairs.csv", 1)
    write_ledger(tmp_path / "out")
    (tmp_path / "out/.batcher").mkdir()
    release = LocalDisk().lock(tmp_path / "out/.batcher/lock")
    dead = "tcp://127.0.0.1:9"
    ended = run_command(None, tmp_path, "run", manifest, "-o", "out", "--dask", dead)
    release()
    assert (ended.returncode, "another run holds this run directory" in ended.stderr) == (75, True), (
        ended.stderr
    )
