"""Four formats read as one: rows, types, lines, and what is wrong with a file."""

import csv
import io
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batcher.errors import ManifestError
from batcher.jobs.column_rules import ColumnRules, Mapped
from batcher.manifest.files import LINES_BETWEEN_CHECKS, NUL
from batcher.manifest.load import open_manifest
from batcher.manifest.read import open_document
from batcher.manifest.rows import NO_HEADER, ManifestChanged
from batcher.manifest.tally import ManifestTally
from batcher.options.facts import Overrides
from batcher.schema.spec import BUILT_IN, KLING
from tests.support.manifest_files import PNG, URL, read, read_text, write

ROW = f"a cat,{URL}"


def rows(folder, name, content, **columns):
    path = write(folder, name, content)
    return list(open_document(path, name, ColumnRules(Mapped(**columns))).rows())


def inputs(folder, name, content):
    return [row.inputs for row in rows(folder, name, content)]


def refusal(folder, name, content):
    """The first line of what is said of a file that can't be read."""
    with pytest.raises(ManifestError) as caught:
        rows(folder, name, content)
    return caught.value.problems[0]


# Tables


def test_headers_are_trimmed_have_no_case_and_no_spaces(tmp_path):
    (row,) = inputs(tmp_path, "a.csv", " Prompt , Image  URL,DURATION\na,b,5\n")
    assert row == {"prompt": "a", "image_url": "b", "duration": "5"}


def test_cells_keep_their_spaces_commas_quotes_and_line_breaks(tmp_path):
    (row,) = inputs(tmp_path, "a.csv", 'prompt,x\n" a, ""b""\r\nc ",1\n')
    assert row["prompt"] == ' a, "b"\r\nc '


def test_an_empty_cell_is_absent_and_a_blank_row_is_no_row(tmp_path):
    found = rows(tmp_path, "a.csv", "\n\nprompt,x\n\na,\n , \n,b\n,,\nc\n")
    assert [row.inputs for row in found] == [{"prompt": "a"}, {"x": "b"}, {"prompt": "c"}]
    assert [row.line for row in found] == [5, 7, 9]


def test_a_row_stands_on_the_line_where_it_begins(tmp_path):
    found = rows(tmp_path, "a.csv", 'prompt\r\n"a\r\nb"\r\n\r\nc\r\n')
    assert [row.line for row in found] == [2, 5]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimiter_mark_and_line_ends_don_t_matter(tmp_path, delimiter, mark, end):
    lines = ["prompt,x".replace(",", delimiter), f'"a, b; c\td"{delimiter}1', ""]
    assert inputs(tmp_path, "a.csv", mark + end.join(lines)) == [{"prompt": "a, b; c\td", "x": "1"}]


def test_a_delimiter_inside_quotes_is_not_counted(tmp_path):
    assert inputs(tmp_path, "a.csv", '"prompt,,,";x\na;b\n') == [{"prompt,,,": "a", "x": "b"}]


def test_a_single_column_needs_no_delimiter(tmp_path):
    assert inputs(tmp_path, "a.csv", "prompt\na cat; asleep\n") == [{"prompt": "a cat; asleep"}]


def test_a_tsv_is_separated_by_tabs_whatever_its_header_holds(tmp_path):
    assert inputs(tmp_path, "a.tsv", "a,b,c\tx\n1\t2\n") == [{"a,b,c": "1", "x": "2"}]


def test_the_line_that_excel_puts_first_is_understood(tmp_path):
    found = rows(tmp_path, "a.csv", "sep=;\nprompt;x\na,b;1\n")
    assert [(row.line, row.inputs) for row in found] == [(3, {"prompt": "a,b", "x": "1"})]


def test_a_header_may_name_the_type_of_its_cells(tmp_path):
    header = "seed:int,cfg_scale:float,flag:BOOL,images:json,code:str,meta.n : int,vars.v:float\n"
    (row,) = rows(tmp_path, "a.csv", header + '7,0.5,yes,"[""a"", 1]",007,3,1.5\n')
    assert row.inputs == {"seed": 7, "cfg_scale": 0.5, "flag": True, "images": ["a", 1], "code": "007"}
    assert (row.meta, row.vars) == ({"n": 3}, {"v": 1.5})


@pytest.mark.parametrize(
    ("header", "cell", "problem"),
    [
        ("x:int", "1.5", "'1.5' is not an integer"),
        ("x:float", "high", "'high' is not a number"),
        ("x:bool", "maybe", "'maybe' is not true or false"),
        ("x:json", "[", "'[' is not JSON"),
        ("x:json", "9" * 30, f"{'9' * 30!r} is not JSON"),
    ],
)
def test_a_cell_that_is_not_of_its_header_s_type_is_a_problem(tmp_path, header, cell, problem):
    (row,) = rows(tmp_path, "a.csv", f"{header}\n{cell}\n")
    assert row.problems == ((2, "x", problem),)


