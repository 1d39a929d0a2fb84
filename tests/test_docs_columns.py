"""The table of columns in docs/manifest.md: what each row tells to type does what it says."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from batcher.cli.entry import cli
from tests.support.manifest_files import write

PAGE = (Path(__file__).parent.parent / "docs" / "manifest.md").read_text()
ROWS = re.findall(r"^\| (?!I have)([^|]*[^|-][^|]*) \| (`--[^\n]*) \|$", PAGE, re.MULTILINE)
TYPED = [typed for _, cell in ROWS for typed in re.findall(r"`(--[^`]*)`", cell)]
IMAGE = "https://example.com/a.png"
TABLES = {
    "--rename caption=prompt": "caption\na cat\n",
    "--rename body.prompt=prompt": '{"body": {"prompt": "a cat"}}\n',
    "--rename img1=image_urls --rename img2=image_urls": f"prompt,img1,img2\na cat,{IMAGE},{IMAGE}?2\n",
    "--rename words=tags:list": "prompt,words\na cat,a; b; c\n",
    "--rename lora_path=lora.path": "prompt,lora_path\na cat,p\n",
    "--meta split,author": "prompt,split,author\na cat,x,y\n",
    "--meta '*'": "prompt,split,author\na cat,x,y\n",
    "--ignore '*'": "prompt,split,author\na cat,x,y\n",
    "--ignore ''": ",prompt\n0,a cat\n",
    "--rename '#1=prompt'": ",seed\na cat,1\n",
    "--ignore '#3'": "prompt,seed,seed\na cat,1,2\n",
    "--ignore 'scene: title'": "prompt,scene: title\na cat,x\n",
    "--ignore '#4'": 'prompt,seed,size,"a,b"\na cat,1,2,x\n',
    '--vars caption --set prompt="cinematic, {{ caption }}"': "caption\na cat\n",
    "--extra lora": "prompt,lora\na cat,x\n",
    "--per-row": "prompt\na cat\na cat\n",
}
SCHEMALESS = ("image_urls", "tags", "lora_path", "#", "''", "scene")
"""Words in rows that are tried with a model whose inputs are not known."""


def test_every_row_of_the_table_is_tried():
    assert sorted(TYPED) == sorted(TABLES)


@pytest.mark.parametrize("typed", TABLES)
def test_what_the_table_tells_to_type_loads_the_file(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    content = TABLES[typed]
    name = write(tmp_path, "m.jsonl" if content.startswith("{") else "m.csv", content).name
    free = any(word in typed for word in SCHEMALESS)
    base = (
        ["--model", "some/model"]
        if free
        else ["--model", "bytedance/seedream-4/text-to-image", "--sandbox"]
    )
    monkeypatch.setenv("RUNCOMFY_MODEL_API_BASE", "http://127.0.0.1:1/v1")
    result = CliRunner().invoke(
        cli, ["plan", name, *base, *shlex.split(typed), "--show", "9"], standalone_mode=False
    )
    assert not result.exception, result.output + result.stderr
    assert "a cat" in result.output
    assert f"{2 if typed == '--per-row' else 1} to buy" in result.output
