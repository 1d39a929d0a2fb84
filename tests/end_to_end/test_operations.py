"""The examples of docs/operations.md are valid in their own formats, and their commands are ones that exist."""

import asyncio
import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from batcher.app.metrics_file import MetricsFile
from batcher.app.observers import Ending
from batcher.cli.entry import cli, run
from batcher.ledger.summary import Summary
from batcher.options.table import BY_KEY, options_of
from batcher.ports import RunView
from batcher.sandbox.catalogue import catalogue
from tests.ledger.test_book import FLUX
from tests.support.api_server import ApiServer, environment, typed
from tests.support.engine import FakeClock

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
EXIT_CODES = {
    int(code): what
    for codes, what in re.findall(r"^\| (\d[\d, ]*) \| ([^|]+) \|$", README, re.MULTILINE)
    for code in codes.split(",")
}
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
    for text in (*blocks("crontab"), README):
        yield from (line for line in text.splitlines() if line.startswith("*/30"))


def test_the_lines_for_cron_are_understood_and_name_path_and_token():
    lines = list(cron_lines())
    assert len(lines) == 2
    for line in lines:
        fields, _, command = line.partition("  ")
        assert len(fields.split()) == 5
        assert "%" not in command, "cron makes a line break of it"
        check_command(shlex.split(command.partition("&& batcher ")[2]))
    for text in (*blocks("crontab"), README):
        assert re.search(r"^PATH=.+\nRUNCOMFY_TOKEN_FILE=.+\n\*/30", text, re.MULTILINE)


def test_the_units_of_systemd_are_well_formed_and_their_command_is_understood():
    units = []
    for text in blocks("ini"):
        unit = configparser.ConfigParser(interpolation=None, delimiters=("=",))
        unit.optionxform = str
        unit.read_string(text)
        units.append(unit)
    words = shlex.split(units[0]["Service"]["ExecStart"])
    assert words[0].endswith("/batcher")
    check_command(words[1:])
    assert units[0]["Service"]["SuccessExitStatus"].split() == ["3", "75"]
    assert "LoadCredential" in units[0]["Service"]
    told, timer = units[1:]
    assert units[0]["Unit"]["OnFailure"] == "tell-me@%n.service"
    assert shlex.split(told["Service"]["ExecStart"])[:2] == ["/bin/sh", "-c"]
    assert "OnCalendar" in timer["Timer"]


def test_a_manifest_is_replaced_as_the_page_says(tmp_path):
    (text,) = blocks("sh")
    (tmp_path / "make-manifest").write_text("#!/bin/sh\necho 'jobs: []'\n")
    (tmp_path / "make-manifest").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert subprocess.run(["sh", "-c", text], cwd=tmp_path, env=env, check=False).returncode == 0
    assert (tmp_path / "clips.yaml").read_text() == "jobs: []\n"


def documents(word):
    (text,) = [text for text in blocks("yaml") if word in text]
    return yaml.safe_load(text)


def test_the_cron_job_of_kubernetes_runs_a_command_that_is_understood():
    job = documents("CronJob")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    check_command(container["args"])
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    state = environment_of_image()["XDG_STATE_HOME"]
    assert Path(state).is_relative_to(mounts["data"]), "the account's book outlives the pod"
    assert Path(environment_of_image()["XDG_CACHE_HOME"]).is_relative_to(mounts["tmp"])


def dockerfile():
    """Instructions as (name, arguments); a line that ends with a backslash goes on."""
    (text,) = blocks("dockerfile")
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip()]


def environment_of_image():
    (text,) = [words for name, words in dockerfile() if name == "ENV"]
    return dict(pair.split("=", 1) for pair in shlex.split(text))


