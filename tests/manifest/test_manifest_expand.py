"""Defaults, matrix, variables, templates, repeat, globs and `from`: what jobs a row makes."""

import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batcher.jobs.identity import matrix_digest
from batcher.manifest.load import open_manifest
from batcher.manifest.templates import TemplateError, filled, names_in
from batcher.options.facts import Overrides
from batcher.schema.spec import KLING
from tests.support.manifest_files import MP4, PNG, URL, read, read_text, write
from tests.support.steps import result_of

ANY = {"model": "some/model"}  # no schema: inputs arrive as they were expanded


def expand(folder, text, **overrides):
    return read_text(folder, "m.yaml", text, **{**ANY, **overrides})


def one(folder, text, **overrides):
    found = expand(folder, text, **overrides)
    assert found.problems == []
    (job,) = found.jobs
    return job


# Who wins


def test_the_row_wins_over_its_matrix_that_over_the_manifest_s_that_over_the_defaults(tmp_path):
    text = """
defaults: {a: default, b: default, c: default, d: default}
matrix: {a: [outer], b: [outer], c: [outer]}
jobs:
  - {a: row, matrix: {a: [own], b: [own]}}
"""
    assert one(tmp_path, text).input == {"a": "row", "b": "own", "c": "outer", "d": "default"}
    job = one(tmp_path, text, set={"a": "set", "b": "set", "c": "set", "d": "set", "e": "set"})
    assert job.input == dict.fromkeys("abcde", "set")


def test_a_matrix_key_that_is_decided_elsewhere_makes_no_second_job(tmp_path):
    text = "matrix: {a: [1, 2], b: [1, 2]}\njobs: [{a: 5}]"
    assert expand(tmp_path, text).inputs == [{"a": 5, "b": 1}, {"a": 5, "b": 2}]
    assert expand(tmp_path, text, set={"b": "7"}).inputs == [{"a": 5, "b": "7"}]
    assert expand(tmp_path, text, set={"b": ""}).inputs == [{"a": 5}]


def test_a_set_to_nothing_takes_an_input_away(tmp_path):
    assert one(tmp_path, "defaults: {a: 1}\njobs: [{b: 2}]", set={"a": ""}).input == {"b": 2}
    assert one(tmp_path, "jobs: [{b: 2, a: '{{ x }}'}]", set={"a": ""}).input == {"b": 2}


def test_a_null_is_an_absent_field_so_the_default_applies(tmp_path):
    assert one(tmp_path, "defaults: {a: 1}\njobs: [{a: null, b: 2}]").input == {"a": 1, "b": 2}


def test_a_null_in_a_matrix_leaves_the_field_out(tmp_path):
    assert expand(tmp_path, "defaults: {a: 1}\nmatrix: {a: [null, 2]}\njobs: [{b: 3}]").inputs == [
        {"b": 3},
        {"a": 2, "b": 3},
    ]


def test_metadata_and_variables_of_the_row_win_over_those_around_it(tmp_path):
    text = """
meta: {a: head, b: head}
vars: {x: head, y: head}
jobs: [{p: "{{ x }} {{ y }}", meta: {b: row}, vars: {y: row}}]
"""
    job = one(tmp_path, text)
    assert (job.meta, job.input) == ({"a": "head", "b": "row"}, {"p": "head row"})


def test_the_model_of_the_command_line_wins_over_the_row_s_and_that_over_the_head_s(tmp_path):
    text = "model: head\njobs: [{a: 1}, {a: 2, model: row}]"
    assert [job.model for job in expand(tmp_path, text, model=None).jobs] == ["head", "row"]
    assert [job.model for job in expand(tmp_path, text, model="line").jobs] == ["line", "line"]


def test_an_input_may_have_a_reserved_name_under_input(tmp_path):
    assert one(tmp_path, "jobs: [{input: {id: 1, repeat: 2}, a: 3}]").input == {
        "id": 1,
        "repeat": 2,
        "a": 3,
    }
    assert one(tmp_path, "defaults: {input: {model: 5}}\njobs: [{a: 3}]").input == {"model": 5, "a": 3}


# Matrix


