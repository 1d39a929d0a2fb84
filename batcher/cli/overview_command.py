"""``ls``: every run directory below a folder."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path

import click

from batcher.app.overview import Overview, overviews
from batcher.cli.amounts import size
from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.errors import InputError
from batcher.terminal import money, visible, visible_json

COLUMNS = (
    "state",
    "done",
    "failed",
    "unknown",
    "cost",
    "today",
    "size",
    "last run",
    "exit",
    "directory",
)
MINUTES = 16


def list_runs(root: Path, *, as_json: bool) -> int:
    """Print them; the exit code is 65 if the ledger of one can't be read."""
    rows = []
    for row in overviews(root, LocalDisk(), SystemClock()):
        if as_json:
            click.echo(visible_json(row))
        rows.append(row)
    if not as_json:
        for line in _table(rows) if rows else [f"{root}: no run directories"]:
            click.echo(visible(line))
        for row in rows:
            if row.problem is not None:
                click.echo(visible(row.problem), err=True)
    return InputError.exit_code if any(row.problem for row in rows) else 0


def _table(rows: list[Overview]) -> list[str]:
    cells = [COLUMNS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]])
        for line in cells
    ]


def _cells(row: Overview) -> tuple[str, ...]:
    return (
        row.state,
        f"{row.done}/{row.total}",
        str(row.failed or "-"),
        str(row.unknown or "-"),
        money(row.cost_usd),
        money(row.cost_today_usd),
        size(row.bytes),
        _local_minute(row.last_run_at),
        "-" if row.exit_code is None else str(row.exit_code),
        row.run_dir,
    )


def _local_minute(at: str | None) -> str:
    """A moment in the machine's time zone; as it stands if it can't be read."""
    with suppress(ValueError):
        at = datetime.fromisoformat(at or "").astimezone().isoformat()
    return (at or "-")[:MINUTES].replace("T", " ")
