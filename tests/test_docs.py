"""What README and docs show is tried: manifests load, commands parse, programs run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from batcher.cli.entry import cli
from batcher.manifest.load import open_manifest
from batcher.manifest.tally import ManifestTally
from batcher.options.facts import Overrides
from batcher.schema.spec import BUILT_IN, KLING
from tests.support.api_server import environment

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language):
    found = []
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text("utf-8")):
            if match[1] == language:
                line = page.read_text("utf-8")[: match.start()].count("\n") + 2
                found.append(pytest.param(match[2], id=f"{page.name}:{line}"))
    return found


def is_manifest(text):
    return re.search(r"^jobs:", text, re.MULTILINE) is not None and "runs-on:" not in text


def jobs_of(path, model=None):
    tally = ManifestTally()
    jobs = list(open_manifest(path, Overrides(model=model)).jobs(BUILT_IN, tally))
    tally.raise_if_invalid()
    return jobs


@pytest.mark.parametrize(
    "text", [p for p in blocks("yaml") if is_manifest(p.values[0]) and "from:" not in p.values[0]]
)
def test_the_manifests_in_the_docs_load(text, tmp_path):
    (tmp_path / "m.yaml").write_text(text)
    for name in ("cat.png", "photos/a.jpg", "photos/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    assert jobs_of(tmp_path / "m.yaml", None if "model:" in text else KLING.model_id)


def test_the_readme_manifest_makes_the_jobs_that_it_says(tmp_path):
    text = next(p.values[0] for p in blocks("yaml") if "product-shots" in p.values[0])
    (tmp_path / "m.yaml").write_text(text)
    jobs = jobs_of(tmp_path / "m.yaml")
    assert len(jobs) == 2 + 2 * 2 * 2
    assert {job.input["prompt"] for job in jobs if job.explicit or job.id.startswith("hero")} == {
        "a fox runs through tall grass",
        "a dog runs through tall grass",
    }


def test_the_readme_spreadsheet_loads_with_types(tmp_path):
    text = next(p.values[0] for p in blocks("csv"))
    (tmp_path / "pairs.csv").write_text(text)
    jobs = jobs_of(tmp_path / "pairs.csv", KLING.model_id)
    assert [(job.input["duration"], job.meta) for job in jobs] == [
        (5, {"split": "train"}),
        (10, {"split": "test"}),
    ]


def command_lines():
    for block in blocks("bash"):
        for line in block.values[0].splitlines():
            words = shlex.split(line.split("$ ", 1)[-1], comments=True)
            if words and words[0] == "batcher":
                yield pytest.param(words[1:], id=f"{block.id} {' '.join(words[:3])}")


@pytest.mark.parametrize("words", list(command_lines()))
def test_the_command_lines_in_the_docs_parse(words):
    name, *arguments = words
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, name
    while isinstance(command, click.Group) and arguments:
        command = command.get_command(click.Context(command), arguments.pop(0))
    command.make_context(name, arguments)


@pytest.mark.parametrize("text", [p for p in blocks("python") if "asyncio.run" in p.values[0]])
def test_the_programs_in_the_docs_run(text, tmp_path):
    (tmp_path / "manifests").symlink_to(ROOT / "manifests")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        cwd=tmp_path,
        env=environment(None, tmp_path),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_every_link_between_the_pages_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_exit_codes_in_the_readme_are_those_of_the_errors():
    from batcher import errors

    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.BatcherError) and error.exit_code != 70
    }
    shown = {int(n) for n in re.findall(r"^\| (\d+)", (ROOT / "README.md").read_text(), re.MULTILINE)}
    assert codes <= shown | {130, 143}
