"""Every manifest that comes with the project loads, and says what its comments say."""

from pathlib import Path

import pytest

from batcher.manifest.load import open_manifest
from batcher.manifest.tally import ManifestTally
from batcher.options.facts import Overrides
from batcher.schema.spec import BUILT_IN, KLING
from tests.support.manifest_files import read
from tests.support.steps import result_of

FOLDER = Path(__file__).parents[2] / "manifests"
EXAMPLES = sorted(path.name for path in FOLDER.iterdir() if path.is_file())


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_loads_without_a_problem(name):
    found = read(FOLDER / name, **({} if name == "pairs.csv" else {"model": None}))
    assert found.problems == found.tally.warnings == []
    assert found.jobs
    assert found.tally.duplicates == 0


def test_the_quickstart_makes_24_jobs_of_the_kling_model():
    manifest = open_manifest(FOLDER / "quickstart.yaml")
    jobs = list(manifest.jobs(BUILT_IN, ManifestTally()))
    assert (manifest.name, result_of(manifest.models()), len(jobs)) == (
        "quickstart",
        {KLING.model_id},
        24,
    )
    assert len({job.input["prompt"] for job in jobs}) == 12
    assert {job.input["cfg_scale"] for job in jobs} == {0.3, 0.7}


def test_the_table_has_25_rows_and_leaves_some_durations_to_the_model():
    found = read(FOLDER / "pairs.csv")
    assert len(found.jobs) == 25
    assert {job.input.get("duration") for job in found.jobs} == {5, 10, None}
    assert all(", " in job.input["prompt"] or "," not in job.input["prompt"] for job in found.jobs)


def test_the_showcase_shows_what_it_says():
    found = read(FOLDER / "showcase.yaml", model=None)
    by_id = {job.id: job for job in found.jobs}
    assert {"takes", "takes-2", "takes-3", "logo-dark", "logo-light"} <= by_id.keys()
    assert len([job_id for job_id in by_id if job_id.startswith("hero-")]) == 4
    assert {job.input["duration"] for job in found.jobs if "clock" in job.input["prompt"]} == {5, 10}
    braces = next(job for job in found.jobs if "braces" in job.input["prompt"])
    assert braces.input["prompt"] == "braces are text: {not a template}, {% nor this %}"
    included = [job for job in found.jobs if job.meta.get("source") == "pairs"]
    assert len(included) == 25
    assert all(job.input["negative_prompt"] == "text, watermark" for job in included)


def test_other_models_are_named_by_their_examples():
    models = {name: result_of(open_manifest(FOLDER / name, Overrides()).models()) for name in EXAMPLES}
    assert models["image-edit.yaml"] == {"bytedance/seedream-4-5/edit"}
    assert models["pairs.csv"] == set()
    assert read(FOLDER / "image-edit.yaml", model=None).jobs[1].input["images"] == [
        "https://example.com/media/room.jpg",
        "https://example.com/media/chair.jpg",
    ]
    assert all("video_url" in job.input for job in read(FOLDER / "video-to-video.yaml", model=None).jobs)
