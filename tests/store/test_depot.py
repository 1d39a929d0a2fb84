"""The state directory beside a bucket: who holds it, which copy of the ledger counts, what readers see."""

from __future__ import annotations

import asyncio
import csv
import gc
import hashlib
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import batcher
from batcher.clock import SystemClock
from batcher.dataset.export.exporter import ExportOrder, export
from batcher.dataset.export.shards import Cut
from batcher.disk import LocalDisk
from batcher.errors import InputError, LedgerError, LockedError, RunDirError, UsageError
from batcher.jobs.job import Artifact
from batcher.jobs.shard import Shard
from batcher.layout import BUCKET_NAME, HIDDEN_NAME, HOLDER_KEY
from batcher.ledger.ledger import read_snapshot
from batcher.report.render import write_report
from batcher.store.bucket import open_run_dir
from batcher.store.bucket_outputs import UPLOADS_AT_ONCE, BucketRunDir
from batcher.store.claim import Presence, claim, is_ours, release
from batcher.store.ledger_copy import bring, hand_over
from batcher.store.local import RunDir
from batcher.store.objects.opening import open_bucket
from tests.support.object_store import QUICK

pytest_plugins = ["tests.support.bucket_fixtures"]

DISK = LocalDisk()
LEDGER = "ledger.jsonl"
LINES = st.lists(st.sampled_from([b"a\n", b"bb\n", b"cc\n"]), max_size=6).map(b"".join)


@pytest.fixture
def bucket(tmp_path):
    return open_bucket((tmp_path / "store").as_uri())


@pytest.fixture
def root(tmp_path):
    return state_dir(tmp_path / "state")


def state_dir(path: Path) -> Path:
    (path / HIDDEN_NAME).mkdir(parents=True)
    (path / "media").mkdir()
    return path


@pytest.mark.parametrize("kind", ["folder", "s3"])
async def test_the_sizes_at_a_place_are_those_of_what_lies_there_itself(kind, request, tmp_path):
    if kind == "folder":
        bucket = open_bucket((tmp_path / "store").as_uri())
    else:
        name = request.getfixturevalue("s3_name")
        request.getfixturevalue("signed_in").setenv("AWS_ENDPOINT_URL", request.getfixturevalue("moto"))
        await open_bucket(f"s3://{name}", QUICK).put_bytes("above", b"not ours")
        bucket = open_bucket(f"s3://{name}/summer 2026", QUICK)
    assert await bucket.sizes() == {}
    await bucket.put_bytes(LEDGER, b"123")
    wanted = {LEDGER: 3} | {f"ledger.{n}-of-12.jsonl": n for n in range(1, 13)}
    for key in ("media/a.mp4", ".batcher/holder.json", "summer 2026/b"):
        await bucket.put_bytes(key, b"1")
    for key, size_bytes in wanted.items():
        await bucket.put_bytes(key, bytes(size_bytes))
    assert await bucket.sizes() == wanted


@given(LINES, LINES)
@example(b"a\n", b"")
@example(b"a\nbb\n", b"a\ncc\n")
def test_of_two_ledgers_the_longer_counts_if_it_goes_on_from_the_shorter(tmp_path_factory, here, there):
    folder = tmp_path_factory.mktemp("two")
    root, bucket = state_dir(folder / "state"), open_bucket((folder / "store").as_uri())
    (root / LEDGER).write_bytes(here)

    async def brought() -> None:
        await bucket.put_bytes(LEDGER, there)
        await bring(bucket, root, DISK)

    if here.startswith(there) or there.startswith(here):
        asyncio.run(brought())
        assert (root / LEDGER).read_bytes() == max(here, there, key=len)
    else:
        with pytest.raises(LedgerError, match="separate ways"):
            asyncio.run(brought())
        assert (root / LEDGER).read_bytes() == here
    assert [path.name for path in root.iterdir() if path.is_file()] == [LEDGER]
    assert asyncio.run(bucket.get_bytes(LEDGER)) == there


@given(LINES, st.binary(max_size=5).filter(lambda torn: b"\n" not in torn))
@example(b"", b"torn")
def test_only_whole_lines_are_handed_over(tmp_path_factory, lines, torn):
    folder = tmp_path_factory.mktemp("torn")
    root, bucket = state_dir(folder / "state"), open_bucket((folder / "store").as_uri())
    (root / LEDGER).write_bytes(lines + torn)
    asyncio.run(hand_over(bucket, root, [LEDGER, "metadata.jsonl"], DISK))
    assert asyncio.run(bucket.get_bytes(LEDGER)) == (lines or None)
    assert (root / LEDGER).read_bytes() == lines + torn
    assert list((root / HIDDEN_NAME).iterdir()) == []