def test_columns_for_metadata_variables_and_reserved_words(tmp_path):
    header = "id,model,repeat,meta.split,meta.Camera Type,vars.who,input.id,matrix,meta\n"
    row_text = 'a-1, a/b ,2,train,wide,me,7,"{""x"": [1]}","{""more"": 5}"\n'
    (row,) = rows(tmp_path, "a.csv", header + row_text)
    assert (row.id, row.model, row.repeat, row.inputs) == ("a-1", "a/b", 2, {"id": "7"})
    assert row.meta == {"split": "train", "camera_type": "wide", "more": 5}
    assert (row.vars, row.matrix, row.problems) == ({"who": "me"}, {"x": [1]}, ())


@pytest.mark.parametrize(
    ("header", "cell", "what"),
    [
        ("repeat", "many", "'many' is not a whole number"),
        ("repeat", "0", "0 is not a whole number"),
        ("matrix", "x", "'x' is not a mapping"),
        ("vars", "[1]", "[1] is not a mapping"),
    ],
)
def test_a_reserved_column_holds_what_its_key_holds(tmp_path, header, cell, what):
    (row,) = rows(tmp_path, "a.csv", f"prompt,{header}\na,{cell}\n")
    ((line, field, said),) = row.problems
    assert (line, field) == (2, header)
    assert said.startswith(what)


def test_a_reserved_column_with_nothing_but_spaces_is_absent(tmp_path):
    (row,) = rows(tmp_path, "a.csv", "prompt,from,id\na, , \n")
    assert (row.include, row.id, row.problems) == (None, None, ())


CELLS = st.lists(st.text("ab {}[]", max_size=4), max_size=6)


@given(
    st.lists(st.sampled_from(["x", "y", "meta.x", "meta.y", "vars.x"]), unique=True, min_size=1),
    st.lists(CELLS, max_size=5),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_cell_is_where_its_header_says_however_long_the_row(tmp_path, headers, table):
    content = io.StringIO(newline="")
    csv.writer(content).writerows([headers, *table])
    found = rows(tmp_path, "a.csv", content.getvalue())
    kept = [cells for cells in table if "".join(cells).strip()]
    assert len(found) == len(kept)
    for row, cells in zip(found, kept, strict=True):
        told = {name: cell for name, cell in zip(headers, cells, strict=False) if cell}
        for prefix, values in (("meta.", row.meta), ("vars.", row.vars)):
            mine = {
                name.removeprefix(prefix): told.pop(name)
                for name in headers
                if name.startswith(prefix) and name in told
            }
            assert (values or {}) == mine
        assert row.inputs == told
        assert bool(row.problems) == any(cells[len(headers) :])


def test_of_two_columns_for_one_piece_of_metadata_the_right_one_wins(tmp_path):
    for header, cells, expected in [
        ("meta.a,meta,prompt", '1,"{""a"": 2}",x', 2),
        ("meta,meta.a,prompt", '"{""a"": 2}",1,x', "1"),
    ]:
        (row,) = rows(tmp_path, "a.csv", f"{header}\n{cells}\n")
        assert row.meta == {"a": expected}


@pytest.mark.parametrize("header", ["prompt,meta.a", "prompt,meta.a,vars.z", "meta.a,prompt"])
@pytest.mark.parametrize("cells", ["{{ place }},b", "b,{{ place }}"])
def test_a_template_in_any_cell_of_a_table_is_seen(tmp_path, header, cells):
    write(tmp_path, "pairs.csv", f"{header}\n{cells}\n")
    top = "model: a/b\nvars: {place: home}\njobs: [{from: pairs.csv}]\n"
    (job,) = read_text(tmp_path, "m.yaml", top, model=None).jobs
    assert "home" in (job.input["prompt"], job.meta["a"])


def test_columns_can_be_kept_as_metadata_or_dropped_in_every_format(tmp_path):
    chosen = {"meta": ("note",), "ignore": ("draft", "id")}
    for name, content in [
        ("a.csv", "id,prompt,Note,draft\n1,a,b,c\n"),
        ("a.jsonl", '{"id": "1", "prompt": "a", "note": "b", "draft": "c"}'),
        ("a.yaml", "jobs: [{id: '1', prompt: a, note: b, draft: c}]"),
        ("a.json", '[{"id": "1", "prompt": "a", "note": "b", "draft": "c"}]'),
    ]:
        (row,) = rows(tmp_path, name, content, **chosen)
        assert (row.id, row.inputs, row.meta) == (None, {"prompt": "a"}, {"note": "b"})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a,A\n", "a.csv:1: a: two columns of this name, number 1 and 2"),
        ("\nprompt,input.prompt\n", "a.csv:2: prompt: two columns of this name, number 1 and 2"),
        ("meta.a,Meta.A\n", "a.csv:1: a: two columns of this name, number 1 and 2"),
        ("", "a.csv:1: no header: the file is empty"),
        ("\n \n", "a.csv:2: no header: the file is empty"),
        (",".join(f"c{n}" for n in range(5000)), "a.csv:1: more than 4096 columns"),
        ('prompt,x\na,b\nc,"d\ne\n', "a.csv:3: a quote is opened here and never closed"),
        (
            'prompt,x\n"a,c"b,d\n',
            'a.csv:2: a quote closes in the middle of the cell after "a,c"; double the quotes in it',
        ),
        (
            r"prompt" + "\n" + r'"a \"b\" c"',
            r'a.csv:2: quotes are written \" here; in a table a quote in quotes is doubled: ""',
        ),
        (
            f'prompt\na\n"{"x" * 1_100_000}"\n',
            "a.csv:3: a cell of more than 1048576 characters; is a quote missing?",
        ),
        (b"prompt\na\n\xff\n", "a.csv:3: byte 0xff is not UTF-8"),
        (b'prompt\na\n"b\n\xe4"\n', "a.csv:4: byte 0xe4 is not UTF-8"),
        (b"pr\xe4mpt\na\n", "a.csv:1: byte 0xe4 is not UTF-8"),
        ("prompt\na\n".encode("utf-16-le"), f"a.csv:1: {NUL}"),
    ],
)
def test_a_table_that_can_t_be_read_is_refused_with_its_line(tmp_path, content, problem):
    assert (
        refusal(tmp_path, "a.csv", content).partition("; it looks like")[0].partition(" (--ig")[0]
        == problem
    )


