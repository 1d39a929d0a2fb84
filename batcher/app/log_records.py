"""What is logged of a run, as records: for ``--log-file`` and ``--log-format json``.

Each has ``at``, ``level``, ``message`` and, once it is known, ``run``; then what it is about: ``job``,
``request_id``, ``attempt``, ``stage``, ``code``, ``took_s`` (seconds; of a job since it was submitted),
``exit_code``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from batcher.clock import Clock, iso
from batcher.pacing.timings import seconds_between

if TYPE_CHECKING:
    from batcher.app.observers import Ending
    from batcher.ports import EndedCall, JobEvent

_STATES_OF_TROUBLE = frozenset({"failed", "unknown", "cancelled"})


class LogRecords:
    """Makes records, and gives each with its level to ``out``."""

    def __init__(self, clock: Clock, out: Callable[[str, dict[str, Any]], None]) -> None:
        self.run: str | None = None
        self._clock = clock
        self._began_s = clock.monotonic()
        self._out = out

    def write(self, level: str, message: str, **facts: Any) -> None:
        """Facts that are None are left out."""
        known = {name: value for name, value in {"run": self.run, **facts}.items() if value is not None}
        self._out(level, {"at": iso(self._clock.now()), "level": level, "message": message, **known})

    def call(self, call: EndedCall, message: str) -> None:
        """A call of the API, or a download, has ended."""
        about = {"request_id" if call.kind in ("result", "cancel") else "target": call.what}
        self.write("debug", message, call=call.kind, **about, took_s=round(call.took_s, 3))

    def event(self, event: JobEvent) -> None:
        """Write a record if a job has ended, one way or another."""
        if not event.ends_job:
            return
        job = event.describe()
        self.write(
            "error" if job.state in _STATES_OF_TROUBLE else "info",
            job.message or job.state.value,
            job=job.job,
            state=job.state.value,
            request_id=job.request_id,
            attempt=job.attempt,
            stage=job.stage,
            code=job.code,
            refused=job.refused or None,
            took_s=self._since(job.submitting_at),
        )

    def _since(self, submitting_at: str | None) -> float | None:
        if submitting_at is None:
            return None
        return seconds_between(submitting_at, iso(self._clock.now()))

    def ended(self, ending: Ending) -> None:
        """The command ends, whether or not anything ran."""
        facts: dict[str, Any] = {"exit_code": ending.exit_code}
        facts["took_s"] = round(self._clock.monotonic() - self._began_s, 3)
        if ending.summary is not None:
            facts |= {"done": ending.summary.done, "total": ending.summary.total}
        self.write("error" if ending.exit_code else "info", ending.reason or "ended", **facts)
