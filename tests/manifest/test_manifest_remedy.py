"""The command that is offered where columns have other names: typed as it stands, it loads the file."""

import shlex

import pytest
from click.testing import CliRunner

from batcher.cli.entry import cli
from batcher.errors import ManifestError
from tests.support.manifest_files import PNG, write

KLING = "kling/kling-2-1/master/image-to-video"
SEEDREAM = "bytedance/seedream-4/text-to-image"
URL = "https://example.com/a.png"


def planned(*words):
    result = CliRunner().invoke(cli, ["plan", *words, "--sandbox"], standalone_mode=False)
    return result, result.output + result.stderr


@pytest.mark.parametrize(
    ("table", "model"),
    [
        (f"caption,Image Path\na cat,{URL}\n", KLING),
        (f"text,first image,who\na cat,{URL},me\n", KLING),
        (f"promt,image,n\na cat,{URL},1\n", KLING),
        ("prompt,camera,notes\na,b,c\n", SEEDREAM),
        ('prompt,"a,b",scene: title,it\'s\na,b,c,d\n', SEEDREAM),
        ("description\na cat\n", SEEDREAM),
        ("a=b,Caption\nx,a cat\n", SEEDREAM),
        (f"prompt,{','.join(f'c{n}' for n in range(500))}\na{',x' * 500}\n", SEEDREAM),
    ],
)
def test_the_offered_command_loads_the_file(tmp_path, monkeypatch, table, model):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "m.csv", table)
    _, output = planned("m.csv", "--model", model)
    offered = output.rstrip().splitlines()[-1].partition("are: ")[2]
    words = shlex.split(offered)
    assert words[:2] == ["batcher", "plan"]
    result, output = planned(*(word for word in words[2:] if word != "--sandbox"))
    assert result.exit_code in (0, None), output
    assert "1 to buy" in output


def test_nothing_is_offered_that_would_not_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "m.csv", "prompt,number\na cat,5\n")
    _, output = planned("m.csv", "--model", KLING)
    assert "takes care" not in output


def test_bodies_are_shown_as_they_would_be_sent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "cat.png", PNG + bytes(400))
    write(
        tmp_path,
        "m.csv",
        f"prompt,image_url,duration,meta.split\na,{URL},5,x\nb,cat.png,,\nc,{URL},10,\n",
    )
    _, output = planned("m.csv", "--model", KLING, "--show", "1")
    assert f'{{"prompt":"a","image_url":"{URL}","duration":5}}' in output
    assert '"split":"x"' in output
    assert '{"prompt":"b","image_url":"data:image/png;base64,' in output
    assert '"prompt":"c"' not in output


def test_an_error_ends_with_its_advice():
    assert str(ManifestError(["a", "b"], 3, "do this")).splitlines() == [
        "a",
        "b",
        "... and 1 more",
        "do this",
    ]


def test_a_model_that_does_not_exist_comes_with_names_that_may_be_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "m.csv", "prompt\na cat\n")
    _, output = planned("m.csv", "--model", "kling")
    assert KLING in output
    _, output = planned("m.csv", "--model", "bytedance/sedream-4/text-to-image")
    assert SEEDREAM in output
