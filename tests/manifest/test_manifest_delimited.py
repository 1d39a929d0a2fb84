"""CSV and its kin as people write them: quotes, spaces, delimiters, line ends, encodings, gzip."""

import csv
import gzip
import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batcher.errors import ManifestError
from batcher.jobs.column_rules import ColumnRules
from batcher.manifest.read import open_document
from batcher.options.facts import Reading
from tests.support.manifest_files import write

SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def rows(folder, name, content, **reading):
    path = write(folder, name, content)
    return list(open_document(path, name, ColumnRules(), Reading(**reading)).rows())


def prompts(folder, name, content, **reading):
    return [row.inputs.get("prompt") for row in rows(folder, name, content, **reading)]


def refusal(folder, name, content, **reading):
    with pytest.raises(ManifestError) as caught:
        rows(folder, name, content, **reading)
    return caught.value.problems[0]


# Quotes


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv", ";")])
@pytest.mark.parametrize(
    ("cell", "prompt"),
    [
        ('"OPEN" painted on a door', '"OPEN" painted on a door'),
        ('"OPEN" and "CLOSED"', '"OPEN" and "CLOSED"'),
        ('a sign, says "OPEN"', None),
        ('"a cat" ', "a cat"),
        (' "a cat"', "a cat"),
        ('  "a ""cat"""', 'a "cat"'),
        (' "OPEN" painted', ' "OPEN" painted'),
    ],
)
def test_a_quote_that_does_not_enclose_its_cell_is_text(tmp_path, name, delimiter, cell, prompt):
    if prompt is None:
        cell = prompt = cell.replace(",", "")
    content = f"x|prompt|y\n1|{cell}|2\n3|after|4\n".replace("|", delimiter)
    found = rows(tmp_path, name, content)
    assert [row.inputs["prompt"] for row in found] == [prompt, "after"]
    assert [(row.line, row.inputs["x"], row.inputs["y"]) for row in found] == [
        (2, "1", "2"),
        (3, "3", "4"),
    ]


def test_a_quote_never_closed_is_text_in_a_tsv(tmp_path):
    found = rows(tmp_path, "a.tsv", 'prompt\tx\n"OPEN a door\t1\n"Hello" she said\t2\n"again\t3\n')
    assert [(row.line, row.inputs["prompt"]) for row in found] == [
        (2, '"OPEN a door'),
        (3, '"Hello" she said'),
        (4, '"again'),
    ]


def test_a_cell_of_several_lines_is_read_in_a_tsv(tmp_path):
    found = rows(tmp_path, "a.tsv", 'prompt\tx\n"one\ntwo"\t1\nthree\t2\n')
    assert [(row.line, row.inputs["prompt"]) for row in found] == [(2, "one\ntwo"), (4, "three")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_tsv_cell_that_swallows_tabs_and_line_ends_is_an_error(tmp_path, end):
    content = end.join(["prompt\tx", "fine\t0", '"OPEN a door\t1', 'a cat"\t2', ""])
    assert refusal(tmp_path, "a.tsv", content).startswith("a.tsv:3: a quote is opened here")
    content = end.join(["prompt\tx", '"one', 'two"\t"OPEN" door', ""])
    assert refusal(tmp_path, "a.tsv", content).startswith("a.tsv:2: a quote is opened here")


def test_a_comma_in_quotes_after_a_space_is_read(tmp_path):
    content = 'prompt, image_url\n"a", x\nb, "c, d"\n"e" , "f"\n'
    assert [row.inputs for row in rows(tmp_path, "a.csv", content)] == [
        {"prompt": "a", "image_url": " x"},
        {"prompt": "b", "image_url": "c, d"},
        {"prompt": "e", "image_url": "f"},
    ]


def test_a_quote_after_a_space_inside_quotes_is_left_alone(tmp_path):
    content = 'x,prompt\n1,"says ""a"", ""b"""\n"2\n, ""c"" d",e\n'
    found = rows(tmp_path, "a.csv", content)
    assert [row.inputs for row in found] == [
        {"x": "1", "prompt": 'says "a", "b"'},
        {"x": '2\n, "c" d', "prompt": "e"},
    ]


def test_a_space_before_a_quote_of_a_cell_that_a_later_line_closes_is_kept(tmp_path):
    (row,) = rows(tmp_path, "a.csv", b'x,y\n1,"say, ""no\nand go"\n')
    assert row.inputs == {"x": "1", "y": 'say, "no\nand go'}


def test_lines_within_quotes_after_a_space_are_refused(tmp_path):
    assert refusal(tmp_path, "a.csv", 'x,prompt\n1, "one\ntwo"\n').startswith(
        "a.csv:2: a quote opens after"
    )


# Delimiters and line ends


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends_are_found_out(tmp_path, delimiter, end):
    content = end.join(["prompt,x", '"a,b', 'c",1', "", "d,2"]).replace(",", delimiter)
    if delimiter == "\t":
        content = content.replace("a\tb", "ab")
    found = rows(tmp_path, "a.csv", content)
    assert [(row.line, row.inputs) for row in found] == [
        (2, {"prompt": f"ab{end}c" if delimiter == "\t" else f"a{delimiter}b{end}c", "x": "1"}),
        (5, {"prompt": "d", "x": "2"}),
    ]


def test_line_ends_may_be_mixed(tmp_path):
    found = rows(tmp_path, "a.csv", "prompt\rone\ntwo\r\nthree\rfour")
    assert [(row.line, row.inputs["prompt"]) for row in found] == [
        (2, "one"), (3, "two"), (4, "three"), (5, "four"),
    ]  # fmt: skip


def test_the_delimiter_can_be_named(tmp_path):
    assert prompts(tmp_path, "a.csv", "prompt^x,y\na,b^c\n", delimiter="^") == ["a,b"]
    assert prompts(tmp_path, "a.tsv", "prompt|x\na|b\n", delimiter="|") == ["a"]


@pytest.mark.parametrize("mark", ["sep=;", '"sep=;"', "sep=;;;"])
def test_the_line_that_excel_puts_first_is_no_header(tmp_path, mark):
    assert prompts(tmp_path, "a.csv", f"{mark}\r\nprompt;x\r\na,b;1\r\n") == ["a,b"]


def test_the_limit_of_other_users_of_the_csv_module_is_left_alone(tmp_path):
    before = csv.field_size_limit(10_000_000)
    try:
        write(tmp_path, "a.csv", "prompt\na\nb\n")
        found = open_document(tmp_path / "a.csv", "a.csv", ColumnRules()).rows()
        next(found)
        assert csv.field_size_limit() == 10_000_000
        found.close()
        refusal(tmp_path, "a.csv", f'prompt\n"{"x" * 1_100_000}"\n')
        assert csv.field_size_limit() == 10_000_000
    finally:
        csv.field_size_limit(before)


# Encodings

MARKED = ["utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_byte_order_mark_names_the_encoding(tmp_path, encoding, end, name):
    content = f"prompt{end}猫 ü{end}".encode(encoding)
    content = gzip.compress(content) if name.endswith(".gz") else content
    assert prompts(tmp_path, name, content) == ["猫 ü"]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "ein Mädchen läuft über die Straße"),
        ("cp1252", "the cat’s “throne” – golden hour…"),
        ("cp1250", "żółw i łoś na łące"),
        ("cp1251", "кот на стене в тумане"),
        ("koi8-r", "кот на стене в тумане"),
        ("cp932", "猫が壁の上に座っている"),
        ("cp949", "벽 위의 고양이"),
        ("gb18030", "一只猫坐在墙上"),
        ("big5", "一隻貓坐在牆上"),
    ],
)
def test_what_is_not_utf8_is_refused_with_the_encoding_that_reads_it(tmp_path, encoding, text):
    content = f"prompt\nplain\n{text}\n".encode(encoding)
    said = refusal(tmp_path, "a.csv", content)
    assert said.startswith("a.csv:3: byte 0x")
    assert f"--encoding {encoding}, or" in said
    assert 'in Excel: "CSV UTF-8"' in said
    assert prompts(tmp_path, "a.csv", content, encoding=encoding) == ["plain", text]


