"""``config``: every option, its value, and where that comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import click

from batcher.cli.run_options import typed
from batcher.jobs.signatures import mask_text, public_address
from batcher.options.given import Given
from batcher.options.option import Group, Option
from batcher.options.table import TABLE
from batcher.terminal import visible, visible_json

DEFAULT = "default"
_WIDTHS = (22, 26)


def show_config(typed_in: dict[str, Any]) -> int:
    """Print the options of a run of the manifest, or of the working directory. Raises UsageError."""
    from batcher.app.asked import asked_of

    said = typed(typed_in)
    given = asked_of(typed_in["manifest"], said, os.environ)
    if said.get("json"):
        click.echo(visible_json(_json(given)))
    else:
        click.echo("\n".join(map(visible, _lines(given))))
    return 0


def _lines(given: Given) -> Iterator[str]:
    values = given.complete()
    for group in Group:
        yield f"{group.value}:"
        for option in TABLE:
            if option.group is group:
                texts = _shown(option, values[option.key]) if values[option.key] is not None else ["-"]
                name, value = option.name.ljust(_WIDTHS[0]), "  ".join(texts or ["-"]).ljust(_WIDTHS[1])
                yield f"  {name}  {value}  {given.origins.get(option.key, DEFAULT)}"


def _shown(option: Option, value: Any) -> list[str]:
    """The value as it would be typed, without secrets: passwords, signatures, paths of webhooks."""
    hide = public_address if option.kind.is_secret else mask_text
    return [hide(text) for text in option.shown(value)]


def _json(given: Given) -> dict[str, Any]:
    """Each option by key: its value as it would be typed (None: there is none), and its origin."""
    values = given.complete()
    return {
        option.key: {
            "value": None if values[option.key] is None else _shown(option, values[option.key]),
            "from": given.origins.get(option.key, DEFAULT),
        }
        for option in TABLE
    }
