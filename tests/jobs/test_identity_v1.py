"""The identity of version 0.1, which run directories that it began keep: nobody buys twice."""

import base64
import hashlib

import pytest

from batcher.jobs.identity_v1 import canonical, generated_id, input_digest, matrix_digest, slug
from batcher.jobs.job import LocalMedia, recorded

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


def test_what_is_recorded_is_the_same_input():
    value = {"image": CAT, "inline": "data:image/png;base64,AAAA", "url": "https://x.org/a"}
    assert canonical(recorded(value)) == canonical(value)
