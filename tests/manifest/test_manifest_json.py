"""JSON and JSONL in the shapes that datasets and batch APIs have."""

import json

import pytest

from batcher.errors import ManifestError
from tests.support.manifest_files import read_text

ANY = {"model": "some/model"}
TWO = [{"prompt": "a"}, {"prompt": "b", "seed": 1}]
INPUTS = [{"prompt": "a"}, {"prompt": "b", "seed": 1}]


def lines(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


SHAPES = {
    "a list": json.dumps(TWO),
    "an indented list": json.dumps(TWO, indent=2),
    "lines": lines(*TWO),
    "lines with blank ones between": "\ufeff\n\n" + "\n\n".join(map(json.dumps, TWO)),
    "lines that end in CR": lines(*TWO).replace("\n", "\r"),
    "jobs": json.dumps({"jobs": TWO}),
    "wrapped in one list": json.dumps({"data": TWO}),
    "wrapped, indented": json.dumps({"prompts": TWO}, indent=1),
    "wrapped beside facts": json.dumps({"version": 2, "info": {"by": "me"}, "items": TWO}),
    "one object after another": "\n".join(json.dumps(job, indent=2) for job in TWO),
    "columns": json.dumps({"prompt": {"0": "a", "1": "b"}, "seed": {"0": None, "1": 1}}),
    "columns, index, data": json.dumps({"columns": ["prompt", "seed"], "index": [0, 1], "data": [["a", None], ["b", 1]]}),
    "lists as columns": json.dumps({"prompt": ["a", "b"], "seed": [None, 1]}),
    "batch lines": lines(*({"custom_id": f"r-{n}", "method": "POST", "url": "/v1", "body": job} for n, job in enumerate(TWO))),
    "a list of requests": json.dumps([{"custom_id": f"r-{n}", "params": job} for n, job in enumerate(TWO)]),
    "lines with an input": lines(*({"input": job} for job in TWO)),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_every_shape_is_read_under_either_name(tmp_path, shape, name):
    found = read_text(tmp_path, name, SHAPES[shape], **ANY)
    assert found.problems == []
    assert found.inputs == INPUTS


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_strings_are_prompts(tmp_path, name):
    for content in [
        json.dumps(["a", "b"], indent=1),
        lines("a", "b"),
        json.dumps({"prompts": ["a", "b"]}),
    ]:
        found = read_text(tmp_path, name, content, **ANY)
        assert [job.input for job in found.jobs] == [{"prompt": "a"}, {"prompt": "b"}]


def test_jobs_can_be_keyed_by_name(tmp_path):
    content = json.dumps({"cat-1": {"prompt": "a"}, "dog": {"prompt": "b", "seed": 1}}, indent=1)
    found = read_text(tmp_path, "a.json", content, **ANY)
    assert (found.ids, found.inputs) == (["cat-1", "dog"], INPUTS)
    assert [job.source.line for job in found.jobs] == [2, 5]
    found = read_text(tmp_path, "a.json", json.dumps({"cat-1": "a", "dog": "b"}), **ANY)
    assert (found.ids, [job.input["prompt"] for job in found.jobs]) == (["cat-1", "dog"], ["a", "b"])


def test_a_custom_id_is_the_id(tmp_path):
    found = read_text(tmp_path, "a.jsonl", SHAPES["batch lines"], **ANY)
    assert found.ids == ["r-0", "r-1"]


def test_the_model_of_a_request_is_the_model(tmp_path):
    content = lines({"custom_id": "a", "body": {"model": "x/y", "prompt": "a"}})
    assert [job.model for job in read_text(tmp_path, "a.jsonl", content, model=None).jobs] == ["x/y"]


def test_one_job_may_stand_alone(tmp_path):
    for name in ("a.json", "a.jsonl"):
        assert read_text(tmp_path, name, '{"prompt": "a"}', **ANY).inputs == [{"prompt": "a"}]
        assert read_text(tmp_path, name, '{\n"prompt": "a"\n}', **ANY).inputs == [{"prompt": "a"}]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_lines_are_those_of_the_file_in_every_shape(tmp_path, name):
    for content, at in [
        ('\n{"prompt": "a"}\n\n{"prompt": "b"}\n', [2, 4]),
        ('[\n{"prompt": "a"},\n\n{"prompt": "b"}]', [2, 4]),
        ('{\n"items": [\n{"prompt": "a"},\n"b"]}', [3, 4]),
        ('{\n"prompt": "a"\n}\n{"prompt":\n"b"}', [1, 4]),
    ]:
        found = read_text(tmp_path, name, content, **ANY)
        assert [job.source.line for job in found.jobs] == at


def test_what_is_not_read_beside_the_jobs_is_told(tmp_path):
    found = read_text(tmp_path, "a.json", SHAPES["wrapped beside facts"], **ANY)
    assert found.tally.warnings == [
        f"{tmp_path}/a.json: the jobs are those under 'items'; 'version', 'info' beside it: not read"
    ]


@pytest.mark.parametrize(
    "document",
    [
        {"title": "My film", "keywords": ["noir", "rain"]},
        {"tags": ["x"], "shots": {"a": {"prompt": "p"}}},
        {"prompt": ["a", "b"], "seed": [1]},
        {"columns": ["prompt", "prompt"], "data": [["a", "b"]]},
        {"columns": ["prompt", "seed"], "data": [["a"]]},
    ],
)
def test_texts_that_may_be_no_prompts_are_not_bought_unasked(tmp_path, document):
    with pytest.raises(ManifestError, match=r"under '(\w+)' prompts\? Then add --format json:\1$"):
        read_text(tmp_path, "a.json", json.dumps(document), **ANY)
    (job,) = read_text(tmp_path, "a.jsonl", json.dumps(document), **ANY).jobs
    assert job.input == document  # a line is a job


def test_columns_whose_rows_have_other_numbers_are_not_put_together(tmp_path):
    document = {"prompt": {"0": "a", "1": "b"}, "seed": {"1": 7, "2": 8}}
    found = read_text(tmp_path, "a.json", json.dumps(document), **ANY)
    assert not any(job.input.get("seed") == 7 for job in found.jobs)


def test_prompts_beside_facts_are_prompts(tmp_path):
    document = {"version": 2, "by": {"name": "me"}, "prompts": ["a"]}
    found = read_text(tmp_path, "a.json", json.dumps(document), **ANY)
    assert [job.input for job in found.jobs] == [{"prompt": "a"}]


def test_settings_beside_the_jobs_hold(tmp_path):
    content = json.dumps({"model": "x/y", "defaults": {"seed": 1}, "jobs": ["a"]})
    (job,) = read_text(tmp_path, "a.json", content, model=None).jobs
    assert (job.model, job.input) == ("x/y", {"seed": 1, "prompt": "a"})


COCO = {"info": {}, "images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 7, "caption": "a"}, {"id": 8, "caption": "b"}]}  # fmt: skip


def test_of_several_lists_the_format_names_the_one_that_is_meant(tmp_path):
    with pytest.raises(ManifestError) as caught:
        read_text(tmp_path, "a.json", json.dumps(COCO), **ANY)
    (said,) = caught.value.problems
    assert "--format json:images (1), --format json:annotations (2)" in said
    from batcher.options.facts import Reading

    found = read_text(tmp_path, "a.json", json.dumps(COCO), reading=Reading("json:annotations"), **ANY)
    assert [job.input["caption"] for job in found.jobs] == ["a", "b"]
    nested = json.dumps({"a": {"b": ["x", "y"]}})
    found = read_text(tmp_path, "a.json", nested, reading=Reading("json:a.b"), **ANY)
    assert len(found.jobs) == 2
    with pytest.raises(ManifestError, match=r"there is nothing under 'a\.c'"):
        read_text(tmp_path, "a.json", nested, reading=Reading("json:a.c"), **ANY)


@pytest.mark.parametrize(
    "entry",
    ['{"prompt": "a", "prompt": "b"}', '{"prompt":"a","x":{"y":1,"y" :2}}', '{"p":[{"q":1, "q"\t: 1}]}'],
)
@pytest.mark.parametrize("around", ["{}\n", "[{}]", '{{"jobs": [{}]}}', '{{"prompt": "c"}}\n{}\n'])
def test_a_key_that_stands_twice_is_an_error(tmp_path, entry, around):
    content = around.format(entry)
    for name in ("a.json", "a.jsonl"):
        try:
            problems = read_text(tmp_path, name, content, **ANY).problems
        except ManifestError as error:
            problems = error.problems
        assert "is here twice" in problems[0]


def test_text_that_looks_like_a_key_is_no_key(tmp_path):
    job = {"prompt": 'a "b": c', "x": {'y":': '":'}}
    assert read_text(tmp_path, "a.jsonl", lines(job, job | {"seed": 1}), **ANY).inputs[0] == job


def test_a_broken_line_is_one_invalid_row_of_jsonl(tmp_path):
    found = read_text(tmp_path, "a.jsonl", '{"prompt": "a"\n{"prompt": "b"}\n{"prompt": \n', **ANY)
    assert found.problems[0].startswith("a.jsonl:1: not JSON")
    assert found.tally.invalid == 2
    assert len(found.jobs) == 1
