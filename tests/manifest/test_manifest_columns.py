"""ColumnRules under other names: renamed, made variables or metadata, dropped; nothing unasked."""

import pytest

from batcher.errors import ManifestError
from batcher.jobs.column_rules import Mapped
from batcher.schema.spec import KLING, ModelSpec
from tests.support.manifest_files import URL, read_text, write

ANY = {"model": "some/model"}
SPEC = ModelSpec.from_catalogue(
    {
        "model_id": "m",
        "input_schema": {
            "required": ["prompt"],
            "properties": {
                "prompt": {"type": "string"},
                "numFrames": {"type": "integer"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "sizes": {"type": "array", "items": {"type": "integer"}},
                "camera": {"type": "object"},
                "image_urls": {"type": "array", "items": {"type": "string"}, "format": "image_uris"},
            },
        },
    }
)


def mapped(folder, name, content, *, specs=None, model="m", said=None, **overrides):
    specs = {"m": SPEC} if specs is None else specs
    columns = Mapped(**(said or {}))
    return read_text(folder, name, content, specs, model=model, columns=columns, **overrides)


TABLE = "Caption,Image Path,notes\na cat,x,n\n"
LINES = '{"Caption": "a cat", "Image Path": "x", "notes": "n"}\n'


@pytest.mark.parametrize(("name", "content"), [("m.csv", TABLE), ("m.jsonl", LINES)])
@pytest.mark.parametrize(
    "said",
    [
        {"rename": (("caption", "prompt"),), "meta": ("image_path",), "ignore": ("notes",)},
        {"rename": (("Caption", "Prompt"),), "meta": ("Image Path",), "ignore": ("*",)},
        {"rename": (("CAPTION", "prompt:str"), ("image path", "meta.image_path")), "ignore": ("Notes",)},
    ],
)
def test_columns_are_renamed_kept_and_dropped_however_they_are_spelled(tmp_path, name, content, said):
    found = mapped(tmp_path, name, content, said=said)
    assert (found.problems, found.inputs) == ([], [{"prompt": "a cat"}])
    assert found.jobs[0].meta == {"image_path": "x"}


def test_all_that_is_no_input_can_be_kept_or_dropped_at_once(tmp_path):
    kept = mapped(tmp_path, "m.csv", "prompt,a,b\nx,1,2\n", said={"meta": ("*",)})
    assert (kept.inputs, kept.jobs[0].meta) == ([{"prompt": "x"}], {"a": "1", "b": "2"})
    dropped = mapped(tmp_path, "m.csv", "prompt,a,b\nx,1,2\n", said={"ignore": ("*",), "meta": ("a",)})
    assert (dropped.inputs, dropped.jobs[0].meta) == ([{"prompt": "x"}], {"a": "1"})
    assert kept.ids == dropped.ids


def test_what_is_no_input_of_an_unknown_model_can_t_be_known(tmp_path):
    found = mapped(tmp_path, "m.csv", "prompt,a\nx,1\n", specs={}, said={"meta": ("*",)})
    assert "the inputs of m are not known" in found.problems[0]


def test_names_reach_into_nested_json(tmp_path):
    line = '{"custom_id": "r-1", "method": "POST", "body": {"prompt": "a cat", "size": "big", "n": {"f": 5}}}'
    said = {
        "rename": (("body.prompt", "prompt"), ("custom_id", "id"), ("body.n.f", "numFrames")),
        "meta": ("body.size",),
        "ignore": ("method",),
    }
    found = mapped(tmp_path, "m.jsonl", line, said=said)
    assert (found.problems, found.ids) == ([], ["r-1"])
    assert found.inputs == [{"prompt": "a cat", "numFrames": 5}]
    assert found.jobs[0].meta == {"body.size": "big"}
    rest = mapped(
        tmp_path, "m.jsonl", line, said={"rename": (("body.prompt", "prompt"),), "ignore": ("*",)}
    )
    assert rest.inputs == [{"prompt": "a cat"}]


def test_a_column_can_go_into_a_mapping(tmp_path):
    said = {"rename": (("zoom", "camera.zoom"), ("pan", "camera.move.pan:int"))}
    found = mapped(tmp_path, "m.csv", "prompt,zoom,pan\nx,2,5\n", said=said)
    assert found.inputs == [{"prompt": "x", "camera": {"zoom": "2", "move": {"pan": 5}}}]


def test_several_columns_make_one_list_in_their_order(tmp_path):
    said = {"rename": (("b", "tags"), ("a", "tags"))}
    table = "prompt,a,b\nx,1,2\ny,,3\nz,,\n"
    found = mapped(tmp_path, "m.csv", table, said=said)
    assert [job.get("tags") for job in found.inputs] == [["1", "2"], ["3"], None]
    typed = mapped(tmp_path, "m.csv", "prompt,sizes,s2\nx,1,2\n", said={"rename": (("s2", "sizes"),)})
    assert typed.inputs[0]["sizes"] == [1, 2]
    lines = mapped(tmp_path, "m.jsonl", '{"prompt": "x", "a": "1", "b": "2"}', said=said)
    assert lines.ids == found.ids[:1]


def test_a_cell_with_separators_makes_a_list_if_its_type_says_so(tmp_path):
    table = 'prompt,tags:list\na,x|y;z\nb,"x, y"\nc,"[""x"", ""y""]"\nd,x\n'
    found = mapped(tmp_path, "m.csv", table)
    assert [job["tags"] for job in found.inputs] == [["x", "y;z"], ["x", "y"], ["x", "y"], ["x"]]
    said = {"rename": (("t", "tags:list"),)}
    assert mapped(tmp_path, "m.csv", "prompt,t\na,x;y\n", said=said).inputs[0]["tags"] == ["x", "y"]


def test_two_columns_renamed_to_one_scalar_are_a_problem_of_the_rows_that_have_both(tmp_path):
    said = {"rename": (("a", "prompt"), ("b", "prompt"))}
    found = mapped(tmp_path, "m.csv", "a,b\nx,\n,y\nx,y\n", said=said)
    assert [job["prompt"] for job in found.inputs] == ["x", "y"]
    assert found.problems == ['m.csv:4: prompt: ["x","y"] is not text']


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (",prompt", {"ignore": ("",)}),
        (",prompt", {"ignore": ("#1",)}),
        ("scene: title,prompt", {"ignore": ("scene: title",)}),
        ("time (mm:ss),prompt", {"ignore": ("Time (mm:ss)",)}),
        ("seed:int,prompt", {"ignore": ("seed",)}),
        ("prompt,prompt", {"ignore": ("#1",)}),
        ('"a,b",prompt', {"ignore": ("#1",)}),
        ("meta.a,prompt", {"ignore": ("meta.a",)}),
        ("ID,prompt", {"ignore": ("id",)}),
    ],
)
def test_any_header_can_be_dropped(tmp_path, header, said):
    found = mapped(tmp_path, "m.csv", f"{header}\nz,x\n", said=said)
    assert (found.problems, found.inputs) == ([], [{"prompt": "x"}])
    assert found.jobs[0].meta == {}


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("", ""),
        ("", "#1"),
        ("scene: title", "scene: title"),
        ("a=b", "a=b"),
        ("x:int", "x"),
        ("ID", "id"),
    ],
)
def test_any_header_can_be_renamed(tmp_path, header, column):
    found = mapped(
        tmp_path, "m.csv", f"{header},q\nx,1\n", said={"rename": ((column, "prompt"), ("q", "meta.q"))}
    )
    assert (found.problems, found.inputs) == ([], [{"prompt": "x"}])


