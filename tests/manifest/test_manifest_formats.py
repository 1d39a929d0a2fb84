"""Formats beside tables, and what a file is if it is none of them."""

import gzip

import pytest

from batcher.errors import ManifestError
from batcher.jobs.column_rules import ColumnRules
from batcher.manifest.read import open_document
from batcher.options.facts import Reading
from tests.support.manifest_files import PNG, URL, read_text, write

ANY = {"model": "some/model"}


def rows(folder, name, content, **reading):
    path = write(folder, name, content)
    return list(open_document(path, name, ColumnRules(), Reading(**reading)).rows())


def prompts(folder, name, content, **reading):
    return [row.inputs.get("prompt") for row in rows(folder, name, content, **reading)]


def refusal(folder, name, content, **reading):
    with pytest.raises(ManifestError) as caught:
        rows(folder, name, content, **reading)
    return caught.value.problems[0]


# Plain text

TEXT = '\ufeff# prompts\n\n  a cat, "jumping"; {x}\n\t\r\nein Mädchen\t2\r\n#2\nlast'


@pytest.mark.parametrize("name", ["a.txt", "prompts", "a.txt.gz", "a.TXT"])
def test_each_line_of_a_text_is_a_prompt(tmp_path, name):
    content = gzip.compress(TEXT.encode()) if name.endswith(".gz") else TEXT
    found = rows(tmp_path, name, content)
    assert [(row.line, row.inputs) for row in found] == [
        (3, {"prompt": 'a cat, "jumping"; {x}'}),
        (5, {"prompt": "ein Mädchen\t2"}),
        (7, {"prompt": "last"}),
    ]


def test_comments_in_a_text_are_told(tmp_path):
    found = read_text(tmp_path, "a.txt", TEXT, **ANY)
    assert len(found.jobs) == 3
    assert found.tally.warnings == [
        f"{tmp_path}/a.txt:1: a line that begins with # is a comment and no job: '# prompts' (2 such lines)"
    ]


@pytest.mark.parametrize(
    ("content", "seems"),
    [
        ("prompt,image_url\na,b\n", "csv"),
        ("Prompt;Seed\na;1\n", "csv"),
        ("id\tprompt\n1\ta\n", "tsv"),
        ('{"prompt": "a"}\n{"prompt": "b"}\n', "jsonl"),
        ('[\n{"prompt": "a"}]\n', "json"),
        ("jobs:\n- prompt: a\n", "yaml"),
    ],
)
def test_what_is_no_plain_text_is_named_and_read_without_a_suffix(tmp_path, content, seems):
    said = refusal(tmp_path, "a.txt", content)
    assert said.startswith(f"a.txt:1: this looks like {seems.upper()}")
    assert f"--format {seems} reads it" in said
    assert prompts(tmp_path, "a.txt", content, format="txt") == [
        line for line in content.splitlines() if line
    ]
    assert prompts(tmp_path, "jobs", content)[0] == "a"
    assert f"--format {seems}" in refusal(tmp_path, "a.list", content)


