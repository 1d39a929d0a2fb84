"""Where a run directory is, if none is named."""

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from batcher.app.asked import asked_of, options_from
from batcher.app.run_dir_checks import check_existing, check_is_manifest, run_dir_of
from batcher.disk import LocalDisk
from batcher.errors import InputError, LedgerError, RunDirError
from batcher.jobs.lifecycle import Asked, RunEvent
from batcher.ledger.ledger import Ledger, read_snapshot
from tests.support.engine import FakeClock, QuickDisk, bought, job


@pytest.mark.parametrize(
    ("manifest", "place"),
    [
        ("sub/pairs.csv", "sub/output/shots"),
        ("-", "output/shots"),
        ("/dev/stdin", "output/shots"),
        ("/dev/fd/63", "output/shots"),
        ("/proc/self/fd/11", "output/shots"),
    ],
)
def test_it_is_beside_the_manifest_or_here_if_that_is_piped_in(tmp_path, monkeypatch, manifest, place):
    monkeypatch.chdir(tmp_path)
    options = SimpleNamespace(output=None, sandbox=None, manifest=Path(manifest))
    assert run_dir_of(options, SimpleNamespace(name="shots"), LocalDisk()) == Path(place)


def check(*manifests, **typed):
    check_is_manifest(options_from(asked_of(manifests, typed, {})), LocalDisk())


async def test_a_run_directory_is_no_manifest_and_it_is_told_what_it_is_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_dir = Path("output/my clips")
    run_dir.mkdir(parents=True)
    ledger = Ledger(run_dir, QuickDisk(), FakeClock())
    opening = RunEvent(run="x", at="2026-01-01T00:00:00Z")
    ledger.announce(opening)
    await ledger.close()
    with pytest.raises(InputError) as refused:
        check("output/my clips")
    assert str(refused.value).splitlines() == [
        "output/my clips: is a run directory, not a manifest",
        "  to see its jobs: batcher status 'output/my clips'",
        (
            "  to make a manifest of its best outputs: "
            "batcher promote 'output/my clips' --marks star -o next.yaml"
        ),
        (
            "  to use its outputs as inputs: "
            "batcher plan 'output/my clips' --model MODEL --ignore 'input.prompt,*'"
        ),
    ]
    check("output/my clips", ignore=("input.prompt", "*"))
    check("output", "no such", "x" * 5000, "nul\0")
    ledger = Ledger(run_dir, QuickDisk(), FakeClock())
    ledger.announce(msgspec.structs.replace(opening, asked=Asked(["../../m.csv"], {"max_cost": ["5"]})))
    name, job_id, intent = bought(job("x"))[0]
    ledger.append(name, job_id, **intent)
    await ledger.close()
    again = "to run its manifest again: batcher run m.csv -o 'output/my clips' --max-cost 5"
    with pytest.raises(InputError, match=again):
        check("m.csv", "output/my clips")


def test_a_file_is_no_place_for_a_run(tmp_path):
    (tmp_path / "out.csv").touch()
    options = options_from(asked_of(["m.csv"], {"output": str(tmp_path / "out.csv")}, {}))
    with pytest.raises(RunDirError, match="is a file, and -o names the directory of a run"):
        check_existing(options, tmp_path / "out.csv", LocalDisk())
    check_existing(options, tmp_path / "out", LocalDisk())


def test_what_is_no_run_directory_is_told(tmp_path):
    (tmp_path / "m.csv").touch()
    said = {
        "m.csv": "but a file; `batcher ls`",
        ".": "no ledger.jsonl here",
        "none": "no such directory",
    }
    for name, why in said.items():
        with pytest.raises(LedgerError, match=why):
            read_snapshot(tmp_path / name, LocalDisk())
