"""Types, limits, ids and duplicates: which rows are jobs, and what is said of the others."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.errors import PROBLEMS_SHOWN, ManifestError
from batcher.jobs.column_rules import Mapped
from batcher.manifest.load import open_manifest
from batcher.manifest.tally import ManifestTally
from batcher.options.facts import Overrides
from batcher.schema.spec import BUILT_IN, KLING, ModelSpec
from tests.support.manifest_files import PNG, URL, read_text, write

ANY = {"model": "some/model"}
HEAD = "prompt,image_url,"


def table(folder, header, *rows, **overrides):
    return read_text(folder, "m.csv", "\n".join([header, *rows, ""]), **overrides)


# Types


def test_cells_get_the_types_of_the_schema(tmp_path):
    found = table(tmp_path, HEAD + "duration,cfg_scale", f"x,{URL},10,0.5", f"y,{URL}, 5 ,1")
    assert found.inputs == [
        {"prompt": "x", "image_url": URL, "duration": 10, "cfg_scale": 0.5},
        {"prompt": "y", "image_url": URL, "duration": 5, "cfg_scale": 1},
    ]


def test_text_and_whole_floats_become_integers_where_the_schema_wants_them(tmp_path):
    found = read_text(
        tmp_path,
        "m.yaml",
        f"jobs: [{{prompt: x, image_url: '{URL}', duration: '5'}}, {{prompt: y, image_url: '{URL}', duration: 5.0}}]",
    )
    assert [(job.input["duration"], type(job.input["duration"])) for job in found.jobs] == [(5, int)] * 2


def test_a_setting_gets_its_type_too(tmp_path):
    found = table(tmp_path, "prompt,image_url", f"x,{URL}", set={"duration": "10"})
    assert found.jobs[0].input["duration"] == 10


def test_a_header_without_capitals_reaches_a_field_with_them(tmp_path):
    spec = ModelSpec.from_catalogue(
        {
            "model_id": "c",
            "input_schema": {
                "properties": {"imageUrl": {"type": "string"}, "numSteps": {"type": "integer"}}
            },
        }
    )
    row = f"numsteps,imageurl\n5,{URL}\n"
    found = read_text(tmp_path, "m.csv", row.replace("numsteps", "numSteps"), {"c": spec}, model="c")
    assert found.inputs == [{"numSteps": 5, "imageUrl": URL}]
    written = read_text(
        tmp_path, "m.jsonl", f'{{"numSteps": 5, "imageUrl": "{URL}"}}', {"c": spec}, model="c"
    )
    assert written.ids == found.ids


def test_without_a_schema_inputs_are_sent_as_they_are(tmp_path):
    found = table(tmp_path, "prompt,duration,anything,image_url", f"x,7,yes,{URL}", **ANY)
    assert found.inputs == [{"prompt": "x", "duration": "7", "anything": "yes", "image_url": URL}]


# Problems


def test_every_problem_has_file_line_and_field_all_of_them_at_once(tmp_path):
    found = table(
        tmp_path,
        "Prompt,Image URL,Duration,promt,notes",
        f"x,{URL},7,,",
        ",,five,,",
        f"x,{URL},5,y,z",
        f"x,{URL},5,,",
    )
    assert sorted(found.problems) == [
        "m.csv:2: duration: 7 is not one of 5, 10",
        "m.csv:3: duration: 'five' is not an integer",
        "m.csv:3: image_url: required, but missing",
        "m.csv:3: prompt: required, but missing",
        "m.csv:4: notes: unknown field (--meta notes keeps it with the results, --ignore notes drops it, --extra notes sends it anyway)",
        "m.csv:4: promt: unknown field, did you mean prompt?",
    ]
    assert (found.tally.problem_count, found.tally.invalid, found.tally.rows) == (6, 3, 4)
    assert [str(job.source).rpartition("/")[2] for job in found.jobs] == ["m.csv:5"]


def test_a_column_with_a_comma_is_not_offered_by_name(tmp_path):
    found = table(tmp_path, HEAD + '"a,b"', f"x,{URL},y")
    assert found.problems == [
        "m.csv:2: a,b: unknown field (--meta '*' keeps all such with the results, --ignore '*' drops them)"
    ]


def test_the_first_problems_are_kept_and_all_are_counted(tmp_path):
    columns = [f"c{n}" for n in range(PROBLEMS_SHOWN + 30)]
    found = table(tmp_path, HEAD + ",".join(columns), f"x,{URL}," + ",".join(columns))
    assert len(found.tally.problems) == PROBLEMS_SHOWN
    assert found.tally.problem_count == PROBLEMS_SHOWN + 30
    with pytest.raises(ManifestError) as caught:
        found.tally.raise_if_invalid()
    assert str(caught.value).endswith("... and 30 more")
    assert len(str(caught.value).splitlines()) == PROBLEMS_SHOWN + 1


def test_a_tally_without_problems_raises_nothing():
    ManifestTally().raise_if_invalid()


def test_a_problem_is_one_line_whatever_the_file_holds(tmp_path):
    found = read_text(
        tmp_path,
        "m.yaml",
        f'jobs: [{{prompt: a, image_url: "{URL}", "new\\nline": 1, duration: "x\\ny"}}]',
    )
    assert len(found.problems) == 2
    assert all("\n" not in line for line in found.problems)


def test_a_field_of_a_yaml_job_is_blamed_on_its_own_line(tmp_path):
    found = read_text(
        tmp_path,
        "m.yaml",
        f"jobs:\n  - prompt: x\n    image_url: {URL}\n    duration: 7\n    cfg_scale: 2\n",
    )
    assert found.problems == [
        "m.yaml:4: duration: 7 is not one of 5, 10",
        "m.yaml:5: cfg_scale: 2 is more than the maximum 1",
    ]


def test_a_job_without_a_model_is_a_problem(tmp_path):
    found = table(tmp_path, "prompt", "x", model=None)
    assert found.problems == [
        "m.csv:2: model: no model is named (model: in the file, or --model; `batcher models` lists them)"
    ]


def test_a_field_with_bad_media_is_blamed_once(tmp_path):
    found = table(tmp_path, "prompt,image_url", "x,http://example.com/a.png", "y,nowhere.png")
    assert found.problems == [
        "m.csv:2: image_url: 'http://example.com/a.png' is not a public HTTPS URL (https://host/path, without login or spaces)",
        "m.csv:3: image_url: 'nowhere.png' is neither a public HTTPS URL nor a file that exists",
    ]


def test_an_invalid_job_of_a_matrix_does_not_take_the_others_along(tmp_path):
    found = read_text(
        tmp_path,
        "m.yaml",
        f"matrix: {{duration: [5, 7, 10]}}\njobs: [{{prompt: x, image_url: '{URL}'}}]",
    )
    assert [job.input["duration"] for job in found.jobs] == [5, 10]
    assert (found.tally.invalid, len(found.problems)) == (1, 1)


# Ids


@pytest.mark.parametrize("job_id", ["a/b", "../x", ".hidden", "-x", "ä", "a b", "x" * 101, "a\u2028b"])
def test_an_explicit_id_that_is_no_file_name_is_refused_with_a_suggestion(tmp_path, job_id):
    found = table(tmp_path, "id,prompt", f'"{job_id}",x', **ANY)
    (problem,) = found.problems
    assert problem.startswith("m.csv:2: id: ")
    assert "; try '" in problem


def test_an_explicit_id_names_its_job(tmp_path):
    (first, second) = table(tmp_path, "id,prompt", "hero,x", ",x", **ANY).jobs
    assert (first.id, first.explicit) == ("hero", True)
    assert (second.explicit, second.id) == (False, f"x-{second.digest}")
    assert first.digest == second.digest


def test_two_rows_that_are_one_job_run_once(tmp_path):
    found = table(tmp_path, "id,prompt,n", "a,x,5", "a,x,5.0", ",y,", ",y,", "b,x,5", **ANY)
    assert [job.id for job in found.jobs] == ["a", f"y-{found.jobs[1].digest}", "b"]
    assert (found.tally.duplicates, found.problems, found.tally.invalid) == (2, [], 0)


def test_every_sample_of_a_row_that_was_listed_before_is_a_duplicate(tmp_path):
    found = table(tmp_path, "id,prompt,repeat", "a,x,3", "a,x,2", **ANY)
    assert (found.ids, found.tally.duplicates) == (["a", "a-2", "a-3"], 2)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            ["a,x,", "a,y,"],
            "m.csv:3: id: 'a' is taken by other inputs, or in other letter case, at m.csv:2",
        ),
        (
            ["a,x,", "A,x,"],
            "m.csv:3: id: 'A' is taken by other inputs, or in other letter case, at m.csv:2",
        ),
        (
            ["a,x,2", "a-2,x,"],
            "m.csv:3: id: 'a-2' is taken by other inputs, or in other letter case, at m.csv:2",
        ),
        (
            ["a-2,x,", "a,x,2"],
            "m.csv:3: id: 'a-2', made for this job, is the id of another one, at m.csv:2",
        ),
        (
            ["a,x,2", "A-2,z,"],
            "m.csv:3: id: 'A-2' is taken by other inputs, or in other letter case, at m.csv:2",
        ),
    ],
)
def test_an_id_stands_for_one_job(tmp_path, rows, problem):
    found = table(tmp_path, "id,prompt,repeat", *rows, **ANY)
    assert found.problems == [problem]
    assert found.tally.invalid == 1
    assert found.tally.duplicates == 0


def test_a_generated_id_that_equals_an_explicit_one_is_an_error(tmp_path):
    generated = table(tmp_path, "prompt", "a cat", **ANY).ids[0]
    for rows in (
        [f"{generated},a cat", ",a cat"],
        [",a cat", f"{generated},a cat"],
        [",a cat", f"{generated.upper()},a dog"],
    ):
        found = table(tmp_path, "id,prompt", *rows, **ANY)
        assert len(found.jobs) == 1
        assert len(found.problems) == 1


def test_an_id_that_a_matrix_made_is_not_free_for_others(tmp_path):
    made = read_text(tmp_path, "m.yaml", "jobs: [{id: a, matrix: {n: [1]}}]", **ANY).ids[0]
    found = read_text(
        tmp_path, "m.yaml", f"jobs: [{{id: a, matrix: {{n: [1]}}}}, {{id: {made}, n: 1}}]", **ANY
    )
    assert "is taken by other inputs" in found.problems[0]


def test_a_clash_between_files_names_both(tmp_path):
    write(tmp_path, "p.csv", "id,prompt\na,y\n")
    found = read_text(tmp_path, "m.yaml", "jobs:\n  - {id: a, prompt: x}\n  - {from: p.csv}\n", **ANY)
    assert found.problems == [
        "p.csv:2: id: 'a' is taken by other inputs, or in other letter case, at m.yaml:2"
    ]


def test_a_number_may_be_an_id_and_other_things_may_not(tmp_path):
    found = read_text(
        tmp_path,
        "m.yaml",
        "jobs: [{id: 7, p: x}, {id: 1.5, p: y}, {id: true, p: z}, {id: '', p: w}]",
        **ANY,
    )
    assert found.ids == ["7"]
    assert len(found.problems) == 3


def test_ids_survive_other_rows_columns_and_the_order_of_columns(tmp_path):
    few = table(tmp_path, "prompt,n", "x,1", "y,2", **ANY).ids
    more = table(
        tmp_path,
        "note,n,prompt,empty",
        "a,3,z,",
        "b,2,y,",
        "c,1,x,",
        columns=Mapped(meta=("Note",)),
        **ANY,
    ).ids
    assert more[1:] == few[::-1]


def test_a_manifest_can_be_read_again_and_again(tmp_path):
    path = write(tmp_path, "m.csv", f"prompt,image_url\nx,{URL}\nx,{URL}\n,\n,{URL}\n")
    manifest = open_manifest(path, Overrides(model=KLING.model_id))
    tallies = [ManifestTally(), ManifestTally()]
    first, second = (list(manifest.jobs(BUILT_IN, tally)) for tally in tallies)
    assert first == second
    assert tallies[0] == tallies[1]
    assert (tallies[0].rows, tallies[0].duplicates, tallies[0].invalid) == (3, 1, 1)


ROWS = st.tuples(
    st.sampled_from(["", "a", "A", "b"]), st.sampled_from(["", "x", "y"]), st.integers(0, 3)
)


@given(st.lists(ROWS, max_size=12))
def test_a_later_pass_has_the_same_jobs_without_looking_at_ids(rows):
    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(f"{name},{prompt},{URL},{repeat}\n" for name, prompt, repeat in rows)
        path = write(Path(folder), "m.csv", f"id,prompt,image_url,repeat\n{lines}")
        manifest, earlier = open_manifest(path, Overrides(model=KLING.model_id)), ManifestTally()
        first = list(manifest.jobs(BUILT_IN, earlier))
        assert list(manifest.jobs(BUILT_IN, ManifestTally(), earlier)) == first


def test_a_file_that_is_gone_by_the_later_pass_does_not_move_what_it_leaves_out(tmp_path):
    write(tmp_path, "cat.png", PNG)
    rows = f"x,cat.png\ny,{URL}\ny,{URL}\nz,{URL}\n"
    path = write(tmp_path, "m.csv", f"prompt,image_url\n{rows}")
    manifest, earlier = open_manifest(path, Overrides(model=KLING.model_id)), ManifestTally()
    assert len(list(manifest.jobs(BUILT_IN, earlier))) == 3
    (tmp_path / "cat.png").unlink()
    again = [job.input["prompt"] for job in manifest.jobs(BUILT_IN, ManifestTally(), earlier)]
    assert again[-2:] == ["y", "z"]


def test_a_medium_that_comes_only_after_the_first_pass_makes_no_second_job_of_an_id(tmp_path):
    write(tmp_path, "b.png", PNG)
    path = write(tmp_path, "m.csv", "id,prompt,image_url\nx,1,a.png\nx,2,b.png\ny,3,b.png\n")
    manifest, earlier = open_manifest(path, Overrides(model=KLING.model_id)), ManifestTally()
    first = list(manifest.jobs(BUILT_IN, earlier))
    assert [job.source.line for job in first] == [3, 4]
    write(tmp_path, "a.png", PNG)
    assert list(manifest.jobs(BUILT_IN, ManifestTally(), earlier)) == first


def test_a_file_that_comes_only_after_the_first_pass_stays_out(tmp_path):
    jobs = f"- from: late.csv\n- {{prompt: x, image_url: '{URL}'}}\n- {{prompt: x, image_url: '{URL}'}}"
    manifest = open_manifest(write(tmp_path, "m.yaml", jobs), Overrides(model=KLING.model_id))
    earlier = ManifestTally()
    first = list(manifest.jobs(BUILT_IN, earlier))
    assert (len(first), earlier.invalid, earlier.duplicates) == (1, 1, 1)
    write(tmp_path, "late.csv", f"prompt,image_url\nnot in the plan,{URL}\n")
    assert list(manifest.jobs(BUILT_IN, ManifestTally(), earlier)) == first


def test_the_inputs_of_a_held_row_are_not_changed_by_its_jobs(tmp_path):
    write(tmp_path, "cat.png", PNG)
    path = write(tmp_path, "m.yaml", "jobs: [{prompt: x, image_url: cat.png, duration: '5', repeat: 2}]")
    manifest = open_manifest(path, Overrides(model=KLING.model_id))
    first = list(manifest.jobs(BUILT_IN, ManifestTally()))
    first[0].input["duration"] = 7
    assert first[1].input["duration"] == 5
    assert [job.input["duration"] for job in manifest.jobs(BUILT_IN, ManifestTally())] == [5, 5]
