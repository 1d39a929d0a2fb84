"""Exports, read back with the libraries that they are for."""

import csv
import json
import tarfile

import pytest

from batcher.dataset.export.choose import Choice
from batcher.dataset.export.exporter import ExportOrder, export
from batcher.dataset.export.shards import Cut, beside_splits
from batcher.dataset.export.tables import cell
from batcher.dataset.export.tar import key_of
from batcher.disk import LocalDisk
from batcher.errors import InputError, RunDirError, UsageError
from tests.support.dataset import mixed_run

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture
async def run_dir(tmp_path):
    return await mixed_run(tmp_path / "run")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out"


def put(run_dir, target, kind="webdataset", **how):
    return export(ExportOrder(run_dir, target, kind, **how), LocalDisk())


def files(target):
    return sorted(path.name for path in target.iterdir())


def test_webdataset_shards_read_back_with_the_library(run_dir, target):
    import webdataset

    put(run_dir, target, cut=Cut(count=2))
    assert files(target) == [".export.json", "data-000000.tar", "data-000001.tar"]
    pattern = str(target / "data-{000000..000001}.tar")
    samples = {one["__key__"]: one for one in webdataset.WebDataset(pattern, shardshuffle=False)}
    assert list(samples) == ["fox", "v1%2E2%2E0", "lake%2E0", "lake%2E1", "short"]
    assert samples["fox"]["mp4"] == (run_dir / "media" / "fox.mp4").read_bytes()
    assert json.loads(samples["lake%2E1"]["json"])["job"] == "lake"


@pytest.mark.parametrize("embed", [False, True])
def test_parquet_reads_back_with_pyarrow_and_datasets(run_dir, target, embed, monkeypatch, tmp_path):
    import pyarrow.parquet as pq

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    put(run_dir, target, "parquet", embed=embed)
    table = pq.read_table(target / "data-000000.parquet")
    assert table["input.seed"].to_pylist() == [None, None, 7, 7, None]
    assert table["prompt"].to_pylist()[1] == "a <script>alert(1)</script> dog"
    import datasets

    loaded = datasets.load_dataset(
        "parquet", data_dir=str(target), split="train", cache_dir=str(tmp_path / "hf")
    )
    assert loaded.num_rows == 5
    if embed:
        assert loaded[0]["media"]["bytes"] == (run_dir / "media" / "fox.mp4").read_bytes()


