"""What a run counts on in a run directory: with its outputs beside it, or in a bucket, it is the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from batcher.disk import LocalDisk
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import Record, Replaced
from batcher.store.bucket_outputs import BucketRunDir
from batcher.store.local import RunDir
from batcher.store.objects.failures import NoSuchObject
from batcher.store.objects.opening import open_bucket

DISK = LocalDisk()
CONTENT = b"a picture"
NAME = "cat.png"


@pytest.fixture(params=["local", "bucket"])
def store(request, tmp_path: Path) -> RunDir:
    root = tmp_path / "run"
    root.mkdir()
    if request.param == "local":
        return RunDir(root, DISK)
    return BucketRunDir(root, DISK, None, open_bucket((tmp_path / "bucket").as_uri()))


@pytest.fixture
async def at_work(store: RunDir):
    async with store.session():
        store.prepare()
        await store.look()
        yield store


async def save(store: RunDir, job_id: str = "cat", content: bytes = CONTENT) -> Artifact:
    """An output as a download saves it."""
    await store.write_partial(job_id, 0, content)
    path = store.publish(store.partial(job_id, 0), f"{job_id}.png")
    await store.settle()
    artifact = Artifact(path, len(content), hashlib.sha256(content).hexdigest())
    await store.keep((artifact,))
    store.discard_local_copies((artifact,))
    return artifact


async def lose(store: RunDir, artifact: Artifact) -> None:
    if isinstance(store, BucketRunDir):
        await store.bucket.delete(artifact.path)
        await store.look()
    else:
        (store.root / artifact.path).unlink()


async def listed(store: RunDir) -> list[str]:
    return sorted([path async for path in store.outputs()])


async def test_what_was_saved_is_there_and_nothing_else(at_work):
    saved = await save(at_work)
    assert await listed(at_work) == [saved.path] == [f"media/{NAME}"]
    assert at_work.missing(Record(files=(saved,))) == []
    assert await at_work.problem_with(saved) is None
    assert at_work.namesakes(NAME) == [NAME]
    assert at_work.obstacle(saved.path, saved.bytes) is None


async def test_what_was_saved_can_be_read_again_and_says_where_it_is(at_work, tmp_path):
    saved = await save(at_work)
    path, sha256 = await at_work.fetch_output(saved.path, tmp_path)
    assert (path.read_bytes(), sha256) == (CONTENT, saved.sha256)
    assert at_work.place(saved.path).endswith(saved.path)


async def test_what_is_gone_is_missing_and_can_not_be_read(at_work, tmp_path):
    saved = await save(at_work)
    await lose(at_work, saved)
    assert at_work.missing(Record(files=(saved,))) == [0]
    assert await at_work.problem_with(saved) is not None
    with pytest.raises(NoSuchObject):
        await at_work.fetch_output(saved.path, tmp_path)


async def test_other_bytes_of_the_same_length_are_wrong(at_work):
    saved = await save(at_work)
    other = Artifact(saved.path, saved.bytes, hashlib.sha256(b"x" * len(CONTENT)).hexdigest())
    assert at_work.missing(Record(files=(other,))) == []
    assert "SHA-256" in (await at_work.problem_with(other) or "")


async def test_a_superseded_output_is_kept_under_another_name(at_work):
    saved = await save(at_work)
    await at_work.set_aside(Replaced(1, (saved,)))
    aside = await listed(at_work)
    assert len(aside) == 1
    assert aside[0].startswith("superseded/")
    assert at_work.namesakes(NAME) == []
    await at_work.set_aside(Replaced(1, (saved,)))  # as after a crash: done already
    assert await listed(at_work) == aside


async def test_readers_get_the_ledger_that_a_run_would_use(store):
    async with store.session():
        store.prepare()
        await store.look()
        (store.root / "ledger.jsonl").write_bytes(b"a\n")
    async with store.ledger_folder() as folder:
        assert (folder / "ledger.jsonl").exists()
    elsewhere = await store.segments_elsewhere()
    assert elsewhere == ({} if type(store) is RunDir else {"ledger.jsonl": 2})