def test_headers_that_stand_twice_are_told_with_what_helps(tmp_path):
    with pytest.raises(ManifestError, match=r"number 1 and 3 .--ignore '#3' drops one"):
        mapped(tmp_path, "m.csv", "a,prompt,A\n1,x,2\n")
    found = mapped(
        tmp_path, "m.csv", "a,prompt,A\n1,x,2\n", said={"rename": (("#1", "tags"), ("#3", "tags"))}
    )
    assert found.inputs == [{"prompt": "x", "tags": ["1", "2"]}]


def test_renames_do_not_chain(tmp_path):
    said = {"rename": (("a", "b"), ("b", "a"))}
    found = mapped(tmp_path, "m.csv", "a,b\n1,2\n", specs={}, said=said)
    assert found.inputs == [{"b": "1", "a": "2"}]


def test_columns_are_variables_for_templates(tmp_path):
    content = "Caption\na cat\n"
    named = mapped(
        tmp_path, "m.csv", content, said={"vars": ("caption",)}, set={"prompt": "so {{ caption }}"}
    )
    bare = mapped(tmp_path, "m.csv", content, set={"prompt": "so {{ Caption }}"})
    assert named.inputs == bare.inputs == [{"prompt": "so a cat"}]
    around = mapped(tmp_path, "m.csv", "prompt\na cat\n", set={"prompt": "so {{ prompt }}!"})
    assert around.inputs == [{"prompt": "so a cat!"}]


