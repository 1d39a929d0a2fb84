"""What the engine costs, counted and never timed: requests, polls, fsyncs, bytes, tasks and threads."""

import asyncio
import gc
import hashlib
import json
import sys
from collections import Counter
from itertools import product
from random import Random
from types import FunctionType, ModuleType
from unittest.mock import patch

import pytest

import batcher
from batcher.app.prepare import prepare
from batcher.disk import LocalAppendFile
from batcher.engine.lanes import BACKLOG_PER_DOWNLOAD
from batcher.jobs.identity import HASH_CHARS
from batcher.jobs.job import Artifact, LocalMedia
from batcher.jobs.lifecycle import EventName, Record, State
from batcher.layout import LEDGER_NAME
from batcher.ledger.finished import FinishedJobs
from batcher.ledger.ledger import Ledger, read_snapshot
from batcher.ledger.snapshot import KEPT_OPEN, Snapshot
from batcher.manifest.load import open_manifest
from batcher.options.facts import Overrides
from batcher.options.run import Options
from batcher.providers import json_body as body
from batcher.providers.json_body import request_body
from benchmarks import bench_validate
from benchmarks.simulated_polls import lognormal
from tests.support.api_server import TOKEN, served
from tests.support.engine import (
    Api,
    Batch,
    FakeClock,
    Files,
    InlineExecutor,
    QuickDisk,
    in_virtual_time,
    job,
    some_jobs,
)
from tests.support.engine_polls import EnginePolls
from tests.support.steps import result_of

MODEL = "blackforestlabs/flux-1/dev/text-to-image"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


# Requests


@in_virtual_time
async def test_a_job_that_is_finished_at_its_first_poll_costs_three_requests(tmp_path):
    batch = Batch(tmp_path, api=Api(takes_s=0.0, post_takes_s=0.0))
    ended = await batch.run(some_jobs(100), concurrency=16)
    assert ended.states == {"done": 100}
    assert set(Counter(batch.api.prompts).values()) == {1}
    assert set(Counter(request_id for _, request_id in batch.api.polls).values()) == {1}
    assert set(Counter(batch.files.fetched).values()) == {1}
    assert len(batch.api.posts) == len(batch.api.polls) == len(batch.files.fetched) == 100
    assert batch.api.cancelled == batch.files.refreshed == []


@in_virtual_time
async def test_a_batch_that_is_done_costs_no_request(tmp_path):
    batch = Batch(tmp_path)
    await batch.run(some_jobs(50), concurrency=16)
    batch.api, batch.files = Api(), Files()
    ended = await batch.run(some_jobs(50), concurrency=16)
    assert ended.states == {"done": 50}
    assert batch.api.posts == batch.api.polls == batch.files.fetched == []


@pytest.fixture
def server(monkeypatch):
    with served(MODEL, generate_s=0.0) as server:
        monkeypatch.setenv("RUNCOMFY_MODEL_API_BASE", server.base)
        monkeypatch.setenv("RUNCOMFY_TOKEN", TOKEN)
        yield server


async def test_over_the_wire_it_is_the_same_three(server, tmp_path):
    rows = [{"id": f"job-{n}", "prompt": f"cat {n}"} for n in range(20)]
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps({"name": "m", "model": MODEL, "jobs": rows}))
    summary = await batcher.run(manifest, output=tmp_path / "out", concurrency=8, poll=0.05)
    assert summary.done == 20
    assert (len(server.posts), server.polls, server.downloads, server.cancels) == (20, 20, 20, 0)
    assert server.lookups == [MODEL], "the catalogue is asked for a model, not for a job"


# Polls


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_a_job_of_a_minute_takes_seven_polls_at_most_once_durations_are_learned(tmp_path, sigma):
    with asyncio.Runner(loop_factory=EnginePolls.loop) as runner:
        engine = EnginePolls(tmp_path, lognormal(60, sigma), Random(6))
        calls, _ = runner.run(engine.run(216, 16, None))
    assert min(engine.api.calls.values()) >= 1
    assert calls <= 7.0


# Fsyncs


class CountedFile(LocalAppendFile):
    """Counts instead of waiting for the platters."""

    def __init__(self, path, syncs):
        super().__init__(path)
        self._path_name, self._syncs = path.name, syncs

    def sync(self):
        self._syncs[self._path_name] += 1


class CountingDisk(QuickDisk):
    """Real files; ``syncs`` counts their fsyncs by name, each of which takes ``sync_takes_s`` of the loop's time."""

    def __init__(self, sync_takes_s=0.0):
        super().__init__()
        self.syncs = Counter()
        self._sync_takes_s = sync_takes_s

    async def run(self, function):
        await asyncio.sleep(self._sync_takes_s)
        return function()

    def open_append(self, path):
        return CountedFile(path, self.syncs)