def test_a_matrix_makes_every_combination_the_last_key_fastest(tmp_path):
    found = expand(tmp_path, "matrix: {a: [1, 2]}\njobs: [{matrix: {b: [x, y]}}, {c: 1}]")
    assert found.inputs == [
        {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"},
        {"a": 1, "c": 1}, {"a": 2, "c": 1},
    ]  # fmt: skip


def test_a_matrix_key_that_a_template_names_is_a_variable_and_not_an_input(tmp_path):
    found = expand(tmp_path, 'jobs: [{p: "a {{ who }}", matrix: {who: [cat, dog], n: [1]}}]')
    assert found.inputs == [{"p": "a cat", "n": 1}, {"p": "a dog", "n": 1}]


def test_a_template_in_a_matrix_value_names_variables_too(tmp_path):
    found = expand(tmp_path, 'jobs: [{matrix: {p: ["a {{ who }}", "one {{ who }}"], who: [cat]}}]')
    assert found.inputs == [{"p": "a cat"}, {"p": "one cat"}]


def test_a_row_s_own_variable_decides_a_matrix_variable(tmp_path):
    text = "matrix: {who: [cat, dog]}\njobs: [{p: 'a {{ who }}', vars: {who: fox}}]"
    assert expand(tmp_path, text).inputs == [{"p": "a fox"}]
    assert expand(
        tmp_path, text.replace("jobs:", "vars: {who: hen}\njobs:").replace(", vars: {who: fox}", "")
    ).inputs == [
        {"p": "a cat"},
        {"p": "a dog"},
    ]


def test_a_matrix_may_vary_the_model(tmp_path):
    text = "matrix: {model: [a/b, c/d]}\njobs: [{p: x}, {p: x, model: e/f}, {id: y, p: '{{ model }}'}]"
    found = expand(tmp_path, text, model=None)
    assert [job.model for job in found.jobs] == ["a/b", "c/d", "e/f", "a/b", "c/d"]
    assert [job.input["p"] for job in found.jobs] == ["x", "x", "x", "a/b", "c/d"]
    assert len(set(found.ids)) == 5
    manifest = open_manifest(tmp_path / "m.yaml")
    assert result_of(manifest.models()) == {"a/b", "c/d", "e/f"}
    assert len(expand(tmp_path, text.replace("'{{ model }}'", "z"), model="g/h").jobs) == 2


def test_a_matrix_without_measure_is_a_problem(tmp_path):
    axes = ", ".join(f"k{n}: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]" for n in range(30))
    assert expand(tmp_path, f"jobs: [{{matrix: {{{axes}}}}}]").problems == [
        "m.yaml:1: matrix: this row makes more than 1000000 jobs"
    ]


# Templates


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ n }}", 5),
        ("{{n}}", 5),
        (" {{ n }} ", 5),
        ("{{ n }}s", "5s"),
        ("{{ f }}-{{ yes }}", "0.5-true"),
        ("{{ who.name }}", "Ann"),
        ("{{ who.tags }}", ["a", "b"]),
        ("tags: {{ who.tags }}", 'tags: ["a","b"]'),
        ("{{ a.b }}", "whole name first"),
        ("{{ größe }}", "XL"),
        ("{{{ n }}}", "{5}"),
        ("{{ text }}", "{{ n }}"),
        ("{{ text }}!", "{{ n }}!"),
        ("{{ nothing }}", None),
        (["{{ n }}", {"deep": "x{{ n }}"}, 7], [5, {"deep": "x5"}, 7]),
    ],
)
def test_a_template_is_filled_and_a_whole_one_keeps_its_type(text, value):
    variables = {
        "n": 5, "f": 0.5, "yes": True, "who": {"name": "Ann", "tags": ["a", "b"]}, "a": {"b": "member"},
        "a.b": "whole name first", "größe": "XL", "text": "{{ n }}", "nothing": None,
    }  # fmt: skip
    assert filled(text, variables) == value


