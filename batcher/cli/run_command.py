"""``run`` and ``plan``: from options to what is printed, and the exit code."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from batcher.app import run as app
from batcher.app.asked import asked_of, options_from
from batcher.app.observers import Ending, ObserverGroup
from batcher.app.plan import plan as app_plan
from batcher.app.progress import Bar, Held, json_records
from batcher.app.run_dir_checks import when_free
from batcher.cli import process
from batcher.cli.event_loop import fast_loop, run_loop
from batcher.cli.observers import observer_for, records_of, watched_by
from batcher.cli.plan_view import brief_lines, plan_json, plan_page
from batcher.cli.question import agreed
from batcher.cli.run_options import typed
from batcher.cli.summary_view import needs_a_human, summary_lines
from batcher.clock import SystemClock
from batcher.engine.canary import CanaryReport
from batcher.engine.host import Host
from batcher.engine.stop import Control
from batcher.errors import BatcherError, LockedError, interrupted
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.summary import Summary
from batcher.options.run import Options
from batcher.planning.plan import Plan
from batcher.ports import Observer, Silence
from batcher.terminal import counted, money, visible, visible_json, visible_lines

INTERNAL_ERROR = 70
GC_THRESHOLDS = (10_000, 20, 100)


def run_manifest(typed_in: dict[str, Any]) -> int:
    """Execute ``run`` (or ``plan``, with ``--dry-run``); returns the exit code."""
    options, given = _understood(typed_in)
    if given["dry_run"]:
        return _plan(options, given)
    return _run_for_real(options, given)


def _run_for_real(options: Options, given: dict[str, Any]) -> int:
    shown = observer_for(given["quiet"], given["log_format"], given["verbose"])
    observer = watched_by(shown, options, given, os.environ)
    terminal = sys.stdin.isatty() and sys.stderr.isatty()
    asks = terminal and not options.money.assume_yes and options.sandbox is None
    host = Host(
        observer=observer if observer.wants_more else shown,
        unattended=not terminal,
        confirm=partial(_confirm, shown) if terminal else None,
        go_on=partial(_go_on, Silence() if given["quiet"] else shown, asks),
        signals=_signals,
    )
    try:
        _collect_less_often()
        summary = run_loop(_run(options, host), fast_loop())
    except LockedError as error:
        if given["on_lock"] == "skip":
            return _skipped(error, as_json=given["json"])
        return _told_nothing_ran(observer, error, given)
    except BatcherError as error:
        return _told_nothing_ran(observer, error, given)
    except process.EndedBySignal as end:
        return _told_nothing_ran(observer, interrupted(end.number), given)
    except Exception as error:
        if limit := process.at_a_limit(error):
            return _told_nothing_ran(observer, limit, given)
        observer.ended(Ending(INTERNAL_ERROR, error=f"internal error: {type(error).__name__}"))
        raise
    observer.ended(Ending(summary.exit_code, summary))
    with process.ignoring_closed_pipe(summary.exit_code):
        _print_summary(summary, options, host, given)
    return summary.exit_code


def _told_nothing_ran(observer: ObserverGroup, error: BatcherError, given: dict[str, Any]) -> int:
    observer.ended(Ending(error.exit_code, error=str(error)))
    _tell(observer)
    return _nothing_ran(error, given, told=records_of(observer.shown) is not None)


def _collect_less_often() -> None:
    """Existing objects stay alive, and a run makes few cycles but many objects that live for minutes."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _run(options: Options, host: Host) -> Summary:
    return await when_free(lambda: _prepared_aloud(options, host), options.lock_wait_s, host.clock)


async def _prepared_aloud(options: Options, host: Host) -> Summary:
    observer = host.observer.shown if isinstance(host.observer, ObserverGroup) else host.observer
    if not isinstance(observer, Bar):
        return await app.run(options, host)
    observer.preparing("reading the manifest, asking the API for models and prices")
    try:
        return await app.run(options, host)
    finally:
        observer.prepared()


def plan_manifest(typed_in: dict[str, Any]) -> int:
    """Execute ``plan``; returns the exit code."""
    options, given = _understood(typed_in)
    return _plan(options, given)


def _understood(typed_in: dict[str, Any]) -> tuple[Options, dict[str, Any]]:
    """The parsed command line: the options, and each value by its key."""
    given = asked_of(typed_in["manifest"], typed(typed_in), os.environ)
    return options_from(given), given.complete()


