"""``batcher spend``: from the book to what is printed."""

from __future__ import annotations

from pathlib import Path

import click

from batcher.app.spend import By, entries_of, rebuild, totals
from batcher.engine.host import Host
from batcher.terminal import counted, money, visible, visible_json


def show_spending(root: Path | None, by: str, *, anew: bool, as_json: bool) -> int:
    """Print what was spent, by day, month, model, vendor or run; returns the exit code."""
    host = Host()
    if anew:
        count = rebuild(host, root or Path())
        found = counted(count, "attempt", "attempts")
        click.echo(f"the book was rebuilt from the ledgers: {found}", err=True)
        root = None
    sums = totals(entries_of(host, root), By(by))
    total_usd = sum(sums.values())
    if as_json:
        rounded = {label: round(usd, 6) for label, usd in sorted(sums.items())}
        click.echo(visible_json({"by": by, "spent_usd": rounded, "total_usd": round(total_usd, 6)}))
        return 0
    for label, usd in sorted(sums.items()):
        click.echo(visible(f"{money(usd):>12}  {label}"))
    click.echo(f"{money(total_usd):>12}  total")
    if not sums:
        where = "in the account's book" if root is None else f"below {root}"
        click.echo(visible(f"no attempts {where} (those of the sandbox don't count)"), err=True)
    return 0