def test_all_problems_of_a_header_are_told_at_once(tmp_path):
    with pytest.raises(ManifestError) as caught:
        rows(tmp_path, "a.csv", "a,a,b:x,b:X\n")
    assert len(caught.value.problems) == 2


def test_cells_beyond_the_header_are_a_problem_unless_they_are_empty(tmp_path):
    good, bad = rows(tmp_path, "a.csv", "prompt,x\na,b,,\na,b,c\n")
    assert good.problems == ()
    assert bad.problems == ((3, "", "3 cells under 2 headers; is a quote missing?"),)


def test_a_column_without_a_header_must_be_empty(tmp_path):
    good, bad = rows(tmp_path, "a.csv", "prompt,,,x\na,,,b\na,lost,,b\n")
    assert (good.inputs, good.problems) == ({"prompt": "a", "x": "b"}, ())
    assert bad.problems == ((3, "", NO_HEADER),)


# JSONL and JSON


def test_jsonl_has_a_job_a_line_and_skips_blank_ones(tmp_path):
    found = rows(tmp_path, "a.jsonl", '\ufeff{"prompt": "a"}\r\n\n  \n{"prompt": "b", "x": [1, null]}')
    assert [(row.line, row.inputs) for row in found] == [
        (1, {"prompt": "a"}),
        (4, {"prompt": "b", "x": [1, None]}),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"a": 1} x',
        "[" * 5000,
        '{"a": 123456789012345678901}',
        '{"a": NaN}',
        '{"a": "\\ud800"}',
        "x",
        "{'a': 1}",
    ],
)
def test_a_line_that_is_not_json_is_one_invalid_row(tmp_path, line):
    good, bad, last = rows(tmp_path, "a.ndjson", f'{{"prompt": "a"}}\n{line}\n{{"prompt": "b"}}\n')
    assert (good.problems, last.problems) == ((), ())
    ((number, _, what),) = bad.problems
    assert number == 2
    assert what.startswith("not JSON: ")


@pytest.mark.parametrize("entry", ["5", "[]", "null", "true"])
def test_an_entry_that_is_no_mapping_is_a_problem_of_its_line(tmp_path, entry):
    for name, content, line in [
        ("a.jsonl", f"\n{entry}", 2),
        ("a.json", f"[\n\n{entry}]", 3),
        ("a.yaml", f"jobs:\n  - {entry}", 2),
    ]:
        (row,) = rows(tmp_path, name, content)
        assert [(p[0], p[2].endswith("is not a job: a mapping is needed")) for p in row.problems] == [
            (line, True)
        ]


def test_a_byte_that_is_not_utf8_in_jsonl_is_an_invalid_row(tmp_path):
    (row,) = rows(tmp_path, "a.jsonl", b'{"prompt": "\xff"}\n')
    assert row.problems[0][2].startswith("not JSON: ")


