"""The options of ``run`` and ``plan`` on the command line, made from the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from batcher.config.option import Many, Option
from batcher.config.table import BY_KEY, options_of

F = TypeVar("F", bound=Callable[..., Any])


class OptionType(click.ParamType[Any]):
    """Reads one value of an option as its row says; what is wrong with it is a usage error."""

    def __init__(self, option: Option) -> None:
        self._option = option
        self.name = option.kind.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            self._option.value(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        """The words that it takes; files and folders for a path."""
        from click.shell_completion import CompletionItem

        if self._option.kind.is_path:
            return [CompletionItem(incomplete, type="file")]
        return [
            CompletionItem(word) for word in self._option.kind.choices if word.startswith(incomplete)
        ]


def table_options(command: str) -> Callable[[F], F]:
    """The argument and all options of ``run`` or ``plan``."""

    def decorate(function: F) -> F:
        for option in reversed(options_of(command)):
            function = _click_option(option)(function)
        manifest = click.argument("manifest", type=click.Path(dir_okay=False))
        return manifest(function)

    return decorate


def _click_option(option: Option) -> Callable[[F], F]:
    names = [f"-{option.short}"] if option.short else []
    names += [f"--{option.name}", option.key]
    if option.is_flag:
        names[-2] += f"/--no-{option.name}"
        return click.option(*names, is_flag=True, default=None, help=option.help, hidden=option.hidden)
    default = f"  [default: {option.default}]" if option.default else ""
    return click.option(
        *names,
        type=OptionType(option),
        metavar=option.kind.metavar,
        multiple=option.many is not Many.ONE,
        help=option.help + default,
        hidden=option.hidden,
    )


def typed(given: dict[str, Any]) -> dict[str, Any]:
    """The options that stand on the command line, by key, as values."""
    said = {key: value for key, value in given.items() if key in BY_KEY and value not in (None, ())}
    return {key: BY_KEY[key].value(value) for key, value in said.items()}
