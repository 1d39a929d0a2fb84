"""``doctor``: checks what a run depends on."""

from __future__ import annotations

from pathlib import Path

import click

from batcher.app.doctor import Check, checks
from batcher.cli.commands import version_lines
from batcher.cli.event_loop import run_loop
from batcher.engine.host import Host
from batcher.terminal import visible, visible_json


def examine(run_dir: Path | None, *, as_json: bool) -> int:
    """Print the findings; the exit code is the one that a run would have here."""
    found = run_loop(_gather(run_dir, Host(), aloud=not as_json))
    code = next((check.exit_code for check in found if check.exit_code), 0)
    if as_json:
        told = [{"check": check.name, "is": check.mark, "found": check.found} for check in found]
        click.echo(visible_json({"checks": told, "exit_code": code}))
    return code


async def _gather(run_dir: Path | None, host: Host, *, aloud: bool) -> list[Check]:
    found = [Check("versions", "; ".join(version_lines()))]
    if aloud:
        _print(found[0])
    async for check in checks(run_dir, host):
        found.append(check)
        if aloud:
            _print(check)
    return found


def _print(check: Check) -> None:
    click.echo(visible(f"{check.mark:<8} {check.name:<9} {check.found}"))
