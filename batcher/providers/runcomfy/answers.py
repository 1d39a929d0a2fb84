"""What an HTTP answer means: the tables of the Model API as pure functions, with no I/O.

============================================  ==================  ==================
answer                                        to a submission     to any other call
============================================  ==================  ==================
2xx with a usable ``request_id``              that id             (the answer)
code 400002 or 10001, or 402                  BalanceExhausted    BalanceExhausted
code 400004, 401001, 40300x, or 401, 403      AuthRefused         AuthRefused
429; 503 with ``Retry-After``                 TurnedAway          TurnedAway
code 404001, or 404, 410                      NotFound            NotFound
any 3xx, 400, 422, other clear 4xx            Rejected            Rejected
2xx with any other code                       Rejected            see each function
2xx with nothing usable                       OutcomeUnknown      Unavailable
1xx, any other 4xx, any other 5xx             OutcomeUnknown      Unavailable
============================================  ==================  ==================

The code is ``error_code``, or a number in its place (``code``, as text, inside of ``error``). If
several rows apply, these rules make sure that money is never spent twice:

- A turned-away answer counts as such, regardless of its body.
- A 2xx with both an id and an ``error_code`` is an id: the request exists and may have been
charged; polling it shows its state. If the id were dropped, it would be lost.
- A poll's verdict on its request is the ``status`` word alone: a 2xx with a known word is what the
  word says, regardless of codes beside it; one with a code and no word is an error of that call.
- A documented code counts at any status, an undocumented one only at 2xx: a 500 with a number that is
  not documented is still "any other 5xx".
- An undocumented 4xx counts as rejected if HTTP itself says that it means "not carried out" (RFC 9110
  section 15.5, RFC 6585). After 408, 409, 425, 499 and the rest, work may have begun (for example if a
  proxy timed out), so their outcome is unknown.
- The status decides even if the body could not be read whole: only for a 2xx does the body matter.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

from batcher.errors import (
    AuthRefused,
    BalanceExhausted,
    CallError,
    NotFound,
    OutcomeUnknown,
    Refused,
    Rejected,
    TurnedAway,
    Unavailable,
)
from batcher.http.bodies import (
    document_of,
    error_code_of,
    is_plain_int,
    own_id,
    usable_id,
)
from batcher.http.exchange import ApiAnswer
from batcher.http.headers import retry_after_s
from batcher.http.statuses import BY_STATUS
from batcher.http.words import clean, page_words, said, snippet, words
from batcher.jobs.job import recorded
from batcher.ports import CancelOutcome, Phase, Result
from batcher.providers.runcomfy.outputs import output_texts, output_urls
from batcher.schema.spec import amount

OUTPUT_MAX_BYTES: Final = 32 << 10
ACCEPTED: Final = 202
REQUESTED_WORDS: Final = frozenset({"cancellation_requested", "cancel_requested", "cancelling"})

NOT_READY: Final = 400005
INVALID_MODEL: Final = 400001
"""docs/api.md, "Errors": InvalidResourceIdentifier. Of a model, it means that there is none."""

BY_CODE: Final[dict[int, type[CallError]]] = {
    10001: BalanceExhausted,
    INVALID_MODEL: Rejected,
    400002: BalanceExhausted,  # InsufficientResources, at HTTP 400
    400004: AuthRefused,  # UserAccountError: missing or expired token, inactive account
    401001: AuthRefused,
    403001: AuthRefused,  # PermissionDeniedError
    403003: AuthRefused,
    404001: NotFound,  # ResourceNotFound: perhaps an expired request
}
PHASES: Final[dict[str, Phase]] = {
    **dict.fromkeys(("in_queue", "pending", "waiting"), Phase.QUEUED),
    **dict.fromkeys(("in_progress", "starting", "processing"), Phase.RUNNING),
    **dict.fromkeys(("completed", "succeeded"), Phase.SUCCEEDED),
    "failed": Phase.FAILED,
    **dict.fromkeys(("cancelled", "canceled"), Phase.CANCELLED),
}
_NO_ID = "an answer without a request_id: "


def submission(answer: ApiAnswer, now: datetime) -> str:
    """The request id in the answer to a job's POST. Raises by the table's first column."""
    document = _turned_away_or_document(answer, now)
    request_id = own_id(document, answer.redact) if answer.ok else None
    if request_id is not None:
        return request_id
    kind = _verdict_on_model(answer, document) or OutcomeUnknown
    raise _error(kind, answer, document, _NO_ID if answer.ok and kind is OutcomeUnknown else "")


def result(answer: ApiAnswer, now: datetime, request_id: str | None = None) -> Result:
    """What ``/result`` or ``/status`` says of ``request_id``. Raises by the table's second column.

    The status word is final: ``completed`` with an ``error`` and no output is a success without
    outputs, and the ``error`` becomes its message. "Not ready" is a request under way. An answer that
    names another request is Unavailable.
    """
    document = _turned_away_or_document(answer, now)
    word, code = document.get("status"), error_code_of(document)
    if answer.ok and _is_of_another(document, request_id):
        raise Unavailable("the API answered about another request", http_status=answer.status)
    known = isinstance(word, str) and phase_of(word) is not Phase.UNRECOGNISED
    if code == NOT_READY and not (answer.ok and known):
        return Result(Phase.RUNNING, "not ready")
    if isinstance(word, str) and answer.ok and (known or code is None):
        return _result(answer, document, word, code)
    verdict = _verdict(answer, document)
    raise _error(
        Unavailable if answer.ok and verdict in (None, Rejected) else verdict or Unavailable,
        answer,
        document,
    )


def cancellation(answer: ApiAnswer, now: datetime, request_id: str | None = None) -> CancelOutcome:
    """The outcome of a cancel of ``request_id``. Raises by the table's second column.

    A 2xx, 400 or 409 that contains the request's state is an answer; a 202 means accepted.
    """
    document = _turned_away_or_document(answer, now)
    faulty = error_code_of(document) is not None
    if answer.ok and _is_of_another(document, request_id):
        raise Unavailable("the API answered about another request", http_status=answer.status)
    speaks = answer.status in (400, 409) or (answer.ok and not faulty)
    outcome = _cancel_outcome(document) if speaks else None
    if answer.status == ACCEPTED and not faulty and outcome is None:
        return CancelOutcome.REQUESTED
    if outcome is not None:
        return outcome
    if answer.ok and document and not faulty:
        return CancelOutcome.NOT_CANCELLABLE
    conflict = Rejected if answer.status == 409 else None
    raise _error(_verdict(answer, document) or conflict or Unavailable, answer, document)


def catalogue_object(answer: ApiAnswer, now: datetime) -> dict[str, Any]:
    """The JSON object of a catalogue call, masked. Raises by the table's second column."""
    document = _turned_away_or_document(answer, now)
    verdict = _verdict_on_model(answer, document)
    if verdict is not None or not answer.ok or not document:
        raise _error(verdict or Unavailable, answer, document)
    whole = msgspec.json.encode(document).decode()
    return document if answer.redact(whole) == whole else _masked(document, answer)