def test_a_variable_of_the_command_line_wins_and_keeps_braces(tmp_path):
    text = "prompt,vars.who\n{{ who }} sees {{name}},a cat\n"
    found = mapped(tmp_path, "m.csv", text, vars={"who": "a dog", "name": "{{name}}"})
    assert found.inputs == [{"prompt": "a dog sees {{name}}"}]


def test_without_a_schema_inputs_keep_the_users_case(tmp_path):
    said = {"rename": (("n", "numFrames"),)}
    rows = "prompt,negativePrompt,Image Size,n\nx,y,z,1\n"
    found = mapped(tmp_path, "m.csv", rows, specs={}, said=said)
    assert found.inputs == [{"prompt": "x", "negativePrompt": "y", "Image_Size": "z", "numFrames": "1"}]
    line = '{"prompt": "x", "negativePrompt": "y", "Image Size": "z", "n": "1"}'
    assert mapped(tmp_path, "m.jsonl", line, specs={}, said=said).ids == found.ids


@pytest.mark.parametrize("key", ["numFrames", "numframes", "NumFrames", "NUMFRAMES"])
def test_keys_of_every_format_reach_the_field_in_any_case(tmp_path, key):
    found = [
        mapped(tmp_path, "m.csv", f"Prompt,{key}\nx,5\n"),
        mapped(tmp_path, "m.jsonl", f'{{"PROMPT": "x", "{key}": 5}}'),
        mapped(tmp_path, "m.json", f'[{{"prompt": "x", "{key}": 5.0}}]'),
        mapped(tmp_path, "m.yaml", f"jobs: [{{Prompt: x, {key}: 5}}]"),
        mapped(tmp_path, "m.yaml", f"defaults: {{{key}: 5}}\njobs: [{{prompt: x}}]"),
        mapped(tmp_path, "m.yaml", f"jobs: [{{prompt: x, matrix: {{{key}: [5]}}}}]"),
        mapped(tmp_path, "m.csv", "prompt\nx\n", set={key: "5"}),
    ]
    assert all(one.inputs == [{"prompt": "x", "numFrames": 5}] for one in found)
    assert len({one.ids[0] for one in found}) == 1


def test_a_setting_overrides_a_column_in_another_case(tmp_path):
    assert mapped(tmp_path, "m.csv", "prompt,numFrames\nx,5\n", set={"NUMFRAMES": "7"}).inputs == [
        {"prompt": "x", "numFrames": 7}
    ]


def test_one_field_in_two_spellings_is_a_problem(tmp_path):
    found = mapped(tmp_path, "m.jsonl", '{"prompt": "x", "Prompt": "y"}')
    assert found.problems == ["m.jsonl:1: prompt: is here twice, in different spellings"]


def test_a_from_entry_says_what_its_file_needs(tmp_path):
    write(tmp_path, "rows.csv", "caption,style,split,junk\na cat,oil,train,z\n")
    text = (
        "jobs:\n  - from: {file: rows.csv, columns: {caption: prompt}, vars: [style], meta: split, ignore: '*'}\n"
        "    tags: ['{{ style }}']\n"
    )
    found = mapped(tmp_path, "m.yaml", text)
    assert (found.problems, found.inputs) == ([], [{"prompt": "a cat", "tags": ["oil"]}])
    assert found.jobs[0].meta == {"split": "train"}
    over = mapped(tmp_path, "m.yaml", text, said={"ignore": ("split",)})
    assert over.jobs[0].meta == {}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("columns: caption", "columns: a mapping"),
        ("columns: {a: ''}", "columns: a mapping"),
        ("vars: {a: b}", "vars: "),
        ("meta: [1]", "meta: "),
        ("colums: {a: b}", "'colums'"),
    ],
)
def test_a_from_entry_that_says_nonsense_is_refused(tmp_path, entry, problem):
    write(tmp_path, "rows.csv", "prompt\nx\n")
    found = mapped(tmp_path, "m.yaml", f"jobs: [{{from: {{file: rows.csv, {entry}}}}}]")
    assert problem in found.problems[0]


