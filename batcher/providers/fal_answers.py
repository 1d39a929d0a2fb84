"""What fal's HTTP answers mean: the tables of its queue and Platform APIs as pure functions, no I/O.

A submission, and every other call:

==============================================  ==================  ==================
answer                                          to a submission     to any other call
==============================================  ==================  ==================
2xx with a usable ``request_id``                that request        (the answer)
402; 403 "User is locked" (for any reason)      BalanceExhausted    BalanceExhausted
401, any other 403                              AuthRefused         AuthRefused
429                                             TurnedAway          TurnedAway
503 with ``Retry-After``                        OutcomeUnknown      TurnedAway
404, 410                                        NotFound            NotFound
3xx, 400, 422, other clear 4xx                  Rejected            Rejected
anything else                                   OutcomeUnknown      Unavailable
==============================================  ==================  ==================

A 502 to 504 may come from the proxy before fal, with an nginx page. For a submission it proves nothing:
the request may be in the queue. fal's own client sends it again; we never do.

The status of a request is ``IN_QUEUE`` or ``IN_PROGRESS`` (HTTP 202) or ``COMPLETED`` (200), which only
says that it has ended. Then the result is the model's bare JSON (200), or the HTTP status and the body
*of the failure*. So an error there may be about the request or about the GET. It is the request's if
something says so: an ``error`` beside the status, a header ``X-Fal-Error-Type`` or ``X-Fal-Retryable``,
an ``error_type`` or a list of typed ``detail`` in the body; or a 4xx that can't be about a GET. All
others are errors of the GET: if one counted as a failure, an output that was paid for would be lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any, Final

import msgspec

from batcher.errors import (
    BalanceExhausted,
    CallError,
    OutcomeUnknown,
    TurnedAway,
    Unavailable,
)
from batcher.http.bodies import document_of, is_plain_int, own_id, usable_id
from batcher.http.exchange import ApiAnswer, is_at
from batcher.http.headers import retry_after_s
from batcher.http.statuses import BY_STATUS
from batcher.http.words import clean, said, words
from batcher.jobs.job import recorded
from batcher.ports import CancelOutcome, Handle, Phase, Result
from batcher.providers.runcomfy.answers import explain
from batcher.providers.runcomfy.outputs import output_texts

URL_MAX_CHARS: Final = 8192
OUTPUT_MAX_BYTES: Final = 32 << 10
DEPTH_MAX: Final = 16
COUNT_MAX: Final = 1000
TYPES_SHOWN: Final = 3

STATUSES: Final[dict[int, type[CallError]]] = {**BY_STATUS, 429: TurnedAway}
OF_THE_INPUTS: Final = frozenset({400, 405, 413, 415, 422, 451})
"""Statuses of a result that can't be about a GET without a body: they are the failure's."""
NEVER_A_FAILURE: Final = frozenset({401, 402, 429})
MAY_PASS: Final = frozenset(
    {"internal_server_error", "generation_timeout"}
    | {"downstream_service_error", "downstream_service_unavailable"}
)
"""Types of a model's errors that another attempt may avoid."""
CANCELLED_TYPE: Final = "client_cancelled"
PHASES: Final = {
    "in_queue": Phase.QUEUED,
    "in_progress": Phase.RUNNING,
    "completed": Phase.SUCCEEDED,
    "cancelled": Phase.CANCELLED,
    "canceled": Phase.CANCELLED,
}
URLS: Final = {"status": "status_url", "result": "response_url", "cancel": "cancel_url"}

_LOCKED = re.compile(r"user is locked|exhausted balance", re.IGNORECASE)
_NOT_ENDED = re.compile(r"still in progress|not (yet )?(completed|finished|ready)", re.IGNORECASE)
_WEB_URL = re.compile(r"https?://[^\s\x00-\x1f\x7f]+", re.IGNORECASE)


class Standing(msgspec.Struct, frozen=True):
    """What the status call says. ``SUCCEEDED`` here only means that the request has ended."""

    phase: Phase
    word: str
    queue_position: int | None = None
    error: str = ""
    """The words of a failure, if the status names one already."""
    error_type: str = ""


ENDED: Final = Standing(Phase.SUCCEEDED, "COMPLETED")


