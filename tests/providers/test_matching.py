"""Matching lost submissions with a provider's list: never wrong, and decided if it can be."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.ports import Handle, Lost
from batcher.providers.matching import ListedRequest, match

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "replicate:acme/paint"


def at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def lost(job_id: str, sent_s: float = 0.0, **inputs: object) -> Lost:
    return Lost(job_id, MODEL, {"prompt": "a cat", **inputs}, at(sent_s))


def listed(
    request_id: str, created_s: float = 1.0, model: str = MODEL, **inputs: object
) -> ListedRequest:
    return ListedRequest(Handle(model, request_id), {"prompt": "a cat", **inputs}, at(created_s))


def verdicts(ones, requests, *, known=(), settled=True):
    found = match(ones, requests, lambda one: one in known, lambda one: settled)
    return {job: trace.request.id if trace.request else None for job, trace in found.items()}


def test_one_hit_is_adopted_and_none_means_that_nothing_was_created():
    ones = [lost("a", prompt="one"), lost("b", prompt="two")]
    assert verdicts(ones, [listed("r1", prompt="one")]) == {"a": "r1", "b": None}


def test_until_all_must_be_listed_no_hit_decides_nothing():
    ones = [lost("a", prompt="one"), lost("b", prompt="two")]
    assert verdicts(ones, [listed("r1", prompt="one")], settled=False) == {"a": "r1"}


def test_inputs_that_the_provider_added_do_not_matter_and_others_do():
    ones = [lost("a", seed=1)]
    assert verdicts(ones, [listed("r1", seed=1, steps=20)]) == {"a": "r1"}
    assert verdicts(ones, [listed("r1", seed=2)]) == {"a": None}


@pytest.mark.parametrize("other", [{"model": "replicate:acme/other"}, {"created_s": -60.0}])
def test_a_request_of_another_model_or_of_before_is_none_of_ours(other):
    assert verdicts([lost("a")], [listed("r1", **other)]) == {"a": None}


def test_a_request_of_long_after_may_be_anyones():
    assert verdicts([lost("a")], [listed("r1", created_s=3000.0)]) == {}


def test_a_request_of_another_attempt_is_not_given_away_again():
    assert verdicts([lost("a")], [listed("r1")], known={"r1"}) == {"a": None}


def test_equal_jobs_are_matched_by_their_number():
    ones = [lost("a", 0), lost("b", 10)]
    requests = [listed("r2", 11), listed("r1", 1)]
    assert verdicts(ones, requests) == {"a": "r1", "b": "r2"}
    assert verdicts(ones, requests[:1]) == {"a": "r2", "b": None}
    assert verdicts(ones, requests[:1], settled=False) == {}


def test_more_requests_than_jobs_decide_nothing():
    assert verdicts([lost("a")], [listed("r1"), listed("r2")]) == {}


def test_a_request_that_fits_two_different_jobs_decides_nothing():
    ones = [lost("a"), lost("b", seed=1)]
    assert verdicts(ones, [listed("r1", seed=1)]) == {}


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 4), st.booleans())
def test_no_verdict_is_ever_wrong(seed, jobs, kinds, settled):
    """Each lost POST created a request or not; the list has all of them once it is settled."""
    rng = random.Random(seed)
    ones = [lost(f"j{n}", rng.uniform(0, 30), prompt=str(rng.randrange(kinds))) for n in range(jobs)]
    requests, truth = [], {}
    for one in ones:
        if rng.random() < 0.5:
            truth[one.job_id] = f"r-{one.job_id}"
            created_s = (one.sent_at - EPOCH).total_seconds() + rng.uniform(0, 200)
            request = listed(truth[one.job_id], created_s, **one.input, steps=20)
            if settled or rng.random() < 0.5:
                requests.append(request)
    rng.shuffle(requests)
    found = match(ones, requests, lambda one: False, lambda one: settled)
    by_kind = {one.job_id: one.input["prompt"] for one in ones}
    owners = {request_id: by_kind[job] for job, request_id in truth.items()}
    for job, trace in found.items():
        if trace.request is not None:
            assert owners[trace.request.id] == by_kind[job]  # one of an equal job
    adopted = [trace.request.id for trace in found.values() if trace.request]
    assert len(adopted) == len(set(adopted))
    if settled:
        assert set(found) == set(by_kind)
        assert sorted(adopted) == sorted(truth.values())  # all that were paid for, and no others
