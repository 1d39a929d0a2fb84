"""Tables whose types a reader infers from their first rows: no value further down contradicts them."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.dataset.export.typed import FIRST_SAMPLES, typed
from batcher.dataset.metadata import Metadata, TypedHead
from batcher.dataset.metadata_rows import FLAG, INTEGER, NUMBER, TEXT, TEXTS
from tests.dataset.test_metadata import Table
from tests.support.engine import QuickDisk, job

VALUES = {
    TEXT: st.text(max_size=3),
    INTEGER: st.integers(-9, 9),
    NUMBER: st.floats(-9, 9),
    FLAG: st.booleans(),
    TEXTS: st.lists(st.text(max_size=2), min_size=1, max_size=2),
}
COLUMNS = {kind: kind for kind in VALUES}


def rows_of(draw_rows):
    return [
        {"file_name": f"media/{number}.png", **{kind: row.get(kind) for kind in VALUES}}
        for number, row in enumerate(draw_rows)
    ]


@given(
    st.lists(
        st.fixed_dictionaries({kind: st.none() | values for kind, values in VALUES.items()}), min_size=1
    ).map(rows_of),
    st.booleans(),
)
@settings(deadline=None)
def test_the_first_samples_agree_on_types_that_every_other_sample_fits(rows, split):
    import pyarrow as pa

    made = list(typed(lambda: rows, COLUMNS, split=split)())
    assert sorted(row["file_name"] for row in made) == sorted(row["file_name"] for row in rows)
    read = [json.loads(msgspec.json.encode(row)) for row in made]
    (features,) = {pa.infer_type([row]) for row in read[:FIRST_SAMPLES]}
    null_everywhere = {n for n in COLUMNS if all(row[n] is None for row in read)}
    for row in read:
        assert pa.array([row], type=features).to_pylist() == [row]
    assert {f.name for f in features if pa.types.is_null(f.type)} <= null_everywhere


def test_a_sample_with_every_number_goes_first_and_numbers_stay_numbers():
    rows = rows_of([{INTEGER: None if n % 2 else n} for n in range(20)])
    made = list(typed(lambda: rows, {INTEGER: INTEGER}, split=False)())
    assert [row[INTEGER] for row in made[:6]] == [0, 2, 4, 6, 8, None]


def test_only_the_first_value_of_a_column_behind_the_head_counts_as_late():
    head = TypedHead(10)
    takes = [head.take({"a": 1, "b": None, "c": []}, 10), head.take({"a": 2, "b": None}, 10)]
    takes += [head.take({"b": "x"}, 10), head.take({"b": "y"}, 10), head.take({"c": ["z"]}, 10)]
    assert takes == [False, False, True, False, True]


class ShortHead(Table):
    """A metadata file whose readers look at its first 2,000 bytes only."""

    def resume(self, *jobs):
        self.metadata = Metadata(self.run_dir, self.ledger, QuickDisk(), head_bytes=2000)
        super().resume(*jobs)


@pytest.mark.parametrize("resumed", [False, True])
async def test_a_row_with_the_first_value_of_a_column_goes_to_the_front_of_a_long_file(
    tmp_path, resumed
):
    table = ShortHead(tmp_path)
    jobs = [job(f"j{n}", prompt="a long walk " * 9) for n in range(12)]
    jobs.append(job("late", seed=7))
    table.open(*jobs)
    for one in jobs[:-1]:
        await table.finish(one)
    if resumed:
        await table.end()
        table.open(*jobs)
    await table.finish(jobs[-1])
    await table.end()
    assert [row["job"] for row in table.rows] == ["late", *(one.id for one in jobs[:-1])]
    written = table.path.stat().st_ino
    table.open(*jobs)
    await table.end()
    assert table.path.stat().st_ino == written
