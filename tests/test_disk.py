"""The seam to the file system: appending, whole files, names, and the lock."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from batcher.disk import LocalAppendFile, LocalDisk, cannot_write, is_full
from batcher.errors import LockedError, RunDirError

HOLDER = """
import sys, pathlib
from batcher.disk import LocalDisk
release = LocalDisk().lock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def disk():
    return LocalDisk()


@pytest.fixture
def file(tmp_path):
    file = LocalAppendFile(tmp_path / "file")
    yield file
    file.close()


def test_what_is_written_is_appended_to_what_was_there(tmp_path, disk):
    path = tmp_path / "file"
    path.write_bytes(b"old\n")
    file = disk.open_append(path)
    file.write(b"new\n")
    file.write(b"")
    file.sync()
    file.close()
    assert path.read_bytes() == b"old\nnew\n"


def test_a_write_that_the_system_takes_in_parts_is_completed(tmp_path, file, monkeypatch):
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, data[:3]))
    file.write(b"0123456789")
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_truncating_drops_the_end_and_appending_goes_on_from_there(tmp_path, file):
    file.write(b"keep|drop")
    file.truncate(5)
    file.write(b"more")
    assert (tmp_path / "file").read_bytes() == b"keep|more"


def test_the_size_at_the_path_is_that_of_our_file(file):
    assert file.size_at_path() == 0
    file.write(b"12345")
    assert file.size_at_path() == 5


def test_there_is_no_size_once_another_file_has_taken_the_path(tmp_path, file):
    file.write(b"12345")
    (tmp_path / "other").write_bytes(b"12345")
    (tmp_path / "other").replace(tmp_path / "file")
    assert file.size_at_path() is None


def test_there_is_no_size_once_the_file_is_gone(tmp_path, file):
    (tmp_path / "file").unlink()
    assert file.size_at_path() is None


def test_a_file_that_was_moved_is_found_and_one_that_is_gone_or_in_place_is_not(tmp_path, file):
    file.write(b"12345")
    assert file.moved_to() is None
    moved = (tmp_path / "file").rename(tmp_path / "elsewhere")
    (tmp_path / "file").write_bytes(b"another")
    place, size_bytes = file.moved_to()
    assert size_bytes == 5
    assert place in (str(moved), "another place")
    moved.unlink()
    assert file.moved_to() is None


async def test_everything_that_must_be_durable_runs_in_one_thread_off_the_loop(disk):
    threads = {await disk.run(threading.get_ident) for _ in range(3)}
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


async def test_what_fails_in_the_thread_is_raised_to_the_caller(disk, tmp_path):
    with pytest.raises(FileNotFoundError):
        await disk.run((tmp_path / "absent").read_bytes)


def test_the_lock_is_held_once_and_free_after_its_release(tmp_path, disk):
    release = disk.lock(tmp_path / "lock")
    with pytest.raises(LockedError, match="another run holds this run directory"):
        LocalDisk().lock(tmp_path / "lock")
    release()
    LocalDisk().lock(tmp_path / "lock")()


def test_a_lock_dies_with_its_process_even_if_that_is_killed(tmp_path, disk):
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockedError):
            disk.lock(path)
        holder.send_signal(signal.SIGKILL)
        assert holder.wait() == -signal.SIGKILL
    disk.lock(path)()


def test_a_lock_that_can_not_be_made_says_so(tmp_path, disk):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunDirError, match="can't write"):
        disk.lock(tmp_path / "file" / "lock")


def test_a_whole_file_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path, disk):
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(b"old")
    disk.write_whole(path, iter([b"new ", b"content"]))
    assert path.read_bytes() == b"new content"
    assert disk.list_dir(tmp_path) == ["metadata.jsonl"]


def test_a_whole_file_that_breaks_off_leaves_the_old_one(tmp_path, disk):
    def chunks():
        yield b"half of "
        raise OSError(errno.ENOSPC, "no space left")

    path = tmp_path / "metadata.jsonl"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="no space left"):
        disk.write_whole(path, chunks())
    assert path.read_bytes() == b"old"
    assert disk.list_dir(tmp_path) == ["metadata.jsonl"]


