"""Options from files, the environment and the manifest: the later wins, and nothing is ignored."""

import gzip
from pathlib import Path

import pytest

import batcher
from batcher.app.asked import asked_of, options_from
from batcher.app.plan import plan as plan_of
from batcher.engine.host import Host
from batcher.errors import UsageError
from batcher.options.given import COMMAND_LINE
from batcher.schema.spec import KLING

ROW = "- {{id: j{}, model: {}, prompt: a, image_url: https://example.com/a.png}}\n"
MANIFEST = "jobs:\n- prompt: a\n  image_url: https://example.com/a.png\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory, with the manifest in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch").mkdir()
    (tmp_path / "batch/m.yaml").write_text(MANIFEST)
    return tmp_path


def asked(typed=None, manifest="batch/m.yaml", **env):
    return asked_of([manifest], typed or {}, env)


def test_each_place_wins_over_those_before_it(here):
    (here / "pyproject.toml").write_text("[tool.batcher]\nlimit = 1\nmax_cost = 1\n")
    assert asked().values["limit"] == 1
    (here / "batcher.toml").write_text("limit = 2\n")
    assert asked().values["limit"] == 2
    (here / "batch/pyproject.toml").write_text("[tool.batcher]\nlimit = 3\n")
    assert asked().values["limit"] == 3
    (here / "batch/batcher.toml").write_text("limit = 4\n")
    assert asked().values["limit"] == 4
    assert asked(BATCHER_LIMIT="5").values["limit"] == 5
    (here / "batch/m.yaml").write_text(MANIFEST + "run: {limit: 6}\n")
    assert asked(BATCHER_LIMIT="5").values["limit"] == 6
    given = asked({"limit": 7}, BATCHER_LIMIT="5")
    assert given.values == {"limit": 7, "max_cost": 1.0}
    assert given.origins == {"limit": COMMAND_LINE, "max_cost": "pyproject.toml:3: max_cost"}


def test_the_facts_of_a_run_are_filled_from_all_places(here):
    (here / "batcher.toml").write_text('max-cost = 5\n[set]\nduration = 10\nimages = ["a", "b"]\n')
    (here / "batch/m.yaml").write_text(MANIFEST + "run:\n  concurrency: 3\n  poll: 2m\n")
    options = options_from(asked({"set": {"duration": "5"}}, BATCHER_ALLOW_HOST="a.com, b.com"))
    assert options.money.max_cost_usd == 5.0
    assert options.pace.concurrency == 3
    assert options.pace.poll_interval_s == 120.0
    assert options.trust.allow_hosts == ("a.com", "b.com")
    assert options.overrides.set == {"duration": "5", "images": '["a","b"]'}


def test_the_origin_of_a_merged_mapping_names_each_of_its_sources(here):
    (here / "batcher.toml").write_text('concurrency = {"kling/*" = 2}\n')
    given = asked({"concurrency": {"*": 4}})
    assert given.origins["concurrency"] == f"batcher.toml:1: concurrency; {COMMAND_LINE}"


def test_the_working_directory_counts_once_if_the_manifest_is_in_it(here):
    (here / "m.yaml").write_text(MANIFEST)
    (here / "batcher.toml").write_text("meta = 'split'\n")
    for manifest in ("m.yaml", str(here / "m.yaml"), "batch/../m.yaml"):
        assert asked(manifest=manifest).values == {"meta": ("split",)}


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "batcher.toml",
            "\nmax_cots = 3\n",
            "batcher.toml:2: max_cots: there is no such option; did you",
        ),
        ("batcher.toml", "max-cost = 3\n\nmax_cost = 4", "batcher.toml:3: max_cost: it is there twice"),
        ("batcher.toml", "limit = 3\nlimit = 4", "batcher.toml:2: not TOML: Cannot overwrite a value"),
        ("batcher.toml", "limit = 'three'", "batcher.toml:1: limit: 'three' is not a whole number"),
        ("batcher.toml", "limit = 1.5", "batcher.toml:1: limit: '1.5' is not a whole number"),
        ("batcher.toml", "limit = true", "batcher.toml:1: limit: True is not a value for it; write N"),
        ("batcher.toml", "# a\nsandbox = 1", "batcher.toml:2: sandbox: 1 is neither true nor false"),
        ("batcher.toml", "limit = [1]", r"batcher.toml:1: limit: \[1\] is neither text nor a number"),
        ("batcher.toml", "max_cost = inf", "batcher.toml:1: max_cost: 'inf' is not an amount"),
        ("batcher.toml", "meta = 3", "batcher.toml:1: meta: 3 is no list"),
        ("batcher.toml", "[tool.batcher]\nlimit = 1", "batcher.toml:1: tool: there is no such option"),
        ("batcher.toml", "limit = 1\nmodel = ''", "batcher.toml:2: model: it is empty"),
        ("batcher.toml", "limit\n", "batcher.toml:1: not TOML"),
        ("batcher.toml", "a = '''\n", "batcher.toml:2: not TOML"),
        ("batcher.toml", "# caf\xe9", "batcher.toml:1: not UTF-8"),
        ("pyproject.toml", "[tool.other]\nlimt = 1\n[tool.batcher]\nlimt=1", "pyproject.toml:4: limt"),
        ("pyproject.toml", "tool.batcher = 3", "pyproject.toml: tool.batcher must be a table"),
        ("batch/m.yaml", "run:\n  max_cots: 3\n" + MANIFEST, "batch/m.yaml:2: run: max_cots: there is"),
        ("batch/m.yaml", "run:\n  limit: no\n" + MANIFEST, "batch/m.yaml:2: run: limit: 'no' is not a"),
        ("batch/m.yaml", "run:\n  limit:\n" + MANIFEST, "batch/m.yaml:2: run: limit: it has no value"),
        ("batch/m.yaml", "run: [limit]\n" + MANIFEST, "batch/m.yaml:1: run: a mapping of options"),
    ],
)
def test_a_mistake_is_told_with_its_place(here, file, text, said):
    (here / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=said):
        asked()


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("BATCHER_MAX_COTS", "3", r"\$BATCHER_MAX_COTS: there is no such option; did you mean max_cost"),
        ("BATCHER_MAX_COST", "", r"\$BATCHER_MAX_COST is empty: unset it"),
        ("BATCHER_MAX_COST", "much", r"\$BATCHER_MAX_COST: 'much' is not an amount"),
        ("BATCHER_YES", "maybe", r"\$BATCHER_YES: 'maybe' is neither true nor false"),
        ("BATCHER_SET", "duration", r"\$BATCHER_SET: 'duration': write FIELD=VALUE"),
    ],
)
def test_a_mistake_in_a_variable_is_told_with_its_name(here, variable, text, said):
    with pytest.raises(UsageError, match=said):
        asked(**{variable: text})


