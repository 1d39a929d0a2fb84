"""Rows that are checked cell by cell are the jobs that the full check makes of them."""

import csv
import io
import tempfile
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.manifest.check import Checker
from batcher.manifest.pattern import Pattern
from batcher.planning.survey import Estimate
from batcher.schema.spec import ModelSpec
from tests.support.manifest_files import PNG, URL, read, read_text, write

SPEC = ModelSpec.from_catalogue(
    {
        "model_id": "m",
        "base_price_usd": 0.1,
        "price_unit": "second",
        "input_schema": {
            "required": ["prompt"],
            "properties": {
                "prompt": {"type": "string", "maxLength": 60},
                "image_url": {"type": "string"},
                "image_urls": {"type": "array", "items": {"type": "string"}},
                "mask": {"type": "string"},
                "duration": {"type": "integer", "minimum": 1, "maximum": 10, "default": 5},
                "cfg": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                "size": {"type": "string", "enum": ["16:9", "1:1"]},
                "loop": {"type": "boolean"},
                "extra": {"type": "object"},
                "any": {},
                "numSteps": {"type": "integer"},
                "either": {"type": ["integer", "string"]},
            },
        },
    }
)
NAMES = [
    *(name for name in SPEC.fields if name != "prompt"),
    "numsteps",
    "promt",
    "file_name",
    "meta.split",
    "id",
]
SIGNED = f"{URL}?X-Amz-Credential=a&X-Amz-Date=b&X-Amz-Expires=60&X-Amz-Signature=c"
TEXTS = [
    *("", " ", "a cat", "A cat", "a" * 70, "5", "05", "5.0", "1e1", "0,5", "99", "-", "é", "x\r\ny"),
    *(
        "true",
        "No",
        "16:9",
        "[1]",
        '["a"]',
        '{"a": 1}',
        "#REF!",
        "=A1",
        "{{ x }}",
        "cat.png",
        "gone.png",
    ),
    *(URL, SIGNED, f"{URL},{URL}", f"{URL}?x=1", "http://a.example/x.png", "https://10.0.0.1/x.png"),
    *("data:x", f"see {URL}"),
]
VALUES = [*TEXTS, 5, 5.0, 0.5, True, False, 1, None, ["a"], [], {"a": 1}, 2**70]
A_TEXT, A_VALUE = st.sampled_from(TEXTS), st.sampled_from(VALUES)


def without_patterns():
    return patch.object(Checker, "pattern", lambda *_: None)


def everything(found):
    estimate = Estimate({"m": SPEC})
    jobs = [
        (job, [type(value) for value in job.input.values()], estimate.add([job])) for job in found.jobs
    ]
    return jobs, found.tally, estimate.lines, [list(job.input) for job in found.jobs]


def same_both_ways(name, content, **overrides):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), "cat.png", PNG)
        path = write(Path(folder), name, content)
        quick = everything(read(path, {"m": SPEC}, model="m", **overrides))
        with without_patterns():
            assert everything(read(path, {"m": SPEC}, model="m", **overrides)) == quick


def as_table(names, rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([names, *rows])
    return text.getvalue()


def as_lines(rows):
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_each_value_of_an_input_is_the_same_job_or_the_same_problem_both_ways(name):
    texts = [[f"dog {number}", text] for number, text in enumerate(TEXTS)]
    same_both_ways("m.csv", as_table(["prompt", f" {name} "], texts))
    rows = [{"prompt": f"dog {number}", name: value} for number, value in enumerate(VALUES)]
    same_both_ways("m.jsonl", as_lines(rows))


OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "per_row": st.booleans(),
        "set": st.dictionaries(st.sampled_from(["duration", "any", "loop"]), A_TEXT, max_size=2),
        "extra": st.just(("promt",)),
    },
)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique_by=str.lower).flatmap(
        lambda names: st.tuples(
            st.just(names),
            st.lists(st.lists(A_TEXT, min_size=len(names), max_size=len(names)), max_size=8),
        )
    ),
    OVERRIDES,
)
def test_a_table_has_the_same_jobs_prices_and_problems_both_ways(found, overrides):
    same_both_ways("m.csv", as_table(*found), **overrides)


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.sampled_from(NAMES), A_VALUE, max_size=6), max_size=8), OVERRIDES)
def test_lines_of_json_have_the_same_jobs_prices_and_problems_both_ways(rows, overrides):
    same_both_ways("m.jsonl", as_lines(rows), **overrides)


def test_most_rows_of_a_table_are_not_checked_in_full(tmp_path, monkeypatch):
    whole, rows = Checker._in_full, []

    def counted(checker, draft, *others):
        rows.append(draft.inputs["prompt"])
        return whole(checker, draft, *others)

    monkeypatch.setattr(Checker, "_in_full", counted)
    lines = "".join(f"cat {number},{URL},{number % 10 + 1},no\n" for number in range(50))
    found = read_text(
        tmp_path,
        "m.csv",
        f"prompt,image_url,numsteps,loop\n{lines}odd,{URL},x,no\nfile,none.png,1,no\n",
        {"m": SPEC},
        model="m",
    )
    assert rows == ["odd", "file"]
    assert (len(found.jobs), found.tally.invalid) == (50, 2)


def test_floats_fit_a_pattern_as_integers_if_those_are_required():
    fitted, _ = Pattern("m", ["prompt", "cfg", "duration"], SPEC).fitted(["a", 5.0, 5.0])
    assert [repr(value) for value in fitted.values()] == ["'a'", "5.0", "5"]
    fitted, _ = Pattern("m", ["prompt", "cfg"], SPEC).fitted(["a", 0.5])
    assert fitted["cfg"] == 0.5
    assert Pattern("m", ["prompt", "duration"], SPEC).fitted(["a", 0.5]) is None


def test_a_pattern_with_inputs_that_it_does_not_know_fits_nothing():
    assert Pattern("m", ["prompt"], SPEC).fitted(["a"]) is not None
    assert Pattern("m", ["prompt", "unknown"], SPEC).fitted(["a", "b"]) is None
    assert Pattern("m", ["numSteps", "numsteps"], SPEC).fitted(["1", "2"]) is None
    assert Pattern("m", ["image_urls"], SPEC).fitted(["[]"]) is None, "no two jobs share a list"
    assert Pattern("deployment/1", ["prompt"], SPEC).fitted(["a"]) is None
