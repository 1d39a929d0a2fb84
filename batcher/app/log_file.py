"""``--log-file``: a log of the run, in a file with rotation."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from batcher.app.log_records import LogRecords
from batcher.app.observers import Ending, Reporter
from batcher.clock import Clock
from batcher.ports import EndedCall, JobEvent, RunView
from batcher.terminal import visible, visible_json

ROTATE_AT_BYTES = 10_000_000
KEPT_FILES = 5
LEVELS = ("debug", "info", "warning", "error")


class LogFile(Reporter):
    """Appends to ``path``: JSON objects, or text with a time. ``level`` is the lowest one written."""

    def __init__(
        self, path: Path, clock: Clock, *, as_json: bool, level: str, warn: Callable[[str], None]
    ) -> None:
        self._as_json = as_json
        self._records = LogRecords(clock, self._write)
        self._least = LEVELS.index(level)
        self._warn_once: Callable[[str], None] | None = warn
        self._path = path
        self._handler = RotatingFileHandler(
            path, maxBytes=ROTATE_AT_BYTES, backupCount=KEPT_FILES, delay=True, encoding="utf-8",
            errors="backslashreplace",
        )  # fmt: skip

    def started(self, view: RunView) -> None:
        self._records.run = view.run
        self._records.write("info", "started", selected=view.selected)

    def warn(self, message: str) -> None:
        self._records.write("warning", message)

    def call(self, call: EndedCall) -> None:
        self._records.call(call, f"{call.kind}: {call.outcome}")

    def event(self, event: JobEvent) -> None:
        self._records.event(event)

    def ended(self, ending: Ending) -> None:
        self._records.ended(ending)
        with suppress(OSError, ValueError):  # unwritten data is flushed again
            self._handler.close()

    def _write(self, level: str, record: dict[str, Any]) -> None:
        if LEVELS.index(level) >= self._least:
            self._append(level, visible_json(record) if self._as_json else visible(_in_words(record)))

    def _append(self, level: str, line: str) -> None:
        record = logging.makeLogRecord({"msg": line, "levelname": level})
        try:
            self._follow_rename()
            if self._handler.shouldRollover(record):
                self._handler.doRollover()
            stream = self._handler.stream or self._handler._open()
            self._handler.stream = stream
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError) as error:
            if self._warn_once is not None:
                why = getattr(error, "strerror", None) or error
                self._warn_once(f"--log-file {self._path}: can't be written: {why}")
            self._warn_once = None

    def _follow_rename(self) -> None:
        """Another run, or logrotate, may have renamed the file: the next line goes to a new one."""
        stream = self._handler.stream
        if not stream:
            return
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), self._path.stat()):
                return
        stream.close()
        self._handler.stream = None


def _in_words(record: dict[str, Any]) -> str:
    facts = " ".join(f"{name}={value}" for name, value in [*record.items()][3:])
    return f"{record['at']} {record['level']} {record['message']} {facts}".rstrip()