# What it is


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"PK\x03\x04" + b"\0" * 26 + b"xl/workbook.xml", "an Excel workbook (XLSX)", "--format xlsx"),
        (b"PK\x03\x04" + b"\0" * 26 + b"Index/Document.iwa", "a Numbers document", "CSV"),
        (b"PK\x03\x04" + b"\0" * 26 + b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet", "an OpenDocument sheet (ODS)", "CSV"),
        (b"PK\x03\x04" + b"\0" * 40, "a ZIP archive", "unpack"),
        (b"\x1f\x8b\x08\x00" + bytes(30), "gzip", ".gz"),
        (b"%PDF-1.7\n", "a PDF", "CSV"),
        (PNG, "image/png", "not a manifest"),
        (b"\xff\xd8\xff\xe0" + bytes(30), "image/jpeg", "not a manifest"),
        (b"\n<!DOCTYPE html>\n<html lang=en>", "an HTML page", "raw file"),
        (b"<html><body>", "an HTML page", "raw file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a Git LFS pointer", "git lfs pull"),
        (b"| prompt | seed |\n|:---|---:|\n| a cat | 1 |\n", "a Markdown table", "CSV"),
        (b"prompt | seed\n--- | ---\na cat | 1\n", "a Markdown table", "CSV"),
        (b"{\\rtf1\\ansi", "rich text (RTF)", "plain text"),
        (b"SQLite format 3\0" + bytes(50), "an SQLite database", "sqlite3"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (XLS, DOC)", "CSV"),
        (b"PAR1" + bytes(20), "Parquet", "--format parquet"),
        (b"\x28\xb5\x2f\xfd" + bytes(9), "Zstandard", "zstdcat"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "prompts"])
def test_a_file_that_is_no_manifest_is_named_with_the_next_step(tmp_path, content, what, remedy, name):
    said = refusal(tmp_path, name, content)
    assert said.startswith(f"{name}:1: this is {what}")
    assert remedy in said


# What nobody meant to buy

BAD_CELLS = [
    "#REF!", "#N/A", "#NAME?", "#VALUE!", "#DIV/0!", "#NULL!", "#NUM!", "#SPILL!", "#BEZUG!", "#NV",
    "#WERT!", "#ZAHL!", "#VALEUR!", "#NOM?", "#¡REF!", "#¿NOMBRE?",
    "=A1&B1", "=$A$1", "=CONCAT(A1;B1)", '=HYPERLINK("https://x")', "=Sheet1!A2", "='My Sheet'!B3", "=-A1*2",
]  # fmt: skip
GOOD_CELLS = [
    "#hashtag",
    "# a title",
    "#1 fan",
    "= a cat =",
    "=^.^= a cat",
    "=) smiling",
    "a #REF! sign",
    "=a b",
]


@pytest.mark.parametrize("cell", BAD_CELLS)
def test_error_values_and_formulas_of_a_sheet_are_refused(tmp_path, cell):
    for name, content in [
        ("a.csv", f'seed,prompt,meta.x\n1,"{cell.replace(chr(34), chr(34) * 2)}",{cell[:1]}N/A\n'),
        ("a.tsv", f"seed\tprompt\n1\t{cell}\n"),
    ]:
        found = read_text(tmp_path, name, content, **ANY)
        (problem,) = found.problems
        assert problem.startswith(f"{name}:2: prompt: ")
        assert "spreadsheet" in problem or "formula" in problem


@pytest.mark.parametrize("cell", GOOD_CELLS)
def test_text_that_only_resembles_an_error_or_a_formula_is_bought(tmp_path, cell):
    found = read_text(tmp_path, "a.csv", f"prompt,seed\n{cell},1\n", **ANY)
    assert [job.input["prompt"] for job in found.jobs] == [cell]


@pytest.mark.parametrize("blank", [" ", "   ", "\t", "\u3000", "\u200b", "\xa0 ", "\ufeff"])
def test_a_prompt_of_blanks_is_refused_in_every_format(tmp_path, blank):
    import json

    entry = json.dumps({"prompt": blank, "seed": 1})
    for name, content in [
        ("a.jsonl", entry),
        ("a.json", f"[\n{entry}]"),
        ("a.yaml", f"jobs:\n- {entry}"),
    ]:
        (problem,) = read_text(tmp_path, name, content, **ANY).problems
        assert problem.endswith(": prompt: nothing but blanks")
    found = read_text(tmp_path, "a.csv", f'prompt,image_url\n"{blank}",{URL}\na,{URL}\n')
    assert found.problems == ["a.csv:2: prompt: required, but missing"]


def test_a_cell_of_blanks_is_an_empty_one(tmp_path):
    found = read_text(tmp_path, "a.csv", f"prompt,image_url,duration\na,{URL},  \n")
    assert found.inputs == [{"prompt": "a", "image_url": URL}]


GARBLED = [
    ("naïve café", "cp1252"), ("the cat’s “throne” – dusk…", "cp1252"), ("日本の城", "latin-1"),
    ("ein Mädchen", "mac-roman"), ("кот", "latin-1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wrong"), GARBLED)
def test_text_decoded_in_a_wrong_encoding_is_told(tmp_path, text, wrong):
    garbled = text.encode().decode(wrong, "ignore")
    table = f"prompt\nplain\n{garbled}\nx {garbled}\n"
    found = read_text(tmp_path, "a.csv", table, **ANY)
    (warning,) = found.tally.warnings
    assert warning.startswith(f"{tmp_path}/a.csv:3: prompt: text that was decoded in a wrong encoding")
    assert warning.endswith("(2 such lines)")
    assert len(found.jobs) == 3


@pytest.mark.parametrize(
    "text", ["naïve café", "日本の城", "Ãhnlich", "©️ 2024", "São Tomé — “x”", "Â", "кот", "Ð"]
)
def test_text_in_its_own_encoding_is_not_warned_of(tmp_path, text):
    assert read_text(tmp_path, "a.csv", f"prompt\n{text}\n", **ANY).tally.warnings == []


def test_characters_that_were_lost_are_told(tmp_path):
    (warning,) = read_text(tmp_path, "a.csv", "prompt\ncaf\ufffd\n", **ANY).tally.warnings
    assert "a.csv:2: prompt: text" in warning


@pytest.mark.parametrize(
    "text", ["Total", "TOTAL:", "Subtotal", "Grand total", "Summe", "Total général", "合计"]
)
def test_a_row_of_totals_in_a_table_is_told(tmp_path, text):
    found = read_text(
        tmp_path, "a.csv", f"prompt,seed\na total eclipse,1\ntotality,2\n{text},3\n", **ANY
    )
    (warning,) = found.tally.warnings
    assert warning.endswith(f"a.csv:4: prompt: a row of totals, as it seems: {text!r}")
    assert len(found.jobs) == 3
    assert read_text(tmp_path, "a.txt", f"{text}\n", **ANY).tally.warnings == []


# Places for what is not the manifest's


@pytest.mark.parametrize("text", ["nan", "NaN", "None", "NULL", "N/A", "undefined", "[object Object]"])
def test_what_programs_write_for_a_missing_prompt_is_told(tmp_path, text):
    for name, content in [
        ("a.csv", f"prompt,negative_prompt\na,none\n{text},\nb {text},\n"),
        ("a.jsonl", f'{{"prompt": "a", "negative_prompt": "none"}}\n{{"prompt": "{text}"}}\n'),
    ]:
        found = read_text(tmp_path, name, content, **ANY)
        (warning,) = found.tally.warnings
        assert warning.startswith(f"{tmp_path}/{name}:")
        assert warning.endswith(f": prompt: a value that is missing, as it seems: {text!r}")
        assert text in [job.input["prompt"] for job in found.jobs]


def test_keys_that_begin_with_x_hold_anchors(tmp_path):
    content = "x-base: &base {seed: 7}\n.more: &more 5\njobs:\n- {<<: *base, prompt: a}\n- a dog\n"
    found = read_text(tmp_path, "a.yaml", content, **ANY)
    assert found.inputs == [{"seed": 7, "prompt": "a"}, {"prompt": "a dog"}]


def test_from_can_say_how_its_file_is_read(tmp_path):
    write(tmp_path, "lists/a.dat", "prompt|image_url\ncafé|a.png\n".encode("cp1252"))
    write(tmp_path, "photos/a.png", PNG)
    about = "{file: lists/a.dat, format: csv, encoding: cp1252, delimiter: pipe, base: photos}"
    found = read_text(tmp_path, "m.yaml", f"jobs:\n- from: {about}\n")
    assert found.problems == []
    (job,) = found.jobs
    assert job.input["prompt"] == "café"
    assert job.input["image_url"].path == str(tmp_path / "photos/a.png")


@pytest.mark.parametrize(
    ("about", "problem"),
    [
        ("{file: a.csv, encoding: cp9}", "encoding: 'cp9' is no encoding"),
        ("{file: a.csv, encoding: base64}", "encoding: 'base64' is no encoding of text"),
        ("{file: a.csv, delimiter: ab}", "delimiter: 'ab' is no delimiter"),
        ("{file: a.csv, format: docx}", "a.csv: 'docx' is no format; formats are csv"),
        ("{file: a.csv, fromat: csv}", "key 'fromat'"),
        ("{format: csv}", "the key file is missing"),
        ("{file: 5}", "file: 5 is not text"),
    ],
)
def test_what_from_can_t_say_is_a_problem_of_its_entry(tmp_path, about, problem):
    write(tmp_path, "a.csv", "prompt\na\n")
    (said,) = read_text(tmp_path, "m.yaml", f"jobs:\n- from: {about}\n", **ANY).problems
    assert said.startswith("m.yaml:2: from: ")
    assert problem in said