async def four_records(ledger, name, begins_s=0.0):
    """A whole job, each line durable before the next: as the engine writes it."""
    await asyncio.sleep(begins_s)
    await ledger.record(
        EventName.SUBMITTING,
        name,
        attempt=1,
        model="m",
        input={"prompt": name},
        digest=digest_of(name),
        price_usd=1.0,
    )
    await ledger.record(EventName.SUBMITTED, name, request_id=f"r-{name}")
    await ledger.record(EventName.COMPLETED, name, cost_usd=1.0)
    await ledger.record(EventName.DONE, name, files=(artifact(name),))


def digest_of(name):
    return hashlib.sha256(name.encode()).hexdigest()[:HASH_CHARS]


def artifact(name):
    return Artifact(f"media/{name}.mp4", 1000, hashlib.sha256(name.encode()).hexdigest())


async def syncs_and_records(path, begins_s):
    """Of a producer for each time at which one begins."""
    disk = CountingDisk(sync_takes_s=0.01)
    ledger = Ledger(path, disk, FakeClock())
    async with asyncio.TaskGroup() as producers:
        for number, at_s in enumerate(begins_s):
            producers.create_task(four_records(ledger, f"job-{number}", at_s))
    await ledger.close()
    return disk.syncs[LEDGER_NAME], len((path / LEDGER_NAME).read_bytes().splitlines())


@in_virtual_time
async def test_producers_that_wake_together_share_their_fsyncs(tmp_path):
    syncs, records = await syncs_and_records(tmp_path, [0.0] * 500)
    assert records == 2000
    assert syncs <= 8, "one for each of four rounds, and no more than another on the way"


@in_virtual_time
async def test_producers_that_come_at_any_time_share_their_fsyncs(tmp_path):
    rng = Random(1)
    syncs, records = await syncs_and_records(tmp_path, [rng.uniform(0.0, 0.5) for _ in range(500)])
    assert records == 2000
    assert syncs <= records / 20


@in_virtual_time
async def test_a_producer_alone_has_one_fsync_for_each_record(tmp_path):
    disk = CountingDisk()
    ledger = Ledger(tmp_path, disk, FakeClock())
    for number in range(50):
        await four_records(ledger, f"job-{number}")
        assert disk.syncs[LEDGER_NAME] == 4 * (number + 1)
    await ledger.close()
    assert disk.syncs[LEDGER_NAME] == 200, "nothing is left to sync at the end"


# Memory


def done_record(number):
    """As the fold leaves it, with the lines of each job some kilobyte apart from those of the next."""
    place = number * 1200
    return Record(
        State.DONE,
        attempt=1,
        model="m",
        digest=digest_of(str(number)),
        price_usd=1.0,
        charge_usd=1.0,
        listed=True,
        submitting_offset=place,
        input_offset=place,
        answer_offset=place + 400,
        done_offset=place + 800,
    )


def held_bytes(root):
    """All memory that can be reached from ``root``, but for code."""
    seen, todo, total_bytes = set(), [root], 0
    while todo:
        found = todo.pop()
        if id(found) in seen or isinstance(found, type | ModuleType | FunctionType):
            continue
        seen.add(id(found))
        total_bytes += sys.getsizeof(found)
        todo += gc.get_referents(found)
    return total_bytes


def test_a_packed_job_takes_at_most_seventy_bytes():
    jobs, held = FinishedJobs(line_at=held_bytes), []
    for numbers in range(20_000), range(20_000, 40_000):
        assert all(jobs.take(f"job-{number:06d}", done_record(number)) for number in numbers)
        held.append(held_bytes(jobs))
    assert held[1] - held[0] <= 70 * 20_000, "what each more takes, with all slack of its arrays"
    assert held[0] <= 70 * 20_000 + (1 << 20), "and the map's empty shards, once"


def test_what_is_kept_of_a_packed_job_is_fifty_three_bytes():
    jobs = FinishedJobs(line_at=held_bytes)
    for number in range(20_000):
        jobs.take(f"job-{number:06d}", done_record(number))
    saved = jobs.saved()
    bulks = (saved.flags, saved.cells, saved.rows.words)
    assert sum(bulk.size_bytes for bulk in bulks) == 53 * 20_000
    assert (saved.inputs_at, saved.models) == ({}, ["m"])


@in_virtual_time
async def test_of_a_ledger_of_done_jobs_few_are_kept_open(tmp_path):
    ledger = Ledger(tmp_path, QuickDisk(), FakeClock())
    async with asyncio.TaskGroup() as producers:
        for number in range(5_000):
            producers.create_task(four_records(ledger, f"job-{number}"))
    await ledger.settled()
    assert len(ledger.snapshot.records) == 5_000
    assert len(ledger.snapshot.records.open) <= KEPT_OPEN, "in the run that finished them"
    await ledger.close()
    records = read_snapshot(tmp_path, QuickDisk()).records
    assert len(records) == 5_000
    assert len(records.open) <= KEPT_OPEN, "and in whoever reads it"


# Queues


class WatchedApi(Api):
    """Notes the most tasks that were alive whenever it was called."""

    tasks = 0

    async def submit(self, model, body):
        self.tasks = max(self.tasks, len(asyncio.all_tasks()))
        return await super().submit(model, body)

    async def result(self, request_id):
        self.tasks = max(self.tasks, len(asyncio.all_tasks()))
        return await super().result(request_id)


