"""Which unit tests have to do with what was changed: ``make check`` runs them.

Changed is what differs from the main branch, committed or not. A test file has to do with a module that it
imports. Files that start processes are left to ``make test``, unless they were changed themselves, and so is
what is beyond MOST_FILES: a change to what everything imports is tested by everything.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ALWAYS = ("tests/test_floors.py", "tests/test_house.py")
MOST_FILES = 8
STARTS_PROCESSES = re.compile(
    r"^(?:import subprocess|from tests\.(?:support\.)?(?:api_server|faults|forked)\b)", re.MULTILINE
)
_IMPORTED = re.compile(r"^\s*(?:from|import) (batcher(?:\.\w+)*)(?: import ([\w, ]+))?", re.MULTILINE)


def changed_files(root: Path) -> set[str]:
    """What differs from the main branch, or from the last commit where there is no main branch."""
    base = _git(root, "merge-base", "HEAD", "main") or ["HEAD"]
    tracked = _git(root, "diff", "--name-only", base[0])
    return {*tracked, *_git(root, "ls-files", "--others", "--exclude-standard")}


def files_for(changed: Iterable[str], tests: dict[str, str]) -> list[str]:
    """Of ``tests``, their text by path, those to run for ``changed``: the nearest first.

    Changed tests come first, then those named after a changed module, then those that import the least.
    """
    changed = set(changed)
    modules = {_module(path) for path in changed if re.match(r"batcher/.*\.py$", path)}
    stems = {module.rpartition(".")[2] for module in modules}
    nearest = []
    for path, text in tests.items():
        imported = _imports(text)
        if path not in changed and (not imported & modules or STARTS_PROCESSES.search(text)):
            continue
        named = Path(path).stem.removeprefix("test_") in stems
        nearest.append((path not in changed, not named, len(imported), path))
    return [path for *_, path in sorted(nearest)[:MOST_FILES]]


def _imports(text: str) -> set[str]:
    found = set()
    for module, names in _IMPORTED.findall(text):
        found |= {module, *(f"{module}.{name.strip()}" for name in names.split(","))}
    return found


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _git(root: Path, *words: str) -> list[str]:
    told = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    return told.stdout.splitlines()


def main() -> None:
    root = Path(__file__).parent.parent
    files = (root / "tests").rglob("test_*.py")
    tests = {path.relative_to(root).as_posix(): path.read_text() for path in files}
    print(*dict.fromkeys([*files_for(changed_files(root), tests), *ALWAYS]))


if __name__ == "__main__":
    sys.exit(main())
