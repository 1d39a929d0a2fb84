"""`report`, `export` and `status --quality`, as typed."""

import json

import pytest
from click.testing import CliRunner

from batcher.cli.entry import cli
from batcher.clock import iso
from batcher.disk import LocalDisk
from batcher.errors import BatcherError, UsageError
from batcher.jobs.lifecycle import RunEvent
from batcher.report.render import keep_writing
from tests.support.dataset import RunMaker, mixed_run
from tests.support.engine import FakeClock, job


@pytest.fixture
async def run_dir(tmp_path):
    return await mixed_run(tmp_path / "run")


def typed(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)


def test_report_says_where_the_page_is(run_dir):
    said = typed("report", run_dir)
    assert said.output == f"{run_dir}/report.html: 4 of 8 jobs done\n"
    assert (run_dir / "report.html").stat().st_size > 50_000


@pytest.mark.parametrize("kind", ["csv", "folder"])
def test_an_export_by_split_says_what_loaders_would_leave_out(run_dir, tmp_path, kind):
    by_split = ("export", run_dir, "--format", kind, "--split-by", "meta.split", "-o", tmp_path / "x")
    said = typed(*by_split).stderr
    assert "leaves the others out: none; name all with its data_files" in said
    assert typed(*by_split, "--filter", "meta.split").stderr == ""


def test_report_of_a_run_that_is_over_is_written_once_even_with_every(run_dir):
    assert typed("report", run_dir, "--every", "30s").output.endswith("4 of 8 jobs done\n")


def test_an_interval_of_nothing_is_refused(run_dir):
    assert "--every" in str(typed("report", run_dir, "--every", "0").exception)


def test_the_poor_ones_listed_are_what_except_takes(run_dir, tmp_path):
    listed = typed("status", run_dir, "--list", "done", "--quality", "bad")
    assert [json.loads(line)["job"] for line in listed.stdout.splitlines()] == ["short"]
    (tmp_path / "poor.jsonl").write_text(listed.stdout)
    said = typed(
        "export",
        run_dir,
        "--format",
        "csv",
        "-o",
        tmp_path / "out",
        "--except",
        f"@{tmp_path}/poor.jsonl",
    )
    assert "4 rows" in said.output
    assert "short" not in (tmp_path / "out" / "data-000000.csv").read_text()


def test_quality_needs_a_list(run_dir):
    assert "--list" in str(typed("status", run_dir, "--quality", "bad").exception)


def test_status_counts_the_poor(run_dir):
    assert "1  of the done have poor outputs" in typed("status", run_dir).output


def test_an_export_that_is_there_says_so(run_dir, tmp_path):
    words = ("export", run_dir, "--format", "parquet", "-o", tmp_path / "out")
    assert "1 file\n" in typed(*words).output
    assert "1 of them there already" in typed(*words).output


@pytest.mark.parametrize(
    "words",
    [
        ("--shard-size", "1MB", "--shard-count", "2"),
        ("--embed",),
        ("--except", "@gone"),
        ("--split-by", "meta.no"),
    ],
)
def test_options_that_make_no_sense_are_refused(run_dir, tmp_path, words):
    said = typed("export", run_dir, "--format", "csv", "-o", tmp_path / "out", *words)
    assert isinstance(said.exception, BatcherError)


def test_a_ledger_that_points_elsewhere_exports_nothing_from_there(run_dir, tmp_path):
    (tmp_path / "secret.mp4").write_bytes((run_dir / "media" / "fox.mp4").read_bytes())
    ledger = run_dir / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace("media/fox.mp4", "../secret.mp4"))
    said = typed("export", run_dir, "--format", "webdataset", "-o", tmp_path / "out")
    assert "outside" in str(said.exception)


@pytest.mark.parametrize("format_", ["webdataset", "folder", "captions"])
def test_media_on_another_disk_and_single_linked_outputs_are_exported(run_dir, tmp_path, format_):
    fox, away = run_dir / "media/fox.mp4", tmp_path / "away"
    fox.rename(tmp_path / "renamed.mp4")
    fox.symlink_to(tmp_path / "renamed.mp4")
    (run_dir / "media").rename(away)
    (run_dir / "media").symlink_to(away)
    assert "rows" in typed("export", run_dir, "--format", format_, "-o", tmp_path / "out").output


@pytest.mark.parametrize("format_", ["webdataset", "folder"])
def test_media_whose_bytes_have_changed_are_never_exported(run_dir, tmp_path, format_):
    fox = run_dir / "media/fox.mp4"
    fox.write_bytes(fox.read_bytes()[::-1])
    said = typed("export", run_dir, "--format", format_, "-o", tmp_path / "out")
    assert "fox.mp4: not what the ledger says (SHA-256 differs)" in str(said.exception)
    assert not list(tmp_path.glob("out/*fox*")) + list(tmp_path.glob("out/*.tar"))


async def test_a_live_report_is_written_anew_as_the_ledger_grows_and_once_more_at_the_end(tmp_path):
    import os
    import socket

    made = RunMaker(tmp_path)
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    made.ledger.announce(RunEvent(run="r", at=iso(FakeClock().now()), total=2, manifest="m", **here))
    made.submitted(job("a"))
    await made._settle()
    seen = []

    class Waiting(FakeClock):
        async def sleep(self, delay_s):
            seen.append('refresh_s":5.0' in (tmp_path / "report.html").read_text())
            if len(seen) == 2:
                made.submitted(job("b"))
            if len(seen) == 3:
                made.ledger.close_run(
                    RunEvent(run="r", at="2026-01-01T00:00:09.000Z", ended=True, exit_code=0)
                )
            await made._settle()

    status = await keep_writing(tmp_path, LocalDisk(), Waiting(), 5.0)
    assert (seen, status.live, status.submitted) == ([True] * 3, False, 2)
    assert '"refresh_s":null' in (tmp_path / "report.html").read_text()
    await made.ledger.close()


def test_variables_and_the_source_row_come_out_as_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text(
        "model: blackforestlabs/flux-1/dev/text-to-image\nmatrix: {place: [Paris, Rome]}\n"
        "vars: {mood: calm}\njobs:\n- {prompt: 'a cat in {{ place }}'}\n"
    )
    said = typed("run", "m.yaml", "--sandbox", "--sandbox-speed", "100", "-o", "out")
    assert said.return_value == 0, said.output
    rows = [json.loads(line) for line in (tmp_path / "out/metadata.jsonl").read_bytes().splitlines()]
    places = {row["prompt"]: (row["var.place"], row["source"]) for row in rows}
    assert places["a cat in Paris"] == ("Paris", "m.yaml:5")
    listed = typed("status", "out", "--list", "done").stdout.splitlines()
    assert {json.loads(line)["vars"]["place"] for line in listed} == {"Paris", "Rome"}
    kept = typed("export", "out", "--format", "csv", "-o", "rome", "--filter", "var.place == 'Rome'")
    assert kept.output.startswith("rome: 1 row, "), kept.output
    assert "- `var.place`: string" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("inside", [".", "media", "train/shards"])
def test_an_export_never_goes_where_loaders_would_take_it_for_outputs(run_dir, inside):
    before = sorted(run_dir.rglob("*"))
    said = typed("export", run_dir, "--format", "captions", "-o", run_dir / inside)
    assert isinstance(said.exception, UsageError)
    assert sorted(run_dir.rglob("*")) == before


def test_an_export_is_no_stream(run_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "not a stream" in str(typed("export", run_dir, "--format", "csv", "-o", "-").exception)
    assert not (tmp_path / "-").exists()
