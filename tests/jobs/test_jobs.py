"""Explicit ids, output names, and what may be written down of an input."""

import base64
import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.jobs.identity import slug
from batcher.jobs.job import (
    LocalMedia,
    Source,
    are_explicit_ids,
    explicit_id_problem,
    next_name,
    output_name,
    owners_of,
    recorded,
)
from batcher.jobs.signatures import mask_url

CAT = LocalMedia("/home/me/cat.png", "cat.png", "ab" * 32, 12, "image/png")


@given(st.text(max_size=200))
@settings(max_examples=100)
def test_every_slug_and_every_accepted_id_is_a_safe_file_name(text):
    name = slug(text)
    assert 0 < len(name) <= 40
    assert len(name.encode()) <= 80
    assert not set(name) & set('/\\:*?"<>|. ')
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


IDS = st.from_regex(r"[ab1](\.?[ab01]){0,3}", fullmatch=True)
OUTPUTS = st.tuples(IDS, st.integers(0, 2), st.integers(0, 2)).map(
    lambda drawn: (drawn[0], min(drawn[1:]), max(drawn[1:]) + 1)
)


@given(OUTPUTS, OUTPUTS)
@settings(max_examples=300)
def test_no_two_jobs_can_have_an_output_of_one_name(one, other):
    names = [output_name(*output, ".mp4") for output in (one, other)]
    assert one[0] == other[0] or names[0] != names[1]
    assert one[0] in owners_of(names[0])
    assert one[0] in owners_of(next_name(next_name(names[0])))


def test_the_jobs_1_and_1_0_do_not_share_names():
    names = [output_name("1", i, 2, ".mp4") for i in range(2)]
    names += [output_name(job_id, 0, 1, ".mp4") for job_id in ("1", "1.0", "1.1")]
    assert names == ["1.0.mp4", "1.1.mp4", "1.mp4", "1.0.0.mp4", "1.1.0.mp4"]
    assert output_name("a-train-2test", 0, 1, ".mp4") == "a-~train-2~test.mp4"
    assert owners_of(next_name("a-~train-2~test.mp4")) == ("a-train-2test",)
    assert (next_name("1.0.mp4"), next_name("1.0~2.mp4")) == ("1.0~2.mp4", "1.0~3.mp4")


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


def test_a_source_reads_as_file_and_line():
    assert str(Source("a.csv", 3)) == "a.csv:3"


@given(
    st.lists(st.sampled_from(["a", "A.b_c-1", "x" * 100, "x" * 101, "", "-a", " a", "a\0b", "é", "a\n"]))
)
def test_many_ids_are_usable_if_each_is(ids):
    assert are_explicit_ids(ids) is all(explicit_id_problem(one) is None for one in ids)
