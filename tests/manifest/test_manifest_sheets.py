"""Excel workbooks and Parquet files, written by the libraries that write them elsewhere."""

import datetime as dt
import gzip
import io
import zipfile

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batcher.errors import ManifestError
from batcher.jobs.column_rules import ColumnRules, Mapped
from batcher.manifest import xlsx_files
from batcher.manifest.files import ManifestFile
from batcher.manifest.read import open_document
from batcher.options.facts import Reading
from tests.support.manifest_files import URL, read_text, write

ANY = {"model": "some/model"}
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def workbook(*rows, **sheets):
    """The bytes of a workbook whose first sheet has ``rows``, and more ``sheets`` by name."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for name, cells in sheets.items():
        sheet = book.create_sheet(name)
        for row in cells:
            sheet.append(row)
    saved = io.BytesIO()
    book.save(saved)
    return saved.getvalue()


def rows(folder, name, content, **reading):
    path = write(folder, name, content)
    return list(open_document(path, name, ColumnRules(), Reading(**reading)).rows())


def refusal(folder, name, content, **reading):
    with pytest.raises(ManifestError) as caught:
        rows(folder, name, content, **reading)
    return caught.value.problems[0]


def test_a_sheet_is_read_as_a_table_with_the_numbers_of_its_rows(tmp_path):
    content = workbook(["Prompt", "Image URL", "Duration"], ["a cat", URL, 5], [], ["a dog", URL, 10.0])
    for name in ("a.xlsx", "a.xlsx.gz"):
        found = read_text(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)
        assert found.problems == []
        assert [(job.source.line, job.input["duration"]) for job in found.jobs] == [(2, 5), (4, 10)]


def _without(content, name, kept):
    """The workbook with only the first ``kept`` bytes of one of its parts."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        for part in old.namelist():
            new.writestr(part, old.read(part)[: kept if part == name else None])
    return changed.getvalue()


@pytest.mark.parametrize("part", ["xl/workbook.xml", "xl/worksheets/sheet1.xml", "xl/styles.xml"])
@pytest.mark.parametrize("kept", [0, 100, -20])
def test_a_workbook_that_is_damaged_inside_is_refused_with_a_way_out(tmp_path, part, kept):
    content = _without(workbook(["prompt"], ["a cat"]), part, kept)
    assert "save the sheet as CSV" in refusal(tmp_path, "a.xlsx", content)


def test_a_sheet_of_a_chart_that_openpyxl_can_not_read_is_no_crash(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["prompt"])
    book.create_chartsheet("chart", 0)
    book.save(tmp_path / "a.xlsx")
    content = (tmp_path / "a.xlsx").read_bytes()
    assert "a workbook that openpyxl can't read; save the sheet as CSV" in refusal(
        tmp_path, "b.xlsx", content
    )


def test_cells_are_read_as_they_were_typed(tmp_path):
    content = workbook(
        ["id", "a", "b", "c", "d", "e", "f"],
        ["007", 5, 0.1, True, dt.date(2024, 5, 1), dt.datetime(2024, 5, 1, 12, 30), " x\ny "],  # noqa: DTZ001 (as Excel has it)
    )
    (row,) = rows(tmp_path, "a.xlsx", content)
    assert row.id == "007"
    assert row.inputs == {
        "a": "5", "b": "0.1", "c": "true", "d": "2024-05-01", "e": "2024-05-01 12:30:00", "f": " x\ny ",
    }  # fmt: skip


def test_numbers_have_the_digits_that_a_spreadsheet_shows(tmp_path):
    content = workbook(["a", "b", "c", "d"], [0.1 * 3, 4.999999999999999, 9007199254740991, 1 - 0.9])
    (row,) = rows(tmp_path, "a.xlsx", content)
    assert row.inputs == {"a": "0.3", "b": "5", "c": "9007199254740991", "d": "0.1"}


def test_a_formula_without_a_value_is_refused_by_its_cell(tmp_path):
    content = workbook(["prompt", "x"], ["a", "=A2&B1"])
    said = refusal(tmp_path, "a.xlsx", content)
    assert said.startswith("a.xlsx:2: B2: a formula whose value was never computed")