class ReadAhead(Batch):
    """Notes the most jobs that were taken from the manifest and whose download had not begun."""

    taken = ahead = 0

    def _work(self, jobs, ledger):
        for entry in super()._work(jobs, ledger):
            self.taken += 1
            self.ahead = max(self.ahead, self.taken - len(self.files.fetched))
            yield entry


async def watched(path, jobs, download_takes_s, **pace):
    batch = ReadAhead(path, api=WatchedApi(takes_s=10.0), files=Files(takes_s=download_takes_s))
    ended = await batch.run(some_jobs(jobs), concurrency=16, poll_interval_s=5.0, **pace)
    assert ended.states == {"done": jobs}
    return batch


@in_virtual_time
async def test_no_more_requests_than_slots_and_no_more_tasks_for_more_jobs(tmp_path):
    small, large = [await watched(tmp_path / str(jobs), jobs, 1.0) for jobs in (200, 400)]
    assert (small.api.peak, large.api.peak) == (16, 16)
    assert large.api.tasks <= 4 * 16
    assert abs(large.api.tasks - small.api.tasks) <= 8
    assert large.ahead <= 16 + 1


@in_virtual_time
async def test_downloads_that_lag_hold_up_the_buying_and_no_more_tasks_pile_up(tmp_path):
    """One download at a time is allowed here, so that its backlog is full long before the last job."""
    small, large = [await watched(tmp_path / str(jobs), jobs, 500.0, downloads=1) for jobs in (200, 400)]
    most = BACKLOG_PER_DOWNLOAD + 2 * 16
    for batch in small, large:
        assert batch.api.peak == 16
        assert BACKLOG_PER_DOWNLOAD <= batch.api.tasks <= most
    assert abs(large.api.tasks - small.api.tasks) <= 8


# Threads


class CountingExecutor(InlineExecutor):
    """Where ``asyncio.to_thread`` leads; knows whether it is at work."""

    handed_over = 0
    at_work = False

    def submit(self, function, /, *args, **kwargs):
        self.handed_over += 1
        self.at_work = True
        try:
            return super().submit(function, *args, **kwargs)
        finally:
            self.at_work = False


async def bodies_by_thread(path, jobs):
    """How many bodies were made on the loop, and how many in a thread; and what threads had to do."""
    executor, made = CountingExecutor(), Counter()
    asyncio.get_running_loop().set_default_executor(executor)

    def body_of(one):
        made["thread" if executor.at_work else "loop"] += 1
        return request_body(one)

    with patch.object(body, "request_body", body_of):
        ended = await Batch(path).run(jobs, concurrency=16)
    assert ended.states == {"done": len(jobs)}
    return dict(made), executor.handed_over


@in_virtual_time
async def test_bodies_without_local_media_need_no_thread(tmp_path):
    urls = [f"https://example.com/{number}.png" for number in range(8)]
    jobs = [
        job(f"job-{number}-{flag}", prompt="a cat " * 100, images=urls, cfg=0.5, loop=flag, seed=number)
        for number, flag in product(range(20), (True, False))
    ]
    for one in jobs:
        one.input["prompt"] += one.id
    assert await bodies_by_thread(tmp_path, jobs) == ({"loop": 40}, 0)


@in_virtual_time
async def test_a_body_with_local_media_takes_one_hop_to_a_thread(tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(PNG)
    local = LocalMedia(str(picture), "a.png", hashlib.sha256(PNG).hexdigest(), len(PNG), "image/png")
    jobs = [*some_jobs(10), *(job(f"local-{number}", image_url=local) for number in range(5))]
    assert await bodies_by_thread(tmp_path / "out", jobs) == ({"loop": 10, "thread": 5}, 5)


# Rows


def calls_in(action):
    """The functions of Python that ``action`` calls; a step of a generator counts as a call."""
    count = 0

    def count_calls(frame, event, arg):
        nonlocal count
        count += event == "call"

    sys.setprofile(count_calls)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(("case", "most"), [(bench_validate.validate, 34), (bench_validate.plan, 55)])
def test_a_row_of_a_table_costs_so_many_calls_of_functions(tmp_path, case, most):
    few, many = tmp_path / "few.csv", tmp_path / "many.csv"
    bench_validate.write_table(few, 100)
    bench_validate.write_table(many, 1_100)
    case(few)  # what is imported and compiled once
    assert calls_in(lambda: case(many)) - calls_in(lambda: case(few)) <= most * 1_000


def test_a_plan_has_no_text_of_its_own_that_grows_with_its_rows(tmp_path):
    """``asyncio.run`` makes a repr of what its main task returns."""
    table = tmp_path / "many.csv"
    bench_validate.write_table(table, 500)
    options = Options(manifest=table, overrides=Overrides(model=bench_validate.MODEL))
    manifest = open_manifest(table, options.overrides)
    prepared = result_of(
        prepare(options, manifest, bench_validate.specs(), Snapshot(), tmp_path / "run")
    )
    assert prepared.plan.to_buy == 500
    assert len(repr(prepared)) < 200