def _masked(value: Any, answer: ApiAnswer) -> Any:
    if isinstance(value, str):
        return answer.redact(value)
    if isinstance(value, list):
        return [_masked(item, answer) for item in value]
    if isinstance(value, dict):
        return {answer.redact(key): _masked(item, answer) for key, item in value.items()}
    return value


def _is_of_another(document: dict[str, Any], request_id: str | None) -> bool:
    named = usable_id(document.get("request_id"))
    return None not in (named, request_id) and str(named).lower() != str(request_id).lower()


def phase_of(word: str) -> Phase:
    """The phase that a status word means; its case is ignored."""
    return PHASES.get(word.strip().lower(), Phase.UNRECOGNISED)


def _turned_away_or_document(answer: ApiAnswer, now: datetime) -> dict[str, Any]:
    """The answer's JSON object, empty if it has none. Raises TurnedAway."""
    document = document_of(answer.body)
    wait_s = retry_after_s(answer.retry_after, now)
    if answer.status == 429 or (answer.status == 503 and wait_s is not None):
        message = explain(answer, document)
        raise TurnedAway(message, retry_after_s=wait_s, http_status=answer.status)
    return document


def _status(answer: ApiAnswer, document: dict[str, Any]) -> int:
    """The HTTP status, or the one that a gateway reports inside of a 2xx."""
    inner = document.get("http_code")
    return inner if answer.ok and is_plain_int(inner) and inner >= 300 else answer.status