@pytest.mark.parametrize(
    "text",
    ["{", "{%", "{#", "{% if x %}", "{# note #}", "{n}", "{{ }}", "{{ a + b }}", "{{ n|upper }}", "{{ n() }}",
     "{{ 5 }}", "{{ 'n' }}", "{ { n } }", "{{ n }", "{{ n.}}", "{{ .n }}", "}}{{", "{{ a-b }}", "{{-n-}}"],
)  # fmt: skip
def test_everything_else_in_a_prompt_is_text(text):
    assert filled(text, {}) == text
    assert list(names_in(text)) == []


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "{{" not in text))
@settings(max_examples=60)
def test_text_without_double_braces_is_never_touched(text):
    assert filled(text, {}) is text


@given(st.text(alphabet="{}% #a.\n", max_size=30))
@settings(max_examples=150)
def test_braces_of_any_kind_give_text_or_name_what_is_missing(text):
    if {name.partition(".")[0] for name in names_in(text)} - {"a"} or "a." in "".join(names_in(text)):
        with pytest.raises(TemplateError):
            filled(text, {"a": "x"})
    else:
        assert filled(text, {"a": "x"}).count("{") <= text.count("{")


def told(line):
    """A problem without its remedy."""
    return line.partition("; --vars")[0]


def test_an_undefined_name_tells_file_line_field_and_the_known_names(tmp_path):
    text = """
vars: {place: grass}
jobs:
  - prompt: "{{ animal }} in {{ plce }}"
    matrix: {animal: [a cat], camera: [{zoom: 2}]}
    nested: ["{{ camera.zom }}"]
    meta: {note: "{{ nobody }}"}
"""
    assert [told(line) for line in expand(tmp_path, text).problems] == [
        "m.yaml:4: prompt: 'plce' is not defined (known: animal, camera.zoom, place)",
        "m.yaml:6: nested: 'camera.zom' is not defined (known: animal, camera.zoom, place)",
        "m.yaml:7: meta.note: 'nobody' is not defined (known: animal, camera.zoom, place)",
    ]


def test_where_nothing_is_defined_that_is_said(tmp_path):
    found = expand(tmp_path, "jobs: [{p: '{{ x }}', id: 'a-{{ x }}'}]")
    assert [told(line) for line in found.problems] == [
        "m.yaml:1: p: 'x' is not defined (known: none)",
        "m.yaml:1: id: 'x' is not defined (known: none)",
    ]
    many = {f"v{n:02}": n for n in range(50)}
    (problem,) = expand(tmp_path, f"vars: {json.dumps(many)}\njobs: [{{p: '{{{{ x }}}}'}}]").problems
    assert told(problem).endswith("v11, ...)")


def test_a_null_variable_fits_a_whole_value_only(tmp_path):
    text = "jobs: [{p: '{{ x }}', q: 1, matrix: {x: [null]}}, {p: 'a {{ x }}', matrix: {x: [null]}}]"
    found = expand(tmp_path, text)
    assert found.inputs == [{"q": 1}]
    assert found.problems == ["m.yaml:1: p: 'x' is null, which no text can hold"]


def test_what_a_matrix_says_of_each_of_its_jobs_is_said_once(tmp_path):
    found = expand(tmp_path, "jobs: [{p: '{{ x }}', matrix: {n: [1, 2, 3]}}]")
    assert (len(found.problems), found.tally.invalid) == (1, 1)


def test_columns_of_a_table_are_variables_for_its_templates(tmp_path):
    found = read_text(
        tmp_path,
        "m.csv",
        "prompt,vars.who,vars.n:int,x\na {{ who }},cat,5,{{ n }}\n{{ who }},,,\n",
        **ANY,
    )
    assert found.inputs == [{"prompt": "a cat", "x": 5}]
    assert [told(line) for line in found.problems] == [
        "m.csv:3: prompt: 'who' is not defined (known: none)"
    ]
    assert found.problems[0].endswith(
        "; --vars who reads a column of that name, --var 'who={{ who }}' keeps it as literal text"
    )


# Repeat and ids


def test_samples_of_one_input_are_numbered_from_the_second_on(tmp_path):
    found = expand(tmp_path, "jobs: [{id: a, p: x, repeat: 3}, {p: y, repeat: 2}]")
    assert found.ids[:3] == ["a", "a-2", "a-3"]
    assert found.ids[4] == f"{found.ids[3]}-2"
    assert found.inputs[:3] == [{"p": "x"}] * 3


