"""Ledgers that something else rewrote: refused with the line, what it looks like and the remedy."""

import gzip
import json
import os
import subprocess

import pytest

from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.errors import LedgerError
from batcher.jobs.lifecycle import EventName, RunEvent
from batcher.jobs.shard import Shard
from batcher.layout import LEDGER_NAME
from batcher.ledger.ledger import Ledger, read_snapshot

RUN = RunEvent(run="abc", at="2026-01-01T00:00:00.000Z", total=2, manifest="m.yaml", version=1)


async def written(path, shard=None, ids=("a", "b", "c")):
    """The bytes of a ledger that tells of some submitted jobs."""
    ledger = Ledger(path, LocalDisk(), SystemClock(), shard)
    ledger.announce(RUN)
    for job in ids:
        await ledger.record(
            EventName.SUBMITTING, job, attempt=1, model="m", input={"prompt": "ein Öl"}, price_usd=1.5
        )
        await ledger.record(EventName.SUBMITTED, job, request_id=f"r-{job}")
    await ledger.close()
    return ledger.path.read_bytes()


def parsed(raw):
    return [json.loads(line) for line in raw.splitlines()]


def dumped(raw, **options):
    return "\n".join(json.dumps(line, ensure_ascii=False, **options) for line in parsed(raw)).encode()


def without_line(raw, number):
    lines = raw.splitlines(keepends=True)
    return b"".join(lines[:number] + lines[number + 1 :])


def with_line_twice(raw, number):
    lines = raw.splitlines(keepends=True)
    return b"".join([*lines[: number + 1], *lines[number:]])


REWRITINGS = {
    "pretty-printed": (lambda raw: dumped(raw, indent=2), "formatted by another program"),
    "spaced": (dumped, "formatted by another program"),
    "UTF-16": (lambda raw: raw.decode().encode("utf-16"), "UTF-16"),
    "UTF-16 without its mark": (lambda raw: raw.decode().encode("utf-16-le"), "UTF-16"),
    "UTF-32": (lambda raw: raw.decode().encode("utf-32-le"), "no crash leaves this"),
    "gzipped": (gzip.compress, "compressed"),
    "one array": (lambda raw: json.dumps(parsed(raw)).encode(), "one JSON array"),
    "an array, a line each": (lambda raw: b"[" + raw.replace(b"\n", b",\n")[:-2] + b"]", "JSON array"),
    "CRLF": (lambda raw: raw.replace(b"\n", b"\r\n"), "line ends"),
    "CR": (lambda raw: raw.replace(b"\n", b"\r"), "line ends"),
    "byte-order mark": (lambda raw: b"\xef\xbb\xbf" + raw, "byte-order mark"),
    "sorted": (lambda raw: b"".join(sorted(raw.splitlines(keepends=True))), "removed, sorted"),
    "reversed": (lambda raw: b"".join(raw.splitlines(keepends=True)[::-1]), "removed, sorted"),
    "a line deleted": (lambda raw: without_line(raw, 2), "removed, sorted"),
    "its first line deleted": (lambda raw: without_line(raw, 0), "removed, sorted"),
    "a line twice": (lambda raw: with_line_twice(raw, 2), "LC_ALL=C sed"),
    "no line ends": (lambda raw: raw.replace(b"\n", b""), "no crash leaves this"),
    "junk appended": (lambda raw: raw + b"junk\n", "no crash leaves this"),
    "junk without its line's end": (lambda raw: raw + b"junk", "no crash leaves this"),
    "an object appended": (lambda raw: raw + b'{"a": 1}\n', "no crash leaves this"),
    "a note appended in Chinese": (
        lambda raw: raw + "这是一些垃圾文字,不是账本的内容".encode(),
        "no crash leaves this",
    ),
    "emptied": (lambda raw: b"", "buy again what was paid for"),
    "zeroed": (lambda raw: bytes(len(raw)), "buy again what was paid for"),
    "a stale beginning": (lambda raw: raw[:20], "buy again what was paid for"),
    "an editor's word wrap": (lambda raw: raw.replace(b',"', b',\n"'), "no crash leaves this"),
    "Latin-1": (lambda raw: raw.decode().encode("latin-1"), "no crash leaves this"),
}


