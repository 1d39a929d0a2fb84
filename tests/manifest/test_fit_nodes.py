"""Manifests of deployments: inputs of nodes by path or as maps, media in them, and workflows as files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batcher.cli.fields import field_notes
from batcher.jobs.column_rules import Mapped
from batcher.jobs.identity import prompt_of, settings_of
from batcher.jobs.job import LocalMedia
from batcher.jobs.nodes import node_order, put_together, taken_apart
from batcher.providers.deployments import body_of
from batcher.schema.object_info import workflow_schema
from batcher.schema.spec import ModelSpec
from tests.providers.test_deployments import GRAPH, INFO
from tests.support.manifest_files import MP4, PNG, URL, read, read_text, write

MODEL = "deployment/d1"
SPEC = ModelSpec.from_catalogue({"model_id": MODEL, "input_schema": workflow_schema(GRAPH, INFO)})
KNOWN = {MODEL: SPEC}
UNKNOWN: dict[str, ModelSpec] = {}
FORM = "overrides.NODE.inputs.NAME"
IMAGE = "overrides.12.inputs.image"
both = pytest.mark.parametrize("specs", [KNOWN, UNKNOWN], ids=["with a schema", "without"])


def found(folder: Any, text: str, specs: Any = KNOWN, name: str = "m.yaml") -> Any:
    return read_text(folder, name, text, specs, model=MODEL)


@both
def test_templates_and_matrices_reach_into_nodes(tmp_path, specs):
    text = """
matrix: {overrides.3.inputs.seed: [1, 2]}
defaults: {overrides.6.inputs.text: "{{ animal }} at dusk"}
jobs:
  - vars: {animal: a fox}
"""
    one, two = found(tmp_path, text, specs).jobs
    assert one.input == {"overrides.6.inputs.text": "a fox at dusk", "overrides.3.inputs.seed": 1}
    assert json.loads(body_of(two)) == {
        "overrides": {"6": {"inputs": {"text": "a fox at dusk"}}, "3": {"inputs": {"seed": 2}}}
    }


@both
def test_a_map_and_its_paths_are_the_same_job(tmp_path, specs):
    by_path = "jobs: [{overrides.6.inputs.text: hi, overrides.3.inputs.seed: 5}]"
    as_map = "jobs: [{overrides: {3: {inputs: {seed: 5}}, '6': {inputs: {text: hi, extra: null}}}}]"
    ids = [found(tmp_path, text, specs).ids for text in (by_path, as_map)]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 1


def test_templates_fill_a_map_too(tmp_path):
    text = "jobs: [{vars: {n: 9}, overrides: {3: {inputs: {seed: '{{ n }}'}}}}]"
    assert found(tmp_path, text).inputs == [{"overrides.3.inputs.seed": 9}]


def test_a_spreadsheet_has_nodes_as_columns_with_their_types(tmp_path):
    text = "overrides.6.inputs.text,overrides.3.inputs.steps,overrides.6.inputs.on\nhi,30,yes\n"
    assert found(tmp_path, text, name="m.csv").inputs == [
        {"overrides.6.inputs.text": "hi", "overrides.3.inputs.steps": 30, "overrides.6.inputs.on": True}
    ]


def test_a_column_fills_a_node_by_a_set_template(tmp_path):
    settings = {"overrides.6.inputs.text": "{{ prompt }}, at dusk"}
    rows = read_text(tmp_path, "m.csv", "prompt\na fox\n", KNOWN, model=MODEL, set=settings)
    assert rows.inputs == [{"overrides.6.inputs.text": "a fox, at dusk"}]


def test_a_folder_of_pictures_goes_into_the_one_node_that_loads_an_image(tmp_path):
    write(tmp_path, "pics/a.png", PNG)
    (job,) = read(tmp_path / "pics", KNOWN, model=MODEL).jobs
    assert job.input[IMAGE].bytes == len(PNG)


def test_what_a_node_does_not_take_is_said_by_its_path(tmp_path):
    text = """
jobs:
  - overrides.3.inputs.steps: 1000
  - overrides.3.inputs.steps: many
  - overrides.3.inputs.sampler_name: eulr
  - overrides.3.inputs.stps: 5
  - overrides: {99: {inputs: {text: hi}}}
  - overrides.3.steps: 5
  - overrides: {3: {class_type: X}}
  - overrides: nonsense
  - prompt: hi
  - extra_data: {api_key_comfy_org: abc}
  - overrides: {12: {inputs: {image: {glob: "*.png"}}}}
