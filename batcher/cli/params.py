"""The kinds of values as click's parameter types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from batcher.options.kinds import DURATION, SIZE, ValueKind


class KindType(click.ParamType[Any]):
    """Parses a value by its kind; an invalid value is a usage error."""

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
        """The metavar of the table."""
        return self._kind.metavar


class RunDirType(click.Path):
    """A run directory on a disk. A bucket is not one: it is read through its state directory."""

    def __init__(self, *, file_okay: bool = False) -> None:
        super().__init__(path_type=Path, file_okay=file_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and "://" in value:
            remedy = "name a directory on a disk"
            if param is not None and param.name in ("run_dir", "places"):
                remedy = "name the directory that --state-dir named (by default output/NAME)"
            self.fail(f"{value!r} is a URL, not a directory: {remedy}", param, ctx)
        return super().convert(value, param, ctx)


DURATION_TYPE = KindType(DURATION)
SIZE_TYPE = KindType(SIZE)
