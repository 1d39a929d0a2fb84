"""Manifests: text to rows to jobs. Every problem is found before the first job is bought.

``read`` opens a file of any format, ``walk`` follows ``from`` into others, ``expand`` makes rows into
drafts (defaults, matrix, templates, repeat), ``check`` makes drafts into jobs by the model's schema.
"""

from batcher.manifest.load import Manifest, Overrides, open_manifest
from batcher.manifest.rows import ManifestChanged
from batcher.manifest.tally import Tally

__all__ = ["Manifest", "ManifestChanged", "Overrides", "Tally", "open_manifest"]