def test_json_is_a_list_of_jobs_or_a_mapping_like_the_yaml_one(tmp_path):
    listed = rows(tmp_path, "a.json", '\ufeff[\n {"prompt": "a"},\n\n {"prompt": "b"}]\n')
    assert [(row.line, row.inputs["prompt"]) for row in listed] == [(2, "a"), (4, "b")]
    path = write(
        tmp_path,
        "b.json",
        '{"name": "x", "defaults": {"n": 1},\n"jobs": [ {"prompt": "a"} ,\n{"prompt": "b"}]}',
    )
    document = open_document(path, "b.json", ColumnRules())
    assert [row.line for row in document.rows()] == [2, 3]
    assert (document.head.name, document.head.layer.inputs) == ("x", {"n": 1})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[\n{"a": }]', "a.json:2: not JSON: Expecting value"),
        ('{"jobs": []\n', "a.json:2: not JSON: ',' is missing"),
        ('{"jobs" []}', "a.json:1: not JSON: ':' is missing"),
        ('{"a": 1,\n"a": 2}', "a.json:2: not JSON: 'a' is not a key, or is here twice"),
        ("{1: 2}", "a.json:1: not JSON: 1 is not a key, or is here twice"),
        ('[\n{"a": 1, "a": 2}]', "a.json:2: not JSON: the key 'a' is here twice"),
        ('[1]\n{"a": 2}', "a.json:2: not JSON: something follows the end"),
        ('[{"a": NaN}]', "a.json:1: not JSON: NaN is not a JSON value"),
        ('["\\ud800"]', "a.json:1: not JSON: half of a surrogate pair"),
        (f"[{'9' * 5000}]", "a.json:1: not JSON: an integer of more than 64 bits"),
        ("[18446744073709551616]", "a.json:1: not JSON: an integer of more than 64 bits"),
        ("[" * 100_000, "a.json:1: not JSON: nested too deeply"),
        ("[[" + "[" * 200 + "]" * 200 + "]]", "a.json:1: not JSON: nested too deeply"),
        ("", "a.json:1: not JSON: Expecting value"),
        ("5", "a.json:1: 5 is no manifest: a list of jobs or a mapping is needed"),
        (b'[\n"\xff"]', "a.json:2: byte 0xff is not UTF-8"),
    ],
)
def test_json_that_can_t_be_read_is_refused_with_its_line(tmp_path, content, problem):
    assert (
        refusal(tmp_path, "a.json", content).partition("; it looks like")[0].partition(" (--ig")[0]
        == problem
    )


# YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16:9", "16:9"),
        ("1:30:00", "1:30:00"),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("true", True),
        ("False", False),
        ("tRUE", "tRUE"),
        ("5", 5),
        ("-5", -5),
        ("007", "007"),
        ("0o17", "0o17"),
        ("+5", 5),
        ("0", 0),
        ("0x1F", 31),
        ("0.5", 0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", "1e3"),
        ("1.5e3", "1.5e3"),
        ("1.5e+3", 1500.0),
        ("-.5", "-.5"),
        ("1e", "1e"),
        ("'5'", "5"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("!!str", ""),
        ("! 5", "5"),
        ("!!int 5", 5),
        ("!!float 5", 5),
        ("!!bool true", True),
        ("!!seq [1]", [1]),
        ("!!map {a: 1}", {"a": 1}),
        ("[a, 16:9, [no]]", ["a", "16:9", ["no"]]),
        ("{1: a, null: b}", {"1": "a", "null": "b"}),
        ("|\n      two\n      lines\n", "two\nlines\n"),
        ("=", "="),
    ],
)
def test_yaml_scalars_are_those_of_the_core_schema(tmp_path, text, value):
    (row,) = inputs(tmp_path, "a.yaml", f"jobs:\n  - x: {text}\n")
    assert row == {"x": value}
    assert type(row["x"]) in (type(value), dict)


@pytest.mark.parametrize("text", ["", "~", "null", "Null", "!!null null"])
def test_a_null_is_an_absent_field(tmp_path, text):
    assert inputs(tmp_path, "a.yaml", f"jobs:\n  - x: {text}\n    y: 1\n") == [{"y": 1}]


def test_every_job_and_every_field_has_its_line(tmp_path):
    (first, second) = rows(tmp_path, "a.yml", "jobs:\n  - prompt: a\n    x: 1\n\n  -\n    x: 2\n")
    assert (first.line, first.line_of("x"), first.line_of("y")) == (2, 3, 2)
    assert (second.line, second.line_of("x[0].z")) == (6, 6)


