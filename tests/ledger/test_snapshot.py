"""The snapshot: done jobs are packed, and nobody can tell."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings

import batcher.ledger.snapshot
from batcher.jobs.job import Probed
from batcher.jobs.lifecycle import Event, EventName, Stage, State
from tests.support.histories import (
    AT,
    HISTORIES,
    JOBS,
    facts,
    folded,
    open_ledger,
    play,
    record_facts,
    told,
)

DIGEST = "0123456789abcdef"
FILE = Probed("media/cat.mp4", 1, "a" * 64, "video/mp4", width=320)
BOUGHT = (
    Event(EventName.SUBMITTING, AT, "cat", 1, "acme/0", {"n": 1}, digest=DIGEST, price_usd=1.0),
    Event(EventName.SUBMITTED, AT, "cat", 1, request_id="r1"),
)
FINISHED = (
    Event(EventName.COMPLETED, AT, "cat", 1),
    Event(EventName.DONE, AT, "cat", 1, files=(FILE,)),
)


@pytest.fixture(autouse=True)
def packed_at_once(monkeypatch):
    monkeypatch.setattr(batcher.ledger.snapshot, "KEPT_OPEN", 0)


def told_by_a_run(path, history):
    """Write ``history``, packing as it goes; what the run knows in the end."""

    async def run():
        ledger = open_ledger(path)
        for event in history:
            play(ledger, event)
            await ledger.settled()
        said = facts(ledger.snapshot)
        await ledger.close()
        return said

    return asyncio.run(run())


@settings(max_examples=60)
@given(HISTORIES)
def test_packing_loses_nothing_neither_for_the_run_nor_for_who_reads_its_ledger(history):
    expected = told(history)
    with tempfile.TemporaryDirectory() as folder:
        assert told_by_a_run(Path(folder), history) == facts(expected)
        snapshot = folded(Path(folder))
        assert facts(snapshot) == facts(expected)
        assert dict(snapshot.unfinished()).keys() == dict(expected.unfinished()).keys()
        for job in JOBS:
            if (record := snapshot.records.reopen(job)) is not None:
                assert record_facts(record) == record_facts(expected.records[job])
                assert snapshot.line_at(record.done_offset).event is EventName.DONE
                assert snapshot.line_at(record.input_offset).input is not None
        assert facts(snapshot)["jobs"] == facts(expected)["jobs"]
        assert snapshot.counts == expected.counts


def test_a_done_job_is_packed_and_comes_back_when_it_is_bought_again(tmp_path):
    told_by_a_run(tmp_path, BOUGHT + FINISHED)
    snapshot = folded(tmp_path)
    assert (snapshot.counts[State.DONE], snapshot.records.open) == (1, {})
    snapshot.apply(Event(EventName.SUBMITTING, AT, "cat", 2, price_usd=1.0))
    assert list(snapshot.records.open) == ["cat"]
    assert snapshot.records["cat"].replaced.files[0].path == FILE.path
    assert len(snapshot.records) == 1


def test_a_charge_that_is_not_what_the_api_once_reported_survives(tmp_path):
    """It said that a failure was free; asked again, the request went on, and counts at its price."""
    failed = Event(EventName.FAILED, AT, "cat", 1, stage=Stage.GENERATE, cost_usd=0.0)
    history = (*BOUGHT, failed, BOUGHT[1], *FINISHED)
    told_by_a_run(tmp_path, history)
    record = folded(tmp_path).records["cat"]
    assert (record.charge_usd, record.reported_usd) == (1.0, 0.0)


@pytest.mark.parametrize("digest", [None, "", "0123", DIGEST.upper(), "z" * 16, " 123456789abcde"])
def test_a_job_that_is_unlike_others_is_kept_as_it_is(tmp_path, digest):
    intent = Event(EventName.SUBMITTING, AT, "cat", 1, input={}, digest=digest, price_usd=None)
    told_by_a_run(tmp_path, (intent, BOUGHT[1], *FINISHED))
    snapshot = folded(tmp_path)
    assert list(snapshot.records.open) == ["cat"]
    assert snapshot.records["cat"].digest == (digest or None)
