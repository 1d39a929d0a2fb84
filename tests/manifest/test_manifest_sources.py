"""What a manifest's name can stand for: standard input, folders, patterns, several files, URLs."""

import gzip
import io
import os
import sys
from pathlib import Path

import pytest

from batcher.errors import ManifestError
from batcher.manifest import spool
from batcher.manifest.load import batch_name, open_manifest
from batcher.manifest.tally import ManifestTally
from batcher.options.facts import Overrides
from batcher.schema.spec import BUILT_IN, KLING
from tests.support.manifest_files import PNG, URL, read_text, write

ANY = {"model": "some/model"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jobs(*paths, **overrides):
    """All jobs, and the tally, of what ``paths`` stand for."""
    tally = ManifestTally()
    first, *more = map(Path, paths)
    overrides = {"model": KLING.model_id, **overrides}
    manifest = open_manifest(first, Overrides(**overrides), more)
    return list(manifest.jobs(BUILT_IN, tally)), tally


def prompts(*paths, **overrides):
    found, tally = jobs(*paths, **{**ANY, **overrides})
    assert tally.problems == []
    return [job.input["prompt"] for job in found]


def refusal(*paths, **overrides):
    with pytest.raises(ManifestError) as caught:
        jobs(*paths, **overrides)
    return caught.value.problems[0]


def pipe(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


# Standard input


@pytest.mark.parametrize(
    ("content", "seems"),
    [
        (b"a\nb\n", "txt"),
        (b"prompt\na\nb\n", "csv"),
        (b"prompt;seed\na;1\nb;2\n", "csv"),
        (b"id\tprompt\n1\ta\n2\tb\n", "tsv"),
        (b'{"prompt": "a"}\n{"prompt": "b"}\n', "jsonl"),
        (b'["a", "b"]', "json"),
        (b"jobs: [a, b]\n", "yaml"),
        ("prompt\na\nb\n".encode("utf-16"), "csv"),
        (gzip.compress(b"prompt\na\nb\n", mtime=0), "csv"),
    ],
)
@pytest.mark.parametrize("memory_bytes", [4, 1 << 20])
def test_standard_input_is_read_as_what_it_looks_like(folder, monkeypatch, content, seems, memory_bytes):
    monkeypatch.setattr(spool, "MEMORY_MAX_BYTES", memory_bytes)
    pipe(monkeypatch, content)
    manifest = open_manifest(Path("-"), Overrides(**ANY))
    for _ in range(2):
        tally = ManifestTally()
        assert [job.input["prompt"] for job in manifest.jobs({}, tally)] == ["a", "b"]
        assert tally.warnings == [
            f"stdin: read as {seems}, which it looks like; --format says otherwise"
        ]
    assert manifest.name == "stdin"


def test_paths_in_standard_input_begin_in_the_working_directory(folder, monkeypatch):
    write(folder, "a.png", PNG)
    pipe(monkeypatch, b"prompt,image_url\na,a.png\n")
    ((job,), _) = jobs("-")
    assert job.input["image_url"].path == "a.png"


# Folders and patterns


def test_a_folder_of_media_is_a_job_for_each_file(folder):
    for name in ("b.png", "a.jpg", "sub/c.webp", ".hidden/x.png", "notes.txt"):
        write(folder, f"photos/{name}", PNG if name[-1] in "gp" else b"hello")
    os.symlink(".", folder / "photos/latest")
    os.symlink("b.png", folder / "photos/z.png")
    found, tally = jobs("photos", set={"prompt": "in {{ file.stem }}"})
    assert tally.problems == []
    assert [(job.input["prompt"], job.input["image_url"].path) for job in found] == [
        ("in a", "photos/a.jpg"), ("in b", "photos/b.png"), ("in c", "photos/sub/c.webp"),
    ]  # fmt: skip


def test_a_file_whose_name_looks_like_json_is_a_file(folder):
    write(folder, "photos/[1].png", PNG)
    for path in ("photos", "photos/*"):
        ((job,), tally) = jobs(path, set={"prompt": "a"})
        assert (tally.problems, job.input["image_url"].path) == ([], "photos/[1].png")


def test_captions_beside_media_are_prompts(folder):
    write(folder, "train/a.png", PNG)
    write(folder, "train/a.txt", "\ufeffa cat,\non a wall\n")
    assert prompts("train", model=KLING.model_id) == ["a cat, on a wall"]


def test_a_picture_without_caption_is_named(folder):
    write(folder, "train/a.png", PNG)
    write(folder, "train/a.txt", "a cat")
    write(folder, "train/b c.png", PNG + b"b")
    missing = "train:2: prompt: required, but missing"
    assert jobs("train")[1].problems == [f"{missing} ('b c.png')"]
    write(folder, "train/d.png", PNG + b"d")
    assert jobs("train")[1].problems == [f"{missing}, in 2 rows (first: 'b c.png')"]


def test_a_file_is_named_once_in_what_is_wrong_with_it(folder):
    write(folder, "train/d.png", b"no picture")
    (problem,) = jobs("train", set={"prompt": "a"})[1].problems
    assert problem.count("d.png") == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "file_name,prompt,meta.split\nimg/a.png,a cat,train\n"),
        (
            "metadata.jsonl",
            '{"file_name": "img/a.png", "prompt": "a cat", "meta": {"split": "train"}}\n',
        ),
    ],
)
def test_the_index_of_a_dataset_folder_is_read(folder, name, content):
    write(folder, "data/img/a.png", PNG)
    write(folder, f"data/{name}", content)
    ((job,), tally) = jobs("data")
    assert tally.problems == []
    assert (job.input["prompt"], job.input["image_url"].path) == ("a cat", "data/img/a.png")
    assert (job.meta, job.source.file) == ({"split": "train"}, f"data/{name}")


