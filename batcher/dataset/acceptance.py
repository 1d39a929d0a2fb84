"""Acceptance: outputs must decode, not be blank, match the inputs, and equal no other job's.

A job whose file fails the check stays ``done``, because the file was paid for and is complete; the note
on its quality goes into the ledger, and from there into metadata, ``status`` and report.

Outputs are compared with the inputs whose names mean the same for every model. A model that keeps the
shape of its input image has no ``aspect_ratio``, and then nothing is compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from batcher.jobs.job import Artifact, Probed
from batcher.ledger.snapshot import Snapshot
from batcher.media.finding import Finding
from batcher.media.probe import decode, read_headers
from batcher.thread_batches import Groups

_DURATIONS = ("duration", "duration_s", "duration_seconds", "seconds", "video_length")
_SIZES = ("size", "image_size", "resolution")
_SIZE = re.compile(r"(\d{2,5})\s*[x×*]\s*(\d{2,5})")
_RATIO = re.compile(r"(\d{1,3})\s*[:/]\s*(\d{1,3})")
_SHAPE_TOLERANCE = 0.05
"""Models round sides to multiples of 8 to 64."""
_DURATION_TOLERANCE, _DURATION_SLACK_S = 0.1, 0.5
AT_ONCE = 2
GROUP_JOBS = 8


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


def differences(found: Finding, inputs: dict[str, Any]) -> Iterator[str]:
    """Descriptions of how ``found`` differs from ``inputs``; empty if it doesn't."""
    if found.duration_s is not None and (found.media_type or "").startswith("video/"):
        yield from _duration(found.duration_s, inputs)
    if found.width and found.height:
        yield from _shape(found.width, found.height, inputs)


def _duration(duration_s: float, inputs: dict[str, Any]) -> Iterator[str]:
    asked_s = next((number for name in _DURATIONS if (number := _number(inputs.get(name)))), None)
    if asked_s is None:
        return
    if abs(duration_s - asked_s) > max(_DURATION_SLACK_S, _DURATION_TOLERANCE * asked_s):
        yield f"{duration_s:g} s instead of {asked_s:g} s"


def _shape(width: int, height: int, inputs: dict[str, Any]) -> Iterator[str]:
    asked = _asked_size(inputs)
    if asked is not None:
        if any(abs(a - b) > _SHAPE_TOLERANCE * b for a, b in zip((width, height), asked, strict=True)):
            yield f"{width}×{height} instead of {asked[0]}×{asked[1]}"
        return
    ratio = _RATIO.fullmatch(str(inputs.get("aspect_ratio", "")).strip())
    if ratio is None or not int(ratio[2]) or not int(ratio[1]):
        return
    wanted = int(ratio[1]) / int(ratio[2])
    if abs(width / height - wanted) > _SHAPE_TOLERANCE * wanted:
        yield f"{width}×{height} instead of {ratio[0]}"


def _asked_size(inputs: dict[str, Any]) -> tuple[int, int] | None:
    width, height = _number(inputs.get("width")), _number(inputs.get("height"))
    if width and height:
        return int(width), int(height)
    for name in _SIZES:
        value = inputs.get(name)
        if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
            return int(match[1]), int(match[2])
    return None


def _number(value: Any) -> float | None:
    """A positive number, given as a number or as text in the form of some schemas ("5", "5s")."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?s?", value):
        value = float(value.removesuffix("s"))
    return float(value) if isinstance(value, int | float) and value > 0 else None


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
