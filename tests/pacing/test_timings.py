"""What the ledger's events tell of how long generations take."""

import pytest

from batcher.jobs.lifecycle import Event, EventName, RunEvent
from batcher.ledger.snapshot import Snapshot
from batcher.pacing.timings import KEYS_MAX, SPANS_PER_KEY, Span, Timings, timing_key

KEY = ("acme/film", 5)


def at(seconds):
    return f"2026-01-01T00:{seconds // 60:02d}:{seconds % 60:06.3f}Z"


def fold(snapshot, *events):
    for name, job, second, fields in events:
        snapshot.apply(Event(EventName(name), at(second), job, **fields))
    return snapshot.timings


def life(job, began, ended, **told):
    return [
        ("submitting", job, began, {"attempt": 1, "model": "acme/film", "input": {"duration": 5}}),
        ("submitted", job, began, {"request_id": job}),
        ("completed", job, ended, told),
    ]


def test_a_span_reaches_from_the_last_poll_that_found_nothing_to_the_one_that_saw_the_end():
    assert fold(Snapshot(), *life("a", 10, 70, unfinished_s=55.0)).spans(KEY) == [Span(55.0, 60.0)]


def test_a_ledger_that_does_not_tell_of_the_poll_before_leaves_room_for_it():
    (span,) = fold(Snapshot(), *life("a", 10, 75)).spans(KEY)
    assert (span.after_s, span.by_s) == (pytest.approx(50), 65)


def test_a_request_that_outlived_its_run_tells_nothing_but_keeps_its_key():
    snapshot = Snapshot()
    fold(snapshot, *life("a", 10, 70)[:2])
    snapshot.apply_run(RunEvent(run="2", at=at(30)))
    assert snapshot.timings.key_of("a") == KEY
    assert fold(snapshot, life("a", 10, 70)[2]).spans(KEY) == []


@pytest.mark.parametrize(
    ("name", "fields"), [("cancelled", {}), ("failed", {"stage": "generate"}), ("deferred", {})]
)
def test_requests_that_came_to_nothing_teach_nothing(name, fields):
    timings = fold(Snapshot(), *life("a", 10, 70)[:2], (name, "a", 40, fields))
    assert (timings.key_of("a"), timings.count(KEY)) == (None, 0)


@pytest.mark.parametrize("ended", ["2026-01-01T00:00:01.000Z", "no time at all", ""])
def test_a_clock_that_was_set_back_or_makes_no_sense_is_passed_over(ended):
    timings = Timings()
    timings.submitting("a", "acme/film", {"duration": 5})
    timings.accepted("a", at(10))
    timings.completed("a", ended, 3.0)
    assert timings.spans(KEY) == []


def test_what_is_kept_does_not_grow_with_the_ledger():
    timings = Timings()
    for number in range(3 * SPANS_PER_KEY):
        for model in ("one", "two"):
            timings.submitting("job", model, {"n": number})
            timings.accepted("job", at(0))
            timings.completed("job", at(number % 3000), None)
    assert timings.count(("one", None)) == timings.count(("two", None)) == SPANS_PER_KEY
    for number in range(2 * KEYS_MAX):
        timings.submitting("job", "one", {"duration": number})
        timings.accepted("job", at(0))
        timings.completed("job", at(9), None)
    assert sum(timings.count(("one", number)) for number in range(2 * KEYS_MAX)) <= KEYS_MAX
    assert timings.key_of("job") is None


@pytest.mark.parametrize(
    ("inputs", "length"),
    [
        ({}, None),
        ({"duration": 5}, 5),
        ({"prompt": "x", "num_frames": "81"}, "81"),
        ({"duration": [1]}, None),
    ],
)
def test_requests_are_told_apart_by_model_and_length(inputs, length):
    assert timing_key("acme/film", inputs) == ("acme/film", length)