def test_an_index_below_a_folder_of_media_is_said_to_be_unread(folder):
    for split in ("train", "test", "out"):
        write(folder, f"data/{split}/a.png", PNG)
        write(folder, f"data/{split}/metadata.jsonl", '{"file_name": "a.png", "prompt": "a cat"}')
    write(folder, "data/out/ledger.jsonl", "")
    found, tally = jobs("data", set={"prompt": "a dog"})
    assert {job.input["prompt"] for job in found} == {"a dog"}
    assert tally.warnings[:2] == [
        f"data/{split}/metadata.jsonl: not read, only the files beside it; to read it, name data/{split}"
        for split in ("test", "train")
    ]


def test_a_file_that_no_single_input_takes_is_a_problem(folder):
    write(folder, "clips/a.mp4", b"\x00\x00\x00\x18ftypmp42" + bytes(64))
    found, tally = jobs("clips", set={"prompt": "a"})
    assert found == []
    assert "clips:1: file_name: say which input this is: --rename file_name=FIELD" in tally.problems[0]


def test_a_pattern_is_each_real_file_once(folder):
    write(folder, "lists/a.txt", "a\n")
    write(folder, "lists/b.csv", "prompt\nb\n")
    write(folder, "lists/b.md", "c\n")
    os.symlink("a.txt", folder / "lists/c.txt")
    assert prompts("lists/*.txt") == ["a"]
    assert prompts("./lists/[ab].[ct]*") == ["a", "b"]
    assert refusal("lists/*.json") == "lists/*.json: no file matches"
    write(folder, "photos/a.png", PNG)
    assert prompts("photos/*.png", set={"prompt": "x"}, model=KLING.model_id) == ["x"]


def test_from_takes_folders_and_patterns(folder):
    write(folder, "lists/a.txt", "a\n")
    write(folder, "lists/b.txt.gz", gzip.compress(b"b\n"))
    write(folder, "lists/p/a.png", PNG)
    top = "jobs:\n- from: {file: 'lists/*.txt*', base: lists}\n  image_url: p/a.png\n"
    found = read_text(folder, "m.yaml", top.replace("p/a.png", "lists/p/a.png"))
    assert found.problems == []
    assert [job.input["prompt"] for job in found.jobs] == ["a", "b"]
    top = "jobs:\n- from: lists/p\n  prompt: x\n"
    (found, tally) = jobs(write(folder, "n.yaml", top))
    assert tally.problems == []
    (job,) = found
    assert job.input["image_url"].path == str(folder / "lists/p/a.png")


