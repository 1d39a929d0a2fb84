"""A printed command, typed as it stands, asks for what it says."""

import json
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from batcher.cli.entry import cli
from batcher.cli.run_options import typed
from batcher.options import kinds
from batcher.options.command import as_path, command, quoted
from batcher.options.given import Given
from batcher.options.kinds import PER_PERIOD
from batcher.options.option import Many, Shapes
from batcher.options.record import given_of, record_of
from batcher.options.table import BY_KEY, TABLE, options_of
from batcher.schema.spec import KLING
from batcher.terminal import visible

BASH = shutil.which("bash")
ANY = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
NASTY = st.sampled_from(
    [
        "a b",
        "it's",
        '"',
        "$HOME",
        "`id`",
        "a\nb",
        "\t",
        "-x",
        "--yes",
        "é",
        "\u202e",
        "\x1b[31m",
        "*",
        "~",
        "#",
        "!",
    ]
)
TEXT = (ANY | NASTY | st.builds("{}{}".format, NASTY, ANY)).filter(str.strip)
NAMES = TEXT.filter(lambda name: "=" not in name and name == name.strip())
PATHS = TEXT.filter(lambda path: path != "-")
BY_METAVAR = {
    "RUN_DIR": PATHS,
    "DIR": PATHS,
    "ID": TEXT,
    "GLOB|@FILE": TEXT,
    "tcp://HOST:PORT|local:N": TEXT,
    "COLUMN": TEXT.filter(lambda name: "," not in name and name == name.strip()),
    "HOST": TEXT.filter(lambda name: "," not in name and name == name.strip()),
    "FIELD=VALUE": ANY | NASTY | st.just(""),
    "": st.booleans(),
    "N": st.integers(1, 10**8),
    "N|auto": st.just("auto") | st.integers(1, 10**8),
    "I/N|auto": st.just("2/7").map(kinds.SHARD.parse),
    "N/s|N/m": st.sampled_from(["5/s", "7/m", "0.1/s", "1/h"]).map(kinds.rate_per_s),
    "N|N%": st.tuples(st.integers(0, 100).map(float), st.booleans()),
    "USD": st.floats(0, 1e6).map(lambda usd: round(usd, 4)),
    "SIZE": st.integers(0, 1 << 45),
    "FACTOR": st.floats(0.01, 100).map(lambda n: round(n, 4)),
    "0..1": st.floats(0, 1).map(lambda n: round(n, 4)),
}


SPELLINGS = [
    "a b'$",
    "-x",
    "3",
    "0.5",
    "5/s",
    "20%",
    "2h",
    "2GiB",
    "day=20,month=300",
    "day=20",
    "a=b",
    "*",
    "=",
]


def spelled(kind):
    """Values of a kind that has no strategy of its own."""
    values = list(kind.choices)
    one = [text for text in SPELLINGS if not (kind.separator and kind.separator in text)]
    for text in () if values else one:
        with suppress(ValueError):
            values.append(kind.parse(text))
    return st.sampled_from(values)


def value_of(option):
    metavar = option.kind.metavar
    one = BY_METAVAR[metavar] if metavar in BY_METAVAR else spelled(option.kind)
    if option.name == "rename":  # a column may be called a=b, an input can't
        one = one.filter(lambda field: "=" not in field)
    if option.many is Many.MAP:
        models = NAMES.map(lambda name: name.replace(",", "").replace("=", "").strip() or "*")
        names = models if option.kind.bare_name else NAMES
        if option.kind is PER_PERIOD:
            names = st.sampled_from(["day", "month"]) | models.map(lambda name: f"day:{name}")
        return st.dictionaries(names, one, min_size=1, max_size=3)
    return st.lists(one, min_size=1, max_size=3).map(tuple) if option.many is Many.LIST else one


SHAPING = [option for option in options_of("run") if option.shapes is not Shapes.TALK]
GIVEN = st.builds(
    Given,
    manifests=st.lists(PATHS, min_size=1, max_size=3).map(tuple),
    values=st.fixed_dictionaries({}, optional={o.key: value_of(o) for o in SHAPING}),
)


def words_of(lines):
    """The words of command lines, as bash reads them."""
    script = "\n".join(f"printf '%s\\0' {line}; printf '\\0'" for line in lines)
    told = subprocess.run([BASH, "-c", script], capture_output=True, check=True).stdout
    ends = told.decode("utf-8", "surrogateescape").split("\0\0")[:-1]
    return [line.split("\0") for line in ends]


def understood(words):
    """What click makes of a command: the manifest, and the options that stand there."""
    program, verb, *arguments = words
    assert program == "batcher"
    params = cli.commands[verb].make_context(verb, arguments).params
    return params["manifest"], typed(params)


def as_typed(key, value):
    texts = BY_KEY[key].shown(value)
    return [as_path(text) for text in texts] if BY_KEY[key].kind.is_path else texts


