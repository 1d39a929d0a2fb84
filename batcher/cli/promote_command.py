"""``promote``: from marks to the next batch's manifest."""

from __future__ import annotations

from pathlib import Path

import click

from batcher.disk import LocalDisk
from batcher.errors import UsageError
from batcher.jobs.marks import marks_in
from batcher.layout import MARKS_NAME
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.marks_file import marked
from batcher.options.command import as_path, command
from batcher.terminal import visible


def promote_marked(
    run_dir: Path, target: Path, marks: str, changes: tuple[str | None, tuple[str, ...]]
) -> int:
    """Write the manifest and print the next command; ``changes``: the model, and FIELD=VALUE texts."""
    from batcher.manifest.promote import Promotion, promote

    names = marks_in(marks, "--marks")
    if target.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"-o {target}: a manifest in YAML is written: name it {target.stem}.yaml")
    model, sets = changes
    snapshot = read_snapshot(run_dir, LocalDisk())
    chosen = marked(run_dir, names, snapshot)
    jobs = [job_id for job_id, _ in snapshot.items() if job_id in chosen]
    if not jobs:
        words = " or ".join(sorted(names))
        raise UsageError(
            f"{run_dir / MARKS_NAME}: no job of this run is marked {words}; "
            f"to mark some: {command('view', as_path(run_dir))}"
        )
    written = promote(Promotion(run_dir, target, model, _fields(sets)), jobs, snapshot)
    click.echo(visible(f"{target}: {written} {'job' if written == 1 else 'jobs'} of {run_dir}"))
    rehearsed = (
        ("--sandbox",) if snapshot.last_run is not None and snapshot.last_run.api == "sandbox" else ()
    )
    click.echo(f"What it would cost: {command('plan', as_path(target), *rehearsed)}")
    return 0


def _fields(sets: tuple[str, ...]) -> dict[str, str]:
    fields = {}
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {text}: write FIELD=VALUE, as in --set duration=10")
        fields[name.strip()] = value
    return fields