def test_a_folder_without_media_is_refused_with_what_it_holds(folder):
    write(folder, "lists/a.csv", "prompt\na\n")
    assert refusal("lists") == "lists: a folder without media; it holds manifests: lists/*.csv"
    write(folder, "set/README.md", "")
    write(folder, "set/data/train-0.parquet", "")
    assert refusal("set") == "set: a folder without media; it holds manifests: set/data/*.parquet"
    (folder / "empty").mkdir()
    assert refusal("empty") == "empty: a folder without media"


# Several


def test_several_manifests_are_one_batch_in_their_order(folder):
    write(folder, "a.txt", "a\n")
    write(folder, "b/b.csv", f"prompt,image_url\nb,{URL}\n")
    write(folder, "c.yaml", "defaults: {seed: 1}\njobs: [c]\n")
    found, tally = jobs("c.yaml", "b/b.csv", "a.txt", **ANY)
    assert tally.problems == []
    assert [(job.input["prompt"], job.source.file, job.source.line) for job in found] == [
        ("c", "c.yaml", 2), ("b", "b/b.csv", 2), ("a", "a.txt", 1),
    ]  # fmt: skip
    assert [job.input.get("seed") for job in found] == [1, None, None]


def test_what_is_wrong_with_one_of_several_is_said_by_its_name(folder):
    write(folder, "a.txt", "a\n")
    _, tally = jobs("a.txt", "no.csv", **ANY)
    assert tally.problems == ["no.csv: no such file"]
    write(folder, "a.png", PNG)
    assert refusal("a.txt", "a.png") == "a.txt: no media, and a.png is: name one kind"


def test_several_media_files_are_one_batch(folder):
    for name in ("a.png", "b.png"):
        write(folder, name, PNG + name.encode())
    found, _ = jobs("a.png", "b.png", set={"prompt": "x"})
    assert [job.input["image_url"].path for job in found] == ["a.png", "b.png"]


def test_a_batch_is_named_after_its_file_or_the_folder_of_several(folder):
    (folder / "photos/x").mkdir(parents=True)
    for paths, name in [
        (["pairs.csv"], "pairs"), (["pairs.csv.gz"], "pairs"), (["-"], "stdin"), (["/dev/fd/63"], "stdin"), (["/dev/stdin"], "stdin"), (["photos"], "photos"),
        (["photos/"], "photos"), (["photos/*.png"], "photos"), (["photos/**/*.png"], "photos"),
        (["photos/a.png", "photos/x/b.png"], "photos"), (["photos/a.png", "b.png"], folder.name),
        (["."], folder.name), (["photos/.."], folder.name), (["a.v2.csv"], "a.v2"),
    ]:  # fmt: skip
        assert batch_name(*map(Path, paths)) == name, paths


@pytest.mark.parametrize(
    "url", ["https://example.com/a.csv", "http://example.com/a.csv", "s3://b/a.csv"]
)
def test_a_url_is_refused_with_what_to_do(folder, url):
    said = refusal(url)
    assert said.startswith(f"{url}: a URL; download it first")


def test_two_urls_in_one_cell_are_refused(folder):
    for between in (",", ", ", " ", ";", "|", "\n"):
        cell = f"{URL}{between}{URL}"
        found = read_text(folder, "a.csv", f'prompt,image_url\na,"{cell}"\n')
        assert found.problems == ["a.csv:2: image_url: 2 URLs in one cell, and the input takes one"]
    for url in (
        "https://web.archive.org/web/https://example.com/a.png",
        f"https://x.com/?url={URL}&b=1,2",
    ):
        assert read_text(folder, "a.csv", f'prompt,image_url\na,"{url}"\n').problems == []