def test_what_kubernetes_sets_for_a_service_is_no_option(here):
    service = {
        "BATCHER_SERVICE_HOST": "10.0.0.1",
        "BATCHER_SERVICE_PORT": "80",
        "BATCHER_SERVICE_PORT_HTTP": "80",
        "BATCHER_PORT": "tcp://10.0.0.1:80",
        "BATCHER_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert asked(**service).values == {}


def test_several_values_in_a_variable_stand_on_lines_of_their_own(here):
    given = asked(BATCHER_SET="prompt=a, b = c\nduration=5\n", BATCHER_META="a,b")
    assert given.values == {"set": {"prompt": "a, b = c", "duration": "5"}, "meta": ("a", "b")}


def test_paths_in_a_file_begin_in_its_folder_and_know_the_home_directory(here, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    (here / "batch/batcher.toml").write_text("output = 'out'\nonly = '@chosen.txt'\n")
    assert asked().values == {"output": "batch/out", "only": "@batch/chosen.txt"}
    (here / "batch/batcher.toml").write_text("output = 's3://bucket/x'\nstate-dir = '~/state'\n")
    assert asked().values == {"output": "s3://bucket/x", "state_dir": "/home/ann/state"}
    (here / "batch/batcher.toml").unlink()
    assert asked(BATCHER_OUTPUT="out").values == {"output": "out"}


def test_a_switch_that_a_file_turns_on_can_be_turned_off(here):
    (here / "batcher.toml").write_text("skip-invalid = true\n")
    assert asked().values["skip_invalid"] is True
    given = asked({"skip_invalid": False})
    assert given.command() == "batcher run batch/m.yaml --no-skip-invalid"


def test_a_prompt_that_says_run_is_no_run_map(here):
    (here / "batch/m.yaml").write_text("jobs:\n- prompt: |\n    run: limit\n  run: 3\n")
    assert asked().values == {}


def test_a_manifest_that_cannot_be_read_is_left_to_those_who_open_it(here):
    (here / "batch/m.yaml").write_text("run: {limit: 1}\njobs: [\n")
    assert asked().values == {}
    assert asked(manifest="batch/none.yaml").values == {}


async def test_python_heeds_the_same_places_and_its_own_words_win(here):
    (here / "batch/m.yaml").write_text(
        f"run: {{limit: 1, sandbox: true}}\njobs:\n{''.join(ROW.format(n, KLING.model_id) for n in range(3))}"
    )
    assert (await batcher.plan("batch/m.yaml")).selected == 1
    assert (await batcher.plan("batch/m.yaml", limit=2)).selected == 2
    (here / "batcher.toml").write_text("limt = 1")
    with pytest.raises(UsageError, match=r"batcher.toml:1: limt"):
        await batcher.plan(Path("batch/m.yaml"))


def test_the_run_map_is_read_as_the_manifest_is(here):
    text = (MANIFEST + "run: {limit: 6}\n").encode()
    (here / "m.yaml.gz").write_bytes(gzip.compress(text))
    (here / "m.txt").write_bytes(text)
    (here / "m.json").write_text('{"jobs": [],\n "run": {"max-cost": 5}}')
    assert asked(manifest="m.yaml.gz").values == {"limit": 6}
    assert asked({"format": "yaml"}, "m.txt").values == {"format": "yaml", "limit": 6}
    assert asked(manifest="m.txt").values == {}
    given = asked(manifest="m.json")
    assert given.values == {"max_cost": 5.0}
    assert given.origins == {"max_cost": "m.json:2: run: max-cost"}


async def test_the_run_map_of_an_included_manifest_is_told_not_to_count(here):
    rows = "".join(ROW.format(n, KLING.model_id) for n in range(2))
    (here / "inner.yaml").write_text(f"# first\nrun: {{limit: 1}}\njobs:\n{rows}")
    (here / "m.yaml").write_text("jobs:\n- from: inner.yaml\n")
    planned = await plan_of(options_from(asked(manifest="m.yaml", BATCHER_SANDBOX="1")), Host(home=here))
    assert planned.prepared.plan.selected == 2
    [warning] = [text for text in planned.warnings if "don't count" in text]
    assert warning.startswith("inner.yaml:2: run: ")
