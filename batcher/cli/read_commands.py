"""Commands that only read a run directory: ``status`` and ``verify``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from batcher.cli.event_loop import run_loop
from batcher.cli.summary_view import status_lines
from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.errors import LedgerError, UsageError
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import State
from batcher.ledger import summary as summaries
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot
from batcher.options.command import as_path, command
from batcher.options.given import Given
from batcher.options.record import given_of
from batcher.store.bucket import open_run_dir
from batcher.store.bucket_outputs import bucket_url_of
from batcher.store.local import RunDir
from batcher.terminal import visible, visible_json

FOLLOW_EVERY_S = 1.0
FOLLOW_SHARE = 0.1
"""Share of a core: a ledger that takes long to read is read less often."""


class JobFilter(NamedTuple):
    """Which jobs to list: states as written, and "good" or "bad" for only those."""

    states: str
    quality: str | None = None

    def of(self, snapshot: Snapshot) -> Iterator[summaries.ListedJob]:
        """The selected jobs. Raises UsageError for an unknown state."""
        bad = None if self.quality is None else self.quality == "bad"
        return summaries.listed_jobs(snapshot, _states(self.states), bad=bad)


def show_statuses(
    places: Sequence[Path], *, as_json: bool, listing: JobFilter | None, follow: bool
) -> int:
    """Print the status of each run directory or manifest, one after another."""
    for number, place in enumerate(places):
        if number and not as_json and listing is None:
            click.echo()
        run_dir = run_dir_named(place)
        show_status(run_dir, as_json=as_json, listing=listing, follow=follow)
    return 0


def run_dir_named(place: Path) -> Path:
    """``place``; for a manifest the directory that its runs use. Raises LedgerError if there was none,
    and what a run raises."""
    if not place.is_file():
        return place
    from batcher.app.asked import asked_of, options_from
    from batcher.app.run_dir_checks import run_dir_of
    from batcher.manifest.load import open_manifest

    options = options_from(asked_of([str(place)], {}, os.environ))
    manifest = open_manifest(options.manifest, options.overrides, options.also)
    run_dir = run_dir_of(options, manifest, LocalDisk())
    if not segments_in(run_dir, LocalDisk()):
        rehearsed = run_dir.with_name(f"{run_dir.name}-sandbox")
        has_any = segments_in(rehearsed, LocalDisk())
        hint = f"; the sandbox's: {command('status', as_path(rehearsed))}" if has_any else ""
        raise LedgerError(f"{place}: no run yet, its run directory would be {run_dir}{hint}")
    return run_dir


def show_status(run_dir: Path, *, as_json: bool, listing: JobFilter | None, follow: bool) -> int:
    """Print a status, or the jobs in ``listing``; with ``follow``, again until the run ends."""
    clock = SystemClock()
    while True:
        began_s = clock.monotonic()
        snapshot = read_snapshot(run_dir, LocalDisk())
        status = summaries.status_of(run_dir, snapshot, beside=LocalDisk())
        if listing is not None:
            _print_lines(listing.of(snapshot))
        elif as_json:
            _print_lines([status])
        else:
            click.echo("\n".join(map(visible, status_lines(status, _given(run_dir, snapshot)))))
        if not (follow and status.live):
            return 0
        time.sleep(max(FOLLOW_EVERY_S, (clock.monotonic() - began_s) / FOLLOW_SHARE))


def _given(run_dir: Path, snapshot: Snapshot) -> Given | None:
    run = snapshot.last_run
    return given_of(run.asked if run is not None else None, run_dir, bucket_url_of(run_dir))


def verify_outputs(run_dir: Path, *, as_json: bool) -> int:
    """Print the problems of the outputs; returns 1 if there are any."""
    disk = LocalDisk()
    checked, bad = run_loop(_verify(open_run_dir(run_dir, disk), read_snapshot(run_dir, disk)))
    if as_json:
        damage = [{"job": job, "path": file.path, "problem": what} for job, file, what in bad]
        click.echo(visible_json({"checked": checked, "damaged": damage}))
    else:
        for job, file, what in bad:
            click.echo(visible(f"{file.path}: {what} (job {job})"))
        click.echo(f"{checked - len(bad)} of {checked} files match the ledger")
    return int(bool(bad))


async def _verify(run_dir: RunDir, snapshot: Snapshot) -> tuple[int, list[tuple[str, Artifact, str]]]:
    """The number of recorded outputs, and those that differ from their record."""
    checked, bad = 0, []
    for job_id, record in snapshot.items():
        for artifact in record.files if record.state is State.DONE else ():
            checked += 1
            if (problem := await run_dir.problem_with(artifact)) is not None:
                bad.append((job_id, artifact, problem))
    return checked, bad


def _states(text: str) -> frozenset[str]:
    words = [word.strip() for word in text.split(",")]
    known = [*map(str, State), summaries.REFUSED]
    if strange := [word for word in words if word not in known]:
        raise UsageError(f"--list: {strange[0]!r} is not a state; the states are {', '.join(known)}")
    return frozenset(words)


def _print_lines(structs: Iterable[msgspec.Struct]) -> None:
    for struct in structs:
        click.echo(visible_json(struct))