def test_an_error_value_is_refused_unless_its_column_is_ignored(tmp_path):
    content = workbook(["prompt", "found"], ["a", "#N/A"], ["#REF!", "x"], ["c", "#DIV/0!"])
    found = read_text(tmp_path, "a.xlsx", content, **ANY)
    what = "is an error value of a spreadsheet; fix the cell there and save again"
    assert found.problems == [
        f"a.xlsx:2: found: #N/A {what}",
        f"a.xlsx:3: prompt: #REF! {what}",
        f"a.xlsx:4: found: #DIV/0! {what}",
    ]
    content = workbook(["prompt", "found"], ["a", "#N/A"])
    (row,) = open_document(
        write(tmp_path, "b.xlsx", content), "b.xlsx", ColumnRules(Mapped(ignore=("found",)))
    ).rows()
    assert row.inputs == {"prompt": "a"}


def test_the_first_sheet_with_anything_on_it_is_read_and_the_others_are_told(tmp_path):
    content = workbook(shots=[["prompt"], ["a"]], notes=[["prompt"], ["b"]], empty=[])
    found = read_text(tmp_path, "a.xlsx", content, **ANY)
    assert [job.input["prompt"] for job in found.jobs] == ["a"]
    (warning,) = found.tally.warnings
    assert "the sheet 'shots' is read, of 2" in warning
    assert "--format 'xlsx:notes'" in warning
    (row,) = rows(tmp_path, "a.xlsx", content, format="xlsx:notes")
    assert row.inputs == {"prompt": "b"}
    assert "'shots', 'notes'" in refusal(tmp_path, "a.xlsx", content, format="xlsx:no")


def test_what_is_no_workbook_is_refused(tmp_path):
    assert refusal(tmp_path, "a.xlsx", "prompt\na\n").startswith("a.xlsx: not an XLSX workbook")
    assert "it looks like text; --format csv reads it" in refusal(
        tmp_path, "a.xlsx", "prompt,seed\na,1\n"
    )
    assert "it has a password" in refusal(tmp_path, "a.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1" + bytes(99))
    assert "this is an HTML page" in refusal(tmp_path, "a.xlsx", "<html><table>")
    assert refusal(tmp_path, "a.xlsx", workbook()).startswith("a.xlsx: no header")
    assert "--format xlsx" in refusal(tmp_path, "a.csv", workbook(["prompt"], ["a"]))


