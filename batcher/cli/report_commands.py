"""``report``: writes the page, once or repeatedly until the run ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from batcher.clock import SystemClock
from batcher.disk import LocalDisk


def report_run(run_dir: Path, every_s: float | None) -> int:
    """Write ``report.html``; with ``every_s``, again as the ledger grows, until the run ends."""
    from batcher.layout import REPORT_NAME
    from batcher.report.render import keep_writing, write_report

    disk, clock = LocalDisk(), SystemClock()
    page = run_dir / REPORT_NAME
    if every_s is None:
        status = write_report(run_dir, disk, clock)
    else:
        click.echo(
            f"batcher: {page}, rewritten every {every_s:g} s until the run ends (Ctrl-C stops)", err=True
        )
        status = asyncio.run(keep_writing(run_dir, disk, clock, every_s))
    click.echo(f"{page}: {status.done} of {status.total} jobs done")
    return 0
