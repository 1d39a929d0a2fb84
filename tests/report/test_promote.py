"""Marks, and what is done with them: the next batch, what is bought again, what is left out."""

import asyncio
import json
from hashlib import sha256

import msgspec
import pytest
from click.testing import CliRunner

from batcher.cli.entry import cli
from batcher.clock import SystemClock, iso
from batcher.errors import InputError, UsageError
from batcher.jobs.marks import JobMark, marks_named
from batcher.ledger.marks_file import append_mark, read_marks
from tests.support.dataset import RunMaker, clip, mixed_run, picture
from tests.support.engine import job

NEVER = "2000-01-01T00:00:00.000Z"
LATER = "2999-01-01T00:00:00.000Z"


def typed(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)


def mark(run_dir, job_id, word, at=LATER, note=None):
    append_mark(run_dir, JobMark(job_id, word, note, at))


def test_the_last_line_of_a_job_stands_and_null_takes_a_mark_back(tmp_path):
    for word in ("keep", "reject"):
        mark(tmp_path, "a", word)
    mark(tmp_path, "b", "star")
    mark(tmp_path, "b", None)
    assert {name: m.mark for name, m in read_marks(tmp_path).items()} == {"a": "reject"}


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"job":"a","mark":"star"}\r\n\r\n{"job":"b","mark":"st',
        b'{"job":"a","mark":"star","by":"me","at":"x"}\n[1]\n{"job":"b"}\n{"job":"c","mark":"love"}\n\xff\n',
        b'{"job":"a","mark":"star"}',
    ],
)
def test_lines_that_can_not_be_read_are_passed_over(tmp_path, content):
    (tmp_path / "marks.jsonl").write_bytes(content)
    assert list(read_marks(tmp_path)) == ["a"]
    mark(tmp_path, "z", "keep")
    assert list(read_marks(tmp_path)) == ["a", "z"]


def test_a_word_that_is_no_mark_is_named():
    assert marks_named("@marks:star,keep", "--only") == {"star", "keep"}
    assert marks_named("@./marks:star", "--only") is None
    said = "--only @marks:loved: 'loved' is not a mark; the marks are keep, reject, star"
    with pytest.raises(UsageError, match=said):
        marks_named("@marks:loved", "--only")


async def test_rejects_are_left_out_of_an_export(tmp_path):
    run_dir = await mixed_run(tmp_path / "run")
    mark(run_dir, "lake", "reject")
    words = ("export", run_dir, "--format", "csv", "-o", tmp_path / "out", "--except", "@marks:reject")
    assert "3 rows" in typed(*words).output
    assert "lake" not in (tmp_path / "out" / "data-000000.csv").read_text()


async def test_a_mark_of_outputs_that_were_bought_again_since_says_nothing(tmp_path):
    run_dir = await mixed_run(tmp_path / "run")
    mark(run_dir, "lake", "reject", at=NEVER)
    words = ("export", run_dir, "--format", "csv", "-o", tmp_path / "out", "--except", "@marks:reject")
    assert "5 rows" in typed(*words).output


ODD = 'yes: "{{ no }}" \u2028 # \x85 {{ prompt }}'
VARS = {"animal": "a fox", "text_1": "{{ taken }}", "no": 3}
KLING = "kling/kling-2-1/master/image-to-video"


async def drafts(root):
    """Two jobs with a local input, made from a manifest in another folder than the next one."""
    (root / "in").mkdir(parents=True)
    (root / "in" / "x y.png").write_bytes(picture("x"))
    made = RunMaker(root / "output" / "drafts").begin(3, manifest=str(root / "m.yaml"))
    local = {"path": "in/x y.png", "sha256": sha256(picture("x")).hexdigest()}
    same = {"model": KLING, "duration": 5, "image_url": local}
    one = job("one", prompt=ODD, meta={"split": "a"}, **same)
    await made.done(msgspec.structs.replace(one, vars=VARS), clip("1"))
    await made.done(job("two", prompt="on", **same), clip("2"))
    await made.done(job("two-2", prompt="on", **same), clip("3"))
    return await made.end()


