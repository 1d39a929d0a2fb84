"""The table of options: what is made from it agrees with it."""

import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batcher
from batcher import api
from batcher.app.asked import RULES, options_from
from batcher.cli.entry import cli
from batcher.errors import UsageError
from batcher.options import kinds
from batcher.options.given import Given
from batcher.options.option import Many
from batcher.options.page import page
from batcher.options.run import Options
from batcher.options.table import BY_KEY, TABLE, options_of

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip)
VALUES = {
    "DURATION": st.floats(0, 1e6).map(lambda s: round(s, 6)),
    "SIZE": st.integers(0, 1 << 50),
    "USD": st.floats(0, 1e6).map(lambda usd: round(usd, 6)),
    "N": st.integers(1, 10**8),
    "N|auto|MODEL=N": st.just("auto") | st.integers(1, 10**8),
    "N|N%": st.tuples(st.floats(0, 100).map(lambda n: round(n, 4)), st.booleans()),
    "auto|SECONDS": st.just("auto") | st.floats(0.001, 1e5).map(lambda s: round(s, 6)),
    "0..1": st.floats(0, 1).map(lambda n: round(n, 9)),
}


@pytest.mark.parametrize("option", TABLE, ids=lambda option: option.name)
def test_a_value_written_as_text_is_read_as_the_same_value(option):
    @settings(max_examples=40)
    @given(VALUES.get(option.kind.metavar, st.nothing()))
    def holds(value):
        assert option.kind.parse(option.kind.show(value)) == value

    if option.kind.metavar in VALUES:
        holds()
    if option.default is not None:
        assert option.shown(option.default_value()) == [option.default]


@settings(max_examples=40)
@given(st.integers(1, 10**6), st.sampled_from("smh"))
def test_a_rate_written_as_text_is_the_same_rate(number, unit):
    rate = kinds.rate_per_s(f"{number}/{unit}")
    assert math.isclose(kinds.rate_per_s(kinds.RATE.show(rate)), rate, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0.5", 0.5),
        ("15m", 900),
        ("2h", 7200),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("1d", 86400),
    ],
)
def test_durations_are_seconds_or_have_a_unit(text, seconds):
    assert kinds.duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("7", 7), ("500MB", 500_000_000), ("2GiB", 2 << 30), ("1.5 kib", 1536)]
)
def test_sizes_are_bytes_or_have_a_unit(text, count):
    assert kinds.size_bytes(text) == count


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (kinds.DURATION, "soon"),
        (kinds.DURATION, "-5"),
        (kinds.DURATION, "٣"),
        (kinds.SIZE, "2 GiBs"),
        (kinds.RATE, "5"),
        (kinds.RATE, "0/s"),
        (kinds.USD, "nan"),
        (kinds.USD, "-1"),
        (kinds.USD, ""),
        (kinds.SHARE, "101%"),
        (kinds.COUNT, "0"),
        (kinds.COUNT, "1.5"),
        (kinds.CONCURRENCY, "automatic"),
        (kinds.SHARD, "3/2"),
        (kinds.POLL, "0"),
        (kinds.FLAG, "maybe"),
        (kinds.MODEL, " "),
        (kinds.ASSIGNED, "a\0b"),
    ],
)
def test_what_is_no_value_is_refused(kind, text):
    with pytest.raises(ValueError, match=r"\S"):
        kind.parse(text)


def test_the_python_api_names_the_options_of_the_table():
    named = set(get_type_hints(api.RunOptions)) - {"observer", "progress"}
    assert named == BY_KEY.keys() - api.COMMAND_LINE_ONLY


@pytest.mark.parametrize("command", ["run", "plan"])
def test_the_command_line_has_the_options_of_the_table(command):
    names = {name for param in cli.commands[command].params for name in param.opts if name[:2] == "--"}
    assert names == {f"--{option.name}" for option in options_of(command)}


