"""A run's command as the ledger records it, so that it can be printed long after the run.

Only options that affect jobs or money are recorded. Paths are relative to the run directory, so that
they stay valid when both are moved. A command that could not be typed again from its record is not
recorded at all (a signed URL, whose signature no ledger holds; a set of ids from Python).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from batcher.jobs.lifecycle import Asked
from batcher.jobs.marks import MARKS_PREFIX
from batcher.jobs.signatures import mask_url
from batcher.options.given import Given, is_stream
from batcher.options.kinds import IDS
from batcher.options.option import Many, Option, Shapes
from batcher.options.table import BY_KEY

_TEXT_MAX_CHARS = 64 * 1024
_PLACES = ("output", "state_dir")
"""Readers get the run directory's path themselves."""


def record_of(given: Given, run_dir: Path) -> Asked | None:
    """The record for a ledger in ``run_dir``; None if the command could not be typed again from it."""
    if given.is_passing:
        return None
    options = {}
    for key, value in given.values.items():
        option = BY_KEY[key]
        if option.shapes in (Shapes.JOBS, Shapes.MONEY) and key not in _PLACES:
            if option.kind is IDS and not isinstance(value, str):
                return None
            options[key] = [_moved(option, text, given, run_dir) for text in option.shown(value)]
    manifests = [_from(run_dir, given.folder, manifest) for manifest in given.manifests]
    texts = [*manifests, *(text for shown in options.values() for text in shown)]
    return Asked(manifests, options) if manifests and all(map(_can_be_kept, texts)) else None


def _can_be_kept(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    if is_stream(text) or len(text) > _TEXT_MAX_CHARS:
        return False
    return all(part == mask_url(part) for part in (text, text.partition("=")[2]))


def _moved(option: Option, text: str, given: Given, run_dir: Path) -> str:
    if option.kind is IDS and _is_file(text):
        return f"@{_from(run_dir, given.folder, text[1:])}"
    return text


def _is_file(text: str) -> bool:
    return text.startswith("@") and not text.startswith(MARKS_PREFIX)


def _from(run_dir: Path, folder: str, path: str) -> str:
    """``path``, relative to ``folder``, made relative to the run directory; unchanged if absolute."""
    if path == "-" or Path(path).is_absolute():
        return path
    named = Path(folder, path)
    return os.path.join(os.path.relpath(named.parent.resolve(), run_dir.resolve()), named.name)


def given_of(record: Asked | None, run_dir: Path, bucket_url: str | None = None) -> Given | None:
    """The recorded command, with paths from the working directory; None if the ledger has none.

    ``bucket_url`` is where the outputs go, if ``run_dir`` holds only the ledger.
    """
    if record is None or not record.options.keys() <= BY_KEY.keys():
        return None
    values = {}
    for key, texts in record.options.items():
        option = BY_KEY[key]
        try:
            values[key] = option.value(texts if option.many is not Many.ONE else texts[0])
        except (ValueError, IndexError):
            return None
        if option.kind is IDS and _is_file(values[key]):
            values[key] = f"@{_near(run_dir, values[key][1:])}"
    places: Mapping[str, str] = {"output": str(run_dir)}
    if bucket_url is not None:
        places = {"output": bucket_url, "state_dir": str(run_dir)}
    return Given(tuple(_near(run_dir, path) for path in record.manifests), {**places, **values})


def _near(run_dir: Path, path: str) -> str:
    """``path`` as one would type it here: relative if it is below the working directory."""
    absolute = os.path.normpath(run_dir.resolve() / path)
    below = os.path.relpath(absolute)
    return absolute if below.startswith("..") else below