def submission(answer: ApiAnswer, now: datetime, model: str, base_url: str) -> Handle:
    """The request in the answer to a job's POST. Raises by the table's first column.

    Keeps the answer's URLs that are at the origin of ``base_url`` and about this request; the others are
    derived from the id.
    """
    document = document_of(answer.body)
    request_id = own_id(document, answer.redact) if answer.ok else None
    if request_id is None:
        verdict = _verdict(answer, document)
        if verdict is TurnedAway:
            raise _turned_away(answer, document, now)
        raise _error(verdict or OutcomeUnknown, answer, document)
    urls = {
        call: url
        for call, name in URLS.items()
        if isinstance(url := document.get(name), str) and _is_about(url, request_id, base_url)
    }
    return Handle(model, request_id, urls or None)


def _is_about(url: str, request_id: str, base_url: str) -> bool:
    if len(url) > URL_MAX_CHARS or not is_at(base_url, url):
        return False
    segments = url.split("/")
    return request_id in segments and not {".", ".."} & set(segments)


def standing(answer: ApiAnswer, now: datetime, request_id: str) -> Standing:
    """What a status answer says of ``request_id``. Raises by the table's second column."""
    document = checked(answer, now)
    word = document.get("status")
    if _is_of_another(document, request_id):
        raise Unavailable("the API answered about another request", http_status=answer.status)
    if not isinstance(word, str) or not word.strip():
        raise _error(Unavailable, answer, document)
    position = document.get("queue_position")
    return Standing(
        phase=PHASES.get(word.strip().lower(), Phase.UNRECOGNISED),
        word=shown(word, answer),
        queue_position=position if is_plain_int(position) else None,
        error=shown(words(document.get("error")), answer),
        error_type=_word(document.get("error_type")),
    )


def outcome(answer: ApiAnswer, now: datetime, seen: Standing) -> Result:
    """What the answer at the result's URL says of a request that has ended.

    Raises by the table's second column for errors of the GET.
    """
    document = document_of(answer.body)
    if answer.ok:
        return _success(answer, seen)
    if answer.status in (400, 404, 409, 422, 425) and _NOT_ENDED.search(said(document)):
        return Result(Phase.RUNNING, "IN_PROGRESS")
    if answer.status not in NEVER_A_FAILURE and _is_failure(answer, document, seen):
        return _failure(answer, document, seen)
    checked(answer, now)
    raise _error(Unavailable, answer, document)


def _success(answer: ApiAnswer, seen: Standing) -> Result:
    try:
        output = document_of(answer.body) or msgspec.json.decode(answer.body or b"")
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise _error(Unavailable, answer, {}) from None
    urls = tuple(islice(dict.fromkeys(_files(output, DEPTH_MAX)), COUNT_MAX))
    return Result(
        phase=Phase.SUCCEEDED,
        word=seen.word,
        urls=urls,
        texts=() if urls else _texts(output),
        output=_kept(output),
    )


def _files(value: Any, levels: int) -> Iterator[str]:
    """The URLs of the files under a result: objects with a ``url``. Other strings may echo inputs."""
    if isinstance(value, dict) and levels:
        url = value.get("url")
        if isinstance(url, str) and len(url) <= URL_MAX_CHARS and _WEB_URL.fullmatch(url):
            yield url
        for item in value.values():
            yield from _files(item, levels - 1)
    elif isinstance(value, list) and levels:
        for item in value:
            yield from _files(item, levels - 1)


def _texts(output: Any) -> tuple[str, ...]:
    """The texts of a result without files; language models answer with ``{"output": "..."}``."""
    answered = output.get("output") if isinstance(output, dict) else None
    own = (answered,) if isinstance(answered, str) and answered.strip() else ()
    return tuple(dict.fromkeys((*own, *output_texts(output))))


def _kept(output: object) -> object:
    """The part of a result kept in the ledger: all, or its beginning as text if it is long."""
    kept = recorded(output)
    text = msgspec.json.encode(kept)
    return kept if len(text) <= OUTPUT_MAX_BYTES else text[:OUTPUT_MAX_BYTES].decode(errors="ignore")


def _is_failure(answer: ApiAnswer, document: dict[str, Any], seen: Standing) -> bool:
    at_status = seen.error or seen.error_type
    at_result = _error_type(answer, document) or _types(document) or _retryable(answer) is not None
    return bool(at_status or at_result) or (answer.status in OF_THE_INPUTS and bool(document))


