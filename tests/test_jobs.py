"""Ids and canonical inputs: what makes two rows one job, and what may be written down of a URL."""

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.jobs import (
    LocalMedia,
    Source,
    canonical,
    explicit_id_problem,
    generated_id,
    input_digest,
    mask_url,
    matrix_digest,
    output_name,
    recorded,
    slug,
)

CAT = LocalMedia("/home/me/cat.png", "cat.png", "ab" * 32, 12, "image/png")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (5, 5.0),
        (5, "5"),
        ("5.0", 5),
        ("5e0", 5),
        (0.5, "0.50"),
        (-0.0, 0),
        (True, "true"),
        (True, "TRUE"),
        (False, "False"),
        ([1, "2"], ["1", 2.0]),
        (["a.png", "b.png"], '["a.png", "b.png"]'),
        ({"a": 1, "b": None}, {"a": "1"}),
        ("https://x.org/a.png?Expires=1&Signature=b", "https://x.org/a.png"),
        ("https://x.org/a.png?v=2&X-Amz-Signature=b", "https://x.org/a.png?X-Amz-Date=9&v=2"),
        ("https://x.org/a?X-Goog-Credential=1#t=2", "https://x.org/a#t=2"),
        ("https://a.blob.core.windows.net/c?sp=r&st=1&sig=zzz", "https://a.blob.core.windows.net/c"),
        (CAT, CAT.record()),
        (CAT, LocalMedia("/elsewhere/copy.png", "copy.png", "ab" * 32, 12, "image/png")),
    ],
)
def test_spellings_of_one_input_are_one(one, other):
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("007", "7"),
        (5, "five"),
        ("1" * 30, "1" * 29 + "2"),
        ("1" * 60, "1" * 59 + "2"),
        (True, 1),
        ("a cat", "A cat"),
        ("[1, 2", "[1,2"),
        ("https://x.org/a?v=1", "https://x.org/a?v=2"),
        ("https://x.org/a?q=%ff", "https://x.org/a?q=%fe"),
        ("https://x.org/a?st=1", "https://x.org/a?st=2"),
        ("data: a cat, asleep", "data: a dog, asleep"),
        ("data:image/png;base64,AAAA", "data:image/png;base64,AAAB"),
    ],
)
def test_different_inputs_stay_different(one, other):
    assert canonical(one) != canonical(other)


def test_a_data_uri_is_the_file_that_it_holds():
    content = b"some bytes"
    sha256 = hashlib.sha256(content).hexdigest()
    assert canonical(f"data:image/png;base64,{base64.b64encode(content).decode()}") == f"sha256:{sha256}"
    assert canonical("data:text/plain,some%20bytes") == f"sha256:{sha256}"


@pytest.mark.parametrize("uri", ["data:image/png;base64,A", "data:image/png;base64,é"])
def test_a_data_uri_that_is_not_base64_still_has_an_identity(uri):
    assert canonical(uri) == f"sha256:{hashlib.sha256(uri.encode()).hexdigest()}"


@pytest.mark.parametrize("text", ["1e9999999999999999999", "1e9999", "-1e-9999", "9" * 5000])
def test_no_number_is_too_large_to_have_an_identity(text):
    assert input_digest("m", {"prompt": text}) == input_digest("m", {"prompt": text})


def test_numbers_far_from_one_keep_an_exponent():
    assert canonical("1e40") == canonical("10e39") == "1E+40"
    assert canonical("1e3") == "1000"


def test_a_float_that_is_no_number_stays_what_it_is():
    assert canonical(float("nan")) == "nan"
    assert canonical(None) is None


def test_the_digest_covers_the_model_and_ignores_order_nulls_and_the_case_of_names():
    digest = input_digest("a/b", {"x": 1, "y": "z"})
    assert digest == input_digest("a/b", {"y": "z", "x": "1", "w": None})
    assert digest == input_digest("a/b", {"X": 1, "y": "z"})
    assert digest != input_digest("a/c", {"x": 1, "y": "z"})
    assert len(digest) == 16


