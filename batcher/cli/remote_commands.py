"""Commands that call the API, or replace it: ``cancel``, ``resolve`` and ``sandbox``."""

from __future__ import annotations

import asyncio
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batcher.app import resolve
from batcher.cli.event_loop import run_loop
from batcher.cli.observers import only_warnings
from batcher.cli.process import signals_to
from batcher.engine.host import Host
from batcher.errors import UsageError
from batcher.layout import HIDDEN_NAME, SANDBOX_NAME
from batcher.options.command import command
from batcher.terminal import counted, visible, visible_json

if TYPE_CHECKING:
    from batcher.sandbox.faults import Fault
    from batcher.sandbox.server import Sandbox


def cancel_queued(run_dir: Path, *, as_json: bool) -> int:
    """Cancel every request that can be cancelled; returns 1 if some calls failed."""
    told = run_loop(resolve.cancel(run_dir, _host()))
    if as_json:
        click.echo(visible_json(told))
    else:
        click.echo(_cancelled(told))
        if told.may_cost:
            click.echo(f"{len(told.may_cost)} of the cancelled ran already, and may be charged")
        if told.requested:
            requested = counted(len(told.requested), "cancellation was", "cancellations were")
            click.echo(f"{requested} accepted, but not final yet: the next run sees the outcome")
        for job_id, message in told.unanswered:
            click.echo(visible(f"{job_id}: {message}"), err=True)
    return int(bool(told.unanswered))


def _cancelled(told: resolve.Cancelled) -> str:
    if not (told.cancelled or told.not_cancellable or told.requested or told.unanswered):
        return "nothing to cancel: no job of this run directory is at the API"
    late = f", {len(told.not_cancellable)} running or finished: those can't be cancelled"
    return f"{len(told.cancelled)} cancelled{late if told.not_cancellable else ''}"


def resolve_unknown(run_dir: Path, job: str, request_id: str | None) -> int:
    """Resolve an unknown job as the user says."""
    click.echo(visible(run_loop(resolve.resolve(run_dir, job, request_id, _host()))))
    return 0


def resolve_all(run_dir: Path) -> int:
    """Resolve the unknown jobs whose vendors can tell; 1 if some stay unknown."""
    told = run_loop(resolve.resolve_all(run_dir, _host()))
    for line in told.lines():
        click.echo(visible(line))
    return int(bool(told.undecided))


def _host() -> Host:
    return Host(observer=only_warnings())


def serve_sandbox(given: dict[str, Any]) -> int:
    """Serve until SIGINT or SIGTERM."""
    from batcher.sandbox.settings import SandboxSettings

    settings = SandboxSettings(
        seed=given["seed"],
        speed=given["speed"],
        faults=given["faults"],
        only_faults=frozenset(map(_fault, given["only"])),
        balance_usd=given["balance"],
        rate_per_s=given["rate"],
        state=given["state"],
    )
    run_loop(_serve(settings, given["port"]))
    return 0


def _fault(name: str) -> Fault:
    """The fault of this name. Raises UsageError."""
    from batcher.sandbox.faults import Fault

    try:
        return Fault(name)
    except ValueError:
        near = get_close_matches(name, [*Fault], n=1, cutoff=0.0)[0]
        raise UsageError(
            f"--only {name!r}: no such fault; did you mean {near}? "
            f"{command('sandbox', '--help')} lists them"
        ) from None


def list_generations(run_dir: Path, *, as_json: bool) -> int:
    """Print the requests that the sandbox of ``run_dir`` has on record."""
    from batcher.sandbox.generations import generations

    all_made = list(generations(run_dir / HIDDEN_NAME / SANDBOX_NAME))
    width = max((len(made.model) for made in all_made), default=0)
    for made in all_made:
        words = (made.request_id, made.created_at, f"{made.state:11}", f"{made.model:{width}}")
        told = "  ".join((*words, made.prompt or "")).rstrip()
        click.echo(visible_json(made) if as_json else visible(told))
    if not all_made:
        click.echo("the sandbox has generated nothing yet", err=True)
    return 0


async def _serve(settings: Any, port: int) -> None:
    from batcher.sandbox.server import Sandbox

    stopping = asyncio.Event()
    sandbox = Sandbox(settings)
    with signals_to(lambda _: stopping.set()):
        await _serve_until(stopping, sandbox, port)


async def _serve_until(stopping: asyncio.Event, sandbox: Sandbox, port: int) -> None:
    base = await sandbox.start("127.0.0.1", port)
    try:
        deployments = f"{base.removesuffix('/v1')}/prod/v2"
        click.echo(f"export RUNCOMFY_MODEL_API_BASE={base}\nexport RUNCOMFY_TOKEN=sandbox")
        click.echo(f"export RUNCOMFY_SERVERLESS_API_BASE={deployments}")
        click.echo(f"the sandbox listens on {base}; stop it with Ctrl-C", err=True)
        sys.stdout.flush()
        await stopping.wait()
    finally:
        await sandbox.stop()
