"""Marks tell apart what an id leaves out, for one row and for many."""

from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.jobs.job import Job, LocalMedia, Source
from batcher.manifest.row_marks import differences, mark_of, marks_of

PHOTO = LocalMedia("/a.png", "a.png", "0" * 64, 5, "image/png")
VALUES = st.sampled_from(["a", "b", "", 5, 5.5, True, ["a"], ["b"], {"a": 1}, PHOTO])


def rows_of(names, count):
    row = st.fixed_dictionaries(dict.fromkeys(names, VALUES))
    return st.lists(row, min_size=count, max_size=count)


NAMES = st.lists(st.sampled_from(["prompt", "image", "a", "z"]), unique=True, max_size=4)
ROWS = st.tuples(NAMES, NAMES, st.integers(1, 5)).flatmap(
    lambda found: st.tuples(rows_of(found[0], found[2]), rows_of(found[1], found[2]))
)


def job(inputs, meta):
    return Job("a", "m", inputs, meta, Source("a.csv", 1), "0")


@given(ROWS)
@settings(max_examples=150)
def test_marks_of_many_rows_are_those_of_each_and_differ_where_the_rows_do(found):
    inputs, metas = found
    marks = marks_of(inputs, metas)
    assert marks == [*map(mark_of, map(job, inputs, metas))]
    for sent, meta, mark in zip(inputs, metas, marks, strict=True):
        assert differences(mark, marks[0]) == (sent != inputs[0], meta != metas[0])


def test_the_order_of_names_does_not_count_and_the_names_do():
    one, other = job({"a": 1, "b": 2}, {"x": "y"}), job({"b": 2, "a": 1}, {"x": "y"})
    assert mark_of(one) == mark_of(other)
    assert differences(mark_of(one), mark_of(job({"a": 1, "c": 2}, {}))) == (True, True)