def _failure(answer: ApiAnswer, document: dict[str, Any], seen: Standing) -> Result:
    kind = seen.error_type or _error_type(answer, document)
    if kind == CANCELLED_TYPE:
        return Result(Phase.CANCELLED, seen.word, cost_usd=0.0)
    types = list(dict.fromkeys(_types(document)))[:TYPES_SHOWN]
    named = ", ".join(types or [kind] * bool(kind))
    told = said(document) or seen.error or f"HTTP {answer.status}"
    return Result(
        phase=Phase.FAILED,
        word=seen.word,
        message=shown(": ".join(filter(None, (named, told))), answer),
        error_code=None if _may_pass(answer, types) else answer.status,
        cost_usd=0.0 if answer.status >= 500 else None,  # documented: a 5xx is not charged
    )


def _may_pass(answer: ApiAnswer, types: list[str]) -> bool:
    """Whether another attempt may succeed: by the header if there is one, else by the types.

    If so, the inputs' code (422) is not recorded, because it would make the failure a refusal.
    """
    told = _retryable(answer)
    return bool(types) and set(types) <= MAY_PASS if told is None else told


def _retryable(answer: ApiAnswer) -> bool | None:
    names = ("X-Fal-Retryable", "X-Fal-Needs-Retry")
    told = next(filter(None, (answer.headers.get(name) for name in names)), None)
    return None if told is None else told.strip().lower() in ("1", "true", "yes")


def _error_type(answer: ApiAnswer, document: dict[str, Any]) -> str:
    return _word(answer.headers.get("X-Fal-Error-Type")) or _word(document.get("error_type"))


def _types(document: dict[str, Any]) -> list[str]:
    """The stable words of a model's error, such as ``content_policy_violation``."""
    detail = document.get("detail")
    items = detail[:COUNT_MAX] if isinstance(detail, list) else ()
    return list(filter(None, (_word(item.get("type")) for item in items if isinstance(item, dict))))


def _word(value: object) -> str:
    return clean(value)[:80] if isinstance(value, str) else ""


def cancellation(answer: ApiAnswer, now: datetime) -> CancelOutcome:
    """The outcome of a cancel. Raises by the table's second column.

    fal only ever accepts a request to cancel: the request may still end well.
    """
    document = document_of(answer.body)
    word = _word(document.get("status")).lower()
    if word == "already_completed" and (answer.ok or answer.status in (400, 409)):
        return CancelOutcome.NOT_CANCELLABLE
    checked(answer, now)
    if word in ("cancelled", "canceled"):
        return CancelOutcome.CANCELLED
    return CancelOutcome.REQUESTED


def checked(answer: ApiAnswer, now: datetime) -> dict[str, Any]:
    """The object of any answer but a submission's. Raises by the table's second column."""
    document = document_of(answer.body)
    verdict = _verdict(answer, document)
    error = _turned_away(answer, document, now)
    if verdict is TurnedAway or (answer.status == 503 and error.retry_after_s is not None):
        raise error
    if not answer.ok:
        raise _error(verdict or Unavailable, answer, document)
    return document


def _verdict(answer: ApiAnswer, document: dict[str, Any]) -> type[CallError] | None:
    if answer.status == 403 and _LOCKED.search(said(document)):
        return BalanceExhausted
    return STATUSES.get(answer.status)


def _turned_away(answer: ApiAnswer, document: dict[str, Any], now: datetime) -> TurnedAway:
    wait_s = retry_after_s(answer.retry_after, now)
    return TurnedAway(explain(answer, document), retry_after_s=wait_s, http_status=answer.status)


def _error(kind: type[CallError], answer: ApiAnswer, document: dict[str, Any]) -> CallError:
    return kind(explain(answer, document), http_status=answer.status)


def _is_of_another(document: dict[str, Any], request_id: str) -> bool:
    named = usable_id(document.get("request_id"))
    return named is not None and named.lower() != request_id.lower()


def shown(text: str, answer: ApiAnswer) -> str:
    """``text`` in one line without the token."""
    # Cleaned first: a control character inside an echoed token would hide it from redaction.
    return clean(answer.redact(clean(text)))
