"""What ``init`` writes: a manifest named after its file, or a table."""

import csv
import shlex

import pytest
from click.testing import CliRunner

from batcher.cli.entry import cli
from batcher.errors import UsageError


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


@pytest.mark.parametrize("name", ["shots.txt", "shots", "shots.jsonl"])
def test_what_a_plan_would_read_as_another_format_is_not_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"name it shots\.yaml or \.csv"):
        cli.main(["init", name], standalone_mode=False)
    assert not (tmp_path / name).exists()


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
