"""The dataset card: ``load_dataset(RUN_DIR)`` finds every output, and the type of every column."""

import glob
from itertools import pairwise

import pytest

from batcher.dataset.card import MARK, path_warning
from tests.dataset.test_metadata import Table
from tests.support.dataset import RunMaker, clip, picture
from tests.support.engine import job

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
WORDS = ["a train crosses a test bridge", "eval", "dev val", "training, validation: a valid test"]


@pytest.fixture
def load(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("hf")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    return lambda path, **more: datasets.load_dataset(
        str(path), split="train", cache_dir=str(cache), **more
    )


async def finish(path, jobs, make, extension):
    maker = RunMaker(path).begin(len(jobs))
    for one in jobs:
        await maker.done(one, make(one.id), extension=extension)
    await maker.end()


@pytest.mark.parametrize(
    ("make", "extension", "column"), [(picture, ".png", "image"), (clip, ".mp4", "video")]
)
async def test_a_run_directory_loads_by_its_card_whatever_its_prompts_say(
    tmp_path, load, make, extension, column
):
    jobs = [job(f"test-{n}.train", prompt=words) for n, words in enumerate(WORDS)]
    await finish(tmp_path / "shots", [*jobs, job("late", prompt="x", seed=3)], make, extension)
    table = load(tmp_path / "shots")
    assert sorted(table["prompt"]) == sorted([*WORDS, "x"])
    assert column in table.features
    kinds = {name: table.features[name].dtype for name in ("quality", "input.seed", "fps", "job")}
    assert kinds == {"quality": "string", "input.seed": "int64", "fps": "float64", "job": "string"}


NAMES = ["test-run", "train", "données [x", "a*b", "what?", "100%20", "{a,b}", "#1 ~", ".val", "it's"]


async def test_a_run_directory_loads_whatever_its_name_or_a_warning_says_how(tmp_path, load):
    await finish(tmp_path / "a", [job("x", prompt="a train")], picture, ".png")
    for before, name in pairwise(["a", *NAMES]):
        run_dir = (tmp_path / before).rename(tmp_path / name)
        assert path_warning(run_dir) is None
        assert load(run_dir)["prompt"] == ["a train"], name
    run_dir = run_dir.rename(tmp_path / "shots [v2]")
    assert "data_dir=glob.escape(path)" in path_warning(run_dir)
    assert load("imagefolder", data_dir=glob.escape(str(run_dir)))["prompt"] == ["a train"]
    assert "choose another" in path_warning(tmp_path / "a::b")


async def test_a_card_of_the_users_own_stays_as_it_is(tmp_path):
    table = Table(tmp_path)
    (tmp_path / "README.md").write_text("# My dataset\n")
    table.open(job("a"))
    await table.finish(job("a"))
    await table.end()
    assert (tmp_path / "README.md").read_text() == "# My dataset\n"


async def test_a_card_is_there_from_the_first_output_on_and_follows_the_columns(tmp_path):
    table = Table(tmp_path)
    table.open(job("a"))
    assert not (tmp_path / "README.md").exists()
    await table.finish(job("a"))
    first = (tmp_path / "README.md").read_text()
    assert MARK in first
    await table.end()
    table.open(job("a"), job("b", seed=1))
    await table.finish(job("b", seed=1))
    await table.end()
    assert "input.seed" in (tmp_path / "README.md").read_text()