"""
    assert [line.partition(" (--meta")[0] for line in found(tmp_path, text).problems] == [
        "m.yaml:3: overrides.3.inputs.steps: 1000 is more than the maximum 100",
        "m.yaml:4: overrides.3.inputs.steps: 'many' is not an integer",
        "m.yaml:5: overrides.3.inputs.sampler_name: 'eulr' is not one of euler, uni_pc; did you mean euler?",
        "m.yaml:6: overrides.3.inputs.stps: unknown field, did you mean overrides.3.inputs.steps?",
        "m.yaml:7: overrides.99.inputs.text: unknown field, did you mean overrides.6.inputs.text?",
        "m.yaml:8: overrides.3.steps: leads to no input of a node: write overrides.NODE.inputs.NAME",
        "m.yaml:9: overrides.3.class_type: leads to no input of a node: write overrides.NODE.inputs.NAME",
        f"m.yaml:10: overrides: not a map of nodes; write {FORM}, or {{NODE: {{inputs: {{NAME: value}}}}}}",
        "m.yaml:11: prompt: unknown field",
        "m.yaml:12: extra_data: a key must not stand in a manifest; set the variable COMFY_ORG_API_KEY",
        f"m.yaml:13: {IMAGE}: write a pattern of files under its path, {IMAGE}: {{glob: ...}}, and not inside a map",
    ]


@both
def test_a_key_is_refused_with_and_without_a_schema(tmp_path, specs):
    assert (
        "must not stand in a manifest" in found(tmp_path, "jobs: [{extra_data: {}}]", specs).problems[0]
    )


def test_an_override_never_becomes_metadata_unsaid(tmp_path):
    text = "overrides.99.inputs.text,split\nhi,train\n"
    columns = Mapped(meta=("*",))
    rows = read_text(tmp_path, "m.csv", text, KNOWN, model=MODEL, columns=columns)
    assert rows.problems[0].startswith("m.csv:2: overrides.99.inputs.text: unknown field")


@both
def test_local_media_in_a_node_are_sent_inline(tmp_path, specs):
    write(tmp_path, "cat.png", PNG)
    for text in (
        "jobs: [{overrides.12.inputs.image: cat.png}]",
        "jobs: [{overrides: {12: {inputs: {image: cat.png}}}}]",
    ):
        (job,) = found(tmp_path, text, specs).jobs
        assert isinstance(job.input["overrides.12.inputs.image"], LocalMedia)
        sent = json.loads(body_of(job))["overrides"]["12"]["inputs"]["image"]
        assert sent.startswith("data:image/png;base64,")


@both
def test_a_glob_of_pictures_goes_into_a_node(tmp_path, specs):
    for name in ("a.png", "b.png"):
        write(tmp_path, f"photos/{name}", PNG + name.encode())
    text = "jobs: [{overrides.12.inputs.image: {glob: 'photos/*.png'}}]"
    shown = [job.input["overrides.12.inputs.image"].shown for job in found(tmp_path, text, specs).jobs]
    assert shown == ["photos/a.png", "photos/b.png"]


@both
def test_media_that_are_not_there_are_a_problem_and_links_between_nodes_are_none(tmp_path, specs):
    text = f"""
jobs:
  - overrides.12.inputs.image: cat.png
  - overrides.12.inputs.image: {URL}
  - overrides.3.inputs.model: ["4", 1]
"""
    rows = found(tmp_path, text, specs)
    assert rows.problems == [
        f"m.yaml:3: {IMAGE}: 'cat.png' is neither a public HTTPS URL nor a file that exists"
    ]
    assert rows.inputs[1] == {"overrides.3.inputs.model": ["4", 1]}


@both
def test_media_of_another_kind_are_a_problem(tmp_path, specs):
    write(tmp_path, "clip.mp4", MP4)
    (problem,) = found(tmp_path, f"jobs: [{{{IMAGE}: clip.mp4}}]", specs).problems
    assert problem == f"m.yaml:1: {IMAGE}: 'clip.mp4' is video/mp4, not image"


def test_a_link_between_nodes_is_no_list_of_files(tmp_path):
    rows = found(tmp_path, f"jobs: [{{{IMAGE}: ['10', 0]}}]", UNKNOWN)
    assert rows.inputs == [{IMAGE: ["10", 0]}]


def test_media_in_a_map_of_another_file_are_relative_to_that_file(tmp_path):
    write(tmp_path, "parts/cat.png", PNG)
    write(tmp_path, "parts/rows.yaml", "jobs: [{overrides: {12: {inputs: {image: cat.png}}}}]")
    write(tmp_path, "dog.png", PNG + b"dog")
    text = """
defaults: {overrides: {12: {inputs: {image: dog.png}}}}
jobs: [{from: parts/rows.yaml}]
"""
    write(tmp_path, "parts/more.yaml", "jobs: [{overrides.3.inputs.seed: 1}]")
    (job,) = found(tmp_path, text).jobs
    assert job.input[IMAGE].shown == "cat.png"
    (other,) = found(tmp_path, text.replace("rows.yaml", "more.yaml")).jobs
    assert (other.input[IMAGE].shown, other.input["overrides.3.inputs.seed"]) == ("dog.png", 1)


@both
def test_a_workflow_is_a_json_file_that_overrides_go_into(tmp_path, specs):
    write(tmp_path, "flow.json", json.dumps(GRAPH))
    text = """
defaults: {workflow_api_json: flow.json}
jobs:
  - overrides.6.inputs.text: hi
  - overrides.99.inputs.text: hi
