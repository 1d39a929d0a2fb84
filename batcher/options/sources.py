"""Reads options from sources besides the command line: files, the environment, a manifest's ``run:``.

The later wins: the working directory's files, those beside the manifest, ``BATCHER_*`` variables, the
manifest, the command line. Of two files in one directory, ``batcher.toml`` wins over ``pyproject.toml``.
An unknown name or an invalid value raises UsageError with its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from batcher.errors import UsageError
from batcher.options.given import COMMAND_LINE, Given
from batcher.options.kinds import IDS
from batcher.options.option import Many, Option
from batcher.options.table import BY_KEY

CONFIG_NAME: Final = "batcher.toml"
PROJECT_NAME: Final = "pyproject.toml"
PREFIX: Final = "BATCHER_"
_TOML_ERROR = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL)
_UNIT = re.compile(r"_(?:usd|s|per_s|bytes|interval_s|percent)$")
BOOK_VARIABLE: Final = "BATCHER_BOOK_DIR"
"""The folder of the account's book: a setting of the machine, not of a run."""
_KUBERNETES = re.compile(r"BATCHER_(SERVICE_(HOST|PORT(_.*)?)|PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?)")
"""Variables that Kubernetes sets in each pod if a service is called ``batcher``: not options."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Options from one source: ``values`` as written there, and the place of each.

    ``folder`` is the folder that paths are relative to; None: the working directory. ``is_shared``: it
    applies to any manifest, as files of a folder and variables of a machine do.
    """

    values: Mapping[str, Any]
    places: Mapping[str, str]
    folder: Path | None = None
    is_shared: bool = False


def gathered(typed: Mapping[str, Any], manifests: Sequence[str], layers: Sequence[Layer]) -> Given:
    """All layers and, over them, the values that were ``typed``. Raises UsageError.

    The later wins; mappings are merged, name by name.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    shared: set[tuple[str, str]] = set()
    said = [(checked(layer), layer.places, layer.is_shared) for layer in layers]
    for found, places, is_shared in (*said, (typed, dict.fromkeys(typed, COMMAND_LINE), False)):
        for key, value in found.items():
            before = values.get(key) if BY_KEY[key].many is Many.MAP else None
            values[key] = {**before, **value} if before else value
            origins[key] = f"{origins[key]}; {places[key]}" if before else places[key]
            entries = {(key, name) for name in value} if isinstance(value, dict) else set()
            shared = shared | entries if is_shared else shared - entries
    return Given(tuple(manifests), values, origins, shared=frozenset(shared))


def checked(layer: Layer) -> dict[str, Any]:
    """The values of a layer by key, parsed by their kinds, with paths relative to its folder."""
    return {
        key: _path(option, _value(option, given, layer.places[key]), layer.folder)
        for key, given in layer.values.items()
        if (option := BY_KEY[key])
    }


def _value(option: Option, given: Any, place: str) -> Any:
    try:
        return option.value(given)
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from None


def _path(option: Option, value: Any, folder: Path | None) -> Any:
    """Expands ``~`` to the home directory, as a shell would; other paths are relative to ``folder``."""
    if not isinstance(value, str):
        return value
    mark = "@" if option.kind is IDS and value.startswith("@") else ""
    if not (mark or option.kind.is_path) or "://" in value:
        return value
    path = Path(value.removeprefix(mark))
    with suppress(RuntimeError):  # the user has no home directory
        path = path.expanduser()
    return f"{mark}{path if folder is None else folder / path}"


def file_layers(folders: Sequence[Path]) -> Iterator[Layer]:
    """The layers of the files in ``folders``, from the weakest to the strongest."""
    distinct = {folder.resolve(): folder for folder in folders}
    for folder in distinct.values():
        for name in (PROJECT_NAME, CONFIG_NAME):
            if (layer := _file_layer(folder / name)) is not None:
                yield layer


def _file_layer(path: Path) -> Layer | None:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror or error}") from None
    project = path.name == PROJECT_NAME
    if project and b"batcher" not in content:
        return None
    text, document = _toml(path, content)
    if project:
        document = document.get("tool", {}).get("batcher", {})
        if not isinstance(document, dict):
            raise UsageError(f"{path}: tool.batcher must be a table")
    layer = named(document, lambda name: f"{path}:{_line_of(name, text, project)}: {name}", path.parent)
    return replace(layer, is_shared=True)


def _toml(path: Path, content: bytes) -> tuple[str, dict[str, Any]]:
    import tomllib

    try:
        text = content.decode("utf-8-sig")
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        found = re.search(
            r"^(.*) \(at (?:line (\d+), column \d+|end of document)\)$", str(error), re.DOTALL
        )
        what = found[1] if found is not None else str(error)
        line = int(found[2]) if found is not None and found[2] else text.count("\n") + 1
        raise UsageError(f"{path}:{line}: not TOML: {what}") from None


def _line_of(name: str, text: str, project: bool) -> int:
    """The line of an option in a TOML text, by a simple search; 1 if it isn't found."""
    start = max(text.find("[tool.batcher"), 0) if project else 0
    key = re.escape(name)
    assigned = re.compile(
        rf"""^[ \t]*(?:\[[^\]\n]*\b{key}["' \t]*\]|["']?{key}["']?[ \t]*[=.])""", re.MULTILINE
    )
    found = assigned.search(text, start)
    return text.count("\n", 0, found.start()) + 1 if found is not None else 1


def named(given: Mapping[str, Any], place_of: Callable[[str], str], folder: Path | None = None) -> Layer:
    """A layer of options named as in files, with ``-`` or ``_``. Raises UsageError."""
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for name, value in given.items():
        key = str(name).replace("-", "_")
        if key not in BY_KEY:
            raise UsageError(f"{place_of(name)}: there is no such option{nearest(key)}")
        if key in values:
            raise UsageError(f"{place_of(name)}: it is there twice, once with - and once with _")
        values[key], places[key] = value, place_of(name)
    return Layer(values, places, folder)


def nearest(key: str, known: Iterable[str] = BY_KEY) -> str:
    """``; did you mean max_cost?``, if an option has a similar name. Names have no units."""
    names = list(known)
    bare = _UNIT.sub("", key)
    near = [bare] if bare in names else get_close_matches(key, names, 1)
    return f"; did you mean {near[0]}?" if near else ""


def environment_layer(env: Mapping[str, str]) -> Layer:
    """The ``BATCHER_*`` variables. Several values of one option are on separate lines."""
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for variable in sorted(env):
        foreign = variable == BOOK_VARIABLE or _KUBERNETES.fullmatch(variable)
        if foreign or not variable.startswith(PREFIX):
            continue
        key, text = variable.removeprefix(PREFIX).lower(), env[variable]
        if key not in BY_KEY:
            raise UsageError(f"${variable}: there is no such option{nearest(key)}")
        if not text.strip():
            raise UsageError(f"${variable} is empty: unset it, or give it a value")
        one = BY_KEY[key].many is Many.ONE
        values[key] = text if one else [line for line in text.splitlines() if line.strip()]
        places[key] = f"${variable}"
    return Layer(values, places, is_shared=True)
