"""The command line as people expect it: help in groups, hints, completion, versions, ``config``."""

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from batcher.__main__ import main, process
from batcher.cli.commands import HINTS
from batcher.cli.entry import cli
from batcher.cli.observers import observer_for
from batcher.errors import BatcherError, UsageError
from batcher.options.option import Group
from batcher.options.table import TABLE, options_of
from batcher.schema.spec import KLING

BATCHER = Path(sys.executable).with_name("batcher")


def said(capsys, *words):
    """The exit code of a command in this process, and its standard output."""
    try:
        code = cli.main(list(words), prog_name="batcher", standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    return code, capsys.readouterr().out


def parsed(line):
    """Whether a command line that we show names a command, and options that this has."""
    words = shlex.split(line)
    assert words.pop(0) == "batcher"
    if words[0].startswith("--"):
        assert words[0] in {name for param in cli.get_params(click.Context(cli)) for name in param.opts}
        return
    command = cli.commands[words.pop(0)]
    command.make_context(command.name, words)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_help_shows_each_option_under_its_heading(command, capsys):
    _, text = said(capsys, command, "--help")
    parts = {title: text.partition(f"\n{title}:\n")[2] for title in [g.value for g in Group]}
    for option in options_of(command):
        part = parts[option.group.value].partition("\n\n")[0]
        assert (f"--{option.name}" in part) is not option.hidden, option.name
    assert "--no-" not in text.replace("--no-NAME", "")


def test_the_examples_in_help_parse(capsys):
    for name, command in cli.commands.items():
        _, text = said(capsys, name, "--help")
        lines = [line.strip() for line in text.splitlines() if line.strip().startswith("batcher ")]
        for line in lines:
            parsed(line.partition(" >")[0].replace("batcher ID", name))
        assert lines or command.params


@pytest.mark.parametrize("meant", HINTS.values())
def test_a_hint_names_a_command_that_there_is(meant):
    parsed(meant.replace("batcher init && ", ""))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("retry", "try: batcher run MANIFEST --retry-failed"),
        ("open", "try: batcher report RUN_DIR"),
        ("logs", "try: batcher status RUN_DIR --follow"),
        ("clean", "no command deletes outputs"),
        ("stauts", "did you mean status?"),
        ("clips.csv", "to run a manifest: batcher run clips.csv"),
        ("my clips.csv", "to run a manifest: batcher run 'my clips.csv'"),
    ],
)
def test_a_command_that_there_is_not_gets_a_useful_hint(name, hint):
    with pytest.raises(click.UsageError) as caught:
        cli.main([name, "x"], standalone_mode=False)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("plan", "m.csv", "--rate", "3/s"), "--rate is an option of `run`: leave it out here"),
        (("plan", "m.csv", "-y"), "-y is an option of `run`: leave it out here"),
        (("plan", "m.csv", "--no-existing"), "--no-existing is an option of `run`: leave it out here"),
        (("run", "m.csv", "--show=2"), "--show is an option of `plan`: leave it out here"),
        (("plan", "m.csv", "--max-cst", "3"), "No such option '--max-cst'"),
    ],
)
def test_an_option_of_the_other_command_is_told_as_such(words, told):
    with pytest.raises(click.UsageError) as refused:
        cli.main(list(words), prog_name="batcher", standalone_mode=False)
    assert refused.value.format_message().startswith(told)


