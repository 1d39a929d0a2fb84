"""The house: who may import whom, and which rooms the outside world comes in by. Read with ``ast``."""

import ast
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest

import batcher

ROOT = Path(batcher.__file__).parent
FLOORS = [
    {"errors", "clock", "layout", "terminal", "thread_batches", "media"},
    {"disk", "jobs", "pacing", "http"},
    {"options", "schema", "ledger", "download", "sandbox"},
    {"manifest", "planning", "store", "ports"},
    {"dataset", "providers"},
    {"engine", "report"},
    {"distributed"},
    {"app"},
    {"api", "cli"},
]
FRONT_DOOR = {"__init__", "__main__"}
"""``import batcher`` and ``python -m batcher``: they stand on no floor, and no room imports them."""
DOORS = {
    "aiohttp": {"http", "providers", "download", "sandbox", "report"},
    "yaml": {"manifest"},
    "apprise": {"app"},
    "tqdm": {"app"},
    "openpyxl": {"manifest"},
    "click": {"cli"},
    "filelock": {"disk"},
    "jsonschema_rs": {"schema", "sandbox"},
    "jinja2": {"report"},
    "simpleeval": {"dataset"},
    "pyarrow": {"manifest", "dataset"},
    "av": {"media"},
    "PIL": {"media"},
    "obstore": {"store"},
    "botocore": {"store"},
    "dask": {"distributed"},
    "distributed": {"distributed"},
}
# Classes of `random` are facts that are passed around; its functions share a state that nobody owns.
RANDOM_CLASSES = {"Random", "SystemRandom"}
TIME_FUNCTIONS = {
    "time",
    "monotonic",
    "perf_counter",
    "sleep",
    "time_ns",
    "monotonic_ns",
    "localtime",
    "gmtime",
}
TIME_EXCEPTIONS = {
    "cli/read_commands.py": {
        "sleep"
    },  # `status --follow` is a plain loop in a terminal: no engine, no loop
}


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


@cache
def modules() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(), str(path))) for path in sorted(ROOT.rglob("*.py"))]


def imports(path: Path, tree: ast.Module) -> list[tuple[str, int]]:
    """Dotted names that a module imports anywhere, under TYPE_CHECKING and in functions too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def our_rooms(path: Path, tree: ast.Module) -> list[tuple[str, int]]:
    names = {room_of(other) for other, _ in modules()}
    rooms = []
    for dotted, line in imports(path, tree):
        first, *rest = dotted.split(".")
        if first == "batcher":
            rooms.append((rest[0] if rest and rest[0] in names else "__init__", line))
    return rooms


def floor_of(room: str) -> int:
    if room in FRONT_DOOR:
        return len(FLOORS)
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_every_room_has_exactly_one_floor():
    rooms = {room_of(path) for path, _ in modules()}
    assert rooms - FRONT_DOOR == set().union(*FLOORS), "a new room needs a floor"
    assert all(not one & other for one, other in combinations(FLOORS, 2))


def test_imports_point_to_the_same_room_or_to_a_lower_floor():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {room_of(path)} imports {room}"
        for path, tree in modules()
        for room, line in our_rooms(path, tree)
        if room != room_of(path) and floor_of(room) >= floor_of(room_of(path))
    ]
    assert wrong == []


def test_a_package_says_what_it_is_for_and_holds_no_code():
    code = {
        path.parent.relative_to(ROOT).as_posix(): [type(node).__name__ for node in tree.body[1:]]
        for path, tree in modules()
        if path.name == "__init__.py" and path.parent != ROOT
    }
    assert {name: nodes for name, nodes in code.items() if nodes} == {}


@pytest.mark.parametrize("library", DOORS)
def test_a_library_is_named_only_in_the_rooms_that_know_it(library):
    named = {
        room_of(path)
        for path, tree in modules()
        for name, _ in imports(path, tree)
        if name.split(".")[0] == library
    }
    assert named <= DOORS[library]


def _names_of(tree: ast.Module, module: str) -> set[str]:
    """What ``module`` is called here: ``import time as t`` counts."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == module
    }


def uses(tree: ast.Module, module: str) -> set[str]:
    """Attributes of ``module`` that are read, and names that are imported from it."""
    names = _names_of(tree, module)
    used = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in names
        ):
            used.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == module:
            used |= {alias.name for alias in node.names}
    return used


def where(module: str, forbidden) -> dict[str, set[str]]:
    found = {}
    for path, tree in modules():
        if room_of(path) != "clock" and (
            used := {name for name in uses(tree, module) if forbidden(name)}
        ):
            found[path.relative_to(ROOT).as_posix()] = used
    return found


def test_only_the_clock_tells_the_time():
    assert where("time", TIME_FUNCTIONS.__contains__) == TIME_EXCEPTIONS


def test_only_the_clock_sleeps():
    assert where("asyncio", {"sleep"}.__contains__) == {}


def test_only_the_clock_knows_what_day_it_is():
    calls = {
        path.relative_to(ROOT).as_posix()
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today")
        if isinstance(node.value, ast.Name) and node.value.id in ("datetime", "date")
    }
    assert calls == {"clock.py"}


def test_chance_is_always_somebodys_own():
    assert where("random", lambda name: name not in RANDOM_CLASSES) == {}
