"""Unknown models, with suggestions of similar names."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from batcher.errors import CallError, InputError
from batcher.providers.catalog import Catalog, Specs

SUGGESTED = 5
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
    meant = f"; did you mean {', '.join(near)}?" if near else ""
    return f"{named}: the API knows no such model ({said}){meant}; `batcher models` lists them"


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