def test_repeat_of_the_manifest_is_for_rows_without_their_own(tmp_path):
    assert expand(tmp_path, "repeat: 2\njobs: [{id: a, p: x}, {id: b, p: y, repeat: 1}]").ids == [
        "a",
        "a-2",
        "b",
    ]


def test_jobs_of_a_matrix_get_a_hash_of_its_values(tmp_path):
    found = expand(
        tmp_path, "matrix: {n: [1, 2]}\njobs: [{id: a, p: '{{ who }}', matrix: {who: [cat]}, repeat: 2}]"
    )
    first, second = (f"a-{matrix_digest({'n': n, 'who': 'cat'})}" for n in (1, 2))
    assert found.ids == [first, f"{first}-2", second, f"{second}-2"]


def test_new_values_in_a_matrix_leave_the_other_ids_alone(tmp_path):
    few = expand(tmp_path, "jobs: [{id: a, matrix: {n: [1, 3]}}]").ids
    many = expand(tmp_path, "jobs: [{id: a, matrix: {n: [0, 1, 2, '3']}}]").ids
    assert many[1::2] == few


def test_an_id_with_a_template_already_tells_its_jobs_apart(tmp_path):
    found = expand(tmp_path, "jobs: [{id: 'a-{{ who }}', matrix: {who: [cat, dog]}}]")
    assert found.ids == ["a-cat", "a-dog"]
    found = expand(tmp_path, "jobs: [{id: 'a-{{ who }}', matrix: {who: [cat], n: [1]}}]")
    assert found.ids == [f"a-cat-{matrix_digest({'n': 1})}"]
    assert expand(tmp_path, "jobs: [{id: '{{ n }}', matrix: {n: [5]}}]").ids == ["5"]


# Globs


def test_a_glob_makes_one_job_for_each_file_in_sorted_order(tmp_path):
    for name in ("b.png", "a.png", "c.txt", "deep/d.png"):
        write(tmp_path, f"photos/{name}", PNG + name.encode())
    (tmp_path / "photos/folder.png").mkdir()
    text = """
jobs:
  - prompt: "{{ file.stem }} is {{ file.name }}, {{ file.suffix }} at {{ file.path }}"
    image_url: {glob: "photos/*.png"}
"""
    found = expand(tmp_path, text)
    assert [job.input["prompt"] for job in found.jobs] == [
        "a is a.png, .png at photos/a.png",
        "b is b.png, .png at photos/b.png",
    ]
    assert [job.input["image_url"].shown for job in found.jobs] == ["photos/a.png", "photos/b.png"]
    everywhere = expand(tmp_path, text.replace("photos/*", "**/*"))
    assert [job.input["image_url"].shown for job in everywhere.jobs] == [
        "photos/a.png", "photos/b.png", "photos/deep/d.png",
    ]  # fmt: skip


def test_the_jobs_of_a_glob_are_told_apart_as_those_of_a_matrix(tmp_path):
    for name in ("a.png", "b.png"):
        write(tmp_path, name, PNG + name.encode())
    by_hash = expand(tmp_path, "jobs: [{id: x, image_url: {glob: '*.png'}}]").ids
    assert by_hash == [f"x-{matrix_digest({'image_url': name})}" for name in ("a.png", "b.png")]
    assert expand(tmp_path, "jobs: [{id: 'x-{{ file.stem }}', image_url: {glob: '*.png'}}]").ids == [
        "x-a",
        "x-b",
    ]


def test_a_glob_may_stand_in_a_matrix_in_defaults_and_beside_from(tmp_path):
    write(tmp_path, "a.png", PNG)
    write(tmp_path, "p.csv", "prompt\nx\ny\n")
    for text in (
        "matrix: {image_url: {glob: '*.png'}}\njobs: [{prompt: x}, {prompt: y}]",
        "defaults: {image_url: {glob: '*.png'}}\njobs: [{prompt: x}, {prompt: y}]",
        "jobs: [{from: p.csv, image_url: {glob: '*.png'}}]",
    ):
        found = expand(tmp_path, text)
        assert [(job.input["prompt"], job.input["image_url"].shown) for job in found.jobs] == [
            ("x", "a.png"),
            ("y", "a.png"),
        ]