"""
    rows = found(tmp_path, text, specs)
    assert rows.problems == [
        "m.yaml:5: overrides.99.inputs.text: the workflow has no node '99' (it has 3, 6, 12)"
    ]
    (job,) = rows.jobs
    sent = json.loads(body_of(job))
    assert sent["workflow_api_json"]["6"]["inputs"]["text"] == "hi"
    assert sent["workflow_api_json"]["3"] == GRAPH["3"]
    assert "overrides" not in sent
    assert job.input["workflow_api_json"].record().keys() == {"path", "sha256"}


@both
def test_a_workflow_may_stand_in_the_manifest_and_its_nodes_may_be_any(tmp_path, specs):
    text = """
jobs:
  - vars: {word: hi}
    workflow_api_json: {1: {class_type: Echo, inputs: {text: "{{ word }}"}}}
    overrides.1.inputs.times: 3
"""
    (job,) = found(tmp_path, text, specs).jobs
    assert json.loads(body_of(job)) == {
        "workflow_api_json": {"1": {"class_type": "Echo", "inputs": {"text": "hi", "times": 3}}}
    }


@both
@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "is not JSON"),
        ("[]", "is no workflow: a JSON object of nodes is needed"),
        ('{"nodes": [], "links": []}', "export it once more for the API"),
        ('{"3": {"inputs": {}}}', "its node 3 has no class_type"),
        (None, "is not a file that exists"),
    ],
)
def test_a_file_that_is_no_workflow_is_a_problem(tmp_path, specs, content, what):
    if content is not None:
        write(tmp_path, "flow.json", content)
    (problem,) = found(tmp_path, "jobs: [{workflow_api_json: flow.json}]", specs).problems
    assert problem.startswith("m.yaml:1: workflow_api_json: ")
    assert what in problem


def test_a_workflow_that_changed_is_another_job(tmp_path):
    text = "jobs: [{workflow_api_json: flow.json}]"
    write(tmp_path, "flow.json", json.dumps(GRAPH))
    before = found(tmp_path, text).ids
    write(tmp_path, "flow.json", json.dumps(GRAPH | {"6": {"class_type": "Other"}}))
    assert found(tmp_path, text).ids != before


def test_seeds_and_texts_of_nodes_are_no_settings():
    inputs = {
        "overrides.3.inputs.seed": 1,
        "overrides.8.inputs.noise_seed": 1,
        "overrides.6.inputs.text": "hi",
        "overrides.3.inputs.steps": 20,
    }
    assert settings_of(inputs) == {("overrides.3.inputs.steps", 20)}


def test_a_job_is_called_after_the_first_text_of_its_nodes(tmp_path):
    text = "jobs: [{overrides: {10: {inputs: {text: blurry}}, 6: {inputs: {text: A fox, on: true}}}}]"
    (name,) = found(tmp_path, text, UNKNOWN).ids
    assert name.startswith("a-fox-")
    assert prompt_of({"overrides.7.inputs.seed": 1}) is None
    assert prompt_of({"prompt": "own", "overrides.7.inputs.text": "node"}) == "own"


def test_nodes_are_in_the_order_of_their_numbers():
    nodes = ["10", "9", "57:8", "x", "57:3", "57", "²"]
    assert sorted(nodes, key=node_order) == ["9", "10", "57", "57:3", "57:8", "x", "²"]


def test_what_another_node_feeds_may_be_fed_by_a_third_or_hold_a_value():
    for value in (["8", 1], "text", 5, True):
        assert SPEC.problems({"overrides.3.inputs.model": value}) == []
    assert "overrides.3.inputs.model" not in SPEC.media
    assert [note.takes for note in field_notes(SPEC) if note.name == "overrides.3.inputs.model"] == [
        'anything, default ["4",0]'
    ]


def test_taking_apart_and_putting_together_undo_each_other():
    nodes = {"6": {"inputs": {"a.b": 1, "c": [2]}}, "57:8": {"inputs": {"x": {"y": 0}}}}
    apart = dict(taken_apart({"overrides": nodes}))
    assert set(apart) == {
        "overrides.6.inputs.a.b",
        "overrides.6.inputs.c",
        "overrides.57:8.inputs.x",
    }
    assert put_together(apart) == nodes


ODD: list[Any] = [
    {},
    {"KSampler": None},
    {"KSampler": {"input": []}},
    {"KSampler": {"input": {"required": {"steps": None, "cfg": [], "seed": [7, 8], "mode": ["INT"]}}}},
    {"KSampler": {"input": {"required": {"steps": ["INT", {"min": float("nan"), "max": "x"}]}}}},
    {"KSampler": {"input": {"required": {"steps": [[]], "cfg": [[{}]], "seed": ["COMBO", {}]}}}},
]


@pytest.mark.parametrize("info", ODD)
def test_an_odd_description_leaves_inputs_unchecked(info):
    spec = ModelSpec.from_catalogue({"model_id": MODEL, "input_schema": workflow_schema(GRAPH, info)})
    assert spec.problems({"overrides.3.inputs.steps": 5}) == []


def test_an_odd_workflow_has_no_inputs():
    graph: dict[str, Any] = {"1": None, "2": {"class_type": 7, "inputs": []}, "3": {"_meta": 1}}
    assert workflow_schema(graph, {})["properties"].keys() == {"workflow_api_json"}
