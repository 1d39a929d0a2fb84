"""Manifests written, read and checked in one call."""

from dataclasses import dataclass
from pathlib import Path

from batcher.manifest.load import open_manifest
from batcher.manifest.tally import ManifestTally
from batcher.options.facts import Overrides
from batcher.schema.spec import BUILT_IN, KLING

PNG = b"\x89PNG\r\n\x1a\n" + bytes(60) + b"\0\0\0\0IEND\xaeB`\x82"
MP4 = b"\x00\x00\x00\x18ftypmp42" + bytes(64)
URL = "https://example.com/cat.png"


@dataclass
class Read:
    """What one pass over a manifest gave."""

    folder: Path
    jobs: list
    tally: ManifestTally

    @property
    def ids(self):
        return [job.id for job in self.jobs]

    @property
    def inputs(self):
        return [job.input for job in self.jobs]

    @property
    def problems(self):
        """The problems without the folder of the manifest."""
        return [line.replace(f"{self.folder}/", "") for line in self.tally.problems]


def read(path: Path, specs=BUILT_IN, **overrides) -> Read:
    """All jobs of the manifest at ``path``, by default of the Kling model."""
    overrides = {"model": KLING.model_id, **overrides}
    tally = ManifestTally()
    return Read(path.parent, list(open_manifest(path, Overrides(**overrides)).jobs(specs, tally)), tally)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read_text(folder: Path, name: str, content: str | bytes, specs=BUILT_IN, **overrides) -> Read:
    """All jobs of a manifest with that content."""
    return read(write(folder, name, content), specs, **overrides)
