"""Where a run directory is, if none is named."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from batcher.app.run_dir_checks import run_dir_of
from batcher.disk import LocalDisk


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