@pytest.mark.skipif(BASH is None, reason="no bash")
@settings(max_examples=40, phases=[Phase.explicit, Phase.generate])
@given(st.lists(GIVEN, min_size=1, max_size=5))
@example([Given(("-x.csv",), {"set": {"-a": "-b", "c": "a\nb\x1b"}, "model": "-m", "output": "--"})])
@example([Given(("caf\udce9.csv",), {"yes": True, "limit": 3, "set": {"prompt": ""}})])
def test_what_is_printed_and_typed_back_asks_for_the_same(several):
    printed = [asked.command() for asked in several]
    assert list(map(visible, printed)) == printed, "a terminal shows it as it is"
    for asked, words in zip(several, words_of(printed), strict=True):
        manifests, values = understood(words)
        assert manifests == tuple(map(as_path, asked.manifests))
        assert {key: as_typed(key, value) for key, value in values.items()} == {
            key: as_typed(key, value) for key, value in asked.values.items()
        }


def test_a_command_to_resume_has_no_permission_that_was_for_one_run():
    values = {"retry_failed": True, "retry_unknown": True, "redo": True, "yes": True, "max_cost": 5.0}
    asked = Given(("m.csv",), values)
    assert asked.resume_command() == "batcher run m.csv --max-cost 5"
    assert asked.resume_command(retry_failed=True) == "batcher run m.csv --retry-failed --max-cost 5"
    assert asked.command("plan") == (
        "batcher plan m.csv --retry-failed --retry-unknown --redo --max-cost 5"
    )


def test_what_does_not_shape_jobs_or_money_is_not_repeated():
    told = {o.key: o.default_value() for o in TABLE if o.shapes is Shapes.TALK and o.many is Many.ONE}
    assert Given(("m.csv",), told).command() == "batcher run m.csv"
    assert {"quiet", "json", "poll", "log_format"} <= told.keys()


def test_words_are_quoted_for_the_shell_and_for_the_terminal():
    assert command("status", "a b") == "batcher status 'a b'"
    assert quoted("a\nb'\\") == "$'a\\nb\\'\\\\'"
    assert quoted("\x1b[2J") == "$'\\033[2J'"
    assert quoted("\udcff.csv") == "$'\\377.csv'"
    assert quoted("страус") == "'страус'"
    assert as_path("-x.csv") == "./-x.csv"
    assert as_path("-") == "-"


@pytest.fixture
def clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = "".join(f"a cat {n},https://example.com/{n}.png,train\n" for n in range(3))
    (tmp_path / "my clips.csv").write_text(f"prompt,image_url,split\n{rows}")
    return [
        *("my clips.csv", "--model", KLING.model_id, "--meta", "split", "--set", "duration=10"),
        *("--max-cost", "6", "--sandbox", "--sandbox-speed", "200", "--poll", "0.02"),
    ]


def said(capsys, *words):
    """The exit code of a command, and its standard output."""
    code = cli.main(list(words), standalone_mode=False)
    return code, capsys.readouterr().out


def test_the_command_that_a_run_prints_has_the_plan_of_the_one_that_was_typed(clips, capsys):
    code, out = said(capsys, "run", *clips)
    assert code == 3
    [line] = [line for line in out.splitlines() if "pending. Resume with: " in line]
    [[_, verb, *words]] = words_of([line.partition("Resume with: ")[2]])
    assert verb == "run"
    plans = [
        json.loads(said(capsys, "run", *given, "--dry-run", "--json")[1]) for given in (clips, words)
    ]
    assert plans[0] == plans[1]
    assert (plans[1]["done"], plans[1]["to_buy"], plans[1]["max_cost_usd"]) == (2, 1, 6.0)


def test_a_run_of_the_first_jobs_says_how_to_run_the_others(clips, capsys):
    code, out = said(capsys, "run", *clips, "--limit", "2")
    assert code == 0
    text, _, line = out.splitlines()[-1].partition(". To run them all: ")
    assert text == "1 job is pending that --limit left out"
    [[_, verb, *words]] = words_of([line])
    told = json.loads(said(capsys, verb, *words, "--dry-run", "--json")[1])
    assert (told["done"], told["to_buy"], told["max_cost_usd"]) == (2, 1, 6.0)


def test_a_plan_prints_the_command_that_carries_it_out(clips, capsys):
    clips = [word for word in clips if word not in ("--sandbox-speed", "200", "--poll", "0.02")]
    _, out = said(capsys, "plan", *clips)
    [line] = [line for line in out.splitlines() if line.startswith("Run it: ")]
    [[_, verb, *words]] = words_of([line.removeprefix("Run it: ")])
    assert verb == "run"
    assert said(capsys, "plan", *words) == said(capsys, "plan", *clips)