def test_anchors_and_merge_keys_work(tmp_path):
    text = """
vars: {b: &base {x: 1, y: 2}}
meta: {m: &more {y: 3, z: 4}}
jobs:
  - &first {prompt: a, x: &five 5}
  - <<: *base
    y: *five
  - <<: [*more, *base]
  - *first
"""
    assert inputs(tmp_path, "a.yaml", text) == [
        {"prompt": "a", "x": 5},
        {"x": 1, "y": 5},
        {"x": 1, "y": 3, "z": 4},
        {"prompt": "a", "x": 5},
    ]


def test_a_quoted_merge_key_is_a_key(tmp_path):
    assert inputs(tmp_path, "a.yaml", "jobs: [{'<<': 1}]") == [{"<<": 1}]


def test_a_key_may_be_an_alias_of_text(tmp_path):
    assert inputs(tmp_path, "a.yaml", "jobs: [{a: &k prompt, *k : b}]") == [
        {"a": "prompt", "prompt": "b"}
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("jobs:\n  - x: 1\n    x: 2\n", "a.yaml:3: x: this key is already on line 2"),
        ("jobs: []\njobs: []\n", "a.yaml:2: jobs: this key is already on line 1"),
        (
            "jobs:\n  - x: !!python/object:os.system y\n",
            "a.yaml:2: the tag !!python/object:os.system is not supported",
        ),
        ("jobs:\n  - x: !!timestamp 2024-01-01\n", "a.yaml:2: the tag !!timestamp is not supported"),
        ("jobs:\n  - !!set {a}\n", "a.yaml:2: the tag !!set is not supported"),
        ("jobs: !!omap []\n", "a.yaml:1: the tag !!omap is not supported"),
        ("jobs:\n  - x: !!int five\n", "a.yaml:2: 'five' is not !!int"),
        ("jobs: []\n---\njobs: []\n", "a.yaml:2: a second document begins here; one is allowed"),
        ("jobs:\n  - x: &a [*a]\n", "a.yaml:2: *a contains itself"),
        ("jobs:\n  - x: *a\n", "a.yaml:2: *a is not defined"),
        ("jobs:\n  - <<: 5\n", "a.yaml:2: << needs a mapping, or a list of mappings"),
        ("jobs:\n  - <<: [5]\n", "a.yaml:2: << needs a mapping, or a list of mappings"),
        (
            "jobs:\n  - [a]: 5\n",
            "a.yaml:2: a key has to be plain text; text that begins with { or [ needs quotes",
        ),
        (
            "jobs:\n  - {a: &l [1], *l : 5}\n",
            "a.yaml:2: a key has to be plain text; text that begins with { or [ needs quotes",
        ),
        ("jobs:\n  - x: .inf\n", "a.yaml:2: .inf is not a finite number; text needs quotes"),
        ("jobs:\n  - x: -.NaN\n  - x: .nan", "a.yaml:3: .nan is not a finite number; text needs quotes"),
        ("jobs:\n  - x: 1.0e+999\n", "a.yaml:2: 1.0e+999 is not a finite number; text needs quotes"),
        (
            "jobs:\n  - x: 18446744073709551616\n",
            "a.yaml:2: 18446744073709551616 has more than 64 bits; text needs quotes",
        ),
        (
            f"jobs:\n  - x: {'9' * 5000}\n",
            f"a.yaml:2: {'9' * 24} has more than 64 bits; text needs quotes",
        ),
        ("jobs:\n  - x: [1\n", "a.yaml:3: not YAML: did not find expected ',' or ']'"),
        (
            "jobs:\n\t- x: 1\n",
            "a.yaml:2: not YAML: found character that cannot start any token; indent with plain spaces, no tabs or other blanks",
        ),
        ("jobs:\n  - x: a\x01\n", "a.yaml:2: not YAML: control characters are not allowed"),
        (b"jobs:\n  - x: \xff\n", "a.yaml:2: byte 0xff is not UTF-8"),
        ("[" * 200 + "]" * 200, "a.yaml:1: nested deeper than 100 levels"),
        ("[" * 100_000, "a.yaml:1: nested deeper than 100 levels"),
        ("- " * 100_000, "a.yaml:1: nested deeper than 100 levels"),
        ("", "a.yaml:1: the file is empty: a list of jobs or a mapping is needed"),
        ("# nothing\n", "a.yaml:1: the file is empty: a list of jobs or a mapping is needed"),
        ("just text\n", "a.yaml:1: 'just text' is no manifest: a list of jobs or a mapping is needed"),
    ],
)
def test_yaml_that_can_t_be_read_is_refused_with_its_line(tmp_path, content, problem):
    assert (
        refusal(tmp_path, "a.yaml", content).partition("; it looks like")[0].partition(" (--ig")[0]
        == problem
    )


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("jobs:\n  - prompt: @cat\n", "text that begins with this character needs quotes"),
        ("jobs:\n  - prompt: %off\n", "text that begins with this character needs quotes"),
        ("jobs:\n  - prompt: *best* cat\n", "text that begins with * or & needs quotes"),
        ("jobs:\n  - prompt: {{ x }} cat\n", "text that begins with { or [ needs quotes"),
        ("jobs:\n  - prompt: {a} cat\n", "begins with {, [ or a quote needs quotes around all of it"),
        ('jobs:\n  - prompt: "a \\d cat"\n', "use single quotes"),
        ("jobs:\n  - prompt: a\n   seed: 1\n", "keys of one job begin in the same column"),
        ("jobs:\n  - prompt: a\n    seed: 1: 2\n", "keys of one job begin in the same column"),
        ("jobs:\n  - prompt: a\n\u00a0\u00a0seed: 1: 2\n", "indent with plain spaces"),
        ("```yaml\njobs: []\n```\n", "take the lines that begin with ``` away"),
    ],
)
def test_what_yaml_refuses_is_told_with_a_remedy(tmp_path, content, remedy):
    assert remedy in refusal(tmp_path, "a.yaml", content)


