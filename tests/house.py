"""Measures the house: ``python -m tests.house [TREE]`` prints the figures of docs/design.md.

For this checkout it also draws what the pages show of the code: floors, rooms and states.
``TREE`` is a checkout, this one if it is left out. The way of a job is traced only in this one: a job is run
against the sandbox, and a file counts if a function in it is called with the job in hand, that is with its
id, its prompt or the names of its files among the arguments.
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import statistics
import sys
import tempfile
import threading
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

MARK = "followed-job"
JOB = {
    "id": MARK,
    "model": "kling/kling-2-1/master/image-to-video",
    "prompt": MARK,
    "image_url": "https://example.com/a.png",
}
HERE = Path(__file__).parent.parent


class House:
    """One checkout of the project, read with ``ast`` and not imported."""

    def __init__(self, tree: Path = HERE) -> None:
        self.tree = tree
        self.root = tree / "batcher"

    @cached_property
    def modules(self) -> dict[str, ast.Module]:
        """Dotted name, without the package's own → syntax tree."""
        found = {}
        for path in sorted(self.root.rglob("*.py")):
            parts = path.relative_to(self.root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" and parts[:-1] else parts)
            found[name] = ast.parse(path.read_text(), str(path))
        return found

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Module → the modules of ours that it imports, in functions and under TYPE_CHECKING too."""
        return {name: self._imports_of(name) for name in self.modules}

    def _imports_of(self, name: str) -> set[str]:
        found = set()
        for node in ast.walk(self.modules[name]):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        ours = {dotted.removeprefix("batcher.") for dotted in found if dotted.startswith("batcher.")}
        return {module for dotted in ours if (module := self._module_in(dotted)) not in (None, name)}

    def _module_in(self, dotted: str) -> str | None:
        return next((m for m in (dotted, dotted.rpartition(".")[0]) if m in self.modules), None)

    @property
    def floors(self) -> list[set[str]]:
        """As ``tests/test_floors.py`` of that checkout says."""
        source = ast.parse((self.tree / "tests/test_floors.py").read_text())
        return next(
            ast.literal_eval(node.value)
            for node in source.body
            if isinstance(node, ast.Assign) and node.targets[0].id == "FLOORS"
        )

    @property
    def entries(self) -> list[str]:
        """What stands at the package's root, except its front door (``__init__``, ``__main__``, py.typed)."""
        names = (path.name for path in self.root.iterdir())
        return sorted(name for name in names if not name.startswith("__") and name != "py.typed")

    @property
    def rooms(self) -> list[str]:
        """Packages, at any depth, and modules at the root."""
        packages = {
            init.parent.relative_to(self.root).as_posix() for init in self.root.rglob("__init__.py")
        }
        at_root = {path.stem for path in self.root.glob("*.py") if not path.name.startswith("__")}
        return sorted((packages - {"."}) | at_root)

    @property
    def cycles(self) -> list[list[str]]:
        """Groups of files that import one another."""
        return sorted(group for group in _components(self.imports) if len(group) > 1)

    @property
    def longest_chain(self) -> list[str]:
        """The longest chain of imports; a cycle counts as one link."""
        longest: dict[str, list[str]] = {}

        def chain(name: str, above: frozenset[str]) -> list[str]:
            if name not in longest:
                below = [chain(n, above | {name}) for n in self.imports[name] if n not in above]
                longest[name] = [name, *max(below, key=len, default=[])]
            return longest[name]

        return max((chain(name, frozenset()) for name in self.modules), key=len)

    @property
    def duplicate_class_names(self) -> list[str]:
        """Class names that are defined more than once."""
        nodes = (node for tree in self.modules.values() for node in ast.walk(tree))
        named = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
        return sorted(name for name, count in named.items() if count > 1)

    @property
    def function_lines(self) -> list[int]:
        """How long each function is, sorted."""
        nodes = (node for tree in self.modules.values() for node in ast.walk(tree))
        functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        return sorted((node.end_lineno or 0) - node.lineno + 1 for node in functions)

    @property
    def module_lines(self) -> dict[str, int]:
        """Module → number of its lines."""
        return {
            path.relative_to(self.root).as_posix(): len(path.read_text().splitlines())
            for path in sorted(self.root.rglob("*.py"))
        }


def _components(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components: who is reached both ways."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, stack = set(), [start]
        while stack:
            for following in graph[stack.pop()] - seen:
                seen.add(following)
                stack.append(following)
        reach[start] = seen
    groups = {frozenset({a} | {b for b in reach[a] if a in reach[b]}) for a in graph}
    return [sorted(group) for group in groups]


def way_of_a_job() -> list[str]:
    """Files with a function that was called with the job in hand, from its row to the disk."""
    import batcher
    from batcher.engine.host import Host

    root = str(Path(batcher.__file__).parent)
    found: set[str] = set()

    def watch(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(root) or code.co_filename in found:
            return
        count = code.co_argcount + code.co_kwonlyargcount
        values = (frame.f_locals.get(name) for name in code.co_varnames[:count] if name != "self")
        if any(_holds(value) for value in values):
            found.add(code.co_filename)

    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "m.jsonl")
        manifest.write_text(json.dumps(JOB) + "\n")
        threading.setprofile(watch)
        sys.setprofile(watch)
        try:
            asyncio.run(_run(manifest, Path(folder, "out"), Host(env=dict(os.environ))))
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    names = (Path(name).relative_to(root).as_posix() for name in found)
    return sorted(name for name in names if not name.startswith(("sandbox/", "__init__", "api")))


def _holds(value: Any) -> bool:
    if isinstance(value, Path | str | bytes | int | float):
        return MARK in str(value)
    if type(value).__module__.startswith("batcher") or isinstance(value, dict | list | tuple):
        return MARK in repr(value)[:4000]
    return False


async def _run(manifest: Path, output: Path, host: Any) -> None:
    from batcher.app import run as app
    from batcher.options.facts import SandboxOptions
    from batcher.options.run import Options

    options = Options(manifest=manifest, output=output, sandbox=SandboxOptions(speed=200.0))
    summary = await app.run(options, host)
    assert summary.done == 1, summary


def figures(house: House) -> list[tuple[str, str]]:
    """Label and figure, as the table in docs/design.md has them."""
    lines = house.function_lines
    sizes = house.module_lines
    return [
        ("floors", str(len(house.floors))),
        ("rooms", str(len(house.rooms))),
        ("entries at the root", str(len(house.entries))),
        ("longest chain of imports", str(len(house.longest_chain))),
        ("class names with two meanings", str(len(house.duplicate_class_names))),
        ("cycles of files", str(len(house.cycles))),
        ("modules, lines", f"{len(sizes)}, {sum(sizes.values()):,}"),
        (
            "lines of a function: median, 9 in 10, all",
            f"{statistics.median(lines):.0f}, {lines[len(lines) * 9 // 10]}, {lines[-1]}",
        ),
    ]


def floor_table(house: House) -> str:
    """The rooms from the ground up, each with the first line of its docstring."""
    rows = ["| floor | room | what it is for |", "| --- | --- | --- |"]
    for number, rooms in enumerate(house.floors, 1):
        for room in sorted(rooms):
            docstring = ast.get_docstring(house.modules[room]) or ""
            folder = "/" if (house.root / room).is_dir() else ""
            rows.append(f"| {number} | `{room}{folder}` | {docstring.splitlines()[0]} |")
    return "\n".join(rows) + "\n"


def picture(house: House) -> str:
    """The floors, the highest first."""
    rows = []
    for number, rooms in reversed(list(enumerate(house.floors, 1))):
        rows.append(f"{number}  {'  '.join(sorted(rooms))}\n")
    return "".join(rows)


def state_diagram() -> str:
    """``lifecycle.TRANSITIONS`` in Mermaid. What is the same from every state is one arrow."""
    from batcher.jobs.lifecycle import TRANSITIONS, EventName, State

    lines = ["stateDiagram-v2", "    [*] --> pending"]
    everywhere = {
        (event, after)
        for (_, event), after in TRANSITIONS.items()
        if all(TRANSITIONS.get((state, event)) is after for state in State)
    }
    for event, after in everywhere:
        lines.append(f"    state any <<choice>>\n    any --> {after}: {event}, from every state")
    arrows: dict[tuple[State, State], list[EventName]] = {}
    for (state, event), after in TRANSITIONS.items():
        if (event, after) not in everywhere:
            arrows.setdefault((state, after), []).append(event)
    lines += [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in arrows.items()]
    return "\n".join(lines) + "\n"


def drawn(house: House) -> dict[str, tuple[str, str, str]]:
    """Page → what stands before a drawing, what after it, and the drawing."""
    return {
        "docs/design.md": ("## Floors\n\n", "\nImports point", floor_table(house)),
        "docs/contributing.md": ("```text\n", "```", picture(house)),
        "README.md": ("```mermaid\n", "```", state_diagram()),
    }


def draw(house: House) -> None:
    """Bring what the pages show of the code up to date."""
    for page, (before, after, drawing) in drawn(house).items():
        path = house.tree / page
        text = path.read_text()
        start = text.index(before) + len(before)
        path.write_text(text[:start] + drawing + text[text.index(after, start) :])


def main() -> None:
    house = House(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
    table = figures(house)
    if house.tree == HERE:
        draw(house)
        way = way_of_a_job()
        table.append(("files on the way of one job", str(len(way))))
        print("the way of one job:", *way)
    print("longest chain:", " → ".join(house.longest_chain))
    for cycle in house.cycles:
        print("cycle:", *cycle)
    for label, figure in table:
        print(f"| {label} | {figure} |")


if __name__ == "__main__":
    main()