def _plan(options: Options, given: dict[str, Any]) -> int:
    host = Host(observer=observer_for(given["quiet"], given["log_format"], given["verbose"]))
    try:
        planned = run_loop(app_plan(options, host))
    except BatcherError as error:
        return _nothing_ran(error, given)
    for problem in planned.prepared.tally.problems:
        click.echo(visible(problem), err=True)
    if given["json"]:
        _print_json(plan_json(planned))
    elif not given["quiet"]:
        click.echo("\n".join(map(visible, plan_page(planned))))
    bad_urls = planned.urls is not None and planned.urls.problem_count > 0
    if code := int(bad_urls or planned.prepared.plan.invalid > 0):
        _tell(host.observer)
    return code


def _nothing_ran(error: BatcherError, given: dict[str, Any], *, told: bool = False) -> int:
    if given["json"]:
        _print_json({"error": str(error), "exit_code": error.exit_code})
    if not told:
        _say_error(str(error), given)
    if given["verbose"]:
        for cause in _causes(error):
            _say_error(f"  because of {type(cause).__name__}: {cause}", given, mark="")
    return error.exit_code


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The chain of causes of ``error``, the nearest first."""
    while (cause := error.__cause__) is not None:
        yield cause
        error = cause


def _skipped(error: LockedError, *, as_json: bool) -> int:
    """Another run holds the run directory, and ``--on-lock skip`` accepts that."""
    if as_json:
        _print_json({"skipped": str(error), "exit_code": 0})
    return 0


def _tell(observer: Observer) -> None:
    """A human is needed: print what ``--quiet`` held back."""
    shown = observer.shown if isinstance(observer, ObserverGroup) else observer
    if isinstance(shown, Held):
        shown.tell()


def _print_summary(summary: Summary, options: Options, host: Host, given: dict[str, Any]) -> None:
    if given["json"]:
        _print_json(msgspec.to_builtins(summary))
    if summary.exit_code:
        _tell(host.observer)
    if given["quiet"]:
        if summary.exit_code:
            _say_error(needs_a_human(summary), given)
            for line in _lines(summary, options, host):
                _say_error(line, given, mark="")
    elif not given["json"]:
        for line in _lines(summary, options, host):
            click.echo(visible(line))
    elif summary.stopped and given["log_format"] != "json":  # the last record contains it
        _say_error(summary.stopped, given)


def _lines(summary: Summary, options: Options, host: Host) -> Iterator[str]:
    snapshot: Snapshot | None = None
    with suppress(BatcherError):  # moved meanwhile, for example: what stopped the run must still be told
        snapshot = read_snapshot(Path(summary.run_dir), host.disk)
    return summary_lines(summary, snapshot, options.given)


def _say_error(text: str, given: dict[str, Any], mark: str = "batcher: ") -> None:
    """To stderr: as text after ``mark``, or as a record if ``--log-format json`` was asked for."""
    if given["log_format"] == "json":
        json_records(sys.stderr, SystemClock()).write("error", text.strip())
    else:
        click.echo(visible_lines(f"{mark}{text}"), err=True)


def _confirm(observer: Observer, plan: Plan, run_dir: Path, warning: str | None) -> bool:
    """Show a plan in a few lines on the terminal, and ask."""
    if isinstance(observer, Bar):
        observer.prepared()
    for line in brief_lines(plan, run_dir):
        click.echo(visible(line), err=True)
    if warning is not None:
        click.echo(f"careful: {warning}", err=True)
    price = money(plan.estimated_cost_usd)
    return agreed(f"Buy {counted(plan.to_buy, 'job', 'jobs')}, price {price}?")


def _go_on(observer: Observer, asks: bool, report: CanaryReport) -> bool:
    """Print the canary's result; on a terminal, ask."""
    observer.warn(str(report))
    return agreed("Go on with the rest?") if asks else True


@contextmanager
def _signals(control: Control) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP stops the run gracefully, the second at once."""

    def received(number: int) -> None:
        if control.halted:
            control.abort(interrupted(number))
        else:
            control.halt(interrupted(number))

    with process.signals_to(received):
        yield


def _print_json(value: Any) -> None:
    click.echo(visible_json(value))
