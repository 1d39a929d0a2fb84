"""Where the lines of a run go if its ledger is moved meanwhile."""

import pytest

from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.errors import RunDirError
from batcher.jobs.lifecycle import EventName
from batcher.layout import LEDGER_NAME
from batcher.ledger.ledger import Ledger
from tests.support.faults import events


def open_ledger(path):
    return Ledger(path, LocalDisk(), SystemClock())


async def test_a_ledger_that_was_moved_takes_the_answers_on_their_way_and_ends_the_run(tmp_path):
    here, there, stopped = tmp_path / "run", tmp_path / "moved", []
    ledger = open_ledger(here)
    ledger.call_if_moved(stopped.append)
    await ledger.record(EventName.SUBMITTING, "cat", attempt=1, price_usd=None)
    assert not stopped
    here.rename(there)
    await ledger.record(EventName.SUBMITTED, "cat", request_id="r1")
    assert "was moved to" in str(stopped[0])
    await ledger.close()
    assert list(events(there)) == ["submitting", "submitted"]
    assert not here.exists()


async def test_a_moved_ledger_that_something_else_wrote_takes_nothing_more(tmp_path):
    ledger = open_ledger(tmp_path / "run")
    await ledger.record(EventName.SUBMITTING, "cat", attempt=1, price_usd=None)
    there = (tmp_path / "run").rename(tmp_path / "moved") / LEDGER_NAME
    there.write_bytes(there.read_bytes() + b"\n")
    with pytest.raises(RunDirError, match="changed or replaced"):
        await ledger.record(EventName.SUBMITTED, "cat", request_id="r1")
    await ledger.close()