def test_a_whole_file_is_synced_before_it_takes_its_name_and_its_folder_after(
    tmp_path, disk, monkeypatch
):
    steps = []
    monkeypatch.setattr(os, "fsync", lambda fd: steps.append(f"sync {sorted(os.listdir(tmp_path))}"))
    disk.write_whole(tmp_path / "x", [b"1"])
    assert steps == [f"sync ['.x.{os.getpid()}.tmp']", "sync ['x']"]


def test_renaming_makes_the_target_folder(tmp_path, disk):
    (tmp_path / "a").write_bytes(b"1")
    disk.rename(tmp_path / "a", tmp_path / "deep" / "down" / "b")
    assert (tmp_path / "deep" / "down" / "b").read_bytes() == b"1"


def test_a_move_looks_for_its_folder_only_if_it_fails(tmp_path):
    asked = []

    class Watched(LocalDisk):
        def make_dirs(self, path):
            asked.append(path.name)
            super().make_dirs(path)

    for name in ("a", "b"):
        (tmp_path / name).touch()
        Watched().rename(tmp_path / name, tmp_path / "media" / name)
    assert asked.count("media") == 1
    assert sorted(os.listdir(tmp_path / "media")) == ["a", "b"]


def test_sizes_names_and_removals_do_not_mind_what_is_absent(tmp_path, disk):
    (tmp_path / "file").write_bytes(b"123")
    assert disk.size(tmp_path / "file") == 3
    assert disk.size(tmp_path / "absent") is None
    assert disk.size(tmp_path / "file" / "below") is None
    assert disk.list_dir(tmp_path / "absent") == []
    disk.remove(tmp_path / "file")
    disk.remove(tmp_path / "file")
    assert disk.list_dir(tmp_path) == []


def test_folders_can_be_made_twice_and_files_read(tmp_path, disk):
    disk.make_dirs(tmp_path / "a" / "b")
    disk.make_dirs(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "c").write_bytes(b"x")
    with disk.open_read(tmp_path / "a" / "b" / "c") as file:
        assert file.read() == b"x"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_a_used_up_quota_and_the_file_size_limit_are_all_full(code):
    assert is_full(OSError(code, "x"))
    assert not is_full(OSError(errno.EIO, "x"))


def test_what_can_not_be_written_is_named_with_the_reason(tmp_path):
    path = tmp_path / "x"
    assert str(cannot_write(path, OSError(errno.EROFS, "Read-only file system"))) == (
        f"{path}: can't write: Read-only file system"
    )
    assert str(cannot_write(path, OSError("odd"))).endswith("can't write: odd")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_fsync_of_directories_is_told_apart_from_a_lost_write(
    tmp_path, disk, monkeypatch, number
):
    def refuse(fd):
        raise OSError(number, "no")

    assert disk.sync_dir(tmp_path) is True
    monkeypatch.setattr(os, "fsync", refuse)
    assert disk.sync_dir(tmp_path) is False
    number = errno.EIO
    with pytest.raises(OSError, match="no"):
        disk.sync_dir(tmp_path)


def folders(tmp_path):
    source, target = tmp_path / "run/.batcher/partial", tmp_path / "run/media"
    source.mkdir(parents=True)
    target.mkdir()
    return source, target


def test_folders_that_files_can_be_moved_between_are_no_obstacle_and_stay_empty(tmp_path, disk):
    source, target = folders(tmp_path)
    assert disk.rename_obstacle(source, target) is None
    assert not [*source.iterdir(), *target.iterdir()]


def test_another_file_system_is_an_obstacle(tmp_path, disk, monkeypatch):
    source, target = folders(tmp_path)

    def refuse(path, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    assert "is on another file system than" in disk.rename_obstacle(source, target)
    assert not [*source.iterdir(), *target.iterdir()]


@pytest.mark.parametrize("name", [".batcher", ".batcher/partial", "media"])
def test_a_folder_that_is_a_symbolic_link_is_an_obstacle(tmp_path, disk, name):
    source, target = folders(tmp_path)
    linked = tmp_path / "run" / name
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    assert disk.rename_obstacle(source, target).startswith(f"{linked} is a symbolic link")


def test_nothing_is_appended_through_a_symbolic_link(tmp_path, disk):
    (tmp_path / "theirs").write_text("precious\n")
    (tmp_path / "ledger.jsonl").symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="symbolic link"):
        disk.open_append(tmp_path / "ledger.jsonl")
    assert (tmp_path / "theirs").read_text() == "precious\n"
