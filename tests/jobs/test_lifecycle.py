"""The transition table, and the fold of events into states and money."""

import pytest

from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import (
    TRANSITIONS,
    Event,
    EventName,
    IllegalTransition,
    RunEvent,
    Stage,
    State,
    next_state,
)
from batcher.ledger.snapshot import Snapshot

AT = "2026-01-01T00:00:00.000Z"


def event(name: EventName, job: str = "cat", **fields) -> Event:
    fields.setdefault("attempt", 1)
    return Event(event=name, at=AT, job=job, **fields)


def fold(*events: Event) -> Snapshot:
    snapshot = Snapshot()
    for offset, one in enumerate(events):
        snapshot.apply(one, offset)
    return snapshot


SUBMITTING = event(EventName.SUBMITTING, price_usd=1.4, model="m", digest="d", input={"prompt": "cat"})
SUBMITTED = event(EventName.SUBMITTED, request_id="r1")


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("name", [e for e in EventName if e not in ("run", "orphaned", "relisted")])
def test_every_pair_of_state_and_event_is_either_in_the_table_or_raises(state, name):
    if (state, name) in TRANSITIONS:
        assert next_state(state, name) is TRANSITIONS[state, name]
    else:
        with pytest.raises(IllegalTransition, match=f"{state}.*{name}"):
            next_state(state, name)


def test_every_state_can_be_reached_and_only_submitting_leads_back_to_a_purchase():
    assert set(TRANSITIONS.values()) == set(State)
    to_unknown = {name for (_, name), after in TRANSITIONS.items() if after is State.UNKNOWN}
    assert to_unknown == {EventName.SUBMITTING, EventName.UNANSWERED}


def test_an_intent_without_an_answer_is_unknown_and_may_have_been_charged():
    snapshot = fold(SUBMITTING)
    assert snapshot.records["cat"].state is State.UNKNOWN
    assert snapshot.spent_usd == pytest.approx(1.4)


def test_a_deferred_job_is_pending_and_cost_nothing():
    snapshot = fold(SUBMITTING, event(EventName.DEFERRED, reason="429"))
    assert snapshot.counts[State.PENDING] == 1
    assert snapshot.spent_usd == 0


def test_a_reported_cost_replaces_the_price():
    snapshot = fold(SUBMITTING, SUBMITTED, event(EventName.COMPLETED, cost_usd=1.2))
    assert snapshot.spent_usd == pytest.approx(1.2)


def test_a_failure_at_generate_stays_in_the_sum_and_one_at_submit_does_not():
    generate = fold(SUBMITTING, SUBMITTED, event(EventName.FAILED, stage=Stage.GENERATE))
    submit = fold(SUBMITTING, event(EventName.FAILED, stage=Stage.SUBMIT, code=422))
    assert (generate.spent_usd, submit.spent_usd) == (pytest.approx(1.4), 0)


def test_a_confirmed_cancel_costs_nothing():
    assert fold(SUBMITTING, SUBMITTED, event(EventName.CANCELLED)).spent_usd == 0


def test_every_attempt_counts_not_only_the_last():
    again = event(EventName.SUBMITTING, attempt=2, price_usd=2.0)
    snapshot = fold(SUBMITTING, SUBMITTED, event(EventName.FAILED, stage=Stage.GENERATE), again)
    assert snapshot.spent_usd == pytest.approx(3.4)


def test_attempts_without_a_price_are_counted_apart_until_a_cost_is_reported():
    unpriced = event(EventName.SUBMITTING, price_usd=None)
    assert fold(unpriced, SUBMITTED).unpriced_attempts == 1
    assert fold(unpriced, SUBMITTED, event(EventName.COMPLETED, cost_usd=1.0)).unpriced_attempts == 0
    assert fold(unpriced, event(EventName.DEFERRED)).unpriced_attempts == 0


def test_an_orphan_counts_in_the_money_but_in_no_state():
    snapshot = fold(SUBMITTING, SUBMITTED, event(EventName.ORPHANED))
    assert sum(snapshot.counts.values()) == 0
    assert snapshot.orphaned == 1
    assert snapshot.spent_usd == pytest.approx(1.4)
    snapshot.apply(event(EventName.RELISTED))
    assert (snapshot.counts[State.SUBMITTED], snapshot.orphaned) == (1, 0)


def test_bytes_follow_the_files_of_the_last_attempt():
    files = (Artifact("media/cat.mp4", 10, "aa"), Artifact("media/cat.1.mp4", 5, "bb"))
    done = [SUBMITTING, SUBMITTED, event(EventName.COMPLETED), event(EventName.DONE, files=files)]
    assert fold(*done).bytes == 15
    assert fold(*done, event(EventName.SUBMITTING, attempt=2, price_usd=1.0)).bytes == 0


def test_an_illegal_event_changes_nothing():
    snapshot = fold(SUBMITTING)
    with pytest.raises(IllegalTransition):
        snapshot.apply(event(EventName.DONE))
    assert snapshot.records["cat"].state is State.UNKNOWN


def test_the_last_run_is_kept_and_known_to_have_ended():
    snapshot = Snapshot()
    snapshot.apply_run(RunEvent(run="a", at=AT, total=3))
    (run,) = snapshot.runs.values()
    assert (snapshot.last_run.total, run.ended) == (3, False)
    snapshot.apply_run(RunEvent(run="a", at=AT, ended=True))
    assert (snapshot.last_run.total, run.ended) == (3, True)