def _verdict(answer: ApiAnswer, document: dict[str, Any]) -> type[CallError] | None:
    """The final answer that status and code give together; None if they give none."""
    code = error_code_of(document)
    by_code = BY_CODE.get(code) if isinstance(code, int) else None
    by_status = BY_STATUS.get(_status(answer, document))
    if by_code is not None and issubclass(by_code, Refused):
        return by_code
    if by_status in (None, Rejected) and by_code is not None:
        return by_code
    return by_status or (Rejected if answer.ok and code is not None else None)


def _verdict_on_model(answer: ApiAnswer, document: dict[str, Any]) -> type[CallError] | None:
    """The verdict on a call that names a model."""
    verdict = _verdict(answer, document)
    return NotFound if verdict is Rejected and error_code_of(document) == INVALID_MODEL else verdict


def _error(
    kind: type[CallError], answer: ApiAnswer, document: dict[str, Any], before: str = ""
) -> CallError:
    code = error_code_of(document)
    number = code if isinstance(code, int) else None
    return kind(before + explain(answer, document), http_status=answer.status, error_code=number)


def _result(answer: ApiAnswer, document: dict[str, Any], word: str, code: int | str | None) -> Result:
    phase, position = phase_of(word), document.get("queue_position")
    cost_usd = amount(document.get("cost"))
    told = said(document) if phase is Phase.FAILED else words(document.get("error"))
    return Result(
        phase=phase,
        word=_shown(word, answer),
        urls=output_urls(document.get("output")),
        texts=output_texts(document.get("output")),
        output=kept_output(document.get("output")),
        cost_usd=cost_usd,
        cost_is_odd=cost_usd is None and document.get("cost") is not None,
        queue_position=position if is_plain_int(position) else None,
        message=_shown(told, answer) or None,
        error_code=_shown(code, answer) if isinstance(code, str) else code,
        model=_model(document, answer),
    )


def kept_output(output: object) -> object:
    """The part of an ``output`` kept in the ledger: all, or its beginning as text if it is long."""
    masked = recorded(output)
    text = msgspec.json.encode(masked)
    return masked if len(text) <= OUTPUT_MAX_BYTES else text[:OUTPUT_MAX_BYTES].decode(errors="ignore")


def _model(document: dict[str, Any], answer: ApiAnswer) -> str | None:
    """The model that an answer names: not documented, so used only if it is clearly there."""
    named = document.get("model_id", document.get("model"))
    return _shown(named, answer) if isinstance(named, str) else None


def _cancel_outcome(document: dict[str, Any]) -> CancelOutcome | None:
    """The body's answer to a cancel: its ``outcome``, else what its ``status`` implies."""
    values = (document.get("outcome"), document.get("status"))
    told = [value.strip().lower() for value in values if isinstance(value, str)]
    phases = [phase_of(word) for word in told]
    if Phase.CANCELLED in phases:
        return CancelOutcome.CANCELLED
    if CancelOutcome.NOT_CANCELLABLE in told:
        return CancelOutcome.NOT_CANCELLABLE
    if REQUESTED_WORDS.intersection(told):
        return CancelOutcome.REQUESTED
    ended = any(phase in (Phase.RUNNING, Phase.SUCCEEDED, Phase.FAILED) for phase in phases)
    return CancelOutcome.NOT_CANCELLABLE if ended else None


def explain(answer: ApiAnswer, document: dict[str, Any]) -> str:
    """The server's message in one line of limited length, after the status if it is not a 2xx."""
    told = _shown(said(document), answer) or _unworded(answer, document)
    return told if answer.ok else f"HTTP {answer.status}: {told}"


def _unworded(answer: ApiAnswer, document: dict[str, Any]) -> str:
    """A message for an answer that contains none."""
    if 300 <= answer.status < 400:
        return "a redirect, which is never followed"
    if answer.body is None:
        return "the body could not be read"
    if answer.body.lstrip().startswith(b"<"):
        return _shown(page_words(answer.body), answer) or "no message"
    beginning = _shown(snippet(document or answer.body), answer)
    return f"unusable answer: {beginning}" if beginning else "no body"


def _shown(text: str, answer: ApiAnswer) -> str:
    # Cleaned first: a control character inside an echoed token would hide it from redaction.
    return clean(answer.redact(clean(text)))
