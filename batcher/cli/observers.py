"""Chooses a run's observers by its options: what is shown, and log, metrics, notifications."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from batcher.app.log_records import LogRecords
from batcher.app.observers import ObserverGroup, Reporter
from batcher.app.progress import Bar, Held, JsonLines, LogLines, Quiet, Verbose, json_records
from batcher.clock import SystemClock
from batcher.options.run import Options
from batcher.ports import Observer


def observer_for(quiet: bool, log_format: str, verbose: bool = False) -> Observer:
    """The observer of a run, or of a plan, for this process's stderr."""
    if quiet:
        return Held(
            sys.stderr, json_records(sys.stderr, SystemClock()) if log_format == "json" else None
        )
    watcher = _watcher(log_format)
    return Verbose(watcher) if verbose else watcher


def _watcher(log_format: str) -> Bar | LogLines:
    if log_format == "json":
        return JsonLines(sys.stderr, SystemClock())
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return Bar(sys.stderr, colour="NO_COLOR" not in os.environ)
    return LogLines(sys.stderr, SystemClock())


def records_of(observer: Observer) -> LogRecords | None:
    """The JSON records that the observer writes, if it does."""
    shown = observer.inner if isinstance(observer, Verbose) else observer
    return shown.records if isinstance(shown, JsonLines) else None


def only_warnings() -> Observer:
    """The observer of a command without progress."""
    return Quiet(sys.stderr)


class Ends(Reporter):
    """Writes to ``records`` how the command ended."""

    def __init__(self, records: LogRecords) -> None:
        self.ended = records.ended  # type: ignore[method-assign]


def watched_by(
    shown: Observer, options: Options, given: Mapping[str, Any], env: Mapping[str, str]
) -> ObserverGroup:
    """``shown``, and the reporters that the options request."""
    reporters = _reporters(shown.warn, options, given, env)
    records = records_of(shown)
    return ObserverGroup(shown, reporters if records is None else (Ends(records), *reporters))


def _reporters(
    warn: Callable[[str], None], options: Options, given: Mapping[str, Any], env: Mapping[str, str]
) -> Iterator[Reporter]:
    clock = SystemClock()
    place = options.output or options.manifest
    batch = place.name if options.output is not None else place.name.partition(".")[0]
    if given["log_file"] is not None:
        from batcher.app.log_file import LogFile

        as_json, level = given["log_format"] == "json", given["log_level"]
        yield LogFile(Path(given["log_file"]), clock, as_json=as_json, level=level, warn=warn)
    if given["metrics_file"] is not None:
        from batcher.app.metrics_file import MetricsFile

        yield MetricsFile(Path(given["metrics_file"]), batch, clock, warn)
    if env.get("NOTIFY_SOCKET"):
        from batcher.app.systemd import Systemd

        yield Systemd(env, clock)
    for url in given["notify"]:
        from batcher.app.notify import EVENTS, Notifier

        events = frozenset(given["notify_on"] or EVENTS)
        facts = {"batch": batch, "manifest": str(options.manifest)}
        yield Notifier(url, events, facts, clock, warn)
