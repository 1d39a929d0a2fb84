"""Unknown models, with suggestions of similar names, and patterns that no model matches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase

from batcher.errors import CallError, InputError
from batcher.options.command import quoted
from batcher.options.run import Options
from batcher.options.table import BY_KEY
from batcher.providers.catalog import Catalog, Specs

SUGGESTED = 5
NAMED = 3
_SEARCHED = 100


async def check_known(specs: Specs, catalog_of: Callable[[str], Catalog]) -> None:
    """Raises InputError for models that don't exist, with existing similar ones."""
    told = [await _no_such_model(name, specs, catalog_of(name)) for name in specs.unknown]
    if told:
        raise InputError("\n".join(told))


async def _no_such_model(model: str, specs: Specs, catalog: Catalog) -> str:
    """The model, how to find its correct name, and the API's message, if any."""
    named = model if model.strip() else repr(model)
    said = specs.sources[model].problem
    near = await _near(model, catalog)
    meant = f"; did you mean {', '.join(near)}?" if near else ";"
    return f"{named}: the API knows no such model ({said}){meant} `batcher models` lists them"


async def _near(model: str, catalog: Catalog) -> list[str]:
    """Up to SUGGESTED names: those that contain this one, else those with a similar spelling."""
    try:
        found = await catalog.search("", limit=_SEARCHED)
        found += await catalog.search(model.split("/", maxsplit=1)[0].strip(), limit=_SEARCHED)
    except CallError:
        return []
    names = [*dict.fromkeys(entry["model_id"] for entry in found)]
    holding = [name for name in names if model.strip() and model.strip().lower() in name.lower()]
    return (holding or get_close_matches(model.lower(), names, n=SUGGESTED, cutoff=0.5))[:SUGGESTED]


def idle_caps(options: Options, models: Collection[str]) -> Iterator[str]:
    """Warnings about caps on models by pattern that match none of ``models``, those of a manifest.

    A cap in a file or a variable may be meant for another manifest: no warning.
    """
    caps: list[tuple[str, str, float]] = [
        *(("concurrency", name, limit) for name, limit in options.pace.model_caps.items()),
        *(("max_cost_per", name, limit) for name, limit in options.money.max_cost_per.items()),
    ]
    for key, name, limit in caps:
        pattern = name if key == "concurrency" else name.partition(":")[2]
        is_shared = (key, name) in options.given.shared
        if pattern and not is_shared and not any(fnmatchcase(model, pattern) for model in models):
            option = BY_KEY[key]
            typed = f"--{option.name} {quoted(*option.shown({name: limit}))}"
            yield f"{typed} limits nothing: {_none_is(pattern, models)}"


def _none_is(pattern: str, models: Collection[str]) -> str:
    near = get_close_matches(pattern.lower(), sorted(models), n=NAMED, cutoff=0.0)
    more = f" and {len(models) - len(near)} more" if len(models) > len(near) else ""
    its = "its model is" if len(models) == 1 else "its models are"
    return f"no model of this manifest matches {pattern!r}; {its} {', '.join(near)}{more}"
