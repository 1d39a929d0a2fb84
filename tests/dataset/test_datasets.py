"""A run directory loads as it stands, with the real `datasets`; nothing here touches the network."""

import json

import pytest

from batcher.jobs.lifecycle import EventName
from tests.support.dataset import RunMaker, clip, mixed_run, picture
from tests.support.engine import job

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def load(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("hf")
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(cache),
        "HF_HOME": str(cache),
    }.items():
        monkeypatch.setenv(name, value)
    import datasets

    datasets.disable_progress_bars()

    def load_as(kind, path):
        column, feature = {
            "videofolder": ("video", datasets.Video),
            "imagefolder": ("image", datasets.Image),
        }[kind]
        table = datasets.load_dataset(kind, data_dir=str(path), split="train", cache_dir=str(cache))
        return table.cast_column(column, feature(decode=False)), column

    return load_as


def clutter(path):
    """What else lies in a run directory: none of it is part of the dataset."""
    (path / "superseded").mkdir()
    (path / "superseded" / "fox.attempt-1.mp4").write_bytes(clip("old"))
    (path / ".batcher" / "partial" / "going.0.part").write_bytes(clip("part"))
    (path / "media" / "unclaimed.mp4").write_bytes(clip("not done yet"))
    (path / "report.html").write_text("<!doctype html>")


@pytest.mark.parametrize("kind", ["videofolder", "imagefolder"])
async def test_a_mixed_and_half_finished_run_loads_with_a_row_per_output(tmp_path, load, kind):
    await mixed_run(tmp_path)
    clutter(tmp_path)
    table, column = load(kind, tmp_path)
    names = [row[column]["path"].rsplit("/", 1)[1] for row in table]
    assert names == ["fox.mp4", "v1.2.0.mp4", "lake.0.png", "lake.1.png", "short.mp4"]
    assert table["prompt"][1] == "a <script>alert(1)</script> dog"
    assert table["input.cfg_scale"][:] == [0.3, 0.7, None, None, None]
    assert table["meta.split"][:] == ["train", "test", "train", "train", None]
    assert table["media_type"][:] == ["video/mp4", "video/mp4", "image/png", "image/png", "video/mp4"]
    assert table["quality"][:] == [None, None, None, None, "2 s instead of 10 s"]


async def test_pictures_load_and_decode(tmp_path, load):
    import datasets

    made = RunMaker(tmp_path)
    await made.done(job("a", aspect_ratio="16:9"), picture("a", "16:9"), extension=".png")
    await made.end()
    table, _ = load("imagefolder", tmp_path)
    assert table.cast_column("image", datasets.Image())[0]["image"].size == (320, 180)


async def test_rows_tell_times_and_what_is_in_the_file_and_all_have_the_same_keys(tmp_path):
    await mixed_run(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert len({tuple(row) for row in rows}) == 1
    fox, lake = rows[0], rows[2]
    assert (fox["width"], fox["height"], fox["duration_s"], fox["fps"]) == (320, 180, 2.0, 15.0)
    assert (lake["width"], lake["duration_s"], lake["fps"]) == (256, None, None)
    assert all(row["submitted_at"] <= row["finished_at"] for row in rows)


async def test_the_quality_note_lists_what_to_buy_again(tmp_path):
    from batcher.disk import LocalDisk
    from batcher.jobs.lifecycle import State
    from batcher.ledger.ledger import read_snapshot
    from batcher.ledger.summary import listed_jobs, status_of

    await mixed_run(tmp_path)
    snapshot = read_snapshot(tmp_path, LocalDisk())
    done = frozenset({State.DONE})
    bad = [one.job for one in listed_jobs(snapshot, done, bad=True)]
    good = [one.job for one in listed_jobs(snapshot, done, bad=False)]
    assert (bad, good) == (["short"], ["fox", "v1.2", "lake"])
    assert status_of(tmp_path, snapshot).bad_quality == 1
    made = RunMaker(tmp_path)
    made.event(EventName.SUBMITTING, "short", attempt=2, model="acme/film")
    assert made.ledger.snapshot.records["short"].quality is None
    await made.ledger.close()


WORDS = [
    "train",
    "training",
    "valid",
    "validation",
    "val",
    "dev",
    "test",
    "testing",
    "eval",
    "evaluation",
]
IDS = [
    *WORDS,
    *(f"a-{word}-crosses" for word in WORDS),
    *(f"{word}2go" for word in WORDS),
    *(f"x_{word}.1" for word in WORDS),
    "trainer",
    "train.test-val",
    "Test",
]


async def test_ids_with_the_names_of_splits_load_with_all_rows_and_columns(tmp_path, load):
    maker = RunMaker(tmp_path).begin(len(IDS))
    for job_id in IDS:
        await maker.done(job(job_id, prompt=job_id), picture(job_id), extension=".png")
    await maker.end()
    table, _ = load("imagefolder", tmp_path)
    assert sorted(table["prompt"]) == sorted(IDS)
