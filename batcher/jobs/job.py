"""The basic types: a job, its output names, the recorded form of its inputs, and an output's record."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from batcher.jobs.signatures import mask_url

EXPLICIT_ID_MAX_CHARS = 100

_NUMBERED = re.compile(r"(.+)\.[0-9]+")
_RENAMED = re.compile(r"~([0-9]+)$")
_SPLIT_WORD = re.compile(
    r"(?<![^-._ 0-9])"
    r"(?=(?:train|training|validation|valid|dev|val|test|testing|eval|evaluation)(?:[-._ 0-9]|$))"
)
"""Where a word begins that `datasets` reads as a split: SPLIT_KEYWORDS in its ``data_files.py``."""
_EXPLICIT_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{EXPLICIT_ID_MAX_CHARS - 1}}}")
_EXPLICIT_IDS = re.compile(rf"(?:{_EXPLICIT_ID.pattern}\0)*")
_DATA_URI = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[^,;\s]+)*,", re.ASCII)


class Source(msgspec.Struct, frozen=True, gc=False):
    """The position of a row: ``file`` as the user would name it, ``line`` from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class LocalMedia(msgspec.Struct, frozen=True):
    """A local file in a media field. Sent inline as a ``data:`` URI, recorded by path and hash.

    ``path`` is where the file is read from; ``shown`` is the path as the manifest wrote it.
    """

    path: str
    shown: str
    sha256: str
    bytes: int
    media_type: str

    def __hash__(self) -> int:
        return hash(self.sha256)  # the same content under a different name is the same input

    def record(self) -> dict[str, str]:
        """Its form in ledger and metadata."""
        return {"path": self.shown, "sha256": self.sha256}


class Artifact(msgspec.Struct, frozen=True, gc=False):
    """One output file: ``path`` relative to the run directory (POSIX), size, SHA-256 in hex."""

    path: str
    bytes: int
    sha256: str


class Probed(Artifact, frozen=True, gc=False, omit_defaults=True):
    """An output file and its measured properties; None for each that is unknown.

    ``width`` and ``height`` are in pixels, as displayed (of a rotated video: after rotation).
    ``unjudged``: no decoder here could check the file, so it is not known to be whole or damaged.
    """

    media_type: str | None = None
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    fps: float | None = None
    unjudged: bool = False


class Job(msgspec.Struct, frozen=True):
    """One generation to buy: a model and its inputs, typed and checked.

    ``input`` holds JSON values and :class:`LocalMedia`. ``digest`` identifies the model and the inputs.
    ``explicit`` is set if the manifest gave the job's id. ``vars`` are the variables that its templates
    could use: they are recorded, but are not part of the job's identity.
    """

    id: str
    model: str
    input: dict[str, Any]
    meta: dict[str, Any]
    source: Source
    digest: str
    explicit: bool = False
    vars: dict[str, Any] = {}


def explicit_id_problem(text: str) -> str | None:
    """The problem with an explicit id, with a suggestion; None if it is usable."""
    if _EXPLICIT_ID.fullmatch(text):
        return None
    suggestion = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("-._")[:EXPLICIT_ID_MAX_CHARS]
    return (
        f"{text[:EXPLICIT_ID_MAX_CHARS]!r} is not a usable id (letters, digits, '.', '_', '-', up to "
        f"{EXPLICIT_ID_MAX_CHARS} characters, beginning with a letter or digit); "
        f"try {suggestion or 'job-1'!r}"
    )


def are_explicit_ids(texts: Sequence[str]) -> bool:
    """Whether all ``texts`` are usable explicit ids."""
    joined = "\0".join([*texts, ""])
    return joined.count("\0") == len(texts) and _EXPLICIT_IDS.fullmatch(joined) is not None


def output_name(job_id: str, index: int, count: int, extension: str) -> str:
    """File name of output ``index`` of ``count``: ``cat.mp4``, or ``cat.0.png``, ``cat.1.png``.

    An id that ends like the number of an output is always numbered (``1.0`` is ``1.0.0.mp4``), so that
    a name belongs to one job only, for any set of ids. Words that loaders read as splits are marked
    (``a-train`` is ``a-~train.mp4``): otherwise a folder loader would skip all other files.
    """
    stem = _SPLIT_WORD.sub("~", job_id)
    is_plain = count == 1 and not _NUMBERED.fullmatch(job_id)
    return f"{stem}{extension}" if is_plain else f"{stem}.{index}{extension}"


def names_split(text: str) -> bool:
    """Whether loaders read a file or folder called ``text`` as a split: ``train``, ``my-test``."""
    return _SPLIT_WORD.search(text) is not None


def next_name(name: str) -> str:
    """Another name for an output, which no job's id can produce: ``cat~2.mp4``, then ``cat~3.mp4``."""
    stem, dot, extension = name.rpartition(".")
    number = _RENAMED.search(stem)
    return f"{_RENAMED.sub('', stem)}~{int(number[1]) + 1 if number else 2}{dot}{extension}"


def owners_of(name: str) -> tuple[str, ...]:
    """The ids of the jobs that may have an output of this name, including the names of version 0.1."""
    stem = _RENAMED.sub("", name.rpartition(".")[0]).replace("~", "")
    numbered = _NUMBERED.fullmatch(stem)
    return (stem, numbered[1]) if numbered else (stem,)


def recorded(value: Any) -> Any:
    """``value`` as ledger, metadata and report store it: without inline media and signatures."""
    if isinstance(value, str):
        if is_data_uri(value):
            return {"path": value[:40].split(",")[0], "sha256": data_uri_sha256(value)}
        return mask_url(value) if value.startswith(("http://", "https://")) else value
    if isinstance(value, LocalMedia):
        return value.record()
    if isinstance(value, list):
        return [recorded(item) for item in value]
    if isinstance(value, dict):
        return {key: recorded(item) for key, item in value.items()}
    return value


def is_data_uri(text: str) -> bool:
    """Whether ``text`` begins as a ``data:`` URI does."""
    return _DATA_URI.match(text) is not None


def data_uri_sha256(uri: str) -> str:
    """The SHA-256 of a data URI's content, so that it is the same input as the file it came from."""
    import base64
    from urllib.parse import unquote_to_bytes

    head, _, payload = uri.partition(",")
    try:
        content = base64.b64decode(payload) if head.endswith(";base64") else unquote_to_bytes(payload)
    except ValueError:
        content = uri.encode()
    return hashlib.sha256(content).hexdigest()
