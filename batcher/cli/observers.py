"""Chooses a run's observer: a bar on a terminal, lines elsewhere, little when quiet."""

from __future__ import annotations

import os
import sys

from batcher.app.log_records import LogRecords
from batcher.app.progress import Bar, Held, JsonLines, LogLines, Quiet, Verbose, json_records
from batcher.clock import SystemClock
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
    if sys.stderr.isatty():
        return Bar(sys.stderr, colour="NO_COLOR" not in os.environ)
    return LogLines(sys.stderr, SystemClock())


def records_of(observer: Observer) -> LogRecords | None:
    """The JSON records that the observer writes, if it does."""
    shown = observer.inner if isinstance(observer, Verbose) else observer
    return shown.records if isinstance(shown, JsonLines) else None


def only_warnings() -> Observer:
    """The observer of a command without progress."""
    return Quiet(sys.stderr)