@pytest.mark.parametrize(
    "workflow",
    [
        {"3": {"class_type": "KSampler", "inputs": {"seed": 1}}},
        {"last_node_id": 9, "nodes": [{"id": 7, "type": "KSampler"}], "links": [], "version": 0.4},
    ],
)
def test_a_workflow_of_comfyui_is_told_to_be_one(tmp_path, workflow):
    said = refusal(tmp_path, "a.json", json.dumps(workflow))
    assert said.startswith("a.json:1: this is a ComfyUI workflow, not a list of jobs; deploy it")


def test_a_bomb_of_aliases_is_refused_before_it_unfolds(tmp_path):
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )
    assert refusal(tmp_path, "a.yaml", bomb).endswith("aliases repeat more than 1000000 values")


def test_a_bomb_of_merge_keys_is_refused_as_well(tmp_path):
    bomb = "".join(
        f"  k{n}: &m{n} {{a{n}: 1, <<: [{', '.join([f'*m{n - 1}'] * 20 if n else [])}]}}\n"
        for n in range(9)
    )
    assert "more than 1000000 values" in refusal(tmp_path, "a.yaml", f"vars:\n{bomb}jobs: []\n")


# The head


def test_a_manifest_is_called_by_its_name_or_by_its_file(tmp_path):
    assert open_manifest(write(tmp_path, "my shots.yaml", "jobs: []")).name == "my shots"
    assert open_manifest(write(tmp_path, "a.yaml", "name: cats\njobs: []")).name == "cats"


@pytest.mark.parametrize(
    "name",
    ["a/b", "..", ".hidden", "-rf", "a\\\\b", "x" * 101, "é" * 101, "猫" * 80, "a ", "a\\n", "", "a:b"],
)
def test_a_name_that_can_t_be_a_folder_is_refused(tmp_path, name):
    assert refusal_of_open(tmp_path, f'jobs: []\nname: "{name}"\n').startswith("a.yaml:2: name: ")


def refusal_of_open(folder, content):
    with pytest.raises(ManifestError) as caught:
        open_manifest(write(folder, "a.yaml", content))
    return caught.value.problems[0].removeprefix(f"{folder}/")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("name: 5\njobs: []", "a.yaml:1: name: 5 is not text"),
        ("name: x", "a.yaml:1: jobs: a list of jobs is needed"),
        ("name: x\njobs: {}", "a.yaml:2: jobs: a list of jobs is needed"),
        (
            "jobs: []\ndefault: {}",
            "a.yaml:2: default: unknown key, did you mean defaults? (inputs of all jobs: defaults)",
        ),
        ("jobs: []\nduration: 5", "a.yaml:2: duration: unknown key (inputs of all jobs: defaults)"),
        ("jobs: []\nmodel: [a]", 'a.yaml:2: model: ["a"] is not text'),
        ("jobs: []\ndefaults: 5", "a.yaml:2: defaults: 5 is not a mapping"),
        (
            "jobs: []\ndefaults:\n  id: x",
            "a.yaml:3: id: does not belong into defaults, which hold inputs (any other input: under `input`)",
        ),
        ("jobs: []\nmatrix: [1]", "a.yaml:2: matrix: [1] is not a mapping"),
        ("jobs: []\nmatrix:\n  x: 5", "a.yaml:2: matrix: x: 5 is not a list with at least one value"),
        ("jobs: []\nmatrix: {x: []}", "a.yaml:2: matrix: x: [] is not a list with at least one value"),
        ("jobs: []\nmatrix: {id: [a]}", "a.yaml:2: matrix: 'id' can't vary in a matrix"),
        ("jobs: []\nmatrix: {model: [5]}", "a.yaml:2: matrix: model: a list of model ids is needed"),
        ("jobs: []\nrepeat: -1", "a.yaml:2: repeat: -1 is not a whole number from 1 to 100000"),
        ("jobs: []\nrepeat: true", "a.yaml:2: repeat: true is not a whole number from 1 to 100000"),
    ],
)
def test_a_head_with_mistakes_is_refused(tmp_path, content, problem):
    assert refusal_of_open(tmp_path, content) == problem