def test_csv_has_nothing_that_a_spreadsheet_would_run(run_dir, target):
    put(run_dir, target, "csv")
    with (target / "data-000000.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[2]["prompt"] == '\'=cmd|"/c calc"!A1'
    assert rows[0]["input.cfg_scale"] == "0.3"
    assert rows[0]["orphaned"] == "false"


@pytest.mark.parametrize("text", ["=1", "+1", "-x", "@x", "\tx", "\rx", " =1"])
def test_a_cell_that_begins_like_a_formula_becomes_text(text):
    assert cell(text) == f"'{text}"


def test_a_negative_number_stays_a_number():
    assert cell(-1.5) == -1.5


def test_a_split_makes_files_of_its_own_and_what_has_none_is_called_none(run_dir, target):
    put(run_dir, target, "csv", cut=Cut(split_by="meta.split"))
    assert files(target) == [".export.json", "none-000000.csv", "test-000000.csv", "train-000000.csv"]


@pytest.mark.parametrize(
    ("labels", "left_out"),
    [
        (["train", "none", "te_st"], ["none", "te_st"]),
        (["my-test", "cat"], ["cat"]),
        (["train", "validation", "test"], []),
        (["cat", "dog", "protest", "trainer"], []),
    ],
)
def test_what_loaders_leave_out_beside_splits_is_known(labels, left_out):
    assert beside_splits(f"{label}-{n:06d}.parquet" for label in labels for n in range(2)) == left_out
    assert beside_splits(f"{label}/a-1.png" for label in labels) == left_out


FILTERS = {
    'meta.split == "train"': ["fox", "lake"],
    'meta["split"] == "train" and input.cfg_scale < 0.5': ["fox"],
    "input.cfg_scale > 0.5 or input.seed == 7": ["v1.2", "lake"],
    "quality == None": ["fox", "v1.2", "lake"],
    "not quality and width > 300": ["fox", "v1.2"],
    'prompt.startswith("a ")': ["fox", "v1.2"],
    '"dog" in prompt': ["v1.2"],
}


@pytest.mark.parametrize(("where", "ids"), FILTERS.items())
def test_a_filter_takes_what_it_says(run_dir, target, where, ids):
    put(run_dir, target, "csv", choice=Choice(where))
    with (target / "data-000000.csv").open(newline="") as file:
        assert list(dict.fromkeys(row["job"] for row in csv.DictReader(file))) == ids


@pytest.mark.parametrize(
    "where",
    [
        "meta.spilt == 1",
        "no_such == 1",
        "1 +",
        "__import__('os')",
        "prompt.__class__",
        "9 ** 9 ** 9",
        "open('x')",
        "meta._row",
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_before_anything_is_written(run_dir, target, where):
    with pytest.raises(UsageError):
        put(run_dir, target, choice=Choice(where))
    assert not target.exists()


def test_a_filter_that_is_no_expression_is_told_without_places_in_our_code(run_dir, target):
    with pytest.raises(UsageError) as refused:
        put(run_dir, target, choice=Choice("1 +"))
    assert str(refused.value) == "--filter '1 +': not an expression: invalid syntax"


def test_rejected_jobs_stay_out(run_dir, target):
    assert put(run_dir, target, choice=Choice(but=frozenset({"lake", "short"}))).rows == 2


def test_what_is_there_is_not_written_again_and_what_is_damaged_is(run_dir, target):
    first = put(run_dir, target, cut=Cut(count=3))
    content = {name: (target / name).read_bytes() for name in first.written}
    (target / first.written[1]).write_bytes(b"torn")
    again = put(run_dir, target, cut=Cut(count=3))
    assert (again.written, len(again.kept)) == ([first.written[1]], 2)
    assert {name: (target / name).read_bytes() for name in first.written} == content


def test_another_cut_leaves_nothing_of_the_old_one(run_dir, target):
    put(run_dir, target, cut=Cut(count=3))
    put(run_dir, target, cut=Cut(count=1))
    assert files(target) == [".export.json", "data-000000.tar"]


def test_shards_end_before_they_exceed_their_size(run_dir, target):
    put(run_dir, target, cut=Cut(size_bytes=1))
    assert len(list(target.glob("*.tar"))) == 5


def test_a_missing_file_stops_with_its_name_and_leaves_no_half_shard(run_dir, target):
    (run_dir / "media" / "short.mp4").unlink()
    with pytest.raises(InputError, match=r"short\.mp4"):
        put(run_dir, target, cut=Cut(size_bytes=1))
    assert len(list(target.glob("*.tar"))) == 4
    assert [path.name for path in target.glob(".*")] == [".export.json"]


def test_somebody_elses_file_is_not_overwritten(run_dir, target):
    target.mkdir()
    (target / "data-000000.tar").write_bytes(b"mine")
    with pytest.raises(RunDirError):
        put(run_dir, target)
    assert (target / "data-000000.tar").read_bytes() == b"mine"


def test_the_same_run_gives_the_same_bytes(run_dir, tmp_path):
    put(run_dir, tmp_path / "a")
    put(run_dir, tmp_path / "b")
    assert (tmp_path / "a" / "data-000000.tar").read_bytes() == (
        tmp_path / "b" / "data-000000.tar"
    ).read_bytes()
    with tarfile.open(tmp_path / "a" / "data-000000.tar") as tar:
        assert all(member.isreg() and "/" not in member.name for member in tar)


@pytest.mark.parametrize(
    ("name", "key"), [("media/a.mp4", "a"), ("media/a.b.mp4", "a%2Eb"), ("media/a.0.png", "a%2E0")]
)
def test_a_key_has_no_dots(name, key):
    assert key_of(name) == key


def tree(target):
    return sorted(str(path.relative_to(target)) for path in target.rglob("[!.]*") if path.is_file())


def test_captions_are_one_text_beside_each_output(run_dir, target):
    put(run_dir, target, "captions")
    assert tree(target) == sorted(
        f"{stem}.{suffix}"
        for stem, kind in {
            "fox": "mp4",
            "v1.2.0": "mp4",
            "lake.0": "png",
            "lake.1": "png",
            "short": "mp4",
        }.items()
        for suffix in (kind, "txt")
    )
    assert (target / "v1.2.0.txt").read_text() == "a <script>alert(1)</script> dog"
    assert (target / "fox.mp4").read_bytes() == (run_dir / "media" / "fox.mp4").read_bytes()


def test_a_folder_by_splits_is_what_folder_loaders_expect(run_dir, target, monkeypatch, tmp_path):
    put(run_dir, target, "folder", cut=Cut(split_by="meta.split"), choice=Choice(where="meta.split"))
    assert [name for name in tree(target) if name.endswith(".jsonl")] == [
        "test/metadata.jsonl",
        "train/metadata.jsonl",
    ]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    tables = datasets.load_dataset("videofolder", data_dir=str(target), cache_dir=str(tmp_path / "hf"))
    assert {name: table.num_rows for name, table in tables.items()} == {"train": 3, "test": 1}
    assert "prompt" in tables["test"].column_names


def test_a_folder_again_writes_only_what_is_missing_or_changed_and_removes_its_own(run_dir, target):
    put(run_dir, target, "captions")
    (target / "fox.mp4").write_bytes(b"resized")
    (target / "mine.txt").write_text("a note")
    again = put(run_dir, target, "captions", choice=Choice(but=frozenset({"lake"})))
    assert again.written == ["fox.mp4"]
    assert "lake.0.png" not in tree(target)
    assert "mine.txt" in tree(target)


def test_a_folder_does_not_write_over_other_peoples_files(run_dir, target):
    target.mkdir()
    (target / "fox.txt").write_text("my caption")
    with pytest.raises(RunDirError, match=r"fox\.txt: is there, and not of an export of ours"):
        put(run_dir, target, "captions")
    assert tree(target) == ["fox.txt"]