def test_an_input_that_the_schema_lacks_can_be_sent_all_the_same(tmp_path):
    line = '{"prompt": "x", "lora": {"path": "p"}, "other": 1}'
    found = mapped(tmp_path, "m.jsonl", line, extra=("lora",))
    assert [p.partition(": unknown")[0] for p in found.problems] == ["m.jsonl:1: other"]
    kept = mapped(tmp_path, "m.jsonl", line, extra=("lora",), said={"ignore": ("*",)})
    assert kept.inputs == [{"prompt": "x", "lora": {"path": "p"}}]


def test_a_required_name_without_a_property_takes_anything(tmp_path):
    spec = ModelSpec.from_catalogue(
        {
            "model_id": "m",
            "input_schema": {"required": ["image_urls"], "properties": {"prompt": {"type": "string"}}},
        }
    )
    assert spec.undescribed == ("image_urls",)
    good, bad = f'{{"prompt": "x", "image_urls": ["{URL}"]}}', '{"prompt": "x"}'
    found = mapped(tmp_path, "m.jsonl", f"{good}\n{bad}\n", specs={"m": spec})
    assert found.inputs == [{"prompt": "x", "image_urls": [URL]}]
    assert found.problems == ["m.jsonl:2: image_urls: required, but missing"]


# Duplicates


def test_duplicates_are_told_with_both_lines_and_what_they_lose(tmp_path):
    found = mapped(tmp_path, "m.csv", "prompt,meta.no\nx,17\nx,42\nx,17\n")
    assert (len(found.jobs), found.tally.duplicates, found.tally.meta_differs) == (1, 2, 1)
    lines = [str(repeated).replace(f"{tmp_path}/", "") for repeated in found.tally.repeated]
    assert lines == ["m.csv:3 is m.csv:2 (other metadata)", "m.csv:4 is m.csv:2"]
    assert "--per-row" in "".join(found.tally.notices())


def test_rows_that_are_sent_differently_and_are_one_job_are_told(tmp_path):
    signed = "https://example.com/a.png?Policy={}&Signature=s&Key-Pair-Id=k"
    lines = [f'{{"prompt": "x", "image_urls": ["{signed.format(n)}"]}}' for n in "ab"]
    lines += ['{"prompt": "a\\r\\nb"}', '{"prompt": "a\\nb"}']
    found = mapped(tmp_path, "m.jsonl", "\n".join(lines))
    assert len(found.jobs) == 2
    assert all("sent differently" in str(repeated) for repeated in found.tally.repeated)


def test_each_row_can_be_a_job_of_its_own(tmp_path):
    rows = "prompt,meta.no,repeat\nx,17,\nx,42,\ny,,2\ny,,\n"
    found = mapped(tmp_path, "m.csv", rows, per_row=True)
    x, x2, y, y2, y3 = found.ids
    assert (x2, y2, y3) == (f"{x}-2", f"{y}-2", f"{y}-3")
    assert [job.meta for job in found.jobs[:2]] == [{"no": "17"}, {"no": "42"}]


def test_rows_of_another_model_are_counted(tmp_path):
    text = f"prompt,model,image_url\nx,a/b,{URL}\ny,,{URL}\nz,{KLING.model_id},{URL}\n"
    found = read_text(tmp_path, "m.csv", text)
    assert found.tally.overridden == 1
    assert "m.csv:2 names a/b" in "".join(found.tally.notices())


# Problems of many rows


def test_a_problem_of_many_rows_is_one_line_and_one_off_mistakes_come_first(tmp_path):
    rows = "".join(f"x{n},{'seven' if n == 30 else 5},n\n" for n in range(60))
    found = mapped(tmp_path, "m.csv", f"prompt,numFrames,notes\n{rows}")
    assert found.problems[0] == "m.csv:32: numFrames: 'seven' is not an integer"
    assert found.problems[1].startswith("m.csv:2: notes: unknown field (")
    assert found.problems[1].endswith(", in 60 rows")
    assert found.tally.problem_count == 61


def test_problems_that_differ_only_by_their_values_are_cut_short(tmp_path):
    rows = "".join(f"x{n},w{n}\n" for n in range(40))
    found = mapped(tmp_path, "m.csv", f"prompt,numFrames\n{rows}")
    assert len(found.problems) == 6
    assert found.problems[5] == "m.csv:7: numFrames: the same with other values, in 35 rows"