def test_winners_become_a_manifest_with_their_inputs_and_where_they_come_from(tmp_path, monkeypatch):
    run_dir = asyncio.run(drafts(tmp_path / "a"))
    for one in ("one", "two", "two-2"):
        mark(run_dir, one, "star")
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    said = typed("promote", run_dir, "--set", "duration=10", "-o", "finals.yaml")
    assert said.output.splitlines() == [
        f"finals.yaml: 3 jobs of {run_dir}",
        "What it would cost: batcher plan finals.yaml --sandbox",
    ]
    said = typed("run", "finals.yaml", "--sandbox", "--sandbox-speed", "100", "-o", "out")
    assert said.exception is None, said.exception
    rows = [json.loads(line) for line in (tmp_path / "b/out/metadata.jsonl").read_bytes().splitlines()]
    came = {row["meta.from_job"]: row for row in rows}
    assert came.keys() == {"one", "two", "two-2"}
    assert {row["input.duration"] for row in rows} <= {10, "10"}
    assert came["one"]["prompt"] == ODD
    assert came["one"]["meta.split"] == "a"
    assert {name: came["one"][f"var.{name}"] for name in VARS} == VARS
    assert came["two"]["var.animal"] is None
    assert {row["meta.from_run"] for row in rows} == {"../a/output/drafts"}
    assert {row["input.image_url"] for row in rows} == {"../a/in/x y.png"}


def test_rejects_are_bought_again_once_however_often_it_is_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text(
        "model: blackforestlabs/flux-1/dev/text-to-image\njobs:\n- {id: a, prompt: a}\n- {id: b, prompt: b}\n"
    )
    run = ("run", "m.yaml", "--sandbox", "--sandbox-speed", "100", "-o", "out")
    assert typed(*run).exception is None
    mark(tmp_path / "out", "b", "reject", at=iso(SystemClock().now()))
    assert typed(*run, "--only", "@marks:reject", "--redo").exception is None
    again = typed(*run, "--only", "@marks:reject", "--redo")
    posts = [
        json.loads(line)["job"]
        for line in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()
        if '"submitting"' in line
    ]
    assert sorted(posts) == ["a", "b", "b"]
    assert "no job is marked reject" in again.output


async def test_nothing_is_overwritten(tmp_path):
    run_dir = await mixed_run(tmp_path / "run")
    mark(run_dir, "lake", "star")
    target = tmp_path / "final.yaml"
    target.write_text("mine")
    error = typed("promote", run_dir, "-o", target).exception
    assert isinstance(error, UsageError)
    assert "is there already" in str(error)
    assert target.read_text() == "mine"


async def test_inputs_that_the_ledger_can_not_give_back_are_named_and_may_be_set(tmp_path):
    made = RunMaker(tmp_path / "run").begin(1)
    signed = "https://x.example/a.png?token=***"
    gone = {"path": "gone.png", "sha256": "00"}
    inline = {"path": "data:image/png;base64", "sha256": "00"}
    await made.done(job("a", image=gone, mask_url=signed, end_image=inline), clip("a"))
    run_dir = await made.end()
    mark(run_dir, "a", "star")
    error = typed("promote", run_dir, "-o", tmp_path / "f.yaml").exception
    assert isinstance(error, InputError)
    for words in (
        "a: image: the file gone.png",
        "a: mask_url: its URL was signed",
        "a: end_image: it was",
    ):
        assert words in str(error)
    assert not (tmp_path / "f.yaml").exists()
    sets = [
        word for name in ("image", "mask_url") for word in ("--set", f"{name}=https://x.example/b.png")
    ]
    assert (
        typed("promote", run_dir, *sets, "--set", "end_image=", "-o", tmp_path / "f.yaml").exit_code == 0
    )
    assert "end_image" not in (tmp_path / "f.yaml").read_text()


async def test_without_a_mark_it_says_how_to_make_one(tmp_path):
    run_dir = await mixed_run(tmp_path / "run")
    error = typed("promote", run_dir, "-o", tmp_path / "f.yaml").exception
    assert f"batcher view {run_dir}" in str(error)
