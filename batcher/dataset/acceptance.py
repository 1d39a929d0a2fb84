"""Acceptance: checks the content of an output, and compares it with the inputs.

A job whose file fails the check stays ``done``, because the file was paid for and is complete; the note
on its quality goes into the ledger, and from there into metadata, ``status`` and report. ``inspector``
checks one job's outputs; ``media.headers`` (built in) and ``media.decode`` (with the extra ``media``)
read files; ``expectations`` compares with the inputs.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from batcher.jobs.job import Artifact, Probed


class Verdict(msgspec.Struct, frozen=True):
    """One job's outputs and their properties; ``quality`` is None if no problem was found."""

    files: tuple[Probed, ...]
    quality: str | None = None


class Inspector(Protocol):
    """The check that the download lane makes before a job is done."""

    async def inspect(self, job_id: str, files: tuple[Artifact, ...]) -> Verdict:
        """Check a job's outputs, which are at their final paths. Problems are returned, never raised."""
        ...


class Unchecked:
    """Accepts everything without a check."""

    async def inspect(self, job_id: str, files: tuple[Artifact, ...]) -> Verdict:
        return Verdict(tuple(Probed(file.path, file.bytes, file.sha256) for file in files))
