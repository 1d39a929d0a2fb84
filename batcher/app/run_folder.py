"""The run directory of a run."""

from __future__ import annotations

from pathlib import Path

from batcher.disk import Disk
from batcher.errors import RunDirError
from batcher.ledger.segments import segments_in
from batcher.manifest.load import Manifest
from batcher.options.run import Options

OUTPUT_ROOT = Path("output")
_NO_PATTERNS = str.maketrans("[]{}*?", "()()__")
"""Loaders read these characters as patterns, so a directory named with them can't be loaded."""


def run_dir_of(options: Options, manifest: Manifest, disk: Disk) -> Path:
    """The run directory: as given, else ``output/<batch name>`` beside the manifest.

    An existing one is still used under its old name, or in the working directory.
    """
    if options.output is not None:
        return options.output
    name = f"{manifest.name}{'-sandbox' if options.sandbox is not None else ''}"
    names = (OUTPUT_ROOT / name.translate(_NO_PATTERNS), OUTPUT_ROOT / name)
    places = [folder / one for folder in (options.manifest.parent, Path()) for one in names]
    return next((place for place in places if segments_in(place, disk)), places[0])


def check_existing(options: Options, run_dir: Path, disk: Disk) -> None:
    """Raises RunDirError if ``--existing`` finds no run directory."""
    if options.money.existing and not segments_in(run_dir, disk):
        raise RunDirError(f"{run_dir}: no run directory is there, and --existing begins none")
