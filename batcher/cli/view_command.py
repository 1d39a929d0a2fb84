"""``view``: the live page, until Ctrl-C."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from batcher.cli.process import signals_to
from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.terminal import visible


def view_run(run_dir: Path, port: int, *, browser: bool) -> int:
    """Serve the page of ``run_dir`` and open it; returns 0 after Ctrl-C."""
    return asyncio.run(_serve(run_dir, port, browser=browser))


async def _serve(run_dir: Path, port: int, *, browser: bool) -> int:
    from batcher.report.serve import View

    ended = asyncio.Event()
    view = View(run_dir, LocalDisk(), SystemClock(), _complain)
    with signals_to(lambda _: ended.set()):
        async with view.serving(port) as address:
            await _show(run_dir, address, browser=browser)
            await ended.wait()
    return 0


async def _show(run_dir: Path, address: str, *, browser: bool) -> None:
    click.echo(address)
    said = f"batcher: {run_dir} is at this address until Ctrl-C; nothing is bought"
    click.echo(visible(said), err=True)
    if browser:
        await asyncio.to_thread(_open, address)


def _complain(what: str) -> None:
    click.echo(visible(f"batcher: not shown: {what}"), err=True)


def _open(address: str) -> None:
    import webbrowser

    try:
        opened = webbrowser.open(address)
    except (OSError, webbrowser.Error):
        opened = False
    if not opened:
        click.echo("batcher: no browser could be opened: open the address yourself", err=True)
