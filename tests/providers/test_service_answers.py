"""The answer tables, row by row: what each HTTP answer means to a submission and to other calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.errors import (
    AuthRefused,
    BalanceExhausted,
    CallError,
    NotFound,
    OutcomeUnknown,
    Rejected,
    RetryKind,
    TurnedAway,
    Unavailable,
)
from batcher.http import bodies, statuses, words
from batcher.http.exchange import ApiAnswer
from batcher.ports import CancelOutcome, Phase
from batcher.providers.runcomfy import answers
from batcher.providers.runcomfy.outputs import COUNT_MAX, DEPTH_MAX, output_texts, output_urls

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
HTML = b"<html><body>Bad gateway</body></html>"


def said(status: int, body: Any = b"", retry_after: str | None = None) -> ApiAnswer:
    encoded = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    return ApiAnswer(status, encoded, retry_after)


def submission_error(answer: ApiAnswer) -> CallError:
    with pytest.raises(CallError) as caught:
        answers.submission(answer, NOW)
    return caught.value


def result_error(answer: ApiAnswer) -> CallError:
    with pytest.raises(CallError) as caught:
        answers.result(answer, NOW)
    return caught.value


# --- submissions: docs/api.md, "What a failed POST means for money" -----------------------------------

UNDECIDED = [0, 100, 101, 199, 408, 409, 418, 423, 424, 425, 499]
UNDECIDED += [500, 501, 502, 504, 505, 507, 511, 520, 524, 599, 600, 999]

SUBMISSIONS = {
    "429 is turned away": (said(429), TurnedAway),
    "429 with Retry-After is turned away": (said(429, retry_after="3"), TurnedAway),
    "429 is turned away whatever its body says": (said(429, {"error_code": 400002}), TurnedAway),
    "429 with an unreadable body is turned away": (said(429, None), TurnedAway),
    "503 with Retry-After is turned away": (said(503, HTML, "3"), TurnedAway),
    "503 without Retry-After is unknown": (said(503, HTML), OutcomeUnknown),
    "503 with a garbled Retry-After is unknown": (said(503, HTML, "soon"), OutcomeUnknown),
    "500 with Retry-After is unknown": (said(500, HTML, "3"), OutcomeUnknown),
    "300 is rejected": (said(300), Rejected),
    "301 is rejected": (said(301), Rejected),
    "302 is rejected": (said(302), Rejected),
    "303 is rejected": (said(303), Rejected),
    "304 is rejected": (said(304), Rejected),
    "307 is rejected": (said(307), Rejected),
    "308 is rejected": (said(308), Rejected),
    "400 is rejected": (said(400), Rejected),
    "400 with an unreadable body is rejected": (said(400, None), Rejected),
    "400 with an undocumented code is rejected": (said(400, {"error_code": 400777}), Rejected),
    "400 with a request_id is rejected": (said(400, {"request_id": "r1"}), Rejected),
    "401 refuses the token": (said(401), AuthRefused),
    "401 with a code of another kind refuses the token": (
        said(401, {"error_code": 404001}),
        AuthRefused,
    ),
    "402 is no balance": (said(402), BalanceExhausted),
    "403 refuses the token": (said(403), AuthRefused),
    "404 is not found": (said(404), NotFound),
    "404 with a wrong model_id is not found": (said(404, {"error_code": 400001}), NotFound),
    "410 is not found": (said(410), NotFound),
    "422 is rejected": (said(422), Rejected),
    "error_code 400001 is not found": (said(400, {"error_code": 400001}), NotFound),
    "error_code 400002 is no balance": (said(400, {"error_code": 400002}), BalanceExhausted),
    "error_code 400004 refuses the token": (said(400, {"error_code": 400004}), AuthRefused),
    "error_code 403001 refuses the token": (said(422, {"error_code": 403001}), AuthRefused),
    "error_code 404001 is not found": (said(400, {"error_code": 404001}), NotFound),
    "error_code as text counts": (said(400, {"error_code": " 400002 "}), BalanceExhausted),
    "200 with 400001 is not found": (said(200, {"error_code": 400001}), NotFound),
    "200 with 400002 is no balance": (said(200, {"error_code": 400002}), BalanceExhausted),
    "200 with 400004 refuses the token": (said(200, {"error_code": 400004}), AuthRefused),
    "200 with 403001 refuses the token": (said(200, {"error_code": 403001}), AuthRefused),
    "200 with 404001 is not found": (said(200, {"error_code": 404001}), NotFound),
    "200 with another code is rejected": (said(200, {"error_code": 500123}), Rejected),
    "200 with a word for a code is rejected": (said(200, {"error_code": "E_NO"}), Rejected),
    "200 with an error_code and a bad id is rejected": (
        said(200, {"error_code": 7, "request_id": ""}),
        Rejected,
    ),
    "500 with a documented code is what the code says": (
        said(500, {"error_code": 400002}),
        BalanceExhausted,
    ),
    "500 with an undocumented code is unknown": (said(500, {"error_code": 500001}), OutcomeUnknown),
    "500 with a request_id is unknown": (said(500, {"request_id": "trace-1"}), OutcomeUnknown),
    "200 with error_code 0 and no id is unknown": (said(200, {"error_code": 0}), OutcomeUnknown),
    "200 with a null error_code and no id is unknown": (said(200, {"error_code": None}), OutcomeUnknown),
    "200 with an odd error_code and no id is unknown": (said(200, {"error_code": [1]}), OutcomeUnknown),
    "200 with error_code true and no id is unknown": (said(200, {"error_code": True}), OutcomeUnknown),
    "200 without a body is unknown": (said(200), OutcomeUnknown),
    "200 with an unreadable body is unknown": (said(200, None), OutcomeUnknown),
    "200 with HTML is unknown": (said(200, HTML), OutcomeUnknown),
    "200 with half an object is unknown": (said(200, b'{"request_id": "r'), OutcomeUnknown),
    "200 with a list is unknown": (said(200, ["r1"]), OutcomeUnknown),
    "200 with too deep a body is unknown": (said(200, b"[" * 100_000), OutcomeUnknown),
    "200 without an id is unknown": (said(200, {"status": "in_queue"}), OutcomeUnknown),
    "204 is unknown": (said(204), OutcomeUnknown),
    **{
        f"{status} is rejected": (said(status), Rejected) for status in sorted(statuses.CLEARLY_REJECTED)
    },
    **{f"{status} is unknown": (said(status, HTML), OutcomeUnknown) for status in UNDECIDED},
}


@pytest.mark.parametrize(("answer", "expected"), SUBMISSIONS.values(), ids=SUBMISSIONS)
def test_a_submission(answer: ApiAnswer, expected: type[CallError]) -> None:
    error = submission_error(answer)
    assert type(error) is expected
    assert error.http_status == answer.status


USABLE_IDS = {
    "plain": "r1",
    "uuid": "2f1e3c9a-7a0b-4e1d-9f55-0d6c1b2a3f44",
    "every allowed kind of character": "a.B_9~z-",
    "200 characters": "x" * 200,
    "three dots": "...",
}


@pytest.mark.parametrize("request_id", USABLE_IDS.values(), ids=USABLE_IDS)
@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_a_2xx_with_a_usable_id_is_that_id(status: int, request_id: str) -> None:
    assert answers.submission(said(status, {"request_id": request_id}), NOW) == request_id


def test_an_integer_id_is_its_text() -> None:
    assert (
        answers.submission(said(200, {"request_id": 1234567890123456789}), NOW) == "1234567890123456789"
    )


def test_an_id_wins_over_an_error_code_because_that_request_exists() -> None:
    assert answers.submission(said(200, {"request_id": "r1", "error_code": 400002}), NOW) == "r1"


def test_a_byte_order_mark_does_not_cost_an_id() -> None:
    assert answers.submission(said(200, b'\xef\xbb\xbf{"request_id": "r1"}'), NOW) == "r1"


UNUSABLE_IDS = {
    "empty": "",
    "one dot": ".",
    "two dots": "..",
    "a slash": "a/b",
    "an escaped slash": "a%2Fb",
    "a space": "a b",
    "a line break at the end": "r1\n",
    "a query": "r1?x=1",
    "non-ASCII digits": "١٢٣",
    "201 characters": "x" * 201,
    "negative zero float": -0.0,
    "a float": 1.5,
    "a boolean": True,
    "null": None,
    "a list": ["r1"],
    "an object": {"id": "r1"},
}


@pytest.mark.parametrize("request_id", UNUSABLE_IDS.values(), ids=UNUSABLE_IDS)
def test_an_unusable_id_leaves_the_outcome_unknown(request_id: object) -> None:
    assert type(submission_error(said(200, {"request_id": request_id}))) is OutcomeUnknown


def test_a_negative_integer_id_is_still_a_safe_path_segment() -> None:
    assert bodies.usable_id(-5) == "-5"


# --- Retry-After ----------------------------------------------------------------------------------

RETRY_AFTER = {
    "seconds": ("120", 120.0),
    "zero": ("0", 0.0),
    "surrounding white space": (" 5 ", 5.0),
    "fractions of a second": ("1.5", 1.5),
    "more than a day is a day": ("100000", 86_400.0),
    "more than a float is a day": ("9" * 400, 86_400.0),
    "an HTTP date": ("Sat, 31 Jan 2026 12:00:30 GMT", 30.0),
    "an HTTP date that has passed": ("Sat, 31 Jan 2026 11:00:00 GMT", 0.0),
    "an HTTP date far ahead": ("Tue, 31 Jan 2040 12:00:00 GMT", 86_400.0),
    "a date of zone -0000": ("Sat, 31 Jan 2026 12:01:00 -0000", 60.0),
    "a date of another zone": ("Sat, 31 Jan 2026 13:01:00 +0100", 60.0),
    "nothing": (None, None),
    "empty": ("", None),
    "negative": ("-5", None),
    "a word": ("soon", None),
    "nan": ("nan", None),
    "infinity": ("inf", None),
    "an exponent": ("1e3", None),
    "non-ASCII digits": ("٣", None),
    "a date that does not exist": ("Sat, 99 Jan 2026 12:00:30 GMT", None),
    "a zone that does not exist": ("Sat, 31 Jan 2026 12:00:30 +9999999999", None),
}


@pytest.mark.parametrize(("header", "wait_s"), RETRY_AFTER.values(), ids=RETRY_AFTER)
def test_retry_after(header: str | None, wait_s: float | None) -> None:
    assert answers.retry_after_s(header, NOW) == wait_s


@given(st.text(max_size=60))
def test_any_retry_after_is_nothing_or_within_a_day(header: str) -> None:
    wait_s = answers.retry_after_s(header, NOW)
    assert wait_s is None or 0 <= wait_s <= 86_400


def test_a_turned_away_call_carries_its_wait() -> None:
    error = submission_error(said(503, retry_after="7"))
    assert isinstance(error, TurnedAway)
    assert (error.retry_after_s, error.http_status) == (7.0, 503)


# --- properties -----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["request_id", "error_code", "status", "message", "error", "detail", "output", "outcome", "cost"]
)
BODIES = (
    st.none()
    | st.binary(max_size=200)
    | st.dictionaries(FIELDS, JSON | st.sampled_from([400001, 400002, 400004, 403001, 404001]))
    .map(json.dumps)
    .map(str.encode)
)
STATUSES = st.integers(0, 999) | st.sampled_from([200, 202, 400, 404, 429, 500, 503])
HEADERS = (
    st.none() | st.sampled_from(["3", "soon", "Sat, 31 Jan 2026 12:00:30 GMT"]) | st.text(max_size=20)
)


def outcome(read: Callable[[ApiAnswer, datetime], Any], answer: ApiAnswer) -> Any:
    """What ``read`` makes of an answer: a value, or an error of the tree. Anything else is a bug."""
    try:
        return read(answer, NOW)
    except CallError as error:
        return error


@given(st.builds(ApiAnswer, STATUSES, BODIES, HEADERS))
def test_a_submission_is_an_id_or_an_error_that_is_transient_only_where_turned_away(
    answer: ApiAnswer,
) -> None:
    found = outcome(answers.submission, answer)
    turned_away = answer.status == 429 or (
        answer.status == 503 and answers.retry_after_s(answer.retry_after, NOW) is not None
    )
    if isinstance(found, CallError):
        assert (found.kind is RetryKind.TRANSIENT) == turned_away
        assert len(found.message) <= 2 * words.MESSAGE_MAX_CHARS
    else:
        assert answer.ok
        assert bodies.usable_id(found) == found


@given(st.integers(200, 299), BODIES)
def test_a_submission_without_id_or_error_code_is_never_called_safe(
    status: int, body: bytes | None
) -> None:
    found = outcome(answers.submission, ApiAnswer(status, body))
    if isinstance(found, CallError) and b"error_code" not in (body or b""):
        assert type(found) is OutcomeUnknown


@given(st.builds(ApiAnswer, STATUSES, BODIES, HEADERS))
def test_no_other_call_is_ever_ambiguous_or_outside_the_tree(answer: ApiAnswer) -> None:
    for read in (answers.result, answers.cancellation, answers.catalogue_object):
        found = outcome(read, answer)
        assert not isinstance(found, CallError) or found.kind is not RetryKind.AMBIGUOUS


# --- results --------------------------------------------------------------------------------------

RESULT_ERRORS = {
    "429 is turned away": (said(429, retry_after="2"), TurnedAway),
    "503 with Retry-After is turned away": (said(503, retry_after="2"), TurnedAway),
    "503 is unavailable": (said(503), Unavailable),
    "500 is unavailable": (said(500, HTML), Unavailable),
    "500 with an undocumented code is unavailable": (said(500, {"error_code": 500001}), Unavailable),
    "504 is unavailable": (said(504), Unavailable),
    "408 is unavailable": (said(408), Unavailable),
    "499 is unavailable": (said(499), Unavailable),
    "101 is unavailable": (said(101), Unavailable),
    "302 is rejected": (said(302), Rejected),
    "400 is rejected": (said(400), Rejected),
    "400 with a status word is rejected": (said(400, {"status": "completed"}), Rejected),
    "401 refuses the token": (said(401), AuthRefused),
    "402 is no balance": (said(402), BalanceExhausted),
    "403 refuses the token": (said(403), AuthRefused),
    "404 is not found": (said(404), NotFound),
    "410 is not found": (said(410), NotFound),
    "200 with 404001 is not found": (said(200, {"error_code": 404001}), NotFound),
    "200 with 400004 refuses the token": (said(200, {"error_code": 400004}), AuthRefused),
    "200 with 403001 refuses the token": (said(200, {"error_code": 403001}), AuthRefused),
    "200 with 400002 is no balance": (said(200, {"error_code": 400002}), BalanceExhausted),
    "200 with HTML is unavailable": (said(200, HTML), Unavailable),
    "200 with an unreadable body is unavailable": (said(200, None), Unavailable),
    "200 with a list is unavailable": (said(200, [1]), Unavailable),
    "200 without a status is unavailable": (said(200, {"request_id": "r1"}), Unavailable),
    "200 with a number for a status is unavailable": (said(200, {"status": 3}), Unavailable),
    "204 is unavailable": (said(204), Unavailable),
}


@pytest.mark.parametrize(("answer", "expected"), RESULT_ERRORS.values(), ids=RESULT_ERRORS)
def test_asking_for_a_result(answer: ApiAnswer, expected: type[CallError]) -> None:
    assert type(result_error(answer)) is expected


WORDS = {
    "in_queue": Phase.QUEUED,
    "pending": Phase.QUEUED,
    "waiting": Phase.QUEUED,
    "in_progress": Phase.RUNNING,
    "starting": Phase.RUNNING,
    "processing": Phase.RUNNING,
    "completed": Phase.SUCCEEDED,
    "succeeded": Phase.SUCCEEDED,
    "failed": Phase.FAILED,
    "cancelled": Phase.CANCELLED,
    "canceled": Phase.CANCELLED,
    "COMPLETED": Phase.SUCCEEDED,
    "In_Queue": Phase.QUEUED,
    " failed ": Phase.FAILED,
    "error": Phase.UNRECOGNISED,
    "paused": Phase.UNRECOGNISED,
    "": Phase.UNRECOGNISED,
}


@pytest.mark.parametrize(("word", "phase"), WORDS.items(), ids=WORDS)
def test_a_status_word(word: str, phase: Phase) -> None:
    assert answers.result(said(200, {"status": word}), NOW).phase is phase


def test_only_three_phases_are_final() -> None:
    assert {phase for phase in Phase if phase.terminal} == {
        Phase.SUCCEEDED,
        Phase.FAILED,
        Phase.CANCELLED,
    }


def test_a_finished_result_has_its_outputs_and_its_cost() -> None:
    body = {"status": "completed", "output": {"video": "https://a.runcomfy.net/v.mp4"}, "cost": 1.4}
    found = answers.result(said(200, body), NOW)
    assert found.phase is Phase.SUCCEEDED
    assert found.word == "completed"
    assert found.urls == ("https://a.runcomfy.net/v.mp4",)
    assert found.cost_usd == 1.4
    assert found.message is None


def test_a_queued_request_tells_its_position() -> None:
    assert (
        answers.result(said(200, {"status": "in_queue", "queue_position": 4}), NOW).queue_position == 4
    )


@pytest.mark.parametrize("position", [True, 1.5, "4", None])
def test_a_queue_position_is_an_integer_or_nothing(position: object) -> None:
    body = {"status": "in_queue", "queue_position": position}
    assert answers.result(said(200, body), NOW).queue_position is None


@pytest.mark.parametrize(
    ("cost", "cost_usd"),
    [
        (0, 0.0),
        (1, 1.0),
        (0.28, 0.28),
        (-0.1, None),
        (1e300, None),
        ("0.28", None),
        (True, None),
        (None, None),
        ([1], None),
    ],
)
def test_a_cost_is_a_finite_non_negative_number_or_nothing(cost: object, cost_usd: float | None) -> None:
    assert answers.result(said(200, {"status": "completed", "cost": cost}), NOW).cost_usd == cost_usd


def test_a_cost_beyond_a_float_is_nothing() -> None:
    body = b'{"status": "completed", "cost": 1' + b"0" * 400 + b"}"
    assert answers.result(said(200, body), NOW).cost_usd is None


@pytest.mark.parametrize("field", ["error_code", "queue_position", "request_id"])
def test_integers_without_end_are_nothing(field: str) -> None:
    body = b'{"status": "in_queue", "%s": 1%s}' % (field.encode(), b"0" * 6000)
    found = outcome(answers.result, said(200, body))
    assert isinstance(found, Unavailable) or (found.error_code, found.queue_position) == (None, None)
    assert type(submission_error(said(200, body))) is OutcomeUnknown


def test_a_failed_result_tells_why() -> None:
    found = answers.result(said(200, {"status": "failed", "error": "NSFW content", "cost": 0}), NOW)
    assert (found.phase, found.message, found.cost_usd) == (Phase.FAILED, "NSFW content", 0.0)


def test_a_code_in_words_is_kept() -> None:
    body = {"status": "failed", "error": "no", "error_code": "content_policy_violation"}
    assert answers.result(said(200, body), NOW).error_code == body["error_code"]


def test_an_error_object_tells_why() -> None:
    body = {"status": "failed", "error": {"message": "out of memory", "code": 7}}
    assert answers.result(said(200, body), NOW).message == "out of memory"


NO_VERDICTS = {
    "a code alone": {"error_code": 500123, "message": "model crashed"},
    "a code and an unknown word": {"error_code": 500001, "status": "trouble"},
    "a documented code": {"error_code": 400001},
    "a code as text under another key": {"code": "500001"},
    "a gateway's error": {"http_code": 500, "message": "upstream"},
    "the body of another request": {"request_id": "r2", "status": "completed"},
}


@pytest.mark.parametrize("body", NO_VERDICTS.values(), ids=NO_VERDICTS)
def test_a_200_without_a_status_of_its_own_is_no_verdict_on_the_request(body: Any) -> None:
    with pytest.raises(Unavailable):
        answers.result(said(200, body), NOW, "r1")


@pytest.mark.parametrize("code", [400001, 400005, 500001, 400004, 400002, 404001, "E_ANY"])
@pytest.mark.parametrize("word", ["completed", "in_progress", "failed", "Cancelled"])
def test_the_status_word_outweighs_every_code_beside_it(word: str, code: object) -> None:
    body = {"error_code": code, "status": word, "error": [{"errorCode": code, "error": "x"}]}
    assert answers.result(said(200, body), NOW).phase is answers.phase_of(word)


@pytest.mark.parametrize("status", [200, 202, 400, 404, 500])
@pytest.mark.parametrize("code", [{"error_code": 400005}, {"code": "400005"}])
def test_not_ready_is_a_request_under_way_at_any_status(status: int, code: dict[str, Any]) -> None:
    assert answers.result(said(status, code), NOW).phase is Phase.RUNNING


def test_the_own_request_id_in_other_letters_is_no_other_request() -> None:
    body = {"request_id": "ABC-1", "status": "completed"}
    assert answers.result(said(200, body), NOW, "abc-1").phase is Phase.SUCCEEDED
    assert answers.result(said(200, {"request_id": 17, "status": "failed"}), NOW, "17").phase.terminal


CODES = {
    "code": {"code": 400002},
    "code as text": {"code": "400002"},
    "errorCode": {"errorCode": 400002},
    "within error": {"error": {"code": 400002}},
    "within a list": {"error": [{"errorCode": 400002, "error": "no funds", "debugInfo": ""}]},
    "within detail": {"detail": {"error_code": "400002"}},
    "within data": {"data": {"error": {"code": 10001}}},
    "no funds": {"error_code": 10001},
    "a gateway's 402": {"http_code": 402, "message": "no"},
}


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("body", CODES.values(), ids=CODES)
def test_no_balance_is_recognised_wherever_its_code_stands(status: int, body: dict[str, Any]) -> None:
    if status == 200 or "http_code" not in body:
        assert type(submission_error(said(status, body))) is BalanceExhausted


@pytest.mark.parametrize("code", [0, 1, 200, 402, True, "402", "ok", [400002], {"a": 1}])
def test_a_small_number_or_a_word_under_code_is_no_error_code(code: object) -> None:
    assert type(submission_error(said(200, {"code": code}))) is OutcomeUnknown


LENIENT = {
    "NaN": b'{"request_id": "r1", "cost": NaN}',
    "Infinity": b'{"request_id": "r1", "cost": -Infinity}',
    "a mark before UTF-8": b'\xef\xbb\xbf{"request_id": "r1"}',
    "UTF-16": '{"request_id": "r1"}'.encode("utf-16"),
    "UTF-16 big endian": '{"request_id": "r1"}'.encode("utf-16-be"),
    "bytes that are no UTF-8": b'{"request_id": "r1", "note": "caf\xe9"}',
    "half of a pair": rb'{"request_id": "r1", "note": "\ud800"}',
    "zeros behind it": b'{"request_id": "r1"}\0\0',
    "a number of 5,000 digits": b'{"request_id": "r1", "cost": %s}' % (b"9" * 5000),
    "the same key twice": b'{"request_id": "r0", "request_id": "r1"}',
}


@pytest.mark.parametrize("body", LENIENT.values(), ids=LENIENT)
def test_an_id_is_read_from_a_body_that_strict_readers_refuse(body: bytes) -> None:
    assert answers.submission(said(200, body), NOW) == "r1"


@pytest.mark.parametrize("body", [b'{"request_id": "r1"', b'{"request_id": "r1", "c": NaN', b'"r1"'])
def test_half_a_body_has_no_id(body: bytes) -> None:
    assert type(submission_error(said(200, body))) is OutcomeUnknown


def test_what_is_missing_is_said_before_the_words_of_an_answer_that_sounds_well() -> None:
    error = submission_error(said(200, {"message": "accepted"}))
    assert error.message == "an answer without a request_id: accepted"


@pytest.mark.parametrize("cost", ["NaN", "-Infinity", "-1", "true", '"free"', "1e400", "[1]"])
def test_a_cost_that_is_no_amount_is_told_apart_from_none(cost: str) -> None:
    body = b'{"status": "completed", "output": "https://x/a", "cost": %s}' % cost.encode()
    found = answers.result(said(200, body), NOW)
    assert (found.cost_usd, found.cost_is_odd, found.urls) == (None, True, ("https://x/a",))
    assert not answers.result(said(200, {"status": "completed", "cost": None}), NOW).cost_is_odd


def test_a_completed_result_with_an_error_and_no_output_is_a_success_without_outputs() -> None:
    found = answers.result(said(200, {"status": "completed", "error": "nothing rendered"}), NOW)
    assert (found.phase, found.urls, found.message) == (Phase.SUCCEEDED, (), "nothing rendered")


# --- outputs --------------------------------------------------------------------------------------

A, B, C = (f"https://x.runcomfy.net/{name}.png" for name in "abc")
OUTPUTS = {
    "one image": ({"image": A}, (A,)),
    "one video": ({"video": A}, (A,)),
    "a list of images": ({"images": [A, B]}, (A, B)),
    "a bare string": (A, (A,)),
    "a bare list": ([B, A], (B, A)),
    "a list of objects": ({"images": [{"url": A, "width": 9}, {"url": B}]}, (A, B)),
    "nested objects": ({"result": {"audio": {"url": C}}}, (C,)),
    "the answer's order": ({"z": C, "a": A, "m": [B]}, (C, A, B)),
    "no duplicates": ({"image": A, "images": [A, B, A]}, (A, B)),
    "plain http": ("http://x.runcomfy.net/a.png", ("http://x.runcomfy.net/a.png",)),
    "any case of the scheme": ("HTTPS://x.runcomfy.net/a.png", ("HTTPS://x.runcomfy.net/a.png",)),
    "a data URI is no URL": ({"image": "data:image/png;base64,AAAA"}, ()),
    "a string that mentions a URL is none": ({"prompt": f"like {A}"}, ()),
    "two URLs in one string are none": (f"{A} {B}", ()),
    "a URL with a line break is none": (f"{A}\n", ()),
    "other schemes are none": (["ftp://x/a", "file:///etc/passwd", "//x/a", "s3://b/k"], ()),
    "a scheme alone is none": ("https://", ()),
    "numbers and nulls are none": ([1, 2.5, None, True, {}], ()),
    "a huge string is none": ("https://x/" + "a" * 9000, ()),
}


@pytest.mark.parametrize(("output", "urls"), OUTPUTS.values(), ids=OUTPUTS)
def test_outputs(output: object, urls: tuple[str, ...]) -> None:
    assert answers.result(said(200, {"status": "completed", "output": output}), NOW).urls == urls


def test_only_what_is_under_output_is_an_output() -> None:
    body = {"status": "completed", "status_url": A, "input": {"image_url": B}, "output": {"image": C}}
    assert answers.result(said(200, body), NOW).urls == (C,)


def test_outputs_are_bounded_in_depth() -> None:
    nested: Any = A
    for _ in range(DEPTH_MAX):
        nested = [nested]
    assert output_urls(nested) == (A,)
    assert output_urls([nested]) == ()


def test_outputs_are_bounded_in_number() -> None:
    assert len(output_urls([f"https://x/{n}" for n in range(COUNT_MAX + 1)])) == COUNT_MAX


# --- cancelling -----------------------------------------------------------------------------------

CANCELLED, NOT_CANCELLABLE = CancelOutcome.CANCELLED, CancelOutcome.NOT_CANCELLABLE
REQUESTED = CancelOutcome.REQUESTED
CANCELS = {
    "outcome cancelled": (said(200, {"outcome": "cancelled", "status": "cancelled"}), CANCELLED),
    "outcome canceled": (said(200, {"outcome": "canceled"}), CANCELLED),
    "outcome in capitals": (said(202, {"outcome": "CANCELLED"}), CANCELLED),
    "status cancelled": (said(200, {"status": "cancelled"}), CANCELLED),
    "not cancellable, for it is cancelled": (
        said(200, {"outcome": "not_cancellable", "status": "cancelled"}),
        CANCELLED,
    ),
    "outcome not_cancellable": (
        said(200, {"outcome": "not_cancellable", "status": "in_progress"}),
        NOT_CANCELLABLE,
    ),
    "the documented example": (said(202, {"outcome": "cancelled", "status": "completed"}), CANCELLED),
    "requested as outcome": (said(202, {"outcome": "cancellation_requested"}), REQUESTED),
    "requested as status": (said(200, {"status": "Cancellation_Requested"}), REQUESTED),
    "accepted, still queued": (said(202, {"status": "in_queue"}), REQUESTED),
    "accepted without a word": (said(202), REQUESTED),
    "accepted, not cancellable": (said(202, {"outcome": "not_cancellable"}), NOT_CANCELLABLE),
    "status completed": (said(200, {"status": "completed"}), NOT_CANCELLABLE),
    "any other object": (said(200, {"ok": True}), NOT_CANCELLABLE),
    "odd types": (said(200, {"outcome": 1, "status": ["cancelled"]}), NOT_CANCELLABLE),
    "409 that says not_cancellable": (said(409, {"outcome": "not_cancellable"}), NOT_CANCELLABLE),
    "409 that says in_progress": (said(409, {"status": "in_progress"}), NOT_CANCELLABLE),
    "400 that says not_cancellable": (said(400, {"outcome": "not_cancellable"}), NOT_CANCELLABLE),
    "409 that says cancelled": (said(409, {"status": "cancelled"}), CANCELLED),
}


@pytest.mark.parametrize(("answer", "outcome"), CANCELS.values(), ids=CANCELS)
def test_a_cancel(answer: ApiAnswer, outcome: CancelOutcome) -> None:
    assert answers.cancellation(answer, NOW) is outcome


CANCEL_ERRORS = {
    "404 is not found": (said(404), NotFound),
    "404 with a status is not found": (said(404, {"status": "cancelled"}), NotFound),
    "409 without a word is rejected": (said(409), Rejected),
    "409 that says in_queue is rejected": (said(409, {"status": "in_queue"}), Rejected),
    "400 without a word is rejected": (said(400, {"message": "no"}), Rejected),
    "400 without balance is no balance": (said(400, {"error_code": 400002}), BalanceExhausted),
    "401 refuses the token": (said(401), AuthRefused),
    "200 with an error_code is rejected": (
        said(200, {"error_code": 1, "outcome": "cancelled"}),
        Rejected,
    ),
    "200 with 404001 is not found": (said(200, {"error_code": 404001}), NotFound),
    "200 without a body is unavailable": (said(200), Unavailable),
    "204 is unavailable": (said(204), Unavailable),
    "200 with HTML is unavailable": (said(200, HTML), Unavailable),
    "429 is turned away": (said(429), TurnedAway),
    "500 is unavailable": (said(500), Unavailable),
    "408 is unavailable": (said(408), Unavailable),
    "302 is rejected": (said(302), Rejected),
}


def test_a_cancel_of_another_request_says_nothing_about_this_one() -> None:
    with pytest.raises(Unavailable):
        answers.cancellation(said(202, {"request_id": "r2", "outcome": "cancelled"}), NOW, "r1")


@pytest.mark.parametrize(("answer", "expected"), CANCEL_ERRORS.values(), ids=CANCEL_ERRORS)
def test_a_cancel_that_fails(answer: ApiAnswer, expected: type[CallError]) -> None:
    with pytest.raises(CallError) as caught:
        answers.cancellation(answer, NOW)
    assert type(caught.value) is expected


# --- the catalogue --------------------------------------------------------------------------------


def test_a_catalogue_object_is_given_as_it_is() -> None:
    assert answers.catalogue_object(said(200, {"model_id": "m"}), NOW) == {"model_id": "m"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (said(404), NotFound),
        (said(200, {"error_code": 404001}), NotFound),
        (said(200, {"error_code": 5}), Rejected),
        (said(200, HTML), Unavailable),
        (said(500), Unavailable),
        (said(401), AuthRefused),
        (said(429), TurnedAway),
    ],
)
def test_a_catalogue_call_that_fails(answer: ApiAnswer, expected: type[CallError]) -> None:
    with pytest.raises(CallError) as caught:
        answers.catalogue_object(answer, NOW)
    assert type(caught.value) is expected


def test_what_the_catalogue_echoes_of_the_token_is_masked_at_any_depth() -> None:
    body = json.dumps({"model_id": "m", "note": ["a secret", {"secret": {"x": "secret"}}], "n": 1})
    found = answers.catalogue_object(
        ApiAnswer(200, body.encode(), None, lambda text: text.replace("secret", "***")), NOW
    )
    assert found == {"model_id": "m", "note": ["a ***", {"***": {"x": "***"}}], "n": 1}


# --- messages -------------------------------------------------------------------------------------

MESSAGES = {
    "message": ({"message": "bad prompt"}, "HTTP 422: bad prompt"),
    "error_message": ({"error_message": "bad prompt"}, "HTTP 422: bad prompt"),
    "error": ({"error": "bad prompt"}, "HTTP 422: bad prompt"),
    "message and detail": ({"message": "invalid", "detail": "too long"}, "HTTP 422: invalid: too long"),
    "the same twice": ({"message": "invalid", "detail": "invalid"}, "HTTP 422: invalid"),
    "a list that names fields": (
        {
            "detail": [
                {"loc": ["body", "image_url"], "msg": "required"},
                {"loc": ["body", "images", 0], "msg": "no"},
            ]
        },
        "HTTP 422: image_url: required; images.0: no",
    ),
    "a field by its name": (
        {"detail": {"field": "prompt", "message": "empty"}},
        "HTTP 422: prompt: empty",
    ),
    "a list of strings": ({"detail": ["a", "b", 3, None]}, "HTTP 422: a; b"),
    "a field without words": ({"detail": [{"loc": ["body"]}, {"loc": "seed"}]}, "HTTP 422: seed"),
    "white space and control characters": (
        {"message": " a\r\n\tb\x1b[31m\u202e "},
        "HTTP 422: a b [31m",
    ),
    "nothing said": ({"foo": 1}, 'HTTP 422: unusable answer: {"foo":1}'),
    "nesting without end": (
        {"detail": [[[[[[[["deep"]]]]]]]]},
        'HTTP 422: unusable answer: {"detail":[[[[[[[["deep"]]]]]]]]}',
    ),
    "HTML": (HTML, "HTTP 422: Bad gateway"),
    "a page's title": (
        b"<html><head><TITLE>502 Bad &amp; Gateway</TITLE></head><body>nginx</body></html>",
        "HTTP 422: 502 Bad & Gateway",
    ),
    "a page without words": (b"<html><script>x()</script></html>", "HTTP 422: no message"),
    "XML": (b"<Error><Code>AccessDenied</Code></Error>", "HTTP 422: AccessDenied"),
    "a list of errors": (
        {"error": [{"errorCode": 9, "error": "no GPU", "debugInfo": "node 7"}]},
        "HTTP 422: no GPU: node 7",
    ),
    "a gateway": ({"http_code": 502, "message": "upstream"}, "HTTP 422: upstream"),
    "failure_reason": ({"failure_reason": "nsfw"}, "HTTP 422: nsfw"),
    "a nested error": ({"error": {"error": {"message": "deep"}}}, "HTTP 422: deep"),
    "within data": ({"data": {"message": "inner"}}, "HTTP 422: inner"),
    "errors under their fields": (
        {"errors": {"prompt": ["too long"], "seed": ["no"]}},
        "HTTP 422: prompt: too long; seed: no",
    ),
    "a problem document": (
        {"title": "Bad input", "detail": "seed"},
        "HTTP 422: Bad input: seed",
    ),
    "plain text": (b"quota\x00 exceeded", "HTTP 422: unusable answer: quota exceeded"),
    "no body": (b"", "HTTP 422: no body"),
    "an unreadable body": (None, "HTTP 422: the body could not be read"),
}


@pytest.mark.parametrize(("body", "message"), MESSAGES.values(), ids=MESSAGES)
def test_a_message(body: Any, message: str) -> None:
    assert submission_error(said(422, body)).message == message


def test_a_redirect_is_called_one() -> None:
    assert submission_error(said(307)).message == "HTTP 307: a redirect, which is never followed"


def test_an_unusable_2xx_shows_how_it_began_for_whoever_settles_it_by_hand() -> None:
    assert "job-77" in submission_error(said(200, b'{"id": "job-77"')).message


def test_a_message_is_bounded() -> None:
    message = submission_error(said(400, {"message": "x" * 100_000})).message
    assert len(message) <= 520
    assert message.endswith("…")


def test_the_code_travels_with_the_error() -> None:
    error = submission_error(said(400, {"error_code": "400001"}))
    assert (error.error_code, error.code) == (400001, 400001)


def test_text_is_redacted_even_where_it_is_broken_by_control_characters() -> None:
    def hide(text: str) -> str:
        return text.replace("secret", "***")

    body = json.dumps(
        {"message": "bad secret", "detail": "sec\x00ret secret", "status": "secret"}
    ).encode()
    with pytest.raises(Rejected, match=r"^HTTP 400: bad \*\*\*: sec ret \*\*\*$"):
        answers.submission(ApiAnswer(400, body, None, hide), NOW)
    assert answers.result(ApiAnswer(200, body, None, hide), NOW).word == "***"


@pytest.mark.parametrize(
    ("output", "texts"),
    [
        ("a caption", ("a caption",)),
        (["one", "two", "one"], ("one", "two")),
        ({"text": "a caption", "prompt": "a cat", "seed": "7"}, ("a caption",)),
        ({"captions": ["one", {"text": "two", "id": "x"}]}, ("one", "two")),
        ({"image": "data:image/png;base64,AAAA"}, ("data:image/png;base64,AAAA",)),
        ({"text": "https://a.runcomfy.net/x.txt"}, ()),
        ({"text": "  "}, ()),
        ({"text": 7}, ()),
        (None, ()),
    ],
)
def test_texts_and_data_uris_under_output_are_outputs_and_echoes_are_not(output, texts):
    assert output_texts(output) == texts


def test_an_output_is_kept_for_the_record_without_signatures_and_of_bounded_size():
    url = "https://a.s3.amazonaws.com/x.png?X-Amz-Algorithm=A&X-Amz-Credential=c&X-Amz-Date=d&X-Amz-Expires=9"
    signed = f"{url}&X-Amz-SignedHeaders=host&X-Amz-Signature=topsecret"
    body = {"request_id": "r1", "status": "succeeded", "output": {"image": signed, "seed": 7}}
    got = answers.result(said(200, body), NOW)
    assert got.urls == (signed,)
    assert "topsecret" not in str(got.output)
    assert got.output["seed"] == 7
    body["output"]["long"] = "x" * 100_000
    kept = answers.result(said(200, body), NOW).output
    assert isinstance(kept, str)
    assert len(kept) <= answers.OUTPUT_MAX_BYTES
