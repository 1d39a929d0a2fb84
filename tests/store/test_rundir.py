"""The run directory: results arrive whole, old ones make way, and damage is found."""

import asyncio
import hashlib

import pytest

from batcher.disk import LocalDisk
from batcher.errors import RunDirError
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import Record, Replaced
from batcher.store.local import RunDir
from tests.support.engine import QuickDisk, in_virtual_time


class SlowSync(QuickDisk):
    """Syncing a folder takes a second; ``synced`` says what it held when a sync began."""

    def __init__(self):
        super().__init__()
        self.synced = []
        self.error = None

    async def run(self, function):
        result = function()
        await asyncio.sleep(1)
        if self.error is not None:
            raise self.error
        return result

    def sync_dir(self, path):
        self.synced.append(self.list_dir(path))
        return super().sync_dir(path)


@pytest.fixture
def disk():
    return SlowSync()


@pytest.fixture
def run_dir(tmp_path, disk):
    run_dir = RunDir(tmp_path, disk)
    run_dir.prepare()
    disk.synced.clear()
    return run_dir


def publish(run_dir, name, content=b"movie"):
    (run_dir.root / "media" / name).write_bytes(content)
    return f"media/{name}"


def bring(run_dir, name):
    """A finished download, published under ``name``."""
    partial = run_dir.partial(name, 0)
    partial.write_bytes(b"movie")
    return run_dir.publish(partial, name)


def artifact(path, content=b"movie"):
    return Artifact(path, len(content), hashlib.sha256(content).hexdigest())


def test_preparing_makes_the_folders_and_drops_what_a_dead_run_left(tmp_path, run_dir):
    partial = run_dir.partial("cat", 0)
    partial.write_bytes(b"half")
    (tmp_path / "media" / "dog.mp4").write_bytes(b"whole")
    run_dir.prepare()
    assert not partial.exists()
    assert (tmp_path / "media" / "dog.mp4").exists()


async def test_a_download_lies_outside_of_media_until_it_is_published_and_settled(tmp_path, run_dir):
    partial = run_dir.partial("cat", 1)
    assert (tmp_path / "media") not in partial.parents
    partial.write_bytes(b"movie")
    assert run_dir.publish(partial, "cat.1.mp4") == "media/cat.1.mp4"
    await run_dir.settle()
    assert (tmp_path / "media" / "cat.1.mp4").read_bytes() == b"movie"
    assert not partial.exists()


@in_virtual_time
async def test_settling_waits_for_a_sync_that_began_after_the_call(run_dir, disk):
    bring(run_dir, "a")
    first = asyncio.create_task(run_dir.settle())
    await asyncio.sleep(0.5)
    bring(run_dir, "b")
    await run_dir.settle()
    assert first.done()
    assert disk.synced == [["a"], ["a", "b"]]


@in_virtual_time
async def test_callers_that_arrive_during_a_sync_share_the_next_one(run_dir, disk):
    began_s = asyncio.get_running_loop().time()
    calls = [asyncio.create_task(run_dir.settle())]
    await asyncio.sleep(0.5)
    calls += [asyncio.create_task(run_dir.settle()) for _ in range(50)]
    await asyncio.gather(*calls)
    assert len(disk.synced) == 2
    assert asyncio.get_running_loop().time() - began_s == pytest.approx(2)


@in_virtual_time
async def test_a_steady_stream_of_callers_never_syncs_twice_at_once_and_none_is_left_out(run_dir, disk):
    async def caller(number):
        await asyncio.sleep(0.1 * number)
        bring(run_dir, f"{number:02d}")
        before = len(disk.synced)
        await run_dir.settle()
        assert any(f"{number:02d}" in names for names in disk.synced[before:])

    await asyncio.gather(*(caller(number) for number in range(60)))
    assert len(disk.synced) <= 8


