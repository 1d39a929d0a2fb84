"""``{{ name }}``: a dotted name in double braces, filled from variables. Nothing else is a template."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from batcher.jobs.column_rules import normal
from batcher.manifest.rows import LocalPath

_TEMPLATE = re.compile(r"\{\{\s*([^\W\d]\w*(?:\.\w+)*)\s*\}\}")
NAMES_SHOWN = 12


class TemplateError(ValueError):
    """An undefined name, or a value that can't be inserted into a text."""


def names_in(value: Any) -> Iterator[str]:
    """The dotted names that the templates in ``value`` (text, or lists and mappings of it) use."""
    if isinstance(value, str):
        if "{{" in value:
            yield from _TEMPLATE.findall(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from names_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from names_in(item)


def filled(value: Any, variables: Mapping[str, Any]) -> Any:
    """``value`` with its templates filled; one whole template keeps its variable's type.

    Inserted text is never read as a template again. Raises TemplateError.
    """
    if isinstance(value, str):
        is_text = "{{" in value and not isinstance(value, LocalPath)
        return _filled_text(value, variables) if is_text else value
    if isinstance(value, dict):
        return {key: filled(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, variables) for item in value]
    return value


def _filled_text(text: str, variables: Mapping[str, Any]) -> Any:
    whole = _TEMPLATE.fullmatch(text.strip())
    if whole is not None:
        return _looked_up(whole, variables)
    return _TEMPLATE.sub(lambda match: _as_text(match, variables), text)


def _as_text(match: re.Match[str], variables: Mapping[str, Any]) -> str:
    value = _looked_up(match, variables)
    if value is None:
        raise TemplateError(f"{match[1]!r} is null, which no text can hold")
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def _looked_up(match: re.Match[str], variables: Mapping[str, Any]) -> Any:
    """The variable with that full name, ignoring case, else the member that its parts name."""
    name = match[1]
    for spelling in (name, normal(name)):
        if spelling in variables:
            return variables[spelling]
    value: Any = variables
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise TemplateError(
                f"{name!r} is not defined (known: {_known(variables)}); --vars {name} reads a column of "
                f"that name, --var {shlex.quote(f'{name}={match[0]}')} keeps it as literal text"
            )
        value = value[part]
    return value


def _known(variables: Mapping[str, Any]) -> str:
    names = []
    for name, value in variables.items():
        names += [f"{name}.{part}" for part in value] if isinstance(value, Mapping) else [name]
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    return ", ".join(sorted(names)[:NAMES_SHOWN]) + more if names else "none"