@pytest.mark.parametrize("option", [o for o in TABLE if o.to is not None], ids=lambda o: o.name)
def test_an_option_fills_the_field_that_its_row_names(option):
    owner, _, name = option.to.rpartition(".")
    given_ = Given(("m.csv",), {"sandbox": True})
    options, values = options_from(given_), given_.complete()
    holder = getattr(options, owner) if owner else options
    assert is_dataclass(holder)
    assert name in {field.name for field in fields(holder)}
    assert getattr(holder, name) == values[option.key]


def test_every_option_fills_a_field_or_belongs_to_the_command_line():
    loose = {o.key for o in TABLE if o.to is None} - RULES.keys()
    assert loose - api.COMMAND_LINE_ONLY == {"state_dir", "sandbox"}


def test_the_defaults_are_those_of_the_facts():
    assert options_from(Given(("m.csv",))) == Options(manifest=Path("m.csv"))


def test_the_names_and_letters_of_options_are_distinct():
    letters = [o.short for o in TABLE if o.short]
    assert len({o.name for o in TABLE}) == len(TABLE)
    assert len(set(letters)) == len(letters)


@settings(max_examples=40)
@given(st.dictionaries(TEXT.filter(lambda n: "=" not in n and n == n.strip()), TEXT, max_size=3))
def test_a_mapping_is_the_same_from_python_and_from_the_command_line(inputs):
    option = BY_KEY["set"]
    assert option.many is Many.MAP
    assert option.value(option.shown(option.value(inputs))) == option.value(inputs) == inputs


async def test_python_refuses_what_is_no_option_and_names_the_nearest(tmp_path):
    for wrong, right in [
        ("max_cost_usd", "max_cost"),
        ("poll_interval_s", "poll"),
        ("job_timeout_s", "job_timeout"),
        ("max_file_bytes", "max_file_size"),
        ("rate_per_s", "rate"),
        ("allow_hosts", "allow_host"),
        ("canary_failures_percent", "canary_failures"),
        ("concurency", "concurrency"),
    ]:
        with pytest.raises(TypeError, match=rf"{wrong} is no option .*did you mean {right}\?"):
            await batcher.run(tmp_path / "m.csv", **{wrong: 1})
    with pytest.raises(TypeError, match="limits is no option"):
        await batcher.run(tmp_path / "m.csv", limits=None)
    with pytest.raises(TypeError, match="command line"):
        await batcher.plan(tmp_path / "m.csv", dry_run=True)
    with pytest.raises(UsageError, match="max_cost: 'much' is not an amount"):
        await batcher.run(tmp_path / "m.csv", max_cost="much")
    with pytest.raises(UsageError, match="skip_invalid"):
        await batcher.run(tmp_path / "m.csv", skip_invalid=3)
    with pytest.raises(UsageError, match="max_cost"):
        await batcher.run(tmp_path / "m.csv", max_cost=True)


def test_the_page_of_options_is_made_from_the_table():
    written = (Path(batcher.__file__).parents[1] / "docs/options.md").read_text("utf-8")
    assert written == page(), "python -m batcher.options.page > docs/options.md"
    assert all(f"--{option.name}" in written for option in TABLE)


CAP = BY_KEY["max_cost_per"]


@pytest.mark.parametrize(
    ("given", "caps"),
    [
        ("day=20", {"day": 20.0}),
        (" month = $3 , day=1", {"month": 3.0, "day": 1.0}),
        ("day:fal:*=5,day=20", {"day:fal:*": 5.0, "day": 20.0}),
        (["day=20", "month:kling/*=0.5"], {"day": 20.0, "month:kling/*": 0.5}),
        ({"day": 20, "day : fal:*": "$5"}, {"day": 20.0, "day:fal:*": 5.0}),
    ],
)
def test_a_cap_names_a_period_and_maybe_models(given, caps):
    assert CAP.value(given) == caps
    assert CAP.value(CAP.shown(caps)) == caps


@pytest.mark.parametrize(
    "given",
    [
        "",
        "20",
        "=20",
        "week=1",
        "day:=1",
        "fal:*=5",
        "day=",
        "day=x",
        "dayfal:*=5",
        {"week": 1},
        {"day": None},
    ],
)
def test_a_cap_of_anything_else_is_refused(given):
    with pytest.raises(ValueError, match=r"write day=USD|not an amount"):
        CAP.value(given)
