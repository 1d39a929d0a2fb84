"""The ``run:`` map of a manifest: options for its runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

from batcher.errors import ManifestError, UsageError
from batcher.manifest.files import ManifestFile
from batcher.manifest.json_files import json_document
from batcher.manifest.rows import Lined
from batcher.manifest.yaml_files import yaml_document
from batcher.terminal import legible

KEY = "run"
_MAY_HAVE_ONE = re.compile(r"""(?:^[ \t]*|[{,][ \t\r\n]*)["']?run["']?[ \t]*:""", re.MULTILINE)
_READERS: Mapping[str, Callable[[ManifestFile], Any]] = {
    ".yaml": yaml_document,
    ".yml": yaml_document,
    ".json": json_document,
}


def run_map(path: Path, format_: str | None = None, encoding: str | None = None) -> Lined | None:
    """The options in the manifest at ``path``, with their lines; None if it has none.

    ``format_`` and ``encoding`` are given by the user; None: detected from the file.

    A file that can't be read has none here: the error is raised when the manifest is opened. Raises
    UsageError if ``run`` is not a mapping.
    """
    name = format_ or PurePath(path.name.lower().removesuffix(".gz")).suffix
    read = _READERS.get(f".{name.lower().removeprefix('.')}")
    if read is None:
        return None
    try:
        file = ManifestFile.at(path, legible(path), encoding)
        top = read(file) if _MAY_HAVE_ONE.search(file.text()) else None
    except ManifestError:
        return None
    given = top.get(KEY) if isinstance(top, dict) else None
    if given is None:
        return None
    line = top.lines.get(KEY, 1) if isinstance(top, Lined) else 1
    if not isinstance(given, dict):
        raise UsageError(f"{legible(path)}:{line}: run: a mapping of options is needed")
    return given if isinstance(given, Lined) else _on_line(given, line)


def _on_line(given: dict[str, Any], line: int) -> Lined:
    lined = Lined(line)
    for name, value in given.items():
        lined[name], lined.lines[name] = value, line
    return lined
