"""The options of ``run`` and ``plan`` on the command line, made from the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from batcher.cli.commands import JsonErrors
from batcher.options.option import Group, Many, Option
from batcher.options.table import BY_KEY, TABLE

HELP_COLUMN = 34
F = TypeVar("F", bound=Callable[..., Any])


class OptionType(click.ParamType[Any]):
    """Parses one value of an option by its row; an invalid value is a usage error."""

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
        """The completions: words of its kind; files and folders for a path."""
        from click.shell_completion import CompletionItem

        if self._option.kind.is_path:
            return [CompletionItem(incomplete, type="file")]
        return [
            CompletionItem(word) for word in self._option.kind.choices if word.startswith(incomplete)
        ]


class TableOption(click.Option):
    """An option made from a row; help shows only ``--name``, although ``--no-name`` exists too."""

    def __init__(self, *names: Any, row: Option, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.row = row

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The row's text in help; None if it is hidden."""
        if self.hidden:
            return None
        name = f"--{self.row.name} {self.row.kind.metavar}".rstrip()
        default = f"  [default: {self.row.default}]" if self.row.default else ""
        return (f"-{self.row.short}, {name}" if self.row.short else name), self.row.help + default


class TableCommand(JsonErrors):
    """A command whose help shows its options under the headings of the table."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, as click does; an option of the other command of the table is told as such."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if (row := _row_of(error.option_name)) is None:
                raise
            (other,) = row.on.value
            what = f"{error.option_name} is an option of `{other}`: leave it out here"
            raise click.UsageError(what, ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group; those that are not in the table come last."""
        for group in Group:
            self._section(ctx, formatter, group.value, group)
        self._section(ctx, formatter, "Other", None)

    def _section(
        self, ctx: click.Context, formatter: click.HelpFormatter, title: str, group: Group | None
    ) -> None:
        found = [
            record
            for param in self.get_params(ctx)
            if (param.row.group if isinstance(param, TableOption) else None) is group
            if (record := param.get_help_record(ctx)) is not None
        ]
        if found:
            with formatter.section(title):
                formatter.write_dl(found, col_max=HELP_COLUMN)


def _row_of(name: str) -> Option | None:
    """The row of an option as it is typed: ``--rate``, ``--no-existing``, ``-y``."""
    key = name.removeprefix("--").removeprefix("no-").replace("-", "_")
    return BY_KEY.get(key) or next((row for row in TABLE if f"-{row.short}" == name), None)


def table_options(rows: Iterable[Option], *, manifest_required: bool = True) -> Callable[[F], F]:
    """The manifest, and an option for each of ``rows``."""

    def decorate(function: F) -> F:
        for row in reversed(list(rows)):
            function = _click_option(row)(function)
        manifest = click.argument("manifest", type=click.Path(), nargs=-1, required=manifest_required)
        return manifest(function)

    return decorate


def _click_option(row: Option) -> Callable[[F], F]:
    names = [f"-{row.short}"] if row.short else []
    shown: dict[str, Any] = {"cls": TableOption, "row": row, "hidden": row.hidden}
    if row.is_flag:
        switch = f"--{row.name}/--no-{row.name}"
        return click.option(*names, switch, row.key, is_flag=True, default=None, **shown)
    return click.option(
        *names,
        f"--{row.name}",
        row.key,
        type=OptionType(row),
        multiple=row.many is not Many.ONE,
        **shown,
    )


def typed(given: dict[str, Any]) -> dict[str, Any]:
    """The values of the options on the command line, by key."""
    said = {key: value for key, value in given.items() if key in BY_KEY and value not in (None, ())}
    return {key: BY_KEY[key].value(value) for key, value in said.items()}
