"""``run`` and ``plan``: from options to what is printed, and the exit code."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from batcher import app
from batcher.cli.console import money, plan_lines, summary_lines
from batcher.cli.observers import observer_for
from batcher.errors import BatcherError
from batcher.ledger import read_snapshot
from batcher.options import Host, Options, interrupted
from batcher.plan import Plan
from batcher.runner.control import Control
from batcher.summary import Summary


def run_manifest(options: Options, given: dict[str, Any]) -> int:
    """Carry out ``run`` (or ``plan``, with ``--dry-run``); returns the exit code."""
    if given["dry_run"]:
        return plan_manifest(options, given)
    host = Host(
        observer=observer_for(given["quiet"], given["log_format"]),
        confirm=_confirm if sys.stdin.isatty() and sys.stderr.isatty() else None,
        signals=_signals,
    )
    try:
        summary = asyncio.run(app.run(options, host))
    except BatcherError as error:
        return _nothing_ran(error, as_json=given["as_json"])
    _print_summary(summary, options, host, given)
    return summary.exit_code


def plan_manifest(options: Options, given: dict[str, Any]) -> int:
    """Carry out ``plan``; returns the exit code."""
    host = Host(observer=observer_for(given["quiet"], given.get("log_format", "text")))
    try:
        prepared = asyncio.run(app.plan(options, host))
    except BatcherError as error:
        return _nothing_ran(error, as_json=given["as_json"])
    for problem in prepared.tally.problems:
        click.echo(problem, err=True)
    if given["as_json"]:
        _print_json(_plan_json(prepared))
    elif not given["quiet"]:
        for line in (
            *plan_lines(prepared.plan, prepared.run_dir, prepared.spent_usd),
            *_sources(prepared),
        ):
            click.echo(line)
    return int(prepared.plan.invalid > 0)


def _nothing_ran(error: BatcherError, *, as_json: bool) -> int:
    if as_json:
        _print_json({"error": str(error), "exit_code": error.exit_code})
    click.echo(f"batcher: {error}", err=True)
    return error.exit_code


def _plan_json(prepared: app.Prepared) -> dict[str, Any]:
    made = prepared.plan
    return {
        "batch": prepared.manifest.name,
        "run_dir": str(prepared.run_dir),
        "total": made.total,
        "selected": made.selected,
        **{bucket.value: total.count for bucket, total in made.buckets.items()},
        "duplicates": made.duplicates,
        "invalid": made.invalid,
        "orphaned": len(made.orphans),
        "to_buy": made.to_buy,
        "estimated_cost_usd": made.estimated_cost_usd,
        "spent_usd": round(prepared.spent_usd, 6),
        "schemas": {model: str(source) for model, source in prepared.specs.sources.items()},
    }


def _sources(prepared: app.Prepared) -> Iterator[str]:
    """By which schema each model's jobs were checked: nothing is guessed silently."""
    for model, source in prepared.specs.sources.items():
        yield f"checked by: {model}: {source}"


def _print_summary(summary: Summary, options: Options, host: Host, given: dict[str, Any]) -> None:
    if given["as_json"]:
        _print_json(msgspec.to_builtins(summary))
    elif not given["quiet"]:
        snapshot, _ = read_snapshot(Path(summary.run_dir), host.disk)
        for line in summary_lines(summary, snapshot, _command(options)):
            click.echo(line)
    if summary.stopped and (given["as_json"] or given["quiet"]):
        click.echo(f"batcher: {summary.stopped}", err=True)


def _command(options: Options) -> str:
    """The command that resumes this run."""
    parts = ["batcher", "run", str(options.manifest)]
    if options.output is not None:
        parts += ["-o", str(options.output)]
    if options.sandbox is not None:
        parts.append("--sandbox")
    return shlex.join(parts)


def _confirm(plan: Plan, run_dir: Path, warning: str | None) -> bool:
    """Show a plan in a few lines on the terminal, and ask."""
    for line in plan_lines(plan, run_dir):
        click.echo(line, err=True)
    if warning is not None:
        click.echo(f"careful: {warning}", err=True)
    price = money(plan.estimated_cost_usd)
    return click.confirm(f"Buy {plan.to_buy} jobs, price {price}?", err=True)


@contextmanager
def _signals(control: Control) -> Iterator[None]:
    """The first SIGINT or SIGTERM winds the run up in good order, the second at once."""
    loop = asyncio.get_running_loop()

    def received(number: int) -> None:
        if control.halted:
            control.abort(interrupted(number))
        else:
            control.halt(interrupted(number))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, received, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.encode(value).decode())
