"""fal's answer tables, row by row: what each HTTP answer means to a submission and to other calls."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
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
    TurnedAway,
    Unavailable,
)
from batcher.http.bodies import usable_id
from batcher.http.exchange import ApiAnswer
from batcher.jobs.refusals import is_refusal
from batcher.ports import CancelOutcome, Phase, Result
from batcher.providers.fal_answers import (
    ENDED,
    Standing,
    cancellation,
    checked,
    outcome,
    standing,
    submission,
)

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
MODEL = "fal:fal-ai/flux/dev"
QUEUE = "https://queue.fal.run"
AT = f"{QUEUE}/fal-ai/flux/requests/r1"
NGINX = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
LOCKED = "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."


def said(status: int, body: Any = b"", retry_after: str | None = None, **headers: str) -> ApiAnswer:
    encoded = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ApiAnswer(status, encoded, retry_after, headers=named)


def detail(kind: str, message: str = "told", loc: str = "prompt") -> dict[str, Any]:
    echo = "data:image/png;base64," + "A" * 1000
    return {"detail": [{"loc": ["body", loc], "msg": message, "type": kind, "input": echo}]}


SUBMISSIONS = {
    "429 is turned away": (said(429), TurnedAway),
    "no money": (said(403, {"detail": LOCKED}), BalanceExhausted),
    "no money, in other words": (
        said(403, {"detail": "User is locked. Reason: TOP_UP."}),
        BalanceExhausted,
    ),
    "402": (said(402), BalanceExhausted),
    "401": (said(401, {"detail": "Authentication is required"}), AuthRefused),
    "403": (said(403, {"detail": "Forbidden"}), AuthRefused),
    "404 is no such model": (said(404, {"detail": "Application 'x' not found"}), NotFound),
    "422": (said(422, detail("missing")), Rejected),
    "400": (said(400), Rejected),
    "413": (said(413), Rejected),
    "307": (said(307), Rejected),
    "200 without an id": (said(200, {"status": "IN_QUEUE"}), OutcomeUnknown),
    "200 with no JSON": (said(200, NGINX), OutcomeUnknown),
    "200 with an id that is a path": (said(200, {"request_id": "../../x"}), OutcomeUnknown),
    "200 unread": (said(200, None), OutcomeUnknown),
    "nginx's 502": (said(502, NGINX), OutcomeUnknown),
    "nginx's 503": (said(503, NGINX), OutcomeUnknown),
    "503 with Retry-After": (said(503, NGINX, "3"), OutcomeUnknown),
    "nginx's 504": (said(504, NGINX), OutcomeUnknown),
    "500 with an id": (said(500, {"request_id": "r1"}), OutcomeUnknown),
    **{f"{status}": (said(status), OutcomeUnknown) for status in (100, 408, 409, 425, 499, 599)},
}


@pytest.mark.parametrize(("answer", "error"), SUBMISSIONS.values(), ids=SUBMISSIONS)
def test_what_a_submission_without_a_request_means(answer, error):
    with pytest.raises(CallError) as caught:
        submission(answer, NOW, MODEL, QUEUE)
    assert type(caught.value) is error


def test_a_submission_that_is_turned_away_may_name_a_wait():
    with pytest.raises(TurnedAway) as caught:
        submission(said(429, b"", "7"), NOW, MODEL, QUEUE)
    assert caught.value.retry_after_s == 7.0


def test_a_locked_account_is_named_with_its_reason():
    with pytest.raises(BalanceExhausted, match="Reason: Exhausted balance"):
        submission(said(403, {"detail": LOCKED}), NOW, MODEL, QUEUE)


def test_a_submission_keeps_the_urls_of_the_answer():
    told = {"request_id": "r1", "response_url": AT, "status_url": f"{AT}/status"}
    handle = submission(said(200, {**told, "cancel_url": f"{AT}/cancel"}), NOW, MODEL, QUEUE)
    assert (handle.model, handle.id) == (MODEL, "r1")
    assert handle.urls == {"status": f"{AT}/status", "result": AT, "cancel": f"{AT}/cancel"}


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/fal-ai/flux/requests/r1",
        "http://queue.fal.run/fal-ai/flux/requests/r1",
        "https://queue.fal.run@evil.example/requests/r1",
        "https://queue.fal.run:444/fal-ai/flux/requests/r1",
        "https://queue.fal.run/fal-ai/flux/requests/r2",
        "https://queue.fal.run/fal-ai/../requests/r1",
        f"{AT}?x=1",
        f"{QUEUE}/{'a' * 9000}/requests/r1",
        "/fal-ai/flux/requests/r1",
        7,
        None,
    ],
)
def test_a_url_that_is_not_this_requests_is_dropped(url):
    assert submission(said(200, {"request_id": "r1", "status_url": url}), NOW, MODEL, QUEUE).urls is None


STANDINGS = {
    "queued": (
        said(202, {"status": "IN_QUEUE", "queue_position": 3}),
        Standing(Phase.QUEUED, "IN_QUEUE", 3),
    ),
    "running": (
        said(202, {"status": "IN_PROGRESS", "logs": None}),
        Standing(Phase.RUNNING, "IN_PROGRESS"),
    ),
    "ended": (said(200, {"status": "COMPLETED", "metrics": {"inference_time": 1.5}}), ENDED),
    "failed": (
        said(200, {"status": "COMPLETED", "error": "boom", "error_type": "runner_server_error"}),
        Standing(Phase.SUCCEEDED, "COMPLETED", error="boom", error_type="runner_server_error"),
    ),
    "a new word": (said(202, {"status": "THINKING"}), Standing(Phase.UNRECOGNISED, "THINKING")),
    "an odd position": (
        said(202, {"status": "IN_QUEUE", "queue_position": "first"}),
        Standing(Phase.QUEUED, "IN_QUEUE"),
    ),
}


@pytest.mark.parametrize(("answer", "expected"), STANDINGS.values(), ids=STANDINGS)
def test_what_a_status_means(answer, expected):
    assert standing(answer, NOW, "r1") == expected


ASKING = {
    "401": (said(401), AuthRefused),
    "403": (said(403), AuthRefused),
    "404": (said(404, {"detail": "Request not found"}), NotFound),
    "429": (said(429, b"", "7"), TurnedAway),
    "503 with Retry-After": (said(503, b"", "7"), TurnedAway),
    "nginx's 502": (said(502, NGINX), Unavailable),
    "500": (said(500), Unavailable),
    "408": (said(408), Unavailable),
    "200 with no JSON": (said(200, NGINX), Unavailable),
    "200 unread": (said(200, None), Unavailable),
}


@pytest.mark.parametrize(("answer", "error"), ASKING.values(), ids=ASKING)
@pytest.mark.parametrize(
    "ask", [lambda one: standing(one, NOW, "r1"), lambda one: outcome(one, NOW, ENDED)]
)
def test_what_an_error_of_the_asking_means(answer, error, ask):
    with pytest.raises(CallError) as caught:
        ask(answer)
    assert type(caught.value) is error


def test_a_status_about_another_request_is_no_answer():
    with pytest.raises(Unavailable, match="another request"):
        standing(said(202, {"status": "IN_QUEUE", "request_id": "r2"}), NOW, "r1")


def test_outputs_are_the_urls_of_objects_in_their_order_and_not_what_is_echoed():
    told = {
        "prompt": "see https://example.com/echo.png",
        "image_url": "https://example.com/echo.png",
        "images": [
            {"url": "https://v3.fal.media/b.png", "content_type": "image/png"},
            {"url": "https://v3.fal.media/a.png", "content_type": "image/png"},
            {"url": "https://v3.fal.media/b.png"},
        ],
        "video": {"url": "https://v3.fal.media/c.mp4"},
        "broken": {"url": 7},
        "odd": {"url": "javascript:alert(1)"},
    }
    found = outcome(said(200, told), NOW, ENDED)
    assert (found.phase, found.word) == (Phase.SUCCEEDED, "COMPLETED")
    assert found.urls == tuple(f"https://v3.fal.media/{one}" for one in ("b.png", "a.png", "c.mp4"))
    assert found.texts == ()
    assert found.cost_usd is None


def test_a_text_is_an_output_if_there_is_no_file():
    assert outcome(said(200, {"output": "A cat.", "prompt": "?"}), NOW, ENDED).texts == ("A cat.",)
    assert outcome(said(200, {"text": "Hello."}), NOW, ENDED).texts == ("Hello.",)
    inline = {"images": [{"url": "data:image/png;base64,iVBORw0KGgo="}]}
    assert outcome(said(200, inline), NOW, ENDED).texts == ("data:image/png;base64,iVBORw0KGgo=",)


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"seed": NaN, "images": []}', b'"done"', b'\xef\xbb\xbf{"a": 1}']
)
def test_a_result_without_outputs_is_a_success_without_any(body):
    found = outcome(said(200, body), NOW, ENDED)
    assert found.phase is Phase.SUCCEEDED


def test_a_deep_result_is_read_to_some_depth():
    deep: Any = {"url": "https://v3.fal.media/a.png"}
    for _ in range(50):
        deep = {"more": [deep]}
    assert outcome(said(200, deep), NOW, ENDED).urls == ()


FAILURES: dict[str, tuple[ApiAnswer, bool, str]] = {
    "content": (
        said(422, detail("content_policy_violation", "flagged"), X_Fal_Retryable="false"),
        True,
        "content_policy_violation: prompt: flagged",
    ),
    "content without a header": (
        said(422, detail("content_policy_violation", "flagged")),
        True,
        "content_policy_violation: prompt: flagged",
    ),
    "an image that can't be loaded": (
        said(422, detail("image_load_error", "no image", "image_url")),
        True,
        "image_load_error: image_url: no image",
    ),
    "a face": (said(422, detail("face_detection_error")), True, "face_detection_error: prompt: told"),
    "an input of a wrong type": (said(422, detail("missing")), True, "missing: prompt: told"),
    "the service behind": (
        said(422, detail("downstream_service_error")),
        False,
        "downstream_service_error: prompt: told",
    ),
    "a time-out": (
        said(422, detail("generation_timeout")),
        False,
        "generation_timeout: prompt: told",
    ),
    "the header wins": (
        said(422, detail("no_media_generated"), X_Fal_Retryable="true"),
        False,
        "no_media_generated: prompt: told",
    ),
    "the older header": (
        said(500, {"detail": "x"}, X_Fal_Needs_Retry="1"),
        False,
        "x",
    ),
    "a runner": (
        said(503, {"detail": "gone"}, X_Fal_Error_Type="runner_disconnected"),
        False,
        "runner_disconnected: gone",
    ),
    "a runner with Retry-After": (
        said(503, {"detail": "gone"}, "3", X_Fal_Error_Type="runner_disconnected"),
        False,
        "runner_disconnected: gone",
    ),
    "in the body": (
        said(504, {"detail": "late", "error_type": "startup_timeout"}),
        False,
        "startup_timeout: late",
    ),
    "a bad request": (
        said(400, {"detail": "bad", "error_type": "bad_request"}),
        True,
        "bad_request: bad",
    ),
    "a model's own 422": (said(422, {"detail": "prompt is empty"}), True, "prompt is empty"),
}


@pytest.mark.parametrize(("answer", "refused", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failure_shows_at_the_result_and_tells_refusals_apart(answer, refused, message):
    found = outcome(answer, NOW, ENDED)
    assert found.phase is Phase.FAILED
    assert found.message == message
    assert is_refusal(found.error_code, found.message) is refused
    assert found.cost_usd == (0.0 if answer.status >= 500 else None)


def test_a_failure_named_by_the_status_is_one_whatever_the_result_says():
    seen = Standing(Phase.SUCCEEDED, "COMPLETED", error="boom", error_type="runner_server_error")
    found = outcome(said(502, NGINX), NOW, seen)
    assert found.phase is Phase.FAILED
    assert found.message == "runner_server_error: boom"


def test_a_page_of_a_proxy_is_no_failure_of_the_request():
    with pytest.raises(Unavailable):
        outcome(said(502, NGINX), NOW, ENDED)
    with pytest.raises(Unavailable):
        outcome(said(500, {"detail": "Internal Server Error"}), NOW, ENDED)


def test_a_locked_account_is_no_failure_of_the_request():
    with pytest.raises(BalanceExhausted):
        outcome(said(403, {"detail": LOCKED}), NOW, ENDED)


def test_a_result_asked_for_too_early_is_none():
    assert outcome(said(400, {"detail": "Request is still in progress"}), NOW, ENDED) == Result(
        Phase.RUNNING, "IN_PROGRESS"
    )


def test_what_the_client_cancelled_is_cancelled_and_free():
    body = {"detail": "Request was cancelled", "error_type": "client_cancelled"}
    found = outcome(said(499, body), NOW, ENDED)
    assert (found.phase, found.cost_usd) == (Phase.CANCELLED, 0.0)


CANCELS = {
    "requested": (said(202, {"status": "CANCELLATION_REQUESTED"}), CancelOutcome.REQUESTED),
    "requested, at 200": (said(200, {"status": "CANCELLATION_REQUESTED"}), CancelOutcome.REQUESTED),
    "too late": (said(400, {"status": "ALREADY_COMPLETED"}), CancelOutcome.NOT_CANCELLABLE),
    "no word": (said(202), CancelOutcome.REQUESTED),
}


@pytest.mark.parametrize(("answer", "expected"), CANCELS.values(), ids=CANCELS)
def test_what_a_cancel_comes_to(answer, expected):
    assert cancellation(answer, NOW) is expected


@pytest.mark.parametrize(
    ("answer", "error"),
    [(said(404, {"status": "NOT_FOUND"}), NotFound), (said(502, NGINX), Unavailable)],
)
def test_a_cancel_that_fails(answer, error):
    with pytest.raises(error):
        cancellation(answer, NOW)


def test_a_platform_error_is_told_in_its_words():
    error = {"error": {"type": "authorization_error", "message": "admin key required"}}
    with pytest.raises(AuthRefused, match="admin key required"):
        checked(said(403, error), NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["url", "detail", "type", "status", "error", "request_id", "images"]), inner
        )
    ),
    max_leaves=20,
)


@given(st.integers(100, 599), st.binary(max_size=40) | JSON.map(lambda one: json.dumps(one).encode()))
def test_no_answer_breaks_the_tables(status, body):
    """Whatever comes: a value or a CallError, and a submission never asks to be sent again by mistake."""
    answer = said(status, body)
    for ask in (
        lambda: standing(answer, NOW, "r1"),
        lambda: outcome(answer, NOW, ENDED),
        lambda: cancellation(answer, NOW),
    ):
        with suppress(CallError):
            msgspec.json.encode(ask())
    with suppress(
        AuthRefused, BalanceExhausted, Rejected, OutcomeUnknown, *[TurnedAway][: status == 429]
    ):
        assert usable_id(submission(answer, NOW, MODEL, QUEUE).id)
