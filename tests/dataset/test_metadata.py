"""metadata.jsonl: flat rows, the same keys in each, one type per key, and never out of step for long."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.clock import SystemClock
from batcher.dataset.metadata import Metadata, gather
from batcher.dataset.metadata_rows import ColumnTypes
from batcher.disk import LocalAppendFile
from batcher.jobs.job import LocalMedia, Probed, recorded
from batcher.jobs.lifecycle import EventName
from batcher.jobs.shard import Shard, shard_number
from batcher.ledger.ledger import Ledger
from batcher.store.local import RunDir
from tests.support.engine import Batch, QuickDisk, job, some_jobs

DATA_URI = "data:image/png;base64,iVBORw0KGgo="
SIGNED = "https://bucket.example.com/cat.png?X-Amz-Signature=secret&size=2"
MEDIA = LocalMedia("/home/me/cat.png", "pictures/cat.png", "ab" * 32, 3, "image/png")


class Table:
    """A run directory whose jobs are finished by hand."""

    def __init__(self, path):
        self.batch = Batch(path)
        self.run_dir = RunDir(path, QuickDisk())
        self.run_dir.prepare()
        self.path = self.run_dir.metadata

    def open(self, *jobs):
        """Begin a run over ``jobs``: what the manifest holds now."""
        self.ledger = Ledger(self.run_dir.root, QuickDisk(), SystemClock())
        self.metadata = Metadata(self.run_dir, self.ledger, QuickDisk())
        self.resume(*jobs)
        return self

    def resume(self, *jobs):
        columns = ColumnTypes()
        assert list(columns.watch([jobs])) == [jobs]
        self.metadata.open(columns)

    async def finish(self, one, *files, attempt=1, cost_usd=None, note=True):
        files = files or (Probed(f"media/{one.id}.mp4", 5, "aa"),)
        record = self.ledger.record
        await record(
            EventName.SUBMITTING,
            one.id,
            attempt=attempt,
            model=one.model,
            input=recorded(one.input),
            meta=recorded(one.meta),
            price_usd=1.5,
        )
        await record(EventName.SUBMITTED, one.id, request_id=f"r-{one.id}")
        await record(EventName.COMPLETED, one.id, cost_usd=cost_usd)
        await record(EventName.DONE, one.id, files=files)
        if note:
            self.metadata.append(one.id)

    async def end(self):
        self.metadata.close()
        await self.ledger.close()

    async def crash(self):
        """End without a word to the metadata."""
        self.metadata._close_file()
        await self.ledger.close()

    @property
    def rows(self):
        return self.batch.rows


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path)


async def test_a_row_says_what_the_file_is_and_what_it_was_made_of(table):
    cat = job("cat", prompt="a cat", duration=5, meta={"split": "train"})
    table.open(cat)
    await table.finish(cat, cost_usd=1.25)
    await table.end()
    (row,) = table.rows
    assert row.pop("submitted_at") <= row.pop("finished_at")
    assert [row] == [
        {
            "file_name": "media/cat.mp4",
            "job": "cat",
            "model": "acme/paint",
            "prompt": "a cat",
            "request_id": "r-cat",
            "attempt": 1,
            "cost_usd": 1.25,
            "bytes": 5,
            "sha256": "aa",
            "media_type": None,
            "width": None,
            "height": None,
            "duration_s": None,
            "fps": None,
            "quality": None,
            "orphaned": False,
            "source": None,
            "input.duration": 5,
            "input.prompt": "a cat",
            "meta.split": "train",
        }
    ]


async def test_each_output_has_a_row_and_without_a_report_the_cost_is_the_price(table):
    cat = job("cat")
    table.open(cat)
    await table.finish(cat, *(Probed(f"media/cat.{n}.png", n, "x") for n in range(3)))
    await table.end()
    assert [row["file_name"] for row in table.rows] == [
        "media/cat.0.png",
        "media/cat.1.png",
        "media/cat.2.png",
    ]
    assert {row["cost_usd"] for row in table.rows} == {1.5}


@pytest.mark.parametrize(("prompt", "shown"), [("p", "p"), (None, None), (5, "5")])
async def test_the_prompt_is_text_or_nothing(table, prompt, shown):
    one = job("x", prompt=prompt)
    table.open(one)
    await table.finish(one)
    await table.end()
    assert table.rows[0]["prompt"] == shown


MIXED = [
    job("a", seed=1, cfg=1, flag=True, images=["u"], odd=1, only_a="x"),
    job("b", seed=2, cfg=0.5, flag=False, images=[], odd="text", nested={"k": 1}),
    job("c", seed=None, cfg=2, odd=True, numbers=[1, 2], meta={"tags": ["x"], "n": 1}),
    job("d", numbers=["1"], meta={"tags": [1], "n": None}),
]


async def test_mixed_jobs_make_one_table_with_one_type_per_key(table):
    table.open(*MIXED)
    for one in MIXED:
        await table.finish(one)
    await table.end()
    assert one_type_per_key(table.rows)
    a, b, c, d = table.rows
    assert [row["input.seed"] for row in (a, b, c, d)] == [1, 2, None, None]
    assert [row["input.cfg"] for row in (a, b, c, d)] == [1.0, 0.5, 2.0, None]
    assert isinstance(a["input.cfg"], float)
    assert [row["input.flag"] for row in (a, b)] == [True, False]
    assert [row["input.images"] for row in (a, b)] == [["u"], []]
    assert [row["input.odd"] for row in (a, b, c)] == ["1", "text", "true"]
    assert b["input.nested"] == '{"k":1}'
    assert [row["input.numbers"] for row in (c, d)] == ["[1,2]", '["1"]']
    assert [row["meta.tags"] for row in (c, d)] == ['["x"]', "[1]"]


def one_type_per_key(rows):
    keys = [list(row) for row in rows]
    assert all(key == keys[0] for key in keys)
    for key in keys[0]:
        kinds = {_kind(row[key]) for row in rows} - {None}
        assert len(kinds) <= 1, key
        assert "dict" not in kinds, key
    return True


def _kind(value):
    if isinstance(value, list):
        assert all(isinstance(item, str) for item in value)
    return None if value is None else type(value).__name__


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.one_of(st.text(max_size=3), st.integers(0, 9)), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(0, 9), max_size=2),
    st.just(MEDIA),
    st.lists(st.just(MEDIA), max_size=2),
    st.just(DATA_URI),
)
INPUTS = st.dictionaries(st.sampled_from("abc"), VALUES)


@given(jobs=st.lists(st.tuples(INPUTS, INPUTS), min_size=1, max_size=8))
def test_whatever_the_inputs_a_key_has_one_type(jobs):
    columns = ColumnTypes()
    for inputs, meta in jobs:
        columns.add(inputs, meta)
    rows = [columns.fill(recorded(inputs), recorded(meta)) for inputs, meta in jobs]
    assert one_type_per_key([json.loads(json.dumps(row)) for row in rows])


async def test_local_media_and_data_uris_show_as_paths_and_signatures_never(table):
    cat = job(
        "cat", image_url=MEDIA, end_image_url=DATA_URI, images=["https://e.com/a.png", MEDIA], ref=SIGNED
    )
    table.open(cat)
    await table.finish(cat)
    await table.end()
    row = table.rows[0]
    assert row["input.image_url"] == "pictures/cat.png"
    assert row["input.end_image_url"] == "data:image/png;base64"
    assert row["input.images"] == ["https://e.com/a.png", "pictures/cat.png"]
    assert row["input.ref"] == "https://bucket.example.com/cat.png?X-Amz-Signature=***&size=2"
    assert b"secret" not in table.path.read_bytes()
    assert b"/home/me" not in table.path.read_bytes()


async def test_what_was_appended_is_what_would_be_made_anew(table):
    table.open(*MIXED)
    for one in MIXED:
        await table.finish(one)
    table.metadata._close_file()
    appended = table.path.read_bytes()
    table.metadata.mark_stale()
    await table.end()
    assert table.path.read_bytes() == appended


async def test_a_file_that_is_in_step_is_left_alone(table):
    jobs = some_jobs(3)
    table.open(*jobs)
    await table.finish(jobs[0])
    await table.end()
    before = table.path.stat()
    table.open(*jobs)
    await table.end()
    assert table.path.stat().st_ino == before.st_ino
    assert table.path.stat().st_mtime_ns == before.st_mtime_ns


async def test_nothing_done_makes_no_file(table):
    table.open(job("cat"))
    await table.end()
    assert not table.path.exists()


async def test_a_row_that_a_crash_swallowed_is_there_after_the_next_start(table):
    one, two = some_jobs(2)
    table.open(one, two)
    await table.finish(one)
    await table.finish(two, note=False)
    await table.crash()
    assert [row["job"] for row in table.rows] == [one.id]
    table.open(one, two)
    assert [row["job"] for row in table.rows] == [one.id, two.id]
    await table.end()


async def test_a_row_that_a_halt_cut_off_is_there_at_the_end_of_the_same_run(table):
    cat, dog, fox = some_jobs(3)
    table.open(cat, dog, fox)
    await table.finish(cat)
    await table.finish(dog, note=False)  # it is done in the ledger, and nobody got to say so here
    await table.finish(fox)
    await table.end()
    assert [row["job"] for row in table.rows] == [cat.id, dog.id, fox.id]


async def test_a_torn_row_is_mended_by_the_next_start(table):
    one, two = some_jobs(2)
    table.open(one, two)
    await table.finish(one)
    await table.finish(two)
    await table.end()
    whole = table.path.read_bytes()
    table.path.write_bytes(whole[:-20])
    table.open(one, two)
    await table.end()
    assert table.path.read_bytes() == whole


async def test_a_file_that_was_removed_is_made_again(table):
    one = job("cat")
    table.open(one)
    await table.finish(one)
    await table.end()
    table.path.unlink()
    table.open(one)
    await table.end()
    assert [row["job"] for row in table.rows] == ["cat"]


@pytest.mark.parametrize("cache", [None, b"", b"[]", b'{"columns":1}', b"\xff\xfe"])
async def test_without_a_usable_cache_all_is_made_anew_from_the_ledger(table, cache):
    gone, here = job("gone", size="L"), job("here", seed=1)
    table.open(gone, here)
    await table.finish(gone)
    await table.end()
    path = table.run_dir.hidden / "metadata.json"
    path.unlink() if cache is None else path.write_bytes(cache)
    table.open(here)
    await table.finish(here)
    await table.end()
    assert one_type_per_key(table.rows)
    assert [row["input.size"] for row in table.rows] == ["L", None]


async def test_new_columns_of_the_manifest_are_given_to_the_old_rows(table):
    old, new = job("old", seed=1), job("new", seed=0.5, style="oil", meta={"split": "test"})
    table.open(old)
    await table.finish(old)
    await table.end()
    assert "input.style" not in table.rows[0]
    table.open(old, new)
    assert table.rows[0]["input.style"] is None
    assert isinstance(table.rows[0]["input.seed"], float)
    await table.finish(new)
    await table.end()
    assert one_type_per_key(table.rows)


async def test_columns_that_left_the_manifest_stay(table):
    old, new = job("old", style="oil"), job("new")
    table.open(old)
    await table.finish(old)
    await table.end()
    table.open(new)
    await table.finish(new)
    await table.end()
    assert one_type_per_key(table.rows)
    assert [row["input.style"] for row in table.rows] == ["oil", None]


async def orphan(table, *names):
    for name, job_id in names:
        await table.ledger.record(name, job_id)


async def test_rows_of_jobs_that_left_are_marked_and_unmarked_when_they_return(table):
    one, two = some_jobs(2)
    table.open(one, two)
    await table.finish(one)
    await table.finish(two)
    await orphan(table, (EventName.ORPHANED, one.id))
    table.resume(two)
    assert [row["orphaned"] for row in table.rows] == [True, False]
    await orphan(table, (EventName.RELISTED, one.id))
    table.resume(one, two)
    assert [row["orphaned"] for row in table.rows] == [False, False]
    await table.end()


async def test_one_who_leaves_as_another_returns_does_not_go_unnoticed(table):
    one, two = some_jobs(2)
    table.open(one, two)
    await table.finish(one)
    await table.finish(two)
    await orphan(table, (EventName.ORPHANED, one.id))
    table.resume(two)
    await orphan(table, (EventName.RELISTED, one.id), (EventName.ORPHANED, two.id))
    table.resume(one)
    assert [row["orphaned"] for row in table.rows] == [False, True]
    await table.end()


async def test_a_stale_row_is_replaced_at_the_end_of_the_run(table):
    one = job("cat")
    table.open(one)
    await table.finish(one)
    await table.finish(one, Probed("media/cat.webm", 9, "bb"), attempt=2, note=False)
    table.metadata.mark_stale()
    table.metadata.mark_stale()
    await table.end()
    assert [(row["attempt"], row["file_name"]) for row in table.rows] == [(2, "media/cat.webm")]


async def test_a_stale_row_is_replaced_by_the_next_run_where_this_one_dies(table):
    """The number of rows is right by chance: the row of attempt 1 for that of attempt 2."""
    one = job("cat")
    table.open(one)
    await table.finish(one)
    await table.end()
    table.open(one)
    table.metadata.mark_stale()
    await table.finish(one, Probed("media/cat.webm", 9, "bb"), attempt=2, note=False)
    await table.crash()
    assert [row["attempt"] for row in table.rows] == [1]
    table.open(one)
    await table.end()
    assert [row["attempt"] for row in table.rows] == [2]


async def test_appending_goes_on_after_a_rebuild(table):
    one, two = some_jobs(2)
    table.open(one, two)
    await table.finish(one)
    table.metadata.mark_stale()
    table.metadata.refresh()
    await table.finish(two)
    await table.end()
    assert [row["job"] for row in table.rows] == [one.id, two.id]


async def test_a_row_that_the_disk_took_only_half_of_is_made_whole_at_the_end(table, monkeypatch):
    one, two = some_jobs(2)
    table.open(one, two)
    await table.finish(one)
    whole = LocalAppendFile.write

    def half(self, data):
        whole(self, data[:10])
        raise OSError(28, "no space left")

    await table.finish(two, note=False)
    monkeypatch.setattr(LocalAppendFile, "write", half)
    with pytest.raises(OSError, match="no space left"):
        table.metadata.append(two.id)
    monkeypatch.undo()
    await table.end()
    assert [row["job"] for row in table.rows] == [one.id, two.id]


async def finish_in_shards(path, *jobs, count=2):
    """Each job by a shard of its own division, all of them at work; the ledgers, still open."""
    ledgers = {}
    for one in jobs:
        shard = Shard(count, shard_number(one.id, count))
        if shard not in ledgers:
            ledgers[shard] = Ledger(path, QuickDisk(), SystemClock(), shard)
        record = ledgers[shard].record
        await record(
            EventName.SUBMITTING, one.id, attempt=1, model=one.model, input=one.input, price_usd=1.5
        )
        await record(EventName.SUBMITTED, one.id, request_id=f"r-{one.id}")
        await record(EventName.COMPLETED, one.id)
        await record(EventName.DONE, one.id, files=(Probed(f"media/{one.id}.mp4", 5, "aa"),))
    return ledgers


async def test_the_last_shard_to_end_describes_what_all_of_them_brought(table):
    jobs = [job(f"job-{n}", **({"seed": n} if n % 2 else {"style": "oil"})) for n in range(8)]
    ledgers = await finish_in_shards(table.run_dir.root, *jobs)
    assert len(ledgers) == 2
    (first, one), (last, other) = ledgers.items()
    await one.close()
    gather(table.run_dir.root, first, QuickDisk())
    assert not table.path.exists(), "another is at work, and will do it"
    await other.close()
    gather(table.run_dir.root, last, QuickDisk())
    assert {row["job"] for row in table.rows} == {one.id for one in jobs}
    assert one_type_per_key(table.rows)
    before = table.path.stat()
    gather(table.run_dir.root, first, QuickDisk())
    assert (table.path.stat().st_ino, table.path.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )


async def test_who_was_killed_is_made_up_for_by_whoever_ends_next(table):
    ledgers = await finish_in_shards(table.run_dir.root, *some_jobs(8))
    for ledger in ledgers.values():
        ledger.release()
    after = Shard(5, 3)
    await Ledger(table.run_dir.root, QuickDisk(), SystemClock(), after).close()
    gather(table.run_dir.root, after, QuickDisk())
    assert len(table.rows) == 8


async def test_a_run_of_everything_waits_for_a_shard_that_still_describes(table):
    """Else that shard would put its older file in the place of the one that the run appends to."""
    old, new = some_jobs(2)
    for ledger in (await finish_in_shards(table.run_dir.root, old)).values():
        await ledger.close()
    shard = Shard(2, shard_number(old.id, 2))
    gather(table.run_dir.root, shard, QuickDisk())
    gathering = QuickDisk().lock(table.run_dir.hidden / "gather")
    order = []

    class Waiting(QuickDisk):
        def lock(self, path, patience_s=0.0):
            if path.name == "gather":
                order.append("waits")
                table.path.write_bytes(b"")  # the last that the shard does
                gathering()
            return super().lock(path, patience_s)

        def open_read(self, path):
            order.append("reads")
            return super().open_read(path)

    table.ledger = Ledger(table.run_dir.root, QuickDisk(), SystemClock())
    table.metadata = Metadata(table.run_dir, table.ledger, Waiting())
    table.resume(old, new)
    assert order[:2] == ["waits", "reads"]
    await table.finish(new)
    await table.end()
    assert {row["job"] for row in table.rows} == {old.id, new.id}


async def test_a_shard_that_finds_a_run_at_work_once_it_may_describe_leaves_it_to_that(table):
    old = job("old")
    for ledger in (await finish_in_shards(table.run_dir.root, old)).values():
        await ledger.close()
    root = table.run_dir.root

    class Overtaken(QuickDisk):
        """Somebody begins between the end of the shard and the moment in which it may describe."""

        def lock(self, path, patience_s=0.0):
            if path.name == "gather":
                table.open(old)
            return super().lock(path, patience_s)

    gather(root, Shard(2, 1), Overtaken())
    inode = table.path.stat().st_ino
    assert [row["job"] for row in table.rows] == ["old"]
    await table.end()
    assert table.path.stat().st_ino == inode