def test_all_mistakes_of_a_head_are_told_at_once(tmp_path):
    with pytest.raises(ManifestError) as caught:
        open_manifest(write(tmp_path, "a.yaml", "nme: x\nrepeat: 0\ndefaults: 1\n"))
    assert len(caught.value.problems) == 4


def test_a_mistake_in_a_reserved_key_of_a_job_is_a_problem_of_that_row(tmp_path):
    found = read_text(
        tmp_path,
        "a.yaml",
        f"jobs:\n  - prompt: a\n    image_url: {URL}\n    repeat: x\n  - {{prompt: a, image_url: '{URL}', id: [1]}}\n",
    )
    assert found.problems == [
        "a.yaml:4: repeat: 'x' is not a whole number from 1 to 100000",
        "a.yaml:5: id: [1] is not text",
    ]
    assert (found.jobs, found.tally.invalid, found.tally.rows) == ([], 2, 2)


# Files


@pytest.mark.parametrize("name", ["a.docx", "a.csv.bak"])
def test_a_kind_of_file_that_is_not_known_is_refused(tmp_path, name):
    with pytest.raises(ManifestError, match="not a kind of manifest"):
        open_manifest(write(tmp_path, name, "x"))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"nowhere\.csv: no such file"):
        open_manifest(tmp_path / "nowhere.csv")


def test_a_directory_or_a_pipe_is_no_manifest(tmp_path):
    (tmp_path / "a.csv").mkdir()
    os.mkfifo(tmp_path / "b.csv")
    for name, what in [("a.csv", "directory"), ("b.csv", "not a regular file")]:
        with pytest.raises(ManifestError, match=what):
            open_manifest(tmp_path / name)


def test_a_path_that_can_t_be_one_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="null"):
        open_manifest(tmp_path / "a\0b.csv")
    with pytest.raises(ManifestError, match="too long"):
        open_manifest(tmp_path / f"{'a' * 300}.csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "prompt,image_url\n" + f"{ROW}\n" * 3),
        ("a.csv", "prompt,image_url\n" + f"{ROW}\n" * (3 * LINES_BETWEEN_CHECKS)),
        ("a.jsonl", f'{{"prompt": "a", "image_url": "{URL}"}}\n' * 3),
        ("a.yaml", f"jobs:\n  - {{prompt: a, image_url: '{URL}'}}\n"),
        ("a.json", f'[{{"prompt": "a", "image_url": "{URL}"}}]'),
    ],
)
def test_a_file_that_changed_between_two_passes_stops_the_second(tmp_path, name, content):
    path = write(tmp_path, name, content)
    manifest = open_manifest(path, Overrides(model=KLING.model_id))
    assert len(list(manifest.jobs(BUILT_IN, ManifestTally()))) == 1
    assert len(list(manifest.jobs(BUILT_IN, ManifestTally()))) == 1
    write(tmp_path, name, content + " ")
    with pytest.raises(ManifestChanged, match="changed while it was being read"):
        list(manifest.jobs(BUILT_IN, ManifestTally()))


@pytest.mark.parametrize("change", ["append", "touch", "truncate"])
def test_a_file_that_changes_during_a_pass_stops_it(tmp_path, change):
    path = write(
        tmp_path, "a.csv", "prompt,image_url\n" + "".join(f"cat {n},{URL}\n" for n in range(50))
    )
    jobs = open_manifest(path, Overrides(model=KLING.model_id)).jobs(BUILT_IN, ManifestTally())
    next(jobs)
    if change == "append":
        with path.open("a") as file:
            file.write(f"{ROW}\n")
    elif change == "touch":
        os.utime(path, ns=(1, 1))
    else:
        os.truncate(path, 20)
    with pytest.raises(ManifestChanged):
        list(jobs)


