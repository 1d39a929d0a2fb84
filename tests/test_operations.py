"""The examples of docs/operations.md are valid in their own formats, and their commands are ones that exist."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
import yaml

from batcher.cli.entry import cli, run
from batcher.options.table import options_of

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for name, text in BLOCKS if name == language]


def check_command(words):
    """``words`` after ``batcher``: understood as they stand. A wrong option raises."""
    assert words[0] in cli.commands
    assert words[0] == "run"
    context = run.make_context("run", list(words[1:]), resilient_parsing=False)
    assert context.params["manifest"] == ("clips.yaml",)
    assert context.params["max_cost"] == "50"


def cron_lines():
    for text in (*blocks("crontab"), (ROOT / "README.md").read_text("utf-8")):
        yield from (line for line in text.splitlines() if line.startswith("*/30"))


def test_the_lines_for_cron_are_understood_and_name_path_and_token():
    lines = list(cron_lines())
    assert len(lines) == 2
    for line in lines:
        fields, _, command = line.partition("  ")
        assert len(fields.split()) == 5
        assert "%" not in command, "cron makes a line break of it"
        check_command(shlex.split(command.partition("&& batcher ")[2]))
    for text in (*blocks("crontab"), (ROOT / "README.md").read_text("utf-8")):
        assert re.search(r"^PATH=.+\nRUNCOMFY_TOKEN_FILE=.+\n\*/30", text, re.MULTILINE)


def test_the_units_of_systemd_are_well_formed_and_their_command_is_understood():
    service, timer = blocks("ini")
    units = []
    for text in (service, timer):
        unit = configparser.ConfigParser(interpolation=None, delimiters=("=",))
        unit.optionxform = str
        unit.read_string(text)
        units.append(unit)
    words = shlex.split(units[0]["Service"]["ExecStart"])
    assert words[0].endswith("/batcher")
    check_command(words[1:])
    assert units[0]["Service"]["SuccessExitStatus"].split() == ["3", "75"]
    assert "OnCalendar" in units[1]["Timer"]


def test_the_cron_job_of_kubernetes_runs_a_command_that_is_understood():
    job = yaml.safe_load(blocks("yaml")[0])
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    check_command(container["args"])
    assert job["spec"]["concurrencyPolicy"] == "Forbid"


def test_alerts_name_metrics_that_are_written():
    source = (ROOT / "batcher/app/metrics_file.py").read_text("utf-8")
    rules = yaml.safe_load(blocks("yaml")[1])["groups"][0]["rules"]
    names = {name for rule in rules for name in re.findall(r"batcher_(\w+)", rule["expr"])}
    assert names == {"last_success_timestamp_seconds", "jobs", "exit_code"}
    assert all(f'"{name}"' in source for name in names)


@pytest.mark.parametrize(
    "option", ["--quiet", "--on-lock", "--notify", "--metrics-file", "--ignore-old-failures"]
)
def test_options_that_the_page_names_exist(option):
    assert option in PAGE
    assert option.removeprefix("--") in {row.name for row in options_of("run")}
