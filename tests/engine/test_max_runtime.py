"""``--max-runtime``: a run ends in time, and what it leaves is for the next one."""

import pytest

from batcher.errors import OutOfTimeError
from tests.support.engine import Batch, in_virtual_time, some_jobs


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


async def run_for(batch, jobs, max_runtime_s, **pace):
    began_s = batch.clock.monotonic()
    ended = await batch.run(
        jobs, max_runtime_s=max_runtime_s, ends_s=began_s + max_runtime_s, grace_s=1.0, **pace
    )
    return ended, batch.clock.monotonic() - began_s


@in_virtual_time
async def test_nothing_is_submitted_that_could_not_end_in_time_once_a_duration_was_seen(batch):
    batch.api.takes_s = 30.0
    ended, took_s = await run_for(batch, some_jobs(20), 100.0, concurrency=1)
    assert isinstance(ended.error, OutOfTimeError)
    assert ended.error.exit_code == 3
    assert took_s <= 100.0
    assert "submitted" not in ended.states
    assert len(batch.api.posts) == 3


@in_virtual_time
async def test_what_outlasts_the_time_is_left_at_the_api_and_downloaded_by_the_next_run(batch):
    batch.api.takes_s = 300.0
    ended, took_s = await run_for(batch, some_jobs(2), 100.0)
    assert took_s <= 100.0
    assert ended.states == {"submitted": 2}
    ended = await batch.run(some_jobs(2))
    assert (ended.states, len(batch.api.posts)) == ({"done": 2}, 2)


@in_virtual_time
async def test_a_run_without_a_limit_takes_as_long_as_it_takes(batch):
    batch.api.takes_s = 300.0
    ended = await batch.run(some_jobs(2))
    assert (ended.error, ended.states) == (None, {"done": 2})