@pytest.mark.parametrize("name", ["a.json", "a.yaml", "a.jsonl"])
def test_the_encoding_can_be_named_in_every_format(tmp_path, name):
    entry = '{"prompt": "café"}'
    content = {"a.json": f"[{entry}]", "a.yaml": f"jobs: [{entry}]", "a.jsonl": entry}[name]
    assert prompts(tmp_path, name, content.encode("cp1252"), encoding="cp1252") == ["café"]


def test_a_file_that_is_not_in_the_named_encoding_is_refused_with_its_line(tmp_path):
    content = b"prompt\n" + b"a\n" * 5000 + b"\xff\xff\n"
    said = refusal(tmp_path, "a.csv", content, encoding="shift_jis")
    assert said.startswith("a.csv:5002: byte 0xff is not SHIFT_JIS")
    assert "--encoding" not in said


def test_a_nul_is_refused_with_its_line(tmp_path):
    assert refusal(tmp_path, "a.csv", "prompt\na\0b\n").startswith("a.csv:2: a NUL character")
    for text in ("prompt\na\n", "prompt\nä\n"):
        said = refusal(tmp_path, "a.csv", text.encode("utf-16-le"))
        assert ("--encoding utf-16-le" in said, "cp1252" in said) == (True, False)
    assert prompts(tmp_path, "a.csv", "prompt\na\n".encode("utf-16-le"), encoding="utf-16-le") == ["a"]


def test_a_gzip_that_breaks_off_is_refused(tmp_path):
    packed = gzip.compress(b"prompt\n" + bytes(range(32, 127)) * 500)
    assert refusal(tmp_path, "a.csv.gz", packed[:-20]).startswith("a.csv.gz: can't be unpacked")
    assert refusal(tmp_path, "a.csv.gz", b"prompt\na\n").startswith("a.csv.gz: can't be unpacked")


# What `csv` writes is read back

CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.text(
    " \",;|\t\r\n'\\ab", max_size=8
)
TABLE = st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=6)


@given(
    TABLE,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["utf-8", *MARKED]),
)
@settings(max_examples=200, suppress_health_check=SLOW)
def test_what_the_csv_module_writes_is_read_back_or_refused(
    tmp_path, table, delimiter, end, quoting, encoding
):
    if any(set(cell) & {"\r", "\n"} for cells in table for cell in cells):
        quoting = csv.QUOTE_ALL  # before 3.13 it leaves bare the line ends that are not its own
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([("x", "y", "z"), *table])
    name = "a.tsv" if delimiter == "\t" else "a.csv"
    try:
        found = rows(tmp_path, name, written.getvalue().encode(encoding))
    except ManifestError as error:
        (problem,) = error.problems
        assert problem.startswith(f"{name}:")
        assert delimiter == "\t"
        assert any("\t" in cell and ("\n" in cell or "\r" in cell) for cells in table for cell in cells)
        return
    kept = [cells for cells in table if "".join(cells).strip()]
    assert [row.inputs for row in found] == [
        {name: cell for name, cell in zip("xyz", cells, strict=True) if cell} for cells in kept
    ]
