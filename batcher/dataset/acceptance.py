"""Acceptance: what is inside an output, and whether it is what was asked for.

A file that fails stays ``done``, since it was paid for and is whole as it came; the note on its quality
goes into the ledger, and from there into metadata, ``status`` and report. ``inspector``
judges one job's outputs; ``headers`` (built in) and ``decode`` (with the extra ``media``) look into
files; ``asked`` compares with the inputs.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from batcher.jobs.job import Artifact, Probed


class Verdict(msgspec.Struct, frozen=True):
    """One job's outputs with what was found in them; ``quality`` is None where nothing is wrong."""

    files: tuple[Probed, ...]
    quality: str | None = None


class Inspector(Protocol):
    """What the download lane asks before a job is done."""

    async def inspect(self, job_id: str, files: tuple[Artifact, ...]) -> Verdict:
        """Look into a job's outputs, which lie under their names. Never raises for what it finds."""
        ...


class Unchecked:
    """Takes everything as it comes."""

    async def inspect(self, job_id: str, files: tuple[Artifact, ...]) -> Verdict:
        return Verdict(tuple(Probed(file.path, file.bytes, file.sha256) for file in files))