def test_a_glob_gives_files_to_any_field_and_to_variables(tmp_path):
    write(tmp_path, "a.png", PNG)
    job = one(tmp_path, "jobs: [{reference: {glob: '*.png'}}]")
    assert job.input["reference"].sha256
    job = one(
        tmp_path, "jobs: [{image: '{{ pic }}', p: 'of {{ pic }}', matrix: {pic: {glob: '*.png'}}}]"
    )
    assert (job.input["image"].shown, job.input["p"]) == ("a.png", "of a.png")


def test_a_file_name_is_never_a_template(tmp_path):
    write(tmp_path, "{{ x }}.png", PNG)
    job = one(tmp_path, "jobs: [{image_url: {glob: '*.png'}, p: '{{ file.stem }}'}]")
    assert (job.input["image_url"].shown, job.input["p"]) == ("{{ x }}.png", "{{ x }}")


def test_a_glob_of_a_list_field_gives_lists_of_one(tmp_path):
    from batcher.schema.spec import ModelSpec

    spec = ModelSpec.from_catalogue(
        {
            "model_id": "l",
            "input_schema": {"properties": {"images": {"type": "array", "items": {"type": "string"}}}},
        }
    )
    write(tmp_path, "a.png", PNG)
    found = read_text(tmp_path, "m.yaml", "jobs: [{images: {glob: '*.png'}}]", {"l": spec}, model="l")
    assert [media.shown for media in found.jobs[0].input["images"]] == ["a.png"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("jobs: [{image_url: {glob: '*.gif'}}]", "image_url: glob '*.gif' matches no file in "),
        (
            "jobs: [{image_url: {glob: '*.png'}, end_image_url: {glob: '*.png'}}]",
            "end_image_url: a second glob",
        ),
        ("jobs: [{matrix: {image_url: {glob: '*.gif'}}}]", "image_url: glob '*.gif' matches no file"),
        ("jobs: [{image_url: {glob: 'a\\0b'}}]".replace("'", '"'), "image_url: glob "),
        (f"jobs: [{{image_url: {{glob: '{'*/' * 3000}'}}}}]", "image_url: glob "),
    ],
)
def test_a_glob_that_finds_nothing_or_has_a_rival_is_a_problem(tmp_path, text, problem):
    write(tmp_path, "a.png", PNG)
    found = expand(tmp_path, text)
    assert found.problems[0].removeprefix("m.yaml:1: ").startswith(problem)
    assert (found.jobs, found.tally.invalid) == ([], 1)


def test_each_pass_sees_the_same_files(tmp_path):
    write(tmp_path, "a.png", PNG)
    from batcher.manifest.tally import ManifestTally

    manifest = open_manifest(
        write(tmp_path, "m.yaml", "jobs: [{image_url: {glob: '*.png'}}]"), Overrides(model="m")
    )
    first = [job.id for job in manifest.jobs({}, ManifestTally())]
    write(tmp_path, "b.png", MP4)
    assert [job.id for job in manifest.jobs({}, ManifestTally())] == first


# From


def test_the_rows_of_another_file_stand_where_it_is_named(tmp_path):
    write(tmp_path, "sub/p.csv", "p\nb\nc\n")
    found = expand(tmp_path, "jobs:\n  - p: a\n  - from: sub/p.csv\n  - p: d\n")
    assert [job.input["p"] for job in found.jobs] == list("abcd")
    assert [str(job.source).removeprefix(f"{tmp_path}/") for job in found.jobs] == [
        "m.yaml:2", "sub/p.csv:2", "sub/p.csv:3", "m.yaml:4",
    ]  # fmt: skip
    assert found.tally.rows == 4