def test_digests_are_those_of_earlier_versions():
    """Ids live in ledgers: a change of this number orphans everybody's jobs."""
    inputs = {
        "prompt": "a cat",
        "image_url": "https://x.org/a.png?sig=1",
        "duration": 5,
        "flags": [True, 0.5],
    }
    assert input_digest("kling/kling-2-1/master/image-to-video", inputs) == "fc39853d0e444fc3"
    assert matrix_digest({"animal": "a fox"}) == "6c2fc16e"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat, jumping!", "a-cat-jumping"),
        ("  --  ", "job"),
        ("", "job"),
        ("Crème brûlée", "creme-brulee"),
        ("猫が跳ぶ", "job"),
        ("x" * 50, "x" * 40),
        ("a" * 39 + " b", "a" * 39),
    ],
)
def test_a_slug_is_short_lower_case_and_ascii(text, expected):
    assert slug(text) == expected


def test_a_generated_id_begins_with_the_prompt():
    assert generated_id({"prompt": "A cat"}, "0" * 16) == f"a-cat-{'0' * 16}"
    assert generated_id({}, "0" * 16) == f"job-{'0' * 16}"


@pytest.mark.parametrize(("one", "other"), [(5, "5.0"), (True, "TRUE")])
def test_a_generated_id_does_not_depend_on_the_spelling_of_the_prompt(one, other):
    assert generated_id({"prompt": one}, "0") == generated_id({"prompt": other}, "0")


@given(st.text(max_size=200))
@settings(max_examples=100)
def test_every_slug_and_every_accepted_id_is_a_safe_file_name(text):
    assert explicit_id_problem(slug(text)) is None
    if explicit_id_problem(text) is None:
        assert text.isascii()
        assert "/" not in text
        assert not text.startswith(".")
        assert 0 < len(text) <= 100


@given(st.text(max_size=120))
@settings(max_examples=100)
def test_a_refused_id_comes_with_a_suggestion_that_is_accepted(text):
    problem = explicit_id_problem(text)
    if problem is not None:
        suggestion = problem.rpartition("try ")[2].strip("'")
        assert explicit_id_problem(suggestion) is None


def test_one_output_has_the_jobs_name_and_several_are_numbered():
    assert output_name("cat", 0, 1, ".mp4") == "cat.mp4"
    assert [output_name("cat", i, 2, ".png") for i in range(2)] == ["cat.0.png", "cat.1.png"]


def test_only_the_values_that_sign_a_url_are_masked():
    url = "https://x.org/a?v=1&Signature=secret&b=%20#f"
    assert mask_url(url) == "https://x.org/a?v=1&Signature=***&b=%20#f"
    assert mask_url("https://x.org/a?v=1") == "https://x.org/a?v=1"
    assert mask_url("https://x.org/a") == "https://x.org/a"


def test_what_is_recorded_has_no_megabytes_and_no_signatures():
    payload = base64.b64encode(b"x" * 1000).decode()
    value = {
        "image": CAT,
        "inline": f"data:image/png;base64,{payload}",
        "urls": ["https://x.org/a?token=t"],
        "prompt": "data: not an URI, really",
        "n": 5,
    }
    assert recorded(value) == {
        "image": {"path": "cat.png", "sha256": "ab" * 32},
        "inline": {"path": "data:image/png;base64", "sha256": hashlib.sha256(b"x" * 1000).hexdigest()},
        "urls": ["https://x.org/a?token=***"],
        "prompt": "data: not an URI, really",
        "n": 5,
    }


def test_what_is_recorded_is_the_same_input():
    value = {"image": CAT, "inline": "data:image/png;base64,AAAA", "url": "https://x.org/a"}
    assert canonical(recorded(value)) == canonical(value)


def test_a_source_reads_as_file_and_line():
    assert str(Source("a.csv", 3)) == "a.csv:3"
