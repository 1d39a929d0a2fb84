"""The command ``sandbox``: serve a stand-in for the API, and list what it made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from batcher.cli.commands import JsonErrors, SandboxCommands
from batcher.cli.params import RunDirType


@click.group(cls=SandboxCommands, invoke_without_command=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8899, show_default=True)
@click.option(
    "--speed",
    type=click.FloatRange(min=0.01),
    default=1.0,
    show_default=True,
    help="Speed-up factor.",
)
@click.option(
    "--faults",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="The share of answers that fail.",
)
@click.option("--only", multiple=True, metavar="FAULT", help="Only this kind of fault (repeatable).")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of the pictures, durations and faults.",
)
@click.option("--balance", type=float, help="Balance in USD, which can run out.")
@click.option("--rate", type=float, help="Calls per second above which it answers 429.")
@click.option(
    "--state", type=click.Path(path_type=Path, dir_okay=False), help="File to keep requests in."
)
@click.pass_context
def sandbox(context: click.Context, /, **given: Any) -> int:
    """Serve a local stand-in for the Model API until Ctrl-C."""
    from batcher.cli.remote_commands import serve_sandbox

    return serve_sandbox(given) if context.invoked_subcommand is None else 0


@sandbox.command(cls=JsonErrors)
@click.argument("run_dir", type=RunDirType())
@click.option("--json", "as_json", is_flag=True, help="One JSON line for each.")
def generations(run_dir: Path, as_json: bool) -> int:
    """List what the sandbox made for RUN_DIR: to look up an unknown job, as on the Generations page."""
    from batcher.cli.remote_commands import list_generations

    return list_generations(run_dir, as_json=as_json)