def test_what_stands_beside_from_acts_as_defaults_matrix_vars_meta_model_and_repeat(tmp_path):
    write(tmp_path, "p.csv", "p,n,meta.a,model\n{{ v }},1,row,row/model\n{{ v }},,,\n")
    text = """
jobs:
  - from: p.csv
    n: 9
    vars: {v: x}
    matrix: {m: [1, 2]}
    meta: {a: entry, b: entry}
    model: entry/model
    repeat: 2
"""
    jobs = expand(tmp_path, text, model=None).jobs
    assert [(job.input["m"], job.input["n"]) for job in jobs] == [
        (1, "1"), (1, "1"), (2, "1"), (2, "1"), (1, 9), (1, 9), (2, 9), (2, 9),
    ]  # fmt: skip
    assert {job.input["p"] for job in jobs} == {"x"}
    assert [job.meta for job in jobs[::4]] == [{"a": "row", "b": "entry"}, {"a": "entry", "b": "entry"}]
    assert [job.model for job in jobs[::4]] == ["row/model", "entry/model"]
    assert result_of(open_manifest(tmp_path / "m.yaml").models()) == {"row/model", "entry/model"}


def test_nested_files_rank_from_the_inside_out(tmp_path):
    write(
        tmp_path,
        "inner.yaml",
        "defaults: {a: inner, b: inner, c: inner}\nmatrix: {x: [inner]}\nvars: {v: inner}\njobs: [{a: row, p: '{{ v }}'}]",
    )
    write(
        tmp_path,
        "middle.yaml",
        "defaults: {c: middle, d: middle}\njobs: [{from: inner.yaml, b: entry, x: entry}]",
    )
    text = """
defaults: {d: outer, e: outer}
matrix: {x: [outer], y: [outer]}
vars: {v: outer}
jobs: [{from: middle.yaml, f: outer entry}]
"""
    assert one(tmp_path, text).input == {
        "a": "row", "b": "entry", "c": "inner", "d": "middle", "e": "outer", "f": "outer entry",
        "x": "inner", "y": "outer", "p": "inner",
    }  # fmt: skip


def test_a_path_is_relative_to_the_file_in_which_it_stands(tmp_path):
    for folder in ("", "sub/"):
        write(tmp_path, f"{folder}pic.png", PNG + folder.encode())
    write(
        tmp_path,
        "sub/p.yaml",
        "jobs: [{image_url: pic.png}, {n: 1}, {image_url: pic.png, n: 2, matrix: {m: [1]}}]",
    )
    text = "defaults: {image_url: pic.png}\njobs: [{from: sub/p.yaml}]"
    paths = [job.input["image_url"].path for job in expand(tmp_path, text).jobs]
    inner, outer = str(tmp_path / "sub/pic.png"), str(tmp_path / "pic.png")
    assert paths == [inner, outer, inner]
    varied = "matrix: {image_url: [pic.png]}\njobs: [{from: sub/p.yaml}]"
    assert [job.input["image_url"].path for job in expand(tmp_path, varied).jobs] == [
        inner,
        outer,
        inner,
    ]
    found = expand(tmp_path, text, set={"image_url": "pic.png"})
    assert {job.input["image_url"].path for job in found.jobs} == {outer}


def test_a_glob_is_relative_to_the_file_in_which_it_stands(tmp_path):
    write(tmp_path, "pic.png", PNG)
    write(tmp_path, "sub/p.csv", "n\n1\n")
    for text in (
        "jobs: [{from: sub/p.csv, image_url: {glob: '*.png'}}]",
        "matrix: {image_url: {glob: '*.png'}}\njobs: [{from: sub/p.csv}]",
    ):
        assert one(tmp_path, text).input["image_url"].path == str(tmp_path / "pic.png")


