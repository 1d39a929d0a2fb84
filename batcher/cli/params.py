"""The kinds of values, as click wants them."""

from __future__ import annotations

from typing import Any

import click

from batcher.options.kinds import DURATION, SIZE, ValueKind


class KindType(click.ParamType[Any]):
    """Reads a value by its kind; what is wrong with it is a usage error."""

    def __init__(self, kind: ValueKind) -> None:
        self._kind = kind
        self.name = kind.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._kind.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """As in the table."""
        return self._kind.metavar


DURATION_TYPE = KindType(DURATION)
SIZE_TYPE = KindType(SIZE)
