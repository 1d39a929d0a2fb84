"""``models``: the vendor's catalogue, searched or one model shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import click

from batcher.app.connect import connect
from batcher.cli.amounts import duration
from batcher.cli.event_loop import run_loop
from batcher.cli.fields import field_notes
from batcher.cli.observers import only_warnings
from batcher.engine.host import Host
from batcher.errors import CallError, InputError, UnreachableError
from batcher.options.command import command
from batcher.options.facts import SandboxOptions
from batcher.providers.catalog import Found, SpecOrigin, SpecSource, spec_of
from batcher.providers.model_list import ModelList
from batcher.schema.spec import ModelSpec
from batcher.terminal import visible, visible_json

SHOWN_MAX = 100
"""Models of each other vendor: their catalogues are large."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Whether to use the sandbox's catalogue instead of the API's, and to bypass the cache."""

    sandbox: bool = False
    refresh: bool = False
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """RunComfy's whole catalogue, what the other vendors found, and those that could not be asked."""

    listing: ModelList
    others: dict[str, list[dict[str, Any]]]
    problems: list[str]


def list_models(query: str, asking: Asking) -> int:
    """Print the models that match, of all vendors that there is a token for; 1 if none does."""
    listed = run_loop(_listed(query, asking))
    listing = listed.listing
    own = listing.matching(query)
    found = sorted([*own, *chain(*listed.others.values())], key=lambda model: str(model["model_id"]))
    if asking.as_json:
        _print_json({"models": found, "total": len(found), **_source_json(listing.source)})
    else:
        for line in _list_lines(found):
            click.echo(visible(line))
        click.echo(f"{len(own)} of {len(listing.models)} models, from {source_text(listing.source)}")
        for name, models in listed.others.items():
            if models:
                click.echo(f"{len(models)} from {name}")
    for problem in listed.problems:
        click.echo(visible(problem), err=True)
    return int(not found)


async def _listed(query: str, asking: Asking) -> Listed:
    async with connect(_sandbox(asking), _host(), None, spending=False) as site:
        await site.reach_all()
        listing = await site.listing(_host()).listing(site.catalog(), refresh=asking.refresh)
        listed = Listed(listing, {}, [])
        for name in site.others():
            try:
                listed.others[name] = await site.vendors[name].catalog.search(query, limit=SHOWN_MAX)
            except CallError as error:
                listed.problems.append(f"{name}: its models can't be listed: {error.message}")
        return listed


def _sandbox(asking: Asking) -> SandboxOptions | None:
    return SandboxOptions() if asking.sandbox else None


def _host() -> Host:
    return Host(observer=only_warnings())


def _list_lines(models: list[dict[str, Any]]) -> Iterator[str]:
    rows = [(model["model_id"], _listed_price(model), _categories(model)) for model in models]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for model_id, price, categories in rows:
        yield f"{model_id:<{widths[0]}}  {price:<{widths[1]}}  {categories}".rstrip()


def _listed_price(model: dict[str, Any]) -> str:
    base, unit = model.get("base_price_usd"), model.get("price_unit")
    if isinstance(base, bool) or not isinstance(base, int | float):
        return "price unknown"
    return f"${base:g}/{unit}" if unit else f"${base:g}"


def _categories(model: dict[str, Any]) -> str:
    categories = model.get("categories")
    return ", ".join(map(str, categories)) if isinstance(categories, list | tuple) else ""


def show_model(model_id: str, asking: Asking) -> int:
    """Print a model's price and inputs. Raises InputError if the API doesn't know the model."""
    found = run_loop(find_model(model_id, asking))
    spec, source = known_spec(model_id, found)
    if asking.as_json:
        told = found.entry or {"model_id": model_id, "input_schema": spec.schema}
        _print_json({**told, **_source_json(source)})
    else:
        flag = " --sandbox" if asking.sandbox else ""
        click.echo("\n".join(map(visible, _model_lines(spec, source, flag))))
    return 0


async def find_model(model_id: str, asking: Asking) -> Found:
    """A model's catalogue entry, from the API, the cache, or the built-in ones."""
    models = [model_id]
    async with connect(_sandbox(asking), _host(), None, models=models, spending=False) as site:
        found = await site.catalog(model_id).entries([model_id], refresh=asking.refresh)
        return found[model_id]


def known_spec(model_id: str, found: Found) -> tuple[ModelSpec, SpecSource]:
    """The model's spec and its source. Raises InputError, UnreachableError if there is none."""
    spec, source = spec_of(model_id, found)
    if spec is not None:
        return spec, source
    if source.origin is SpecOrigin.UNKNOWN:
        raise InputError(
            f"{model_id}: the API knows no such model; `batcher models` lists those it does"
        )
    raise UnreachableError(f"{model_id}: nothing is known of this model: {source.problem}")


def _model_lines(spec: ModelSpec, source: SpecSource, flag: str) -> Iterator[str]:
    yield f"{spec.model_id}  ({spec.display_name})"
    if spec.categories:
        yield f"categories: {', '.join(spec.categories)}"
    yield f"price: {_price(spec)}"
    yield "inputs:"
    notes = list(field_notes(spec))
    width = max((len(note.name) for note in notes), default=0)
    for note in notes:
        required = "required, " if note.required else ""
        about = f"  # {note.about}" if note.about else ""
        yield f"  {note.name:<{width}}  {required}{note.takes}{about}"
    yield f"from {source_text(source)}"
    yield f"to create a manifest: {command('init', '--model', spec.model_id)}{flag}"


def _price(spec: ModelSpec) -> str:
    note = f" ({spec.pricing_note})" if spec.pricing_note else ""
    if spec.base_price_usd is None:
        return f"unknown{note}"
    unit = f" per {spec.price.unit_word.replace('_', ' ')}" if spec.price_unit else ""
    doubt = "" if spec.price.is_understood else "; plans can't compute with that unit: --assume-price"
    return f"${spec.base_price_usd:g}{unit}{note}{doubt}"


def source_text(source: SpecSource) -> str:
    """The source of an entry, its age, and why it is not newer."""
    age = "" if source.age_s is None else f" {duration(source.age_s)} ago"
    why = f" (the catalogue can't be asked: {source.problem})" if source.problem else ""
    words = {
        SpecOrigin.CATALOGUE: "the API's catalogue, asked just now",
        SpecOrigin.CACHE: f"the cache, asked{age}; --refresh asks again",
        SpecOrigin.STALE: f"the cache, asked{age}",
        SpecOrigin.BUILT_IN: "what is built in",
    }
    return words.get(source.origin, str(source.origin)) + why


def _source_json(source: SpecSource) -> dict[str, Any]:
    return {"source": source.origin, "age_s": source.age_s, "problem": source.problem}


def _print_json(value: Any) -> None:
    click.echo(visible_json(value))