def test_the_version_tells_python_and_the_libraries(capsys):
    _, text = said(capsys, "--version")
    assert text.startswith("batcher 0.")
    assert f"Python {sys.version.split()[0]}" in text
    assert "aiohttp 3." in text
    assert "msgspec 0." in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell, capsys):
    code, text = said(capsys, "completion", shell)
    assert code == 0
    assert "_BATCHER_COMPLETE" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("batcher pl", ["plan"]),
        (
            "batcher run m.csv --max-",
            ["--max-attempts", "--max-cost", "--max-failures", "--max-file-size"],
        ),
        ("batcher run m.csv --on-interrupt d", ["detach"]),
        ("batcher run m.csv --on-lock w", ["wait="]),
        ("batcher completion z", ["zsh"]),
    ],
)
def test_the_words_of_a_command_line_are_completed(words, completed, tmp_path):
    env = {
        **os.environ,
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "_BATCHER_COMPLETE": "bash_complete",
    }
    told = subprocess.run([BATCHER], env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = {line.partition(",")[2] for line in told.stdout.splitlines()}
    assert set(completed) <= found
    assert all(word.startswith(words.split()[-1]) for word in found)


def test_config_says_where_each_value_comes_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHER_RATE", "7/m")
    (tmp_path / "batcher.toml").write_text("max-cost = 5\n[set]\nduration = 10\n")
    (tmp_path / "m.yaml").write_text("run: {poll: 2m}\njobs: []\n")
    code, text = said(capsys, "config", "m.yaml", "-c", "3", "--json")
    told = json.loads(text)
    assert code == 0
    assert told.keys() == {option.key for option in TABLE}
    assert told["max_cost"] == {"value": ["5"], "from": "batcher.toml:1: max-cost"}
    assert told["set"] == {"value": ["duration=10"], "from": "batcher.toml:2: set"}
    assert told["rate"] == {"value": ["7/m"], "from": "$BATCHER_RATE"}
    assert told["poll"] == {"value": ["2m"], "from": "m.yaml:1: run: poll"}
    assert told["concurrency"] == {"value": ["3"], "from": "the command line"}
    assert told["max_attempts"] == {"value": ["3"], "from": "default"}
    assert told["limit"] == {"value": None, "from": "default"}
    _, text = said(capsys, "config")
    assert "  max-cost                5                           batcher.toml:1: max-cost" in text
    assert len(text.splitlines()) == len(TABLE) + len(Group)


def test_an_option_that_is_wrong_is_told_as_json_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batcher.toml").write_text("max-cots = 5\n")
    for command in ("run", "plan"):
        with pytest.raises(UsageError):
            said(capsys, command, "m.csv", "--json")
        told = json.loads(capsys.readouterr().out)
        assert told["exit_code"] == 64
        assert told["error"].startswith("batcher.toml:1: max-cots: there is no such option")


@pytest.mark.parametrize("command", ["status", "verify", "cancel"])
def test_every_command_with_json_tells_why_it_did_nothing(command, tmp_path, capsys):
    words = [command, str(tmp_path / "none")]
    with pytest.raises(BatcherError) as caught:
        said(capsys, *words, "--json")
    told = json.loads(capsys.readouterr().out)
    assert told == {"error": str(caught.value), "exit_code": caught.value.exit_code}


def test_verbose_tells_what_an_error_was_made_of(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").write_text("a file")
    (tmp_path / "m.csv").write_text("prompt,image_url\na,https://example.com/a.png\n")
    words = ["run", "m.csv", "-o", "out/x", "--sandbox", "--model", KLING.model_id]
    assert cli.main(words, standalone_mode=False) == 73
    assert "because of" not in capsys.readouterr().err
    assert cli.main([*words, "-v"], standalone_mode=False) == 73
    assert "\n  because of NotADirectoryError: " in capsys.readouterr().err


@pytest.mark.parametrize("module", ["batcher", "batcher.cli.entry"])
def test_help_and_the_import_of_the_package_load_nothing_heavy(module):
    heavy = {"asyncio", "aiohttp", "ssl", "yaml", "jsonschema_rs", "tqdm", "pydoc", "importlib.metadata"}
    program = f"import sys, {module}; print(*sorted(sys.modules.keys() & {heavy!r}))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == []


@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError(errno.EMFILE, "Too many"), "ulimit -n"), (MemoryError(), "out of memory")],
)
def test_a_limit_of_the_machine_is_told_in_one_line(monkeypatch, capsys, error, told):
    def fail(**_):
        raise error

    monkeypatch.setattr("batcher.cli.entry.cli", fail)
    monkeypatch.setattr(process, "prepare", lambda: None)
    monkeypatch.setattr(process, "leave", print)
    main()
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n"), told in shown.err) == ("71\n", 1, True)


@pytest.mark.parametrize(("term", "kind"), [("dumb", "LogLines"), ("xterm", "Bar")])
def test_a_terminal_that_can_only_print_gets_lines(monkeypatch, term, kind):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert type(observer_for(quiet=False, log_format="text")).__name__ == kind


def test_what_the_parser_says_is_shown_without_escapes(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["batcher", "completion"])
    monkeypatch.setattr(process, "prepare", lambda: None)
    monkeypatch.setattr(process, "leave", print)
    main()
    shown = capsys.readouterr()
    assert (shown.out, "\n  bash,\n" in shown.err) == ("64\n", True)
