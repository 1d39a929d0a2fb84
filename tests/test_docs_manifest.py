"""Each row of "I have … → type this" in docs/manifest.md, typed."""

import gzip
import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from batcher.cli.entry import cli
from tests.manifest.test_manifest_sheets import parquet, workbook
from tests.support.manifest_files import PNG, write

PAGE = (Path(__file__).parent.parent / "docs/manifest.md").read_text("utf-8")
SECTION = PAGE.split("## I have")[1].split("\n## ")[0]
COMMANDS = [c.replace("\\|", "|") for c in re.findall(r"^\| .*\| `(.*)` \|$", SECTION, re.MULTILINE)]
TEXT_MODEL, IMAGE_MODEL = "bytedance/seedream-4/text-to-image", "kling/kling-2-1/master/image-to-video"
ROWS = [{"prompt": "a cat"}, {"prompt": "a dog"}]


def fill(folder):
    """A file of each kind that the table has, two jobs in each."""
    table = "prompt\na cat\na dog\n"
    files = {
        "prompts.txt": "# mine\n\na cat\na dog\n",
        "prompts.csv": table,
        "excel.csv": "prompt\ncafé\na dog\n".encode("cp1252"),
        "prompts.dat": "id|prompt\n1|a cat\n2|a dog\n",
        "prompts.xlsx": workbook(["prompt"], ["a cat"], ["a dog"], More=[["prompt"], ["x"], ["y"]]),
        "prompts.parquet": parquet(prompt=["a cat", "a dog"]),
        "prompts.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
        "named.json": json.dumps({"one": ROWS[0], "two": ROWS[1]}),
        "lists.json": json.dumps({"images": [{"id": 1}], "annotations": ROWS}),
        "requests.jsonl": "".join(json.dumps({"custom_id": f"r{n}", "body": row}) + "\n" for n, row in enumerate(ROWS)),
        "packed.csv.gz": gzip.compress(table.encode()),
        "captions/a.txt": "a cat",
        "captions/b.txt": "a dog",
        "dataset/metadata.csv": "file_name,prompt\na.png,a cat\nb.png,a dog\n",
    }  # fmt: skip
    for name in ("photos", "captions", "dataset"):
        files |= {f"{name}/a.png": PNG, f"{name}/b.png": PNG + b"b"}
    for name, content in files.items():
        write(folder, name, content)


def test_the_table_has_its_rows():
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("line", COMMANDS)
def test_what_the_table_says_can_be_typed(line, tmp_path, monkeypatch):
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    needs_image = re.search(r"photos|captions|dataset", line)
    words = shlex.split(line.replace("MODEL", IMAGE_MODEL if needs_image else TEXT_MODEL))
    typed = None
    if words[0] == "cat":
        typed = Path(words[1]).read_bytes()
        words = words[words.index("|") + 1 :]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed or b"")))
    result = CliRunner().invoke(cli, [*words[1:], "--sandbox"], input=typed, standalone_mode=False)
    assert result.return_value == 0, result.output
    assert re.search(r"\b[24] of [24] jobs selected|\b[24] of [24] selected", result.output), (
        result.output
    )
