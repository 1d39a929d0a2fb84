"""What ``init`` writes: a manifest named after its file, or a table."""

import csv
import shlex

import pytest
from click.testing import CliRunner

from batcher.cli.entry import cli


def typed(*words):
    return CliRunner().invoke(cli, [*words], standalone_mode=False)


@pytest.mark.parametrize("name", ["pairs.csv", "shots.yaml", "q2.yaml", "my shots.yml"])
def test_what_is_written_plans_by_the_command_that_is_told(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    said = typed("init", name)
    assert said.return_value == 0, said.output
    command, *words = shlex.split(said.output.partition("next: batcher ")[2])
    planned = typed(command, *words)
    assert planned.return_value == 0, planned.output
    assert planned.output.startswith(f"{name.rpartition('.')[0]}: ")


def test_the_run_directory_is_named_as_it_will_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub dir").mkdir()
    typed("init", "sub dir/my shots.yaml")
    text = (tmp_path / "sub dir/my shots.yaml").read_text()
    assert "batcher plan 'sub dir/my shots.yaml' --sandbox" in text
    assert "# names the run directory: 'output/my shots', beside this file" in text
    planned = typed("plan", "sub dir/my shots.yaml")
    assert "run directory sub dir/output/my shots" in planned.output


def test_a_table_has_the_required_columns_and_one_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed("init", "pairs.csv")
    header, row = csv.reader((tmp_path / "pairs.csv").read_text().splitlines())
    assert header == ["prompt", "image_url", "meta.note"]
    assert all(row)