def edited(content, *edits):
    """The workbook with replacements in the XML of its first sheet."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        for part in old.namelist():
            xml = old.read(part)
            for before, after in edits if part == "xl/worksheets/sheet1.xml" else ():
                assert before in xml
                xml = xml.replace(before, after)
            new.writestr(part, xml)
    return changed.getvalue()


def test_a_formula_whose_value_is_an_empty_text_is_an_empty_cell(tmp_path):
    cell = b'<c r="B2" t="n"><v>5</v></c>'
    for value in (b"<v></v>", b"<v/>", b""):
        formula = b'<c r="B2" t="str"><f>IF(A2="x",5,"")</f>' + value + b"</c>"
        content = edited(workbook(["prompt", "duration"], ["a", 5]), (cell, formula))
        (row,) = rows(tmp_path, "a.xlsx", content)
        assert row.inputs == {"prompt": "a"}


def test_parts_of_a_workbook_that_have_no_values_are_no_warnings(tmp_path, recwarn):
    """What a run prints with ``--quiet`` must be worth reading."""
    lists = b'<extLst><ext uri="{CCE6A557-97BC-4b89-ADB6-D9C93CAAB3DF}"/></extLst>'
    content = edited(workbook(["prompt"], ["a"]), (b"</sheetData>", b"</sheetData>" + lists))
    assert [row.inputs for row in rows(tmp_path, "a.xlsx", content)] == [{"prompt": "a"}]
    assert [str(each.message) for each in recwarn] == []


def merged(*ranges):
    mark = b"".join(b'<mergeCell ref="%s"/>' % each.encode() for each in ranges)
    return b"</sheetData>", b"</sheetData><mergeCells>" + mark + b"</mergeCells>"


def test_the_value_of_merged_cells_counts_for_each_of_their_rows(tmp_path):
    content = edited(
        workbook(["Shots"], ["prompt", "duration"], ["a", 10], ["b"], [], ["c"], ["d"]),
        merged("A1:B1", "B3:B6", "D4:D5"),
    )
    found = read_text(tmp_path, "a.xlsx", content, **ANY)
    assert [(job.source.line, job.input) for job in found.jobs] == [
        (3, {"prompt": "a", "duration": "10"}),
        (4, {"prompt": "b", "duration": "10"}),
        (6, {"prompt": "c", "duration": "10"}),
        (7, {"prompt": "d"}),
    ]
    assert found.tally.warnings[-1].endswith(
        "a.xlsx:3: B3:B6 is merged: its value counts for each of its rows (2 such)"
    )


def test_rows_that_are_hidden_or_merged_like_headings_are_told(tmp_path):
    content = edited(
        workbook(["prompt", "x"], ["Outdoors"], ["a", 1], ["b", 2]),
        (b'<row r="3">', b'<row r="3" spans="1:2" hidden="1" ht="0">'),
        (b'<row r="1">', b'<row r="1" hidden="0">'),
        merged("A2:B2"),
    )
    found = read_text(tmp_path, "a.xlsx", content, **ANY)
    assert len(found.jobs) == 3
    assert sorted(each.rpartition("/")[2] for each in found.tally.warnings) == [
        "a.xlsx:2: A2:B2 is merged, as a heading is, but its row is read like the others",
        "a.xlsx:3: this row is hidden, but read like the others",
    ]


def test_marks_of_a_sheet_are_found_wherever_chunks_of_it_end(tmp_path, monkeypatch):
    content = edited(
        workbook(["prompt", "x"], *[[f"a{n}", n] for n in range(200)]),
        (b'<row r="77">', b'<row r="77" hidden="1">'),
        merged("B2:B3"),
    )
    path = write(tmp_path, "a.xlsx", content)
    for chunk in (64, 1000, 4099):
        monkeypatch.setattr(xlsx_files, "CHUNK_BYTES", chunk)
        sheet = xlsx_files.sheet_of(ManifestFile.at(path, "a.xlsx"), "")
        assert sheet.hidden_rows == [77]
        assert [one.shown for one in sheet.merged] == ["B2:B3"]


TYPED = st.one_of(
    st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs", "S"]), min_size=1, max_size=9),
    st.integers(-(10**12), 10**12),
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3)),
    st.booleans(),
    st.none(),
)


def as_text(value):
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@given(st.lists(st.tuples(TYPED, TYPED, TYPED), min_size=1, max_size=5))
@settings(max_examples=60, suppress_health_check=SLOW)
def test_what_openpyxl_writes_is_read_back(tmp_path, table):
    told = [
        [cell for cell in cells if not (isinstance(cell, str) and cell[:1] in "=#'")] for cells in table
    ]
    table = [(cells + [None] * 3)[:3] for cells in told]
    found = rows(tmp_path, "a.xlsx", workbook(["x", "y", "z"], *table))
    kept = [cells for cells in table if "".join(as_text(c) for c in cells if c is not None).strip()]
    assert [row.inputs for row in found] == [
        {name: as_text(cell) for name, cell in zip("xyz", cells, strict=True) if cell not in (None, "")}
        for cells in kept
    ]


# Parquet


def parquet(**columns):
    import pyarrow as pa
    from pyarrow import parquet as pq

    saved = io.BytesIO()
    pq.write_table(pa.table(columns), saved)
    return saved.getvalue()


def test_parquet_keeps_the_types_of_its_columns(tmp_path):
    content = parquet(
        prompt=["a", "b"],
        seed=[1, None],
        scale=[0.5, float("nan")],
        flag=[True, False],
        tags=[["x"], []],
        day=[dt.date(2024, 5, 1), None],
        nested=[{"a": 1}, None],
    )
    for name in ("a.parquet", "a.parquet.gz"):
        found = rows(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)
        assert [(row.line, row.inputs) for row in found] == [
            (1, {"prompt": "a", "seed": 1, "scale": 0.5, "flag": True, "tags": ["x"], "day": "2024-05-01", "nested": {"a": 1}}),
            (2, {"prompt": "b", "flag": False, "tags": []}),
        ]  # fmt: skip


def test_bytes_in_parquet_are_left_out_and_told(tmp_path):
    content = parquet(prompt=["a", "b"], image=[{"bytes": b"\x89PNG", "path": "a.png"}] * 2)
    found = read_text(tmp_path, "a.parquet", content, **ANY)
    assert found.inputs == [{"prompt": "a"}, {"prompt": "b"}]
    (warning,) = found.tally.warnings
    assert "a.parquet:1: image: holds bytes" in warning


def test_what_is_no_parquet_is_refused(tmp_path):
    assert refusal(tmp_path, "a.parquet", "prompt\na\n").startswith(
        "a.parquet: can't be read as Parquet"
    )
    broken = parquet(prompt=["a" * 99] * 99)
    assert refusal(tmp_path, "a.parquet", broken[:-30]).startswith("a.parquet: can't be read as Parquet")
