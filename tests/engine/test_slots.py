"""Caps on the unfinished requests of some models: ``-c 'kling/*=4'``."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.app.asked import options_from
from batcher.engine.canary import Canary
from batcher.engine.slots import ModelCaps
from batcher.errors import IncompleteError, UsageError
from batcher.options.facts import JobShare
from batcher.options.given import Given
from batcher.options.table import BY_KEY
from tests.support.engine import Batch, in_virtual_time, job

KLING, FLUX = "kling/a", "flux/dev"
MODELS = {"kling-b": "kling/b", "kling": KLING}


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


def jobs_of(model, count):
    return [job(f"{model.partition('/')[0]}-{number:02d}", model=model) for number in range(count)]


def peaks(batch):
    """The most unfinished requests at once, by the first word of their prompts."""
    now, most = Counter(), Counter()
    submit, result = batch.api.submit, batch.api.result

    async def counted_submit(model, body):
        now[model] += 1
        most[model] = max(most[model], now[model])
        return await submit(model, body)

    async def counted_result(request_id):
        known = await result(request_id)
        if known.phase.terminal:
            model = next((one for word, one in MODELS.items() if word in request_id.id), FLUX)
            now[model] -= 1
        return known

    batch.api.submit, batch.api.result = counted_submit, counted_result
    return most


@in_virtual_time
async def test_a_capped_model_keeps_to_its_cap_and_holds_up_no_other(batch):
    most = peaks(batch)
    ended = await batch.run(
        [*jobs_of(KLING, 20), *jobs_of(FLUX, 20)], concurrency=8, model_caps={"kling/*": 2}
    )
    assert ended.states == {"done": 40}
    assert most[KLING] == 2
    assert most[FLUX] >= 6
    assert batch.api.peak == 8
    last_s = max(at_s for at_s, prompt in batch.api.posts if prompt.startswith("flux"))
    assert last_s < 40, "20 jobs of 10 s, 6 at a time, beside 100 s of the others"


@in_virtual_time
async def test_all_that_match_a_pattern_count_together(batch):
    most = peaks(batch)
    both = [*jobs_of(KLING, 6), *(job(f"kling-b{n}", model="kling/b") for n in range(6))]
    await batch.run(both, concurrency=8, model_caps={"kling/*": 3, "kling/b": 1})
    assert batch.api.peak == 3
    assert most["kling/b"] == 1


@in_virtual_time
async def test_it_holds_with_a_limit_that_is_found_out(batch):
    most = peaks(batch)
    await batch.run([*jobs_of(KLING, 9), *jobs_of(FLUX, 9)], adapts=True, model_caps={"kling/*": 2})
    assert most[KLING] == 2
    assert most[FLUX] > 2


@in_virtual_time
async def test_requests_of_earlier_runs_count(batch):
    async def halt(runner):
        await asyncio.sleep(5)
        runner.control.halt(IncompleteError("stop"))

    await batch.run(jobs_of(KLING, 4), concurrency=4, meanwhile=halt)
    await batch.run(jobs_of(KLING, 8), concurrency=8, model_caps={"kling/*": 2})
    began_s = sorted(at_s for at_s, _ in batch.api.posts)[4:]
    assert len(began_s) == 4
    assert min(began_s) > 10, "the four that ran on come first"


@in_virtual_time
async def test_a_cap_that_is_full_for_good_leaves_its_jobs_and_the_run_goes_on(batch):
    batch.api.takes_s = 10_000
    ended = await batch.run(
        jobs_of(KLING, 3), concurrency=8, job_timeout_s=50.0, model_caps={"kling/*": 1}
    )
    assert len(batch.api.posts) == 1
    assert "fill -c kling/*=1" in str(ended.error)


@in_virtual_time
async def test_the_canary_is_no_way_around_it_and_does_not_wait_for_ever(batch):
    jobs = [*jobs_of(KLING, 3), *jobs_of(FLUX, 2)]

    async def with_canary(runner):
        runner._canary = Canary(
            frozenset(one.id for one in jobs[:2]), JobShare(0.0), runner._ledger.snapshot, batch.clock
        )

    ended = await batch.run(jobs, concurrency=8, model_caps={"kling/*": 1}, meanwhile=with_canary)
    assert ended.states == {"done": 5}
    began_s = [at_s for at_s, prompt in batch.api.posts if prompt.startswith("flux")]
    assert min(began_s) > 10, "after the canary"


@given(
    st.dictionaries(st.sampled_from(["kling/*", "kling/a", "*/a", "flux/dev"]), st.integers(1, 3)),
    st.lists(st.tuples(st.sampled_from([KLING, "kling/b", FLUX, None]), st.booleans())),
)
def test_no_cap_is_passed_whatever_begins_and_ends(limits, deeds):
    caps, held = ModelCaps(limits), []
    for model, begins in deeds:
        if begins and caps.has_room(model):
            caps.hold(model)
            held.append(model)
        elif not begins and held:
            caps.free(held.pop())
        for pattern, limit in limits.items():
            assert sum(pattern in caps.patterns(one) for one in held) <= limit


@pytest.mark.parametrize(
    "typed",
    [
        ["16", "kling/*=4"],
        "16,kling/*=4",
        {"*": 16, "kling/*": 4},
        {"kling/*": "4", "*": "16"},
        ["*=16", "kling/*=4"],
    ],
)
def test_it_is_written_as_a_mapping_or_typed(typed):
    option = BY_KEY["concurrency"]
    value = option.value(typed)
    pace = options_from(Given(("m.csv",), {"concurrency": value})).pace
    assert (pace.concurrency, pace.adapts, dict(pace.model_caps)) == (16, False, {"kling/*": 4})
    assert option.value(option.shown(value)) == value


def test_a_number_alone_and_caps_alone_leave_the_other_as_it_is():
    option = BY_KEY["concurrency"]
    alone = options_from(Given(("m.csv",), {"concurrency": option.value(3)})).pace
    assert (alone.concurrency, dict(alone.model_caps)) == (3, {})
    caps = options_from(Given(("m.csv",), {"concurrency": option.value("kling/*=4")})).pace
    assert (caps.concurrency, dict(caps.model_caps)) == (8, {"kling/*": 4})
    auto = options_from(Given(("m.csv",), {"concurrency": option.value("auto,kling/*=4")})).pace
    assert (auto.adapts, dict(auto.model_caps)) == (True, {"kling/*": 4})


@pytest.mark.parametrize(
    "wrong", ["kling/*=0", "kling/*=many", "kling/*=auto", True, 0, {"kling/*": []}]
)
def test_what_is_no_cap_is_refused(wrong):
    with pytest.raises((ValueError, UsageError), match=r"\S"):
        options_from(Given(("m.csv",), {"concurrency": BY_KEY["concurrency"].value(wrong)}))
