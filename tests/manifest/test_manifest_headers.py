"""Where the header of a table stands, and comments that cut a text of YAML short."""

import pytest

from batcher.errors import ManifestError
from tests.support.manifest_files import URL, read_text

ANY = {"model": "some/model"}


@pytest.mark.parametrize(
    "above",
    ["# shots for monday", "# one, two", "Prompts for Q4,,", "My prompts", "#\n\n# two", '"a, b",,'],
)
def test_a_title_above_the_header_is_told_and_left_out(tmp_path, above):
    found = read_text(tmp_path, "a.csv", f"{above}\nprompt,seed,meta.x\na,1,b\n", **ANY)
    assert found.problems == []
    assert [(job.input, job.meta) for job in found.jobs] == [({"prompt": "a", "seed": "1"}, {"x": "b"})]
    assert f"{tmp_path}/a.csv:1: taken for a title or a comment" in found.tally.warnings[0]


@pytest.mark.parametrize(
    ("table", "value", "names"),
    [
        (f"a cat on a wall,{URL}\na dog,{URL}\n", "a cat on a wall", "prompt,image_url"),
        (f"{URL},a cat\n", URL, "image_url,prompt"),
        ("1,a cat\n2,a dog\n", "1", "prompt,column_2"),
        ("cat,cats/1.png\n", "cats/1.png", "prompt,image_url"),
        ("a cat sits quietly on a wall\na dog\n", "a cat sits", "prompt"),
    ],
)
def test_a_table_without_a_header_is_refused_with_the_line_to_add(tmp_path, table, value, names):
    with pytest.raises(ManifestError) as caught:
        read_text(tmp_path, "a.csv", table, **ANY)
    (said,) = caught.value.problems
    assert f"a.csv:1: no header: '{value}" in said
    assert said.endswith(f"put a line above: {names}")


def test_the_header_again_is_no_row(tmp_path):
    for end in ("\n", "\r\n"):
        table = end.join(["Prompt,Seed", "a,1", "Prompt,Seed", "b,2", ""])
        found = read_text(tmp_path, "a.csv", table, **ANY)
        assert found.problems == ["a.csv:3: the header again; take this row away"]
        assert len(found.jobs) == 2
    assert read_text(tmp_path, "b.csv", "prompt\nprompt\n", **ANY).tally.invalid == 1


@pytest.mark.parametrize(
    ("line", "warned"),
    [
        ("prompt: a cat #1 in the show", True),
        ("prompt: cat # the first", True),
        ("- a cat #1", True),
        ("style: oil on canvas  # or not", True),
        ('prompt: "a cat #1"', False),
        ("prompt: a cat#1", False),
        ("prompt: |\n    a cat #1", False),
        ("seed: 5 # the first", False),
        ("aspect_ratio: 16:9  # wide", False),
    ],
)
def test_a_comment_that_may_belong_to_a_text_of_yaml_is_told(tmp_path, line, warned):
    entry = line if line.startswith("- ") else f"- {line}"
    found = read_text(tmp_path, "a.yaml", f"jobs:\n{entry}\n", **ANY)
    assert bool(found.tally.warnings) == warned
    assert all(w.startswith(f"{tmp_path}/a.yaml:2: ") and "quotes" in w for w in found.tally.warnings)


def test_a_colon_in_a_text_of_yaml_is_explained(tmp_path):
    with pytest.raises(ManifestError, match=r"a\.yaml:2: not YAML: .*needs quotes"):
        read_text(tmp_path, "a.yaml", "jobs:\n- prompt: a sign: open\n", **ANY)
