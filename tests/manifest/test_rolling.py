"""Manifests that change from run to run: edited rows under an old id, and names with the day in them."""

import json
import re

import pytest

import batcher
from batcher.errors import ManifestError
from batcher.manifest.load import open_manifest
from batcher.options.facts import Overrides
from tests.support.api_server import run_command

MODEL = "blackforestlabs/flux-1/dev/text-to-image"
QUICK = {"sandbox": True, "sandbox_speed": 500, "poll": 0.02}


class Onlooker:
    def __init__(self):
        self.warnings = []

    def started(self, view): ...
    def changed(self, view): ...
    def finished(self, view): ...

    def warn(self, message):
        self.warnings.append(message)


def write(path, **prompts):
    jobs = [{"id": name, "prompt": prompt} for name, prompt in prompts.items()]
    path.write_text(json.dumps({"model": MODEL, "jobs": jobs}))
    return path


async def test_one_edited_row_stops_itself_and_not_the_file(tmp_path):
    path, out = tmp_path / "m.json", tmp_path / "out"
    options = {**QUICK, "output": out}
    assert (await batcher.run(write(path, a="a cat", b="a dog"), **options)).done == 2
    write(path, a="another cat", b="a dog", c="a fox")
    with pytest.raises(ManifestError, match=r"m\.json:\d+: id: the inputs of 'a' changed"):
        await batcher.run(path, **options)
    told = Onlooker()
    summary = await batcher.run(path, **options, skip_invalid=True, observer=told)
    assert (summary.done, summary.submitted_now, summary.invalid, summary.exit_code) == (3, 1, 1, 1)
    assert [line for line in told.warnings if "the inputs of 'a' changed" in line]
    lines = map(json.loads, (out / "ledger.jsonl").read_text().splitlines())
    assert [line["job"] for line in lines if line["event"] == "submitting"] == ["a", "b", "c"]
    rows = map(json.loads, (out / "metadata.jsonl").read_text().splitlines())
    assert {row["job"]: row["prompt"] for row in rows} == {"a": "a cat", "b": "a dog", "c": "a fox"}


async def test_a_plan_says_which_rows_are_left_out(tmp_path):
    path, out = tmp_path / "m.json", tmp_path / "out"
    await batcher.run(write(path, a="a cat"), **QUICK, output=out)
    write(path, a="another cat", b="a dog")
    told = run_command(None, tmp_path, "plan", "m.json", "--sandbox", "-o", "out", "--skip-invalid")
    assert told.returncode == 1
    assert "1 to buy" in told.stdout
    assert re.search(r"m\.json:\d+: id: the inputs of 'a' changed", told.stderr)


def named(tmp_path, head, **given):
    path = tmp_path / "m.yaml"
    path.write_text(f"{head}\njobs: [{{prompt: a}}]\n")
    return open_manifest(path, Overrides(model=MODEL, vars=given)).name


@pytest.mark.parametrize(
    ("head", "given", "name"),
    [
        ('name: "shots-{{ day }}"', {"day": "2026-11-27"}, "shots-2026-11-27"),
        ('name: "{{ day }}"', {"day": "27"}, "27"),
        ('name: "{{ a }}{{ b }}"', {"a": "x", "b": "{{ a }}"}, "x{{ a }}"),
        ('vars: {day: 5}\nname: "{{ day }}"', {}, "5"),
        ('vars: {day: 5}\nname: "d-{{ day }}"', {"day": "6"}, "d-6"),
        ("name: plain", {"day": "6"}, "plain"),
    ],
)
def test_a_name_is_filled_from_variables(tmp_path, head, given, name):
    assert named(tmp_path, head, **given) == name


@pytest.mark.parametrize("value", ["2026/11/27", "..", "", ".hidden", "a\nb", "x" * 300, "~", "C:\\x"])
def test_what_can_not_name_a_folder_is_refused_with_its_place(tmp_path, value):
    with pytest.raises(ManifestError, match=r"m\.yaml:1: name: .* can't name a folder"):
        named(tmp_path, 'name: "{{ day }}"', day=value)


def test_a_variable_that_nobody_gave_is_named_with_the_option_that_gives_it(tmp_path):
    with pytest.raises(
        ManifestError, match=r"m\.yaml:1: name: 'day' is not defined: add --var day=VALUE"
    ):
        named(tmp_path, 'name: "shots-{{ day }}"')