def test_a_table_may_name_other_files_too(tmp_path):
    write(tmp_path, "a.csv", "p\nx\n")
    found = read_text(tmp_path, "m.csv", "from,n\na.csv,5\n", **ANY)
    assert found.inputs == [{"p": "x", "n": "5"}]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"m.yaml": "jobs:\n  - from: m.yaml\n"}, "m.yaml:2: from: m.yaml includes itself"),
        (
            {"m.yaml": "jobs: [{from: a/b.yaml}]", "a/b.yaml": "jobs:\n  - from: ../m.yaml\n"},
            "a/b.yaml:2: from: ../m.yaml includes itself",
        ),
        ({"m.yaml": "jobs: [{from: no.csv}]"}, "m.yaml:1: from: no.csv: no such file"),
        (
            {"m.yaml": "jobs: [{from: a.jpe}]", "a.jpe": "x"},
            "m.yaml:1: from: a.jpe: not a kind of manifest",
        ),
        (
            {"m.yaml": "jobs: [{from: a.csv}]", "a.csv": "a,a\n"},
            "m.yaml:1: from: a.csv:1: a: two columns of this name",
        ),
        (
            {"m.yaml": "jobs: [{from: a.csv, id: x}]", "a.csv": "a\n"},
            "m.yaml:1: from: rows of another file can't share the id 'x'",
        ),
        ({"m.yaml": "jobs: [{from: 5}]"}, "m.yaml:1: from: 5 is neither a file nor a mapping"),
        ({"m.yaml": "jobs: [{from: 'a\\0.csv'}]".replace("'", '"')}, "m.yaml:1: from: "),
    ],
)
def test_a_file_that_can_t_be_included_is_a_problem_of_its_entry(tmp_path, files, problem):
    for name, content in files.items():
        write(tmp_path, name, content)
    found = read(tmp_path / "m.yaml", **ANY)
    assert found.problems[0].startswith(problem)
    assert (len(found.problems), found.tally.invalid, found.jobs) == (1, 1, [])


def test_the_other_rows_are_checked_when_a_file_is_missing(tmp_path):
    found = expand(tmp_path, "jobs: [{from: no.csv}, {p: '{{ x }}'}, {p: a}]")
    assert (len(found.problems), len(found.jobs)) == (2, 1)


def test_a_cycle_through_a_link_is_found(tmp_path):
    write(tmp_path, "m.yaml", "jobs: [{from: link.yaml}]")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "m.yaml")
    assert "includes itself" in read(tmp_path / "m.yaml", **ANY).problems[0]


def test_one_file_may_be_included_twice_with_different_settings(tmp_path):
    write(tmp_path, "p.csv", "p\nx\n")
    found = expand(tmp_path, "jobs: [{from: p.csv, n: 1}, {from: p.csv, n: 2}]")
    assert found.inputs == [{"p": "x", "n": 1}, {"p": "x", "n": 2}]


def test_files_nest_to_a_limit(tmp_path):
    for n in range(30):
        write(tmp_path, f"{n}.yaml", f"jobs: [{{p: {n}}}, {{from: {n + 1}.yaml}}]")
    found = read(tmp_path / "0.yaml", **ANY)
    assert found.problems == ["20.yaml:1: from: files include each other deeper than 20"]
    assert len(found.jobs) == 21


def test_a_broken_table_inside_another_manifest_stops_the_pass(tmp_path):
    from batcher.errors import ManifestError

    write(tmp_path, "p.csv", 'p\n"x\n')
    with pytest.raises(ManifestError, match=r"p\.csv:2: a quote is opened here"):
        expand(tmp_path, "jobs: [{from: p.csv}]")
    assert result_of(open_manifest(tmp_path / "m.yaml", Overrides()).models()) == set()


def test_models_are_read_from_rows_only_where_rows_can_name_them(tmp_path):
    path = write(tmp_path, "m.csv", 'prompt\n"broken\n')
    assert result_of(open_manifest(path, Overrides(model="a/b")).models()) == {"a/b"}
    assert result_of(open_manifest(path).models()) == set()
    path = write(tmp_path, "n.csv", "prompt,model\nx,a/b\ny,c/d\n")
    assert result_of(open_manifest(path).models()) == {"a/b", "c/d"}
    path = write(tmp_path, "o.jsonl", '{"model": "a/b"}\n{"matrix": {"model": ["c/d", "e/f"]}}\n')
    assert result_of(open_manifest(path).models()) == {"a/b", "c/d", "e/f"}
    path = write(tmp_path, "p.yaml", "model: a/b\njobs: [{p: x}, {p: y, model: c/d}]")
    assert result_of(open_manifest(path).models()) == {"a/b", "c/d"}


def test_a_changed_manifest_is_noticed_when_models_are_read(tmp_path):
    from batcher.manifest.rows import ManifestChanged

    path = write(tmp_path, "n.csv", "prompt,model\nx,a/b\n")
    manifest = open_manifest(path)
    write(tmp_path, "n.csv", "prompt,model\nx,a/b\ny,a/b\n")
    with pytest.raises(ManifestChanged):
        result_of(manifest.models())


