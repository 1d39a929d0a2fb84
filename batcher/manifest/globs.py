"""The files that match a pattern: each real file once, even if several links lead to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path

from batcher.jobs.identity import FIRST_RULE, RULE
from batcher.manifest.folders import holds_results
from batcher.manifest.rows import LocalPath

ANY_DEPTH = "**"


class Globs:
    """Caches the files of each pattern, so that each pass over a manifest sees the same ones.

    Files below ``left_out``, a real path, match none.
    """

    def __init__(self, left_out: str | None = None) -> None:
        self._left_out = left_out
        self._found: dict[tuple[Path, str, int], list[LocalPath]] = {}

    def files(self, directory: Path, pattern: str, rule: int = RULE) -> list[LocalPath]:
        """The files that match, sorted, relative to ``directory``. Raises ValueError if none does.

        ``rule`` is the one by which ids are made: under the first, ``./`` was a part of the path.
        """
        key = (directory, pattern, rule)
        if key not in self._found:
            try:
                found = _files(directory, pattern, rule)
                self._found[key] = [path for path in found if not self._is_left_out(directory / path)]
            except (ValueError, OSError, RecursionError) as error:
                raise ValueError(f"glob {pattern!r:.60}: {error}") from None
        if not self._found[key]:
            outside = " outside of run directories" if ANY_DEPTH in pattern or self._left_out else ""
            raise ValueError(f"glob {pattern!r:.60} matches no file in {directory}{outside}")
        return self._found[key]

    def _is_left_out(self, path: Path) -> bool:
        return self._left_out is not None and is_below(path, self._left_out)


def is_below(path: Path, folder: str) -> bool:
    """Whether the real file of ``path`` is in ``folder``, a real path, at any depth."""
    return os.path.realpath(path).startswith(os.path.join(folder, ""))


def _files(directory: Path, pattern: str, rule: int) -> list[LocalPath]:
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    root = "/" if pattern.startswith("/") else ""
    prefix = "./" if rule == FIRST_RULE and pattern.startswith("./") else ""
    by_real: dict[str, tuple[bool, bool, int, str]] = {}
    for name in _matches(directory, root, parts):
        path = directory / name
        if not path.is_file():
            continue
        real = os.path.realpath(path)
        is_link = real != os.path.join(os.path.realpath(directory), name)
        known = (path.is_symlink(), is_link, name.count("/"), name)
        by_real[real] = min(known, by_real.get(real, known))
    return [LocalPath(prefix + name) for name in sorted(name for *_, name in by_real.values())]


def _matches(directory: Path, base: str, parts: list[str]) -> Iterator[str]:
    """The paths below ``base`` that match ``parts``; a path may be repeated."""
    if not parts:
        yield base
        return
    part, rest = parts[0], parts[1:]
    if part == ANY_DEPTH:
        for folder in _folders(directory, base, set()):
            yield from _matches(directory, folder, rest or ["*"])
    elif has_magic(part):
        for name in _names(directory / base, part):
            yield from _matches(directory, _below(base, name), rest)
    elif os.path.lexists(directory / base / part):
        yield from _matches(directory, _below(base, part), rest)


def _folders(directory: Path, base: str, seen: set[str]) -> Iterator[str]:
    """``base`` and all folders below it, each real folder once, because links may form cycles.

    Run directories below it are left out.
    """
    real = os.path.realpath(directory / base)
    if real in seen or not Path(real).is_dir():
        return
    seen.add(real)
    yield base
    for name in _names(directory / base, "*"):
        folder = directory / base / name
        if folder.is_dir() and not holds_results(folder):
            yield from _folders(directory, _below(base, name), seen)


def _names(folder: Path, pattern: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    hidden = pattern.startswith(".")
    return sorted(n for n in names if fnmatchcase(n, pattern) and (hidden or not n.startswith(".")))


def _below(base: str, name: str) -> str:
    return f"{base}{name}" if base in ("", "/") else f"{base}/{name}"
