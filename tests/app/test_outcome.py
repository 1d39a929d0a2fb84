"""What a run reports: lines about jobs, once they are on disk, and why it stopped."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from batcher.app.outcome import report_events, summarise, why_stopped
from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.errors import OutOfTimeError, RunDirError, StoppedError
from batcher.jobs.lifecycle import EventName, Stage, State
from batcher.ledger.ledger import Ledger
from batcher.ports import RunView, Silence, listens


class Heard(Silence):
    def __init__(self):
        self.events = []

    def event(self, event):
        self.events.append((event.line.event, event.ends_job, event.describe()))


class OnlyCounts:
    """An observer of a user who wrote down what the documentation of version 0.1 named."""

    def started(self, view): ...
    def changed(self, view): ...
    def warn(self, message): ...
    def finished(self, view): ...


async def test_lines_about_a_job_are_reported_once_they_are_on_disk(tmp_path):
    ledger, heard = Ledger(tmp_path, LocalDisk(), SystemClock()), Heard()
    report_events(ledger, heard)
    intended = ledger.append(EventName.SUBMITTING, "a", attempt=1, price_usd=None)
    assert heard.events == []
    await intended
    await ledger.record(EventName.FAILED, "a", stage=Stage.SUBMIT, message="no")
    await ledger.settled()
    await ledger.close()
    lines = [(name, ends, job.job) for name, ends, job in heard.events]
    assert lines == [(EventName.SUBMITTING, False, "a"), (EventName.FAILED, True, "a")]
    assert (heard.events[-1][-1].state, heard.events[-1][-1].message) == (State.FAILED, "no")


async def test_for_an_observer_that_ignores_events_none_are_kept(tmp_path):
    ledger = Ledger(tmp_path, LocalDisk(), SystemClock())
    for observer in (Silence(), OnlyCounts()):
        report_events(ledger, observer)
    assert ledger.on_durable is None
    await ledger.close()


def test_an_observer_listens_if_it_has_a_method_of_its_own():
    assert listens(Heard(), "event")
    assert not listens(Heard(), "call")
    assert not listens(OnlyCounts(), "event")
    forwarding = OnlyCounts()
    forwarding.event = Silence().event
    assert not listens(forwarding, "event")
    forwarding.event = Heard().event
    assert listens(forwarding, "event")


@pytest.mark.parametrize("planned", [1, 2, 5])
async def test_a_summary_counts_no_more_jobs_done_than_there_are(tmp_path, planned):
    """As after a shard whose manifest lost rows that are done."""
    ledger = Ledger(tmp_path, LocalDisk(), SystemClock())
    for name in ("a", "b", "c"):
        await ledger.record(EventName.SUBMITTING, name, attempt=1, price_usd=None)
        await ledger.record(EventName.FAILED, name, stage=Stage.SUBMIT, message="no")
    plan = SimpleNamespace(
        total=planned, duplicates=0, selected=planned, invalid=0, count=lambda group: 0
    )
    options = SimpleNamespace(ignore_old_failures=False, policy=SimpleNamespace(redo=False))
    prepared = SimpleNamespace(run_dir=tmp_path, plan=plan, options=options)
    view = RunView()
    summary = summarise(prepared, ledger.snapshot, view, None, 1.0)
    assert (summary.total, summary.failed, summary.pending) == (max(planned, 3), 3, max(planned - 3, 0))
    await ledger.close()


def test_what_stopped_a_run_counts_only_if_something_was_left_to_stop():
    stopped, late, disk = StoppedError("a row of them"), OutOfTimeError("over"), RunDirError("full")
    assert why_stopped(False, None, None, late) is late
    assert why_stopped(True, stopped, None, late) is None
    assert why_stopped(True, None, disk, late) is disk
    assert why_stopped(True) is None