async def test_a_ledger_is_handed_over_again_only_where_it_grew_and_its_metadata_with_it(bucket, root):
    names = [LEDGER, "metadata.jsonl"]
    (root / LEDGER).write_bytes(b"a\n")
    (root / "metadata.jsonl").write_bytes(b"1\n")
    await hand_over(bucket, root, names, DISK)
    (root / "metadata.jsonl").write_bytes(b"2\n")
    await hand_over(bucket, root, names, DISK)
    assert await bucket.get_bytes("metadata.jsonl") == b"1\n"
    (root / LEDGER).write_bytes(b"a\nbb\n")
    await hand_over(bucket, root, names, DISK)
    assert await bucket.get_bytes("metadata.jsonl") == b"2\n"
    assert await bucket.get_bytes(LEDGER) == b"a\nbb\n"


async def test_of_all_who_claim_a_bucket_at_once_one_holds_it(bucket, tmp_path):
    roots = [state_dir(tmp_path / f"state-{n}") for n in range(8)]
    told = await asyncio.gather(*(claim(bucket, root, DISK) for root in roots), return_exceptions=True)
    assert told.count(True) == 1
    assert sum(isinstance(answer, LockedError) for answer in told) == len(roots) - 1
    holder = roots[told.index(True)]
    assert await claim(bucket, holder, DISK) is False
    assert await is_ours(bucket, holder)
    assert [root for root in roots if (root / HOLDER_KEY).exists()] == [holder]


async def test_who_lets_go_leaves_what_another_holds_by_now(bucket, tmp_path):
    first, second = state_dir(tmp_path / "first"), state_dir(tmp_path / "second")
    await claim(bucket, first, DISK)
    await bucket.delete(HOLDER_KEY)
    await claim(bucket, second, DISK)
    await release(bucket, first, DISK)
    assert await is_ours(bucket, second)
    assert not (first / HOLDER_KEY).exists()


async def test_a_run_that_never_came_to_work_leaves_what_a_dead_one_holds(bucket, root):
    tree = BucketRunDir(root, DISK, None, bucket)
    await claim(bucket, root, DISK)
    (root / LEDGER).write_bytes(b"a\ntorn")
    with pytest.raises(InputError):
        async with tree.session():
            raise InputError("a mistake in the manifest")
    assert await is_ours(bucket, root)
    assert await bucket.sizes() == {}
    async with tree.session():
        await tree.look()
    assert not await is_ours(bucket, root)
    assert await bucket.sizes() == {LEDGER: 2}


async def test_the_last_run_of_a_state_dir_lets_go(bucket, root):
    for name in ("ledger.1-of-2.jsonl", "ledger.2-of-2.jsonl"):
        (root / name).write_bytes(b"a\n")
    trees = [BucketRunDir(root, DISK, Shard(2, n), bucket) for n in (1, 2)]
    async with trees[0].session():
        async with trees[1].session():
            with pytest.raises(LockedError, match="another run holds this run directory"):
                async with trees[1].session():
                    pass
            for tree in trees:
                await tree.look()
        assert await is_ours(bucket, root)
        assert await bucket.sizes() == {"ledger.2-of-2.jsonl": 2}
    assert not await is_ours(bucket, root)
    assert len(await bucket.sizes()) == 2


def test_presence_ends_with_its_run(root):
    one, two = (Presence(root / HIDDEN_NAME, Shard(2, n), DISK) for n in (1, 2))
    leave = one.enter()
    assert one.is_alone()
    assert not two.is_alone()
    leave()
    assert two.is_alone()


async def test_no_more_uploads_are_under_way_than_memory_bears(bucket, root):
    under_way, most = 0, 0

    class Counting:
        async def put_file(self, *_: object) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            under_way -= 1

    tree = BucketRunDir(root, DISK, None, Counting())  # type: ignore[arg-type]
    await asyncio.gather(*(tree.keep((Artifact(f"media/{n}", 1, ""),)) for n in range(100)))
    assert most == UPLOADS_AT_ONCE


def tie(root: Path, url: str) -> None:
    (root / HIDDEN_NAME / BUCKET_NAME).write_text(f'{{"url": "{url}"}}')


def test_a_state_dir_knows_its_bucket(tmp_path, root):
    tie(root, (tmp_path / "store").as_uri())
    assert type(open_run_dir(root, DISK)) is RunDir  # a run that came to nothing ties it to nothing
    (root / LEDGER).write_bytes(b"")
    tree = open_run_dir(root, DISK)
    assert isinstance(tree, BucketRunDir)
    assert tree.bucket.url == (tmp_path / "store").as_uri()
    with pytest.raises(UsageError, match="choose another --state-dir"):
        open_run_dir(root, DISK, bucket_url=(tmp_path / "elsewhere").as_uri())


def test_a_run_directory_with_outputs_of_its_own_is_not_given_a_bucket(tmp_path, root):
    (root / LEDGER).write_bytes(b"")
    with pytest.raises(UsageError, match="holds a batch with its outputs beside it"):
        open_run_dir(root, DISK, bucket_url=(tmp_path / "store").as_uri())


