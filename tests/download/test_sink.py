"""The threads that write: small files in groups, each with an outcome of its own."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batcher.download.sink import GROUP_FILES, PIECES_PER_WRITE, HashingFile, Writers


@pytest.fixture
async def threads() -> AsyncIterator[Writers]:
    with ThreadPoolExecutor(4) as pool:
        yield Writers(pool)


def pieces(number: int) -> list[bytes]:
    return [b"file ", str(number).encode(), bytes(number)]


async def test_each_file_is_written_whole_and_has_its_own_hash(threads: Writers, tmp_path: Path) -> None:
    stored = [threads.store(tmp_path / str(n), pieces(n)) for n in range(3 * GROUP_FILES)]
    hashes = await asyncio.gather(*stored)
    for number, sha256 in enumerate(hashes):
        whole = b"".join(pieces(number))
        assert (tmp_path / str(number)).read_bytes() == whole
        assert sha256 == hashlib.sha256(whole).hexdigest()


async def test_a_file_is_fsynced_before_it_counts_as_stored(
    threads: Writers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = [], os.fsync

    def noted(fd: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    await threads.store(tmp_path / "a", [b"12", b"345"])
    assert synced == [(str(tmp_path / "a"), 5)]


@pytest.mark.parametrize("step", ["open", "write", "fsync"])
async def test_what_the_disk_refuses_fails_that_file_and_no_other(
    threads: Writers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target = {"open": "__init__", "write": "writelines", "fsync": "seal"}[step]
    method = getattr(HashingFile, target)
    bad = tmp_path / "bad"

    def refusing(self: HashingFile, *args: Any) -> Any:
        if bad in args or (target != "__init__" and self.name == bad):
            raise OSError(errno.EIO, "the disk refuses")
        return method(self, *args)

    monkeypatch.setattr(HashingFile, target, refusing)
    paths = [tmp_path / "one", bad, tmp_path / "two"]
    outcomes = await asyncio.gather(
        *(threads.store(path, [b"x" * 100_000]) for path in paths), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [str, OSError, str]
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    opened = [os.readlink(link) for link in links if os.path.lexists(link)]
    assert not [name for name in opened if str(tmp_path) in name]


async def test_a_file_that_nobody_waits_for_any_more_holds_up_no_other(
    threads: Writers, tmp_path: Path
) -> None:
    stored = [threads.store(tmp_path / str(n), pieces(n)) for n in range(10)]
    stored[7].cancel()
    await asyncio.gather(*stored, return_exceptions=True)
    assert (tmp_path / "9").read_bytes() == b"".join(pieces(9))
    assert await threads.store(tmp_path / "later", pieces(3)) is not None


def test_an_emptied_file_begins_anew(tmp_path: Path) -> None:
    file = HashingFile(tmp_path / "a")
    file.writelines([b"something long"])
    file.empty()
    file.writelines([b"short"])
    assert file.seal() == hashlib.sha256(b"short").hexdigest()
    assert (tmp_path / "a").read_bytes() == b"short"


@pytest.mark.parametrize("taken", [3, PIECES_PER_WRITE])
def test_pieces_of_any_number_are_written_whole_however_much_one_write_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    content = [b"%d," % number for number in range(3 * PIECES_PER_WRITE)]
    calls, writev = [], os.writev

    def writes(fd: int, pieces: list[bytes]) -> int:
        calls.append(len(pieces))
        return writev(fd, pieces[:taken])

    monkeypatch.setattr(os, "writev", writes)
    file = HashingFile(tmp_path / "a")
    file.writelines(content)
    assert file.seal() == hashlib.sha256(b"".join(content)).hexdigest()
    assert (tmp_path / "a").read_bytes() == b"".join(content)
    assert calls == [PIECES_PER_WRITE] * 3