@pytest.mark.parametrize("kind", REWRITINGS)
@pytest.mark.parametrize("shard", [None, Shard(1, 1)], ids=["whole", "segment"])
async def test_a_ledger_that_something_else_rewrote_is_refused_and_no_file_changes(
    tmp_path, kind, shard
):
    rewrite, said = REWRITINGS[kind]
    raw = await written(tmp_path, shard)
    path = tmp_path / (LEDGER_NAME if shard is None else f"ledger.{shard}.jsonl")
    path.write_bytes(rewrite(raw))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(LedgerError) as refusal:
        Ledger(tmp_path, LocalDisk(), SystemClock(), shard, ready=False)
    with pytest.raises(LedgerError):
        read_snapshot(tmp_path, LocalDisk())
    assert path.name in str(refusal.value)
    assert said in str(refusal.value)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    "kind", ["pretty-printed", "spaced", "UTF-16", "gzipped", "one array", "CRLF", "byte-order mark"]
)
async def test_the_commands_that_undo_it_work_as_they_are_printed(tmp_path, kind):
    folder = tmp_path / "my clips"
    folder.mkdir()
    raw = await written(folder)
    path = folder / LEDGER_NAME
    path.write_bytes(REWRITINGS[kind][0](raw))
    with pytest.raises(LedgerError) as refusal:
        read_snapshot(folder, LocalDisk())
    _, copy, _, undo, *_ = str(refusal.value).split("`")
    for command in (copy, undo):
        subprocess.run(["sh", "-c", command], check=True)
    assert path.read_bytes() == raw


async def test_one_spoilt_line_can_be_blanked_and_an_edit_accepted_by_the_printed_commands(tmp_path):
    raw = await written(tmp_path)
    path = tmp_path / LEDGER_NAME
    path.write_bytes(raw.replace(b'"r-b"', b'"\x00-b"'))
    with pytest.raises(LedgerError) as refusal:
        read_snapshot(tmp_path, LocalDisk())
    subprocess.run(["sh", "-c", str(refusal.value).split("`")[1]], check=True)
    states = {job: record.state for job, record in read_snapshot(tmp_path, LocalDisk()).items()}
    assert states == {"a": "submitted", "b": "unknown", "c": "submitted"}
    path.write_bytes(without_line(raw, 0))
    with pytest.raises(LedgerError) as refusal:
        read_snapshot(tmp_path, LocalDisk())
    subprocess.run(["sh", "-c", str(refusal.value).split("`")[3]], check=True)
    ledger = Ledger(tmp_path, LocalDisk(), SystemClock())
    assert len(ledger.snapshot.records) == 3
    await ledger.record(EventName.COMPLETED, "a")
    await ledger.close()
    assert read_snapshot(tmp_path, LocalDisk()).records["a"].state == "completed"


async def test_what_is_dropped_of_a_torn_tail_is_kept_and_only_once_the_ledger_is_to_be_written(
    tmp_path,
):
    raw = await written(tmp_path)
    path = tmp_path / LEDGER_NAME
    for _ in range(2):
        path.write_bytes(raw + b'{"event":"comple')
        ledger = Ledger(tmp_path, LocalDisk(), SystemClock(), ready=False)
        assert path.read_bytes() == raw + b'{"event":"comple'
        ledger.make_ready()
        assert path.read_bytes() == raw
        assert "dropped" in ledger.warnings[0]
        ledger.release()
    kept = sorted((tmp_path / ".batcher").glob("dropped.*"))
    assert [file.read_bytes() for file in kept] == [b'{"event":"comple'] * 2


async def test_a_ledger_without_group_numbers_is_read_as_it_stands(tmp_path):
    lines = parsed(await written(tmp_path))
    for line in lines:
        del line["group"]
    (tmp_path / LEDGER_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(read_snapshot(tmp_path, LocalDisk()).records) == 3


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a device"])
async def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / LEDGER_NAME
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(LedgerError, match=r"can't read: it is not a file"):
        read_snapshot(tmp_path, LocalDisk())
    with pytest.raises(LedgerError):
        Ledger(tmp_path, LocalDisk(), SystemClock(), ready=False)