async def test_a_ledger_that_was_fetched_to_read_stays_as_long_as_its_snapshot(done, tmp_path):
    tree = open_run_dir(tmp_path / "other", DISK, bucket_url=(tmp_path / "store").as_uri())
    async with tree.ledger_folder() as folder:
        snapshot, place = read_snapshot(folder, DISK), str(folder)
    del folder
    gc.collect()
    inputs = [snapshot.line_at(record.submitting_offset).input for _, record in snapshot.items()]
    assert {given["prompt"] for given in inputs} == {"cat 0", "cat 1", "cat 2"}
    del snapshot, inputs
    gc.collect()
    assert not Path(place).exists()
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("endpoint", ["", "minio:9000", "ftp://minio", "http://", "http://[bad"])
def test_an_endpoint_that_is_no_url_is_a_usage_error(signed_in, endpoint):
    pytest.importorskip("obstore", reason="needs pip install obstore boto3")
    signed_in.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL: is set, but is no URL"):
        open_bucket("s3://clips")


HASTY = """
import asyncio, obstore
import batcher.store.objects.remote
store = obstore.store.MemoryStore()
obstore.put(store, "a", b"1")
async def look():
    return await obstore.head_async(store, "a")
asyncio.run(look())
"""


async def test_a_program_that_ends_just_after_an_answer_of_the_store_ends_well():
    pytest.importorskip("obstore", reason="needs pip install obstore boto3")
    for _ in range(5):  # without the wait at exit, most of them abort
        program = await asyncio.create_subprocess_exec(sys.executable, "-c", HASTY)
        assert await program.wait() == 0


@pytest.fixture
async def done(tmp_path):
    """A state dir of a batch of three, whose outputs lie in the folder ``store``."""
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt", "image_url"])
        writer.writerows([f"cat-{n}", f"cat {n}", f"https://example.com/{n}.png"] for n in range(3))
    summary = await batcher.run(
        tmp_path / "pairs.csv",
        output=(tmp_path / "store").as_uri(),
        state_dir=tmp_path / "state",
        model="kling/kling-2-1/master/image-to-video",
        sandbox=True,
        sandbox_speed=200,
        poll=0.02,
    )
    assert summary.done == 3
    return tmp_path / "state"


def media(store: Path) -> dict[str, str]:
    files = sorted((store / "media").iterdir())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


async def test_an_export_fetches_its_media_from_the_bucket(done, tmp_path):
    order = ExportOrder(done, tmp_path / "shards", "webdataset", cut=Cut(count=1))
    exported = await asyncio.to_thread(export, order, DISK)
    assert exported.rows == 3
    with tarfile.open(tmp_path / "shards" / exported.written[0]) as tar:
        found = {
            member.name: hashlib.sha256(tar.extractfile(member).read()).hexdigest()
            for member in tar
            if not member.name.endswith(".json")
        }
    assert found == media(tmp_path / "store")
    assert list((done / "media").iterdir()) == []


@pytest.mark.parametrize("damage", ["gone", "changed"])
async def test_an_export_of_media_that_are_damaged_in_the_bucket_names_them(done, tmp_path, damage):
    path = tmp_path / "store" / "media" / "cat-1.mp4"
    path.write_bytes(path.read_bytes()[::-1])
    if damage == "gone":
        path.unlink()
    order = ExportOrder(done, tmp_path / "shards", "webdataset")
    with pytest.raises(InputError, match=r"file:///.*/media/cat-1\.mp4: .*run the batch again"):
        await asyncio.to_thread(export, order, DISK)
    assert list((tmp_path / "shards").glob("*.tar*")) == []


async def test_a_table_without_media_needs_no_bucket(done, tmp_path):
    (tmp_path / "store").rename(tmp_path / "away")
    order = ExportOrder(done, tmp_path / "table", "csv")
    assert (await asyncio.to_thread(export, order, DISK)).rows == 3


async def test_a_report_links_to_a_folder_and_names_what_lies_elsewhere(done, tmp_path):
    def page() -> str:
        write_report(done, DISK, SystemClock())
        return (done / "report.html").read_text()

    assert f'"path":"{(tmp_path / "store").as_uri()}/media/cat-1.mp4"' in page()
    assert '"away":"s3' not in page()
    tie(done, "s3://clips/summer")
    assert '"away":"s3://clips/summer/media/cat-1.mp4"' in page()


async def test_copies_that_a_dead_run_left_here_go_once_they_are_known_to_be_there(done, tmp_path):
    store = tmp_path / "store"
    (done / "media" / "cat-0.mp4").write_bytes((store / "media" / "cat-0.mp4").read_bytes())
    (done / "media" / "stranger.mp4").write_bytes(b"not ours to delete")
    await batcher.run(
        tmp_path / "pairs.csv", output=done, sandbox=True, model="kling/kling-2-1/master/image-to-video"
    )
    assert [path.name for path in (done / "media").iterdir()] == ["stranger.mp4"]
    assert len(media(store)) == 3


async def test_a_bucket_that_is_a_file_is_an_error_and_no_traceback(tmp_path, root):
    (tmp_path / "store").write_text("a file")
    tree = open_run_dir(root, DISK, bucket_url=(tmp_path / "store").as_uri())
    with pytest.raises(RunDirError):
        async with tree.session():
            pass
