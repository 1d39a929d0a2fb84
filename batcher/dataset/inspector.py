"""Checks a job's outputs: they decode, are not blank, match the inputs, and equal no other job's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from batcher.dataset.acceptance import Verdict
from batcher.dataset.expectations import differences
from batcher.jobs.job import Artifact, Probed
from batcher.ledger.snapshot import Snapshot
from batcher.media.decode import decode
from batcher.media.finding import Finding
from batcher.media.headers import read_headers
from batcher.thread_batches import Groups

AT_ONCE = 2
GROUP_JOBS = 8


class MediaInspector:
    """Checks files in threads, a few at a time, so that the event loop and the cores stay free."""

    def __init__(self, run_dir: Path, snapshot: Snapshot) -> None:
        self._root = run_dir
        self._snapshot = snapshot
        self._looks = Groups(self._look, at_once=AT_ONCE, most=GROUP_JOBS)

    async def inspect(self, job_id: str, files: tuple[Artifact, ...]) -> Verdict:
        found = await self._looks.add(files)
        inputs = self._inputs(job_id)
        notes: list[str] = []
        for number, (artifact, finding) in enumerate(zip(files, found, strict=True)):
            wrong = [*finding.problems, *differences(finding, inputs)]
            wrong += self._twins(job_id, artifact)
            notes += [f"output {number}: {what}" if len(files) > 1 else what for what in wrong]
        probed = tuple(map(_probed, files, found))
        return Verdict(probed, "; ".join(notes) or None)

    def _look(self, jobs: Sequence[tuple[Artifact, ...]]) -> list[list[Finding]]:
        return [[look_into(self._root / artifact.path) for artifact in files] for files in jobs]

    def _inputs(self, job_id: str) -> dict[str, Any]:
        place = self._snapshot.records[job_id].input_offset
        return self._snapshot.line_at(place).input or {} if place >= 0 else {}

    def _twins(self, job_id: str, artifact: Artifact) -> Iterator[str]:
        """A note if another job's output has the same bytes."""
        ours = self._snapshot.records[job_id].submitting_offset
        assert self._snapshot.owners is not None
        owner = self._snapshot.owners.setdefault(artifact.sha256, ours)
        if owner != ours and (other := self._snapshot.line_at(owner).job) != job_id:
            yield f"same bytes as {other}"


def look_into(path: Path) -> Finding:
    """The content of a file: decoded if the extra ``media`` is installed, else by its headers."""
    try:
        headers = read_headers(path)
    except OSError as error:
        return Finding(problems=(f"can't be read: {error.strerror}",))
    if headers.media_type is None or headers.problems or not headers.judged:
        return headers
    try:
        return decode(path, headers.media_type)
    except ImportError:
        return headers
    except Exception:  # noqa: BLE001 - a decoder's own limits and bugs are not damage of the file
        return replace(headers, judged=False)


def _probed(artifact: Artifact, found: Finding) -> Probed:
    return Probed(
        artifact.path,
        artifact.bytes,
        artifact.sha256,
        found.media_type,
        found.width,
        found.height,
        found.duration_s,
        found.fps,
        not found.judged,
    )
