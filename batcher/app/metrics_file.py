"""``--metrics-file``: Prometheus' text format, for the textfile collector of the node exporter.

The file is replaced atomically, every few seconds during a run and at its end.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from batcher.app.observers import Ending, Reporter
from batcher.clock import Clock
from batcher.jobs.lifecycle import State
from batcher.ledger.summary import Summary
from batcher.ports import EndedCall, Phase, RunView

WRITE_EVERY_S = 10.0
MODE = 0o644
_LAST_SUCCESS = re.compile(r"^batcher_last_success_timestamp_seconds\{.*\} (\S+)$", re.MULTILINE)


class MetricsFile(Reporter):
    """Keeps ``path`` up to date. ``batch`` is the label of every sample."""

    def __init__(self, path: Path, batch: str, clock: Clock, warn: Callable[[str], None]) -> None:
        self._path = path
        self._batch = batch
        self._clock = clock
        self._warn: Callable[[str], None] | None = warn
        self._started_at = clock.now().timestamp()
        self._last_success_at = self._remembered()
        self._view = RunView()
        self._posts: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._throttled = 0
        self._since: dict[str, tuple[float, float | None]] = {}
        """The times when a request was accepted and when it was first seen running, by request."""
        self._spans_s: dict[str, tuple[float, int]] = {"queue": (0.0, 0), "generation": (0.0, 0)}

    def started(self, view: RunView) -> None:
        self._view = view
        self._keep_fresh()

    def _keep_fresh(self) -> None:
        """Write now and every few seconds until the loop ends: an old file means a killed run."""
        self._write(self._running())
        asyncio.get_running_loop().call_later(WRITE_EVERY_S, self._keep_fresh)

    def call(self, call: EndedCall) -> None:
        word = call.outcome.partition(":")[0]
        self._throttled += word == "TurnedAway"
        if call.kind == "submit":
            accepted = word == call.outcome and word != "given up"
            self._posts["accepted" if accepted else word.replace(" ", "_")] += 1
            if accepted:
                self._since[call.outcome] = (self._clock.monotonic(), None)
        else:
            self._calls[call.kind] += 1
            if call.phase is not None:
                self._follow(call.what, call.phase)

    def ended(self, ending: Ending) -> None:
        now = self._clock.now().timestamp()
        if not ending.exit_code:
            self._last_success_at = now
        self._write(self._at_rest(ending, now))

    def _follow(self, request_id: str, phase: Phase) -> None:
        """Record how long a request waited and ran, as precisely as polls show."""
        if request_id not in self._since:
            return
        now_s = self._clock.monotonic()
        accepted_s, running_s = self._since[request_id]
        if running_s is None and phase is Phase.RUNNING:
            self._since[request_id] = (accepted_s, now_s)
            self._add("queue", now_s - accepted_s)
        if phase.terminal:
            del self._since[request_id]
            self._add("generation", now_s - (accepted_s if running_s is None else running_s))

    def _add(self, name: str, span_s: float) -> None:
        total_s, count = self._spans_s[name]
        self._spans_s[name] = (total_s + span_s, count + 1)

    def _running(self) -> Iterator[str]:
        yield from self._gauge("live", "Whether a run is in progress.", 1)
        yield from self._common(self._view.money().spent_usd)
        view = self._view
        counts = {"done": view.done, "failed": view.failed, "unknown": view.unknown}
        counts["submitted"] = view.queued
        yield from self._labelled("jobs", "gauge", "Jobs by state.", "state", counts)

    def _at_rest(self, ending: Ending, now: float) -> Iterator[str]:
        yield from self._gauge("live", "Whether a run is in progress.", 0)
        yield from self._gauge("last_end_timestamp_seconds", "When the last run ended.", now)
        yield from self._gauge("exit_code", "Exit code of the last run.", ending.exit_code)
        summary = ending.summary
        yield from self._common(summary.cost_usd if summary is not None else None)
        if summary is not None:
            yield from self._summary(summary)

    def _summary(self, summary: Summary) -> Iterator[str]:
        counts = {state.value: getattr(summary, state.value) for state in State}
        yield from self._labelled("jobs", "gauge", "Jobs by state.", "state", counts)
        yield from self._gauge(
            "jobs_refused", "Failed jobs that the API refused for their inputs.", summary.refused
        )
        yield from self._gauge("jobs_new_failures", "Jobs that failed in this run.", summary.failed_now)
        yield from self._gauge("jobs_new_unknown", "Jobs that became unknown.", summary.unknown_now)
        yield from self._gauge("output_bytes", "Bytes of all outputs.", summary.bytes)
        yield from self._gauge("run_duration_seconds", "How long it took.", summary.elapsed_s)

    def _common(self, cost_usd: float | None) -> Iterator[str]:
        yield from self._gauge("last_start_timestamp_seconds", "When the run began.", self._started_at)
        if self._last_success_at is not None:
            yield from self._gauge(
                "last_success_timestamp_seconds", "When a run last exited with 0.", self._last_success_at
            )
        if cost_usd is not None:
            yield from self._gauge("cost_usd", "Cost of the run directory, all runs.", cost_usd)
        posts = self._posts or {"accepted": 0}
        yield from self._labelled("posts", "gauge", "POSTs of this run by outcome.", "outcome", posts)
        calls = {kind: self._calls[kind] for kind in ("result", "cancel", "trace", "download")}
        yield from self._labelled("calls", "gauge", "Other calls of this run by kind.", "kind", calls)
        yield from self._gauge("throttled", "Answers that asked to wait (429).", self._throttled)
        for name, (total_s, count) in self._spans_s.items():
            labels = self._labels()
            yield f"# HELP batcher_{name}_seconds How long requests of this run were in it."
            yield f"# TYPE batcher_{name}_seconds summary"
            yield f"batcher_{name}_seconds_sum{labels} {total_s!r}"
            yield f"batcher_{name}_seconds_count{labels} {count}"

    def _gauge(self, name: str, about: str, value: float) -> Iterator[str]:
        yield f"# HELP batcher_{name} {about}"
        yield f"# TYPE batcher_{name} gauge"
        yield f"batcher_{name}{self._labels()} {value!r}"

    def _labelled(
        self, name: str, kind: str, about: str, label: str, values: dict[str, int] | Counter[str]
    ) -> Iterator[str]:
        yield f"# HELP batcher_{name} {about}"
        yield f"# TYPE batcher_{name} {kind}"
        for key, value in values.items():
            yield f"batcher_{name}{self._labels(**{label: key})} {value}"

    def _labels(self, **more: str) -> str:
        pairs = {"batch": self._batch, **more}
        return "{" + ",".join(f'{name}="{_escaped(text)}"' for name, text in pairs.items()) + "}"

    def _remembered(self) -> float | None:
        """When a run last succeeded, from the previous file."""
        with suppress(OSError, ValueError, UnicodeDecodeError):
            if found := _LAST_SUCCESS.search(self._path.read_text()):
                return float(found[1])
        return None

    def _write(self, lines: Iterator[str]) -> None:
        text = "\n".join(lines) + "\n"
        try:
            _replace(self._path, text.encode())
        except OSError as error:
            if self._warn is not None:
                self._warn(f"--metrics-file {self._path}: can't be written: {error.strerror or error}")
            self._warn = None


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _replace(path: Path, data: bytes) -> None:
    """Readers see the old file or the new one. Collectors don't read files with the temporary name."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(MODE)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