def test_what_a_ledger_keeps_of_a_command_makes_the_same_command_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "project/lists").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    values = {
        "model": "-m", "set": {"prompt": "a=b\nc"}, "only": "@lists/a.txt", "max_cost": 5.0, "sandbox": True,
        "skip_invalid": False, "retry_failed": True, "yes": True, "quiet": True, "output": "elsewhere",
    }  # fmt: skip
    asked = Given(("my clips.csv",), values)
    run_dir = Path("output/x")
    kept = record_of(asked, run_dir)
    assert kept.manifests == ["../../my clips.csv"]
    assert "retry_failed" not in kept.options
    again = given_of(kept, run_dir)
    assert (
        again.resume_command()
        == Given(asked.manifests, values | {"output": "output/x"}).resume_command()
    )
    shutil.move(tmp_path / "project", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    there = given_of(kept, Path("moved/output/x"))
    assert there.manifests == ("moved/my clips.csv",)
    assert (there.values["output"], there.values["only"]) == ("moved/output/x", "@moved/lists/a.txt")
    assert given_of(kept, Path("st"), "s3://b/x").values["output"] == "s3://b/x"
    assert given_of(None, run_dir) is None


@pytest.mark.parametrize(
    "asked",
    [
        Given(
            ("m.csv",),
            {"set": {"image_url": "https://x.com/a.png?X-Amz-Signature=aa&X-Amz-Credential=b"}},
        ),
        Given(("m.csv",), {"only": frozenset({"a"})}),
        Given(("caf\udce9.csv",)),
        Given(("-",)),
        Given(("/dev/fd/63",)),
        Given(("jobs.json",), is_passing=True),
        Given(()),
    ],
)
def test_nothing_is_kept_of_a_command_that_could_not_be_typed_again(asked, tmp_path):
    assert record_of(asked, tmp_path) is None


def test_a_manifest_that_a_shell_piped_in_is_standard_input_in_what_is_printed():
    """The next shell has nothing under the number of this one's pipe."""
    for name in ("/dev/fd/63", "/proc/self/fd/5", "/dev/stdin", "-"):
        assert Given((name, "a.csv"), {"format": "csv"}).command() == "batcher run - a.csv --format csv"


def test_the_report_and_the_status_offer_the_command_of_the_run(clips, capsys):
    said(capsys, "run", *clips)
    run_dir = "output/my clips-sandbox"
    _, out = said(capsys, "status", run_dir)
    [line] = [line for line in out.splitlines() if line.startswith("  resume with: ")]
    said(capsys, "report", run_dir)
    page = Path(run_dir, "report.html").read_text()
    offered = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["commands"]
    assert offered["resume"] == line.removeprefix("  resume with: ")
    for name in ("resume", "retry_failed", "retry_unknown"):
        [[_, verb, *words]] = words_of([offered[name]])
        assert verb == "run"
        plan = json.loads(said(capsys, "run", *words, "--dry-run", "--json")[1])
        assert (plan["done"], plan["to_buy"], plan["max_cost_usd"]) == (2, 1, 6.0)
    [words] = words_of([f"{offered['resolve']} JOB --not-created"])
    assert words == ["batcher", "resolve", run_dir, "JOB", "--not-created"]


def test_the_report_of_a_run_of_some_jobs_offers_commands_that_reach_what_the_page_lists(clips, capsys):
    said(capsys, "run", *clips, "--limit", "1")
    run_dir = "output/my clips-sandbox"
    said(capsys, "report", run_dir)
    page = Path(run_dir, "report.html").read_text()
    offered = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["commands"]
    listing, resume = offered["retry_failed"].split(" && ")
    assert listing == f"batcher status '{run_dir}' --list failed,cancelled > failed.jsonl"
    [[_, verb, *words]] = words_of([resume])
    params = cli.commands[verb].make_context(verb, words).params
    assert (params["only"], params["limit"], params["retry_failed"]) == ("@failed.jsonl", None, True)
    assert "--limit" not in offered["redo_poor"]


def test_a_manifest_in_a_folder_with_spaces_and_quotes_is_named_as_it_can_be_typed(clips, capsys):
    folder = Path("it's a dir")
    folder.mkdir()
    Path(clips[0]).rename(folder / "x.csv")
    _, out = said(capsys, "run", f"{folder}/x.csv", *clips[1:], "--limit", "1")
    run_dir = f"{folder}/output/x-sandbox"
    assert f"outputs: {run_dir}/media" in out
    _, status = said(capsys, "status", run_dir)
    told = [out.partition("To run them all: ")[2], *re.findall(r"resume .* with: (.*)", status)]
    for _, verb, *words in words_of([line.strip() for line in told]):
        plan = json.loads(said(capsys, verb, *words, "--dry-run", "--json")[1])
        assert (plan["done"], plan["run_dir"]) == (1, run_dir)
    assert len(told) == 3