@in_virtual_time
async def test_a_caller_that_is_cancelled_takes_no_sync_along(run_dir, disk):
    first = asyncio.create_task(run_dir.settle())
    await asyncio.sleep(0.5)
    second, third = (asyncio.create_task(run_dir.settle()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    await third
    assert len(disk.synced) == 2
    await run_dir.settle()
    assert len(disk.synced) == 3


@in_virtual_time
async def test_a_sync_that_fails_is_raised_to_its_callers_and_the_next_may_succeed(run_dir, disk):
    disk.error = OSError("i/o error")
    with pytest.raises(OSError, match="i/o error"):
        await run_dir.settle()
    disk.error = None
    await run_dir.settle()


def test_old_files_move_out_of_the_dataset_with_the_number_of_their_attempt(tmp_path, run_dir):
    files = [artifact(publish(run_dir, name)) for name in ("cat.0.png", "cat.1.png")]
    run_dir.supersede(tuple(files), 1)
    assert sorted(path.name for path in (tmp_path / "superseded").iterdir()) == [
        "cat.0.attempt-1.png",
        "cat.1.attempt-1.png",
    ]
    assert list((tmp_path / "media").iterdir()) == []


async def test_files_are_set_aside_durably_and_as_often_as_asked(tmp_path):
    """On a real disk, where a folder that is not there can't be synced."""
    run_dir = RunDir(tmp_path, LocalDisk())
    run_dir.prepare()
    files = (artifact(publish(run_dir, "cat.mp4")), artifact("media/gone.mp4"))
    for _ in range(2):
        await run_dir.set_aside(Replaced(1, files))
    assert [path.name for path in (tmp_path / "superseded").iterdir()] == ["cat.attempt-1.mp4"]


async def test_setting_aside_what_is_gone_already_is_fine(tmp_path):
    run_dir = RunDir(tmp_path, LocalDisk())
    run_dir.prepare()
    await run_dir.set_aside(Replaced(1, (artifact("media/gone.mp4"),)))


def test_superseding_what_is_gone_already_is_fine(tmp_path, run_dir):
    run_dir.supersede((artifact("media/cat.mp4"),), 1)
    assert not (tmp_path / "superseded").exists()


def test_a_file_that_was_superseded_is_never_written_over(tmp_path, run_dir):
    publish(run_dir, "cat.mp4", b"first")
    run_dir.make_way("cat.mp4", 1)
    publish(run_dir, "cat.mp4", b"second, and then a crash")
    run_dir.make_way("cat.mp4", 1)
    assert (tmp_path / "superseded" / "cat.attempt-1.mp4").read_bytes() == b"first"
    publish(run_dir, "cat.mp4", b"second")
    assert (tmp_path / "media" / "cat.mp4").read_bytes() == b"second"


def test_missing_are_the_files_that_are_not_there_with_their_size(tmp_path, run_dir):
    files = tuple(artifact(publish(run_dir, f"cat.{n}.png")) for n in range(3))
    record = Record(files=files)
    assert run_dir.missing(record) == []
    (tmp_path / "media" / "cat.0.png").unlink()
    (tmp_path / "media" / "cat.2.png").write_bytes(b"mov")
    assert run_dir.missing(record) == [0, 2]


async def test_damage_is_named_file_by_file(tmp_path, run_dir):
    files = [artifact(publish(run_dir, f"cat.{n}.png")) for n in range(4)]
    media = tmp_path / "media"
    (media / "cat.1.png").unlink()
    (media / "cat.2.png").write_bytes(b"mov")
    (media / "cat.3.png").write_bytes(b"MOVIE")
    assert [await run_dir.problem_with(file) for file in files] == [
        None,
        "missing",
        "3 bytes instead of 5",
        "its bytes have changed (SHA-256 differs)",
    ]


async def test_an_output_that_can_not_be_read_is_damaged(tmp_path, run_dir):
    (tmp_path / "media" / "cat.png").mkdir()
    size = (tmp_path / "media" / "cat.png").stat().st_size
    told = await run_dir.problem_with(Artifact("media/cat.png", size, "aa"))
    assert told == "can't be read: Is a directory"


def test_nothing_behind_a_link_is_deleted_or_written_and_a_run_that_fetches_is_refused(tmp_path, disk):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious.part").write_text("x")
    root = tmp_path / "run"
    (root / ".batcher").mkdir(parents=True)
    (root / ".batcher/partial").symlink_to(theirs)
    linked = RunDir(root, disk)
    linked.prepare()
    assert (theirs / "precious.part").exists()
    with pytest.raises(RunDirError, match="symbolic link"):
        linked.check_writable()
    with pytest.raises(RunDirError, match="symbolic link"):
        linked.publish(root / "x", "x.png")


def test_a_file_system_that_can_not_sync_names_is_told_of(tmp_path, disk, monkeypatch):
    monkeypatch.setattr(disk, "sync_dir", lambda path: False)
    assert "can't fsync directories" in RunDir(tmp_path, disk).prepare()[0]