def test_a_file_that_was_replaced_or_removed_stops_the_next_pass(tmp_path):
    content = f"prompt,image_url\n{ROW}\n"
    path = write(tmp_path, "a.csv", content)
    manifest = open_manifest(path, Overrides(model=KLING.model_id))
    list(manifest.jobs(BUILT_IN, ManifestTally()))
    status = path.stat()
    other = write(tmp_path, "b.csv", content.replace("cat", "dog"))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    with pytest.raises(ManifestChanged):
        list(manifest.jobs(BUILT_IN, ManifestTally()))
    path.unlink()
    with pytest.raises(ManifestError, match="no such file"):
        list(manifest.jobs(BUILT_IN, ManifestTally()))


def test_a_table_that_breaks_off_tells_all_problems_so_far(tmp_path):
    path = write(tmp_path, "a.csv", f'prompt,image_url\n,{URL}\n{ROW}\n"lost,{URL}\n')
    tally = ManifestTally()
    with pytest.raises(ManifestError) as caught:
        list(open_manifest(path, Overrides(model=KLING.model_id)).jobs(BUILT_IN, tally))
    assert [line.rpartition("a.csv")[2] for line in caught.value.problems] == [
        ":2: prompt: required, but missing",
        ":4: a quote is opened here and never closed",
    ]
    assert tally.problem_count == 2


def test_an_endless_line_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("batcher.manifest.files.LINE_MAX_CHARS", 1000)
    assert refusal(tmp_path, "a.csv", "prompt\n" + "x" * 2000) == "a.csv:2: a line of 1000 characters"


def test_a_held_file_beyond_all_measure_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("batcher.manifest.files.WHOLE_FILE_MAX_CHARS", 10)
    assert "use CSV or JSONL" in refusal(tmp_path, "a.yaml", "jobs: []   # and more")


def test_many_jobs_in_yaml_are_held_with_a_hint(tmp_path, monkeypatch):
    monkeypatch.setattr("batcher.manifest.walk.HELD_ROWS_HINT", 1)
    found = read_text(
        tmp_path,
        "a.yaml",
        f"jobs: [{{prompt: a, image_url: '{URL}'}}, {{prompt: b, image_url: '{URL}'}}]",
    )
    assert len(found.jobs) == 2
    assert "CSV or JSONL" in found.tally.warnings[0]


def test_a_manifest_without_jobs_is_allowed_with_a_warning(tmp_path):
    for name, content in [
        ("a.yaml", "jobs: []"),
        ("a.csv", "prompt\n"),
        ("a.jsonl", ""),
        ("a.json", "[]"),
    ]:
        found = read_text(tmp_path, name, content)
        assert (found.jobs, found.problems) == ([], [])
        assert found.tally.warnings == [f"{tmp_path / name}: no jobs"]


# Properties


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@given(TEXT)
@settings(max_examples=60, suppress_health_check=SLOW)
def test_any_text_survives_as_prompt_in_every_format(tmp_path, text):
    import csv
    import io

    table = io.StringIO()
    csv.writer(table).writerows([["prompt", "x"], [text, "1"]])
    written = {
        "a.jsonl": json.dumps({"prompt": text}),
        "a.json": json.dumps([{"prompt": text}], ensure_ascii=False),
    }
    if "\0" not in text:
        written["a.csv"] = table.getvalue()
    if all(char.isprintable() or char in "\n\t" for char in text):
        import yaml

        written["a.yaml"] = yaml.safe_dump({"jobs": [{"prompt": text}]}, allow_unicode=True)
    for name, content in written.items():
        (row,) = inputs(tmp_path, name, content)
        assert row["prompt"] == text


@given(
    st.binary(max_size=120)
    | st.text('{}[]:,-&*!|>"#\n \t<a1', max_size=60).map(str.encode)
    | st.text("jobs:[]{}\n -&a*<", max_size=40).map(lambda text: f"jobs:\n- {text}".encode()),
    st.sampled_from(["a.csv", "a.tsv", "a.yaml", "a.json", "a.jsonl"]),
)
@settings(max_examples=300, suppress_health_check=SLOW)
def test_no_bytes_give_anything_but_a_manifest_error(tmp_path, content, name):
    path = write(tmp_path, name, content)
    try:
        problems = read(path).tally.problems
    except ManifestError as error:
        problems = error.problems
    assert all(line.startswith(f"{path}:") and "\n" not in line for line in problems)


def test_local_files_are_not_read_before_the_jobs_are(tmp_path):
    write(tmp_path, "a.png", PNG)
    manifest = open_manifest(
        write(tmp_path, "a.csv", "prompt,image_url\na,a.png\n"), Overrides(model=KLING.model_id)
    )
    (tmp_path / "a.png").unlink()
    tally = ManifestTally()
    assert list(manifest.jobs(BUILT_IN, tally)) == []
    assert tally.invalid == 1