def test_an_event_loop_can_do_other_work_while_models_are_read(tmp_path):
    rows = "".join(f"x{number},a/b\n" for number in range(1280))
    assert len(list(open_manifest(write(tmp_path, "n.csv", f"prompt,model\n{rows}")).models())) == 10


def test_a_changed_file_inside_another_manifest_stops_the_pass(tmp_path):
    from batcher.manifest.rows import ManifestChanged
    from batcher.manifest.tally import ManifestTally

    write(tmp_path, "p.csv", "p\nx\n")
    manifest = open_manifest(write(tmp_path, "m.yaml", "jobs: [{from: p.csv}]"), Overrides(model="m"))
    assert len(list(manifest.jobs({}, ManifestTally()))) == 1
    write(tmp_path, "p.csv", "p\nx\ny\n")
    with pytest.raises(ManifestChanged):
        list(manifest.jobs({}, ManifestTally()))


# Ids don't depend on where a job stands or how it is written


FIELDS = st.fixed_dictionaries(
    {"prompt": st.text("abc äß-.,", min_size=1, max_size=12).filter(str.strip)},
    optional={
        "duration": st.sampled_from([5, 10]),
        "cfg_scale": st.sampled_from([0.25, 0.5, 1]),
        "aspect_ratio": st.sampled_from(["16:9", "1:1"]),
        "negative_prompt": st.sampled_from(["no", "true", "007", "5", "1e3", "~", "[1]", "a, b"]),
    },
)


@given(st.lists(FIELDS, min_size=1, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_row_is_the_same_job_in_every_format_and_every_order(tmp_path, jobs, random):
    import csv
    import io

    jobs = [{**job, "image_url": URL} for job in jobs]
    names = sorted({name for job in jobs for name in job})
    table = io.StringIO()
    csv.writer(table).writerows([names, *([job.get(name) for name in names] for job in jobs)])
    shuffled = random.sample(jobs, len(jobs))
    written = {
        "a.csv": table.getvalue(),
        "a.jsonl": "\n".join(json.dumps(job) for job in shuffled),
        "a.json": json.dumps([*shuffled, {**jobs[0], "prompt": "one more"}]),
        "a.yaml": yaml.safe_dump({"model": KLING.model_id, "jobs": shuffled}),
    }
    ids = [set(read_text(tmp_path, name, content).ids) for name, content in written.items()]
    assert ids[0] == ids[1] == ids[3]
    assert ids[0] < ids[2]


def test_a_typed_header_or_a_schema_does_not_change_an_id(tmp_path):
    plain = read_text(tmp_path, "a.csv", f"prompt,image_url,duration\nx,{URL},5\n").ids
    typed = read_text(tmp_path, "b.csv", f"prompt,image_url,duration:int\nx,{URL},5\n").ids
    without = read_text(tmp_path, "c.csv", f"prompt,image_url,duration\nx,{URL},5.0\n", {}).ids
    assert plain == typed == without


# What a job keeps of its variables


def test_a_job_keeps_its_variables_and_neither_its_model_nor_its_file_among_them(tmp_path):
    (tmp_path / "cat.png").write_bytes(PNG)
    text = f"""
vars: {{mood: calm, none: null}}
matrix: {{place: [Paris], model: [{KLING.model_id}]}}
jobs:
  - {{prompt: "{{{{ mood }}}} {{{{ place }}}} {{{{ file.stem }}}}", vars: {{hour: 9}}, image_url: {{glob: "*.png"}}}}
"""
    found = read_text(tmp_path, "m.yaml", text)
    assert found.problems == []
    assert [job.vars for job in found.jobs] == [{"mood": "calm", "place": "Paris", "hour": 9}]
    plain = one(tmp_path, "vars: {mood: calm}\njobs: [{prompt: x, vars: {mood: wild}}]")
    assert plain.vars == {"mood": "wild"}


def test_variables_make_no_other_job(tmp_path):
    with_them = one(tmp_path, "vars: {mood: calm}\njobs: [{prompt: x}]")
    without = one(tmp_path, "jobs: [{prompt: x}]")
    assert (with_them.id, with_them.digest) == (without.id, without.digest)
