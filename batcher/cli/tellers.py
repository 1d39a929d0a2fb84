"""Chooses a run's tellers (log, metrics, notifications) by its options and environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from batcher.app.log_records import LogRecords
from batcher.app.teller import Deaf, Teller, Watchers
from batcher.cli.observers import records_of
from batcher.clock import SystemClock
from batcher.options.run import Options
from batcher.ports import Observer


class Ends(Deaf):
    """Writes to ``records`` how the command ended."""

    def __init__(self, records: LogRecords) -> None:
        self.ended = records.ended  # type: ignore[method-assign]


def watched_by(
    shown: Observer, options: Options, given: Mapping[str, Any], env: Mapping[str, str]
) -> Watchers:
    """``shown``, and the tellers that the options request."""
    tellers = _tellers(shown.warn, options, given, env)
    records = records_of(shown)
    return Watchers(shown, tellers if records is None else (Ends(records), *tellers))


def _tellers(
    warn: Callable[[str], None], options: Options, given: Mapping[str, Any], env: Mapping[str, str]
) -> Iterator[Teller]:
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