def test_the_image_runs_batcher_and_not_as_root():
    steps = dockerfile()
    names = [name for name, _ in steps]
    assert set(names) <= {"FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "ENTRYPOINT"}
    assert names[0] == "FROM"
    assert int(dict(steps)["USER"]) > 0
    assert json.loads(dict(steps)["ENTRYPOINT"]) == ["batcher"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "notify" in extras
    assert any("/src[notify]" in words for _, words in steps)


def test_docker_is_told_to_run_a_command_that_is_understood():
    (line,) = [line for text in blocks("bash") for line in text.splitlines() if "docker run" in line]
    words = shlex.split(line)
    assert {"--read-only", "--tmpfs", "--user", "--init"} <= set(words)
    assert "RUNCOMFY_TOKEN_FILE=/run/token" in words
    check_command(words[words.index("registry.example.com/batcher") + 1 :])


@pytest.fixture
def on_the_root():
    """A folder below the root's own file system, as far as that can be told."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


def test_with_a_read_only_root_a_run_writes_what_the_page_says(on_the_root):
    """As in the image: one folder and a temporary one can be written, and nothing else."""
    unshare = shutil.which("unshare")
    if os.geteuid() or unshare is None:
        pytest.skip("needs root and mount namespaces")
    data, temporary = on_the_root / "data", on_the_root / "tmp"
    for folder in (data, temporary):
        folder.mkdir()
    (data / "clips.yaml").write_text(f"model: {FLUX}\njobs: [{{prompt: a}}]\n")
    setup = (
        "mount --bind $0 $0 && mount --bind $1 $1 && mount -o remount,bind,ro / && cd $0 && shift && "
    )
    image = environment_of_image()
    server = ApiServer(catalogue={FLUX: catalogue()[FLUX].listing(include_schema=True)}).start()
    env = environment(server, data, XDG_STATE_HOME=image["XDG_STATE_HOME"].replace("/data", str(data)))
    env |= {"XDG_CACHE_HOME": str(temporary / "cache"), "TMPDIR": str(temporary)}
    words = typed("run", "clips.yaml", "--max-cost-per", "day=50", "--poll", "0.05")
    probe = "touch $HOME/../read-only 2>/dev/null && exit 99; "
    made = subprocess.run(
        [unshare, "--mount", "sh", "-c", f'{setup}{probe}exec "$@"', data, temporary, *words],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    server.stop()
    if made.returncode in (1, 32, 99) and not server.posts:
        pytest.skip(f"the root can't be made read-only here: {made.stderr}")
    assert made.returncode == 0, made.stderr
    assert sorted(path.name for path in data.iterdir()) == [".state", "clips.yaml", "output"]
    assert (data / ".state/batcher/book.jsonl").exists()


def test_the_workflow_of_github_keeps_the_ledger_and_lets_runs_wait():
    (text,) = [text for text in blocks("yaml") if "runs-on" in text]
    flow = yaml.safe_load(text)
    assert flow[True]["schedule"][0]["cron"].count(" ") == 4  # YAML 1.1 takes `on` for true
    assert flow["concurrency"]["cancel-in-progress"] is False
    steps = flow["jobs"]["clips"]["steps"]
    (line,) = [step for step in steps if step.get("run", "").startswith("batcher")]
    words = shlex.split(line["run"])
    check_command(words[1:])
    assert words[words.index("-o") + 1].startswith("s3://")
    assert "RUNCOMFY_TOKEN" in line["env"]
    runtime_s = BY_KEY["max_runtime"].value(words[words.index("--max-runtime") + 1])
    assert runtime_s < flow["jobs"]["clips"]["timeout-minutes"] * 60


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    """The names of all metrics that a run writes, while it goes on and at its end."""
    path, found = tmp_path_factory.mktemp("metrics") / "m.prom", set()
    file = MetricsFile(path, "b", FakeClock(), pytest.fail)

    async def begins():
        file.started(RunView())

    counts = (field for field in Summary.__struct_fields__ if field not in ("newly", "stopped"))
    summary = Summary(**dict.fromkeys(counts, 0))
    for step in (lambda: asyncio.run(begins()), lambda: file.ended(Ending(0, summary))):
        step()
        found |= {s.name for f in text_string_to_metric_families(path.read_text()) for s in f.samples}
    return found


def named_in(expression):
    return set(re.findall(r"batcher_\w+", re.sub(r"[{][^}]*[}]", "", expression)))


def test_alerts_name_metrics_that_are_written(metrics):
    rules = documents("BatcherHasNotSucceeded")["groups"][0]["rules"]
    names = set().union(*(named_in(rule["expr"]) for rule in rules))
    assert names <= metrics
    assert {"batcher_last_success_timestamp_seconds", "batcher_live", "batcher_jobs"} <= names
    codes = {int(code) for rule in rules for code in re.findall(r"exit_code == (\d+)", rule["expr"])}
    assert codes <= EXIT_CODES.keys()


def test_the_dashboard_shows_metrics_that_are_written(metrics):
    board = json.loads((ROOT / "docs/grafana.json").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert set().union(*map(named_in, shown)) <= metrics
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in board["panels"])
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert set(re.findall(r"[$][{]?(\w+)", json.dumps(board))) <= variables


def test_every_exit_code_has_a_line_that_says_what_to_do():
    rows = re.findall(r"^\| (\d[\d, ]*) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    told = {int(code): does for codes, _, does in rows for code in codes.split(",")}
    assert told.keys() == EXIT_CODES.keys()
    assert all(told.values())


@pytest.mark.parametrize(
    "option", ["--quiet", "--on-lock", "--notify", "--metrics-file", "--ignore-old-failures"]
)
def test_options_that_the_page_names_exist(option):
    assert option in PAGE
    assert option.removeprefix("--") in {row.name for row in options_of("run")}
