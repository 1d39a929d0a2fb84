"""``--log-file``: what happened, line by line, in a file that is rotated."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from batcher.app.teller import Deaf, Ending
from batcher.clock import Clock, iso
from batcher.engine.view import RunView
from batcher.ledger.summary import ListedJob
from batcher.ports import EndedCall
from batcher.terminal import visible, visible_json

ROTATE_AT_BYTES = 10_000_000
KEPT_FILES = 5
LEVELS = ("debug", "info", "warning", "error")
_STATES_OF_TROUBLE = frozenset({"failed", "unknown", "cancelled"})


class LogFile(Deaf):
    """Appends to ``path``: JSON objects, or text with a time. ``level`` is the least that is written."""

    def __init__(
        self, path: Path, clock: Clock, *, as_json: bool, level: str, warn: Callable[[str], None]
    ) -> None:
        self._clock = clock
        self._as_json = as_json
        self._least = LEVELS.index(level)
        self._warn_once: Callable[[str], None] | None = warn
        self._path = path
        self._run: str | None = None
        self._began_s = clock.monotonic()
        self._handler = RotatingFileHandler(
            path, maxBytes=ROTATE_AT_BYTES, backupCount=KEPT_FILES, delay=True, encoding="utf-8",
            errors="backslashreplace",
        )  # fmt: skip

    def started(self, view: RunView) -> None:
        self._run = view.run
        self._write("info", "started", selected=view.selected)

    def warn(self, message: str) -> None:
        self._write("warning", message)

    def call(self, call: EndedCall) -> None:
        about = {"request_id" if call.kind in ("result", "cancel") else "target": call.what}
        self._write("debug", f"{call.kind}: {call.outcome}", **about, took_s=round(call.took_s, 3))

    def job_ended(self, job: ListedJob) -> None:
        level = "error" if job.state in _STATES_OF_TROUBLE else "info"
        self._write(
            level,
            job.message or job.state.value,
            job=job.job,
            state=job.state.value,
            request_id=job.request_id,
            attempt=job.attempt,
            stage=job.stage,
            code=job.code,
        )

    def ended(self, ending: Ending) -> None:
        level = "error" if ending.exit_code else "info"
        took_s = round(self._clock.monotonic() - self._began_s, 3)
        facts: dict[str, Any] = {"exit_code": ending.exit_code, "took_s": took_s}
        if ending.summary is not None:
            facts |= {"done": ending.summary.done, "total": ending.summary.total}
        self._write(level, ending.reason or "ended", **facts)
        with suppress(OSError, ValueError):  # what could not be written is flushed again
            self._handler.close()

    def _write(self, level: str, message: str, **facts: Any) -> None:
        if LEVELS.index(level) < self._least:
            return
        at = iso(self._clock.now())
        known = {name: value for name, value in {"run": self._run, **facts}.items() if value is not None}
        if self._as_json:
            line = visible_json({"at": at, "level": level, "message": message, **known})
        else:
            told = " ".join(f"{name}={value}" for name, value in known.items())
            line = visible(f"{at} {level} {message} {told}".rstrip())
        record = logging.makeLogRecord({"msg": line, "levelname": level})
        try:
            if self._handler.shouldRollover(record):
                self._handler.doRollover()
            stream = self._handler.stream or self._handler._open()
            self._handler.stream = stream
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError) as error:
            if self._warn_once is not None:
                self._warn_once(f"--log-file {self._path}: can't be written: {error}")
            self._warn_once = None
