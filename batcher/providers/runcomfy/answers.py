"""What an HTTP answer means: the tables of the Model API as pure functions, with no I/O.

============================================  ==================  ==================
answer                                        to a submission     to any other call
============================================  ==================  ==================
2xx with a usable ``request_id``              that id             (the answer)
``error_code`` 400002, or 402                 BalanceExhausted    BalanceExhausted
``error_code`` 403001, 400004, or 401, 403    AuthRefused         AuthRefused
429; 503 with ``Retry-After``                 TurnedAway          TurnedAway
``error_code`` 404001, or 404, 410            NotFound            NotFound
any 3xx, 400, 422, other clear 4xx            Rejected            Rejected
2xx with any other ``error_code``             Rejected            see each function
2xx with nothing usable                       OutcomeUnknown      Unavailable
1xx, any other 4xx, any other 5xx             OutcomeUnknown      Unavailable
============================================  ==================  ==================

Rows that meet are decided so that money is never spent twice:

- A turned-away answer is one whatever its body says.
- A 2xx with both an id and an ``error_code`` is an id: a request by that name exists and may have
  been charged for; polling it tells the rest. Dropping the id would lose it for good.
- A documented ``error_code`` counts at any status, an undocumented one only at 2xx: a 500 with a
  number nobody wrote down is still "any other 5xx".
- Of the 4xx that the API doesn't document, those count as rejected by which HTTP itself says that
  the request was not carried out (RFC 9110 section 15.5, RFC 6585). 408, 409, 425, 499 and the rest
  may stand for work that began (a proxy gave up waiting), so their outcome is unknown.
- The status decides even where the body could not be read whole: only for a 2xx does the body matter.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeGuard

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
from batcher.ports import CancelOutcome, Phase, Result
from batcher.providers.runcomfy.outputs import output_urls

RETRY_AFTER_MAX_S: Final = 86_400.0
MESSAGE_MAX_CHARS: Final = 500
SNIPPET_MAX_BYTES: Final = 200
WORDS_DEPTH_MAX: Final = 4
WORDS_COUNT_MAX: Final = 50
REQUEST_ID_MAX_CHARS: Final = 200
INTEGER_MAX_BITS: Final = 63

BY_CODE: Final[dict[int, type[CallError]]] = {
    400001: Rejected,  # InvalidResourceIdentifier: a wrong model_id
    400002: BalanceExhausted,  # InsufficientResources, at HTTP 400
    400004: AuthRefused,  # UserAccountError: missing or expired token, inactive account
    403001: AuthRefused,  # PermissionDeniedError
    404001: NotFound,  # ResourceNotFound: perhaps an expired request
}
CLEARLY_REJECTED: Final = frozenset(
    {400, 405, 406, 411, 412, 413, 414, 415, 416, 417, 421, 422, 426, 428, 431, 451}
)
BY_STATUS: Final[dict[int, type[CallError]]] = {
    401: AuthRefused,
    402: BalanceExhausted,
    403: AuthRefused,
    404: NotFound,
    410: NotFound,
    **dict.fromkeys((*CLEARLY_REJECTED, *range(300, 400)), Rejected),
}
PHASES: Final[dict[str, Phase]] = {
    **dict.fromkeys(("in_queue", "pending", "waiting"), Phase.QUEUED),
    **dict.fromkeys(("in_progress", "starting", "processing"), Phase.RUNNING),
    **dict.fromkeys(("completed", "succeeded"), Phase.SUCCEEDED),
    "failed": Phase.FAILED,
    **dict.fromkeys(("cancelled", "canceled"), Phase.CANCELLED),
}

_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_REQUEST_ID = re.compile(rf"[A-Za-z0-9._~-]{{1,{REQUEST_ID_MAX_CHARS}}}")
_CODE = re.compile(r"[0-9]{1,9}")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _as_it_is(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. ``body`` is None where it could not be read whole, or was too large.

    ``retry_after`` is that header as it came. ``redact`` hides the token in the server's text: a
    server may echo it.
    """

    status: int
    body: bytes | None
    retry_after: str | None = None
    redact: Callable[[str], str] = _as_it_is

    @property
    def ok(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300


def submission(answer: Answer, now: datetime) -> str:
    """The request id that a POST of a job was answered with. Raises by the table's first column."""
    document = _turned_away_or_document(answer, now)
    request_id = usable_id(document.get("request_id")) if answer.ok else None
    if request_id is not None:
        return request_id
    raise _error(_verdict(answer, document) or OutcomeUnknown, answer, document)


def result(answer: Answer, now: datetime) -> Result:
    """What ``/result`` or ``/status`` says. Raises by the table's second column.

    A 2xx with an ``error_code`` is a failed request, unless the code means that the request is not
    found or concerns the whole run. The status word is final: ``completed`` with an ``error`` and
    no output is a success without outputs, and the ``error`` becomes its message.
    """
    document = _turned_away_or_document(answer, now)
    code = _error_code(document)
    verdict = _verdict(answer, document)
    if verdict is not None and not (answer.ok and verdict is Rejected):
        raise _error(verdict, answer, document)
    word = document.get("status")
    if not answer.ok or (code is None and not isinstance(word, str)):
        raise _error(Unavailable, answer, document)
    return _result(answer, document, word if isinstance(word, str) else "failed")


def cancellation(answer: Answer, now: datetime) -> CancelOutcome:
    """What became of a cancel. Raises by the table's second column.

    A 2xx, 400 or 409 that says what the request's state is answers the question.
    """
    document = _turned_away_or_document(answer, now)
    speaks = answer.status in (400, 409) or (answer.ok and _error_code(document) is None)
    outcome = _cancel_outcome(document) if speaks else None
    if outcome is not None:
        return outcome
    if answer.ok and document and _error_code(document) is None:
        return CancelOutcome.NOT_CANCELLABLE
    conflict = Rejected if answer.status == 409 else None
    raise _error(_verdict(answer, document) or conflict or Unavailable, answer, document)


def catalogue_object(answer: Answer, now: datetime) -> dict[str, Any]:
    """The JSON object of a catalogue call. Raises by the table's second column."""
    document = _turned_away_or_document(answer, now)
    verdict = _verdict(answer, document)
    if verdict is not None or not answer.ok or not document:
        raise _error(verdict or Unavailable, answer, document)
    return document


def usable_id(value: object) -> str | None:
    """``value`` as a request id that is safe as one path segment, or None. An integer is its text."""
    if _is_plain_int(value):
        value = str(value)
    if not isinstance(value, str) or not _REQUEST_ID.fullmatch(value) or value in (".", ".."):
        return None
    return value


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """A ``Retry-After`` (RFC 9110 section 10.2.3) in seconds from ``now``, within 0 .. 1 day.

    None where there is none, and where it is neither a number of seconds nor a date.
    """
    text = (header or "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), RETRY_AFTER_MAX_S)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # A zone of -0000 parses as naive; HTTP dates are in UTC whatever they say.
    wait_s = (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
    return min(max(wait_s, 0.0), RETRY_AFTER_MAX_S)


def phase_of(word: str) -> Phase:
    """What a status word means, whatever its case."""
    return PHASES.get(word.strip().lower(), Phase.UNRECOGNISED)


def _turned_away_or_document(answer: Answer, now: datetime) -> dict[str, Any]:
    """The answer's JSON object, empty where it has none. Raises TurnedAway."""
    document = _document(answer.body)
    wait_s = retry_after_s(answer.retry_after, now)
    if answer.status == 429 or (answer.status == 503 and wait_s is not None):
        message = explain(answer, document)
        raise TurnedAway(message, retry_after_s=wait_s, http_status=answer.status)
    return document


def _document(body: bytes | None) -> dict[str, Any]:
    try:
        document = msgspec.json.decode((body or b"").removeprefix(_BYTE_ORDER_MARK))
    except (msgspec.DecodeError, RecursionError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _error_code(document: dict[str, Any]) -> int | str | None:
    """The ``error_code``: a number where it is one in any spelling; None and 0 are no error."""
    code = document.get("error_code")
    if isinstance(code, str):
        code = code.strip()
        code = int(code) if _CODE.fullmatch(code) else code
    return code or None if isinstance(code, str) or _is_plain_int(code) else None


def _verdict(answer: Answer, document: dict[str, Any]) -> type[CallError] | None:
    """The final answer that status and code give together; None where they give none."""
    code = _error_code(document)
    by_code = BY_CODE.get(code) if isinstance(code, int) else None
    by_status = BY_STATUS.get(answer.status)
    if by_code is not None and issubclass(by_code, Refused):
        return by_code
    if by_status in (None, Rejected) and by_code is not None:
        return by_code
    return by_status or (Rejected if answer.ok and code is not None else None)


def _error(kind: type[CallError], answer: Answer, document: dict[str, Any]) -> CallError:
    code = _error_code(document)
    number = code if isinstance(code, int) else None
    return kind(explain(answer, document), http_status=answer.status, error_code=number)


def _result(answer: Answer, document: dict[str, Any], word: str) -> Result:
    code = _error_code(document)
    phase = phase_of(word) if code is None else Phase.FAILED
    position = document.get("queue_position")
    failed = phase is Phase.FAILED
    said = explain(answer, document) if failed else _text(document.get("error"), answer)
    return Result(
        phase=phase,
        word=clean(answer.redact(word)),
        urls=output_urls(document.get("output")),
        cost_usd=_cost_usd(document.get("cost")),
        queue_position=position if _is_plain_int(position) else None,
        message=said or None,
        error_code=code if isinstance(code, int) else None,
        model=_model(document),
    )


def _model(document: dict[str, Any]) -> str | None:
    """The model that an answer names: not documented, so taken only where it is plainly there."""
    named = document.get("model_id", document.get("model"))
    return named if isinstance(named, str) else None


def _is_plain_int(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an integer that other programs can hold; JSON's have no bound."""
    return type(value) is int and value.bit_length() <= INTEGER_MAX_BITS


def _cost_usd(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= sys.float_info.max else None


def _cancel_outcome(document: dict[str, Any]) -> CancelOutcome | None:
    """What the body says of a cancel: its ``outcome``, else what its ``status`` implies."""
    outcome, word = document.get("outcome"), document.get("status")
    phases = [phase_of(value) for value in (outcome, word) if isinstance(value, str)]
    if Phase.CANCELLED in phases:
        return CancelOutcome.CANCELLED
    refused = isinstance(outcome, str) and outcome.strip().lower() == CancelOutcome.NOT_CANCELLABLE
    settled = any(phase in (Phase.RUNNING, Phase.SUCCEEDED, Phase.FAILED) for phase in phases)
    return CancelOutcome.NOT_CANCELLABLE if refused or settled else None


def explain(answer: Answer, document: dict[str, Any]) -> str:
    """The server's own words in one line of bounded length, after the status where it is no 2xx."""
    named = next(filter(None, map(document.get, ("message", "error_message", "error"))), None)
    said = [_text(named, answer), _text(document.get("detail"), answer)]
    words = ": ".join(dict.fromkeys(filter(None, said))) or _unworded(answer, document)
    return words if answer.ok else f"HTTP {answer.status}: {words}"


def _unworded(answer: Answer, document: dict[str, Any]) -> str:
    """What to say of an answer that has no words for it."""
    if 300 <= answer.status < 400:
        return "a redirect, which is never followed"
    if answer.body is None:
        return "the body could not be read"
    if not answer.ok and (document or answer.body.lstrip().startswith(b"<")):
        return "no message"
    beginning = answer.body[:SNIPPET_MAX_BYTES].decode(errors="replace")
    return f"unusable answer: {clean(answer.redact(clean(beginning)))}" if beginning else "no body"


def _text(value: object, answer: Answer) -> str:
    # Cleaned first, or a control character within an echoed token would keep it from being seen.
    return clean(answer.redact(clean(_words(value))))


def _words(value: object, levels: int = WORDS_DEPTH_MAX) -> str:
    """Text from the shapes an error comes in: text, ``{"message"}``, a list of ``{"loc", "msg"}``."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and levels:
        items = (_words(item, levels - 1) for item in value[:WORDS_COUNT_MAX])
        return "; ".join(filter(None, items))
    if not isinstance(value, dict) or not levels:
        return ""
    texts = (_words(value.get(key), levels - 1) for key in ("message", "msg", "detail"))
    said = next(filter(None, texts), "")
    field = _field(value.get("loc", value.get("field")))
    return ": ".join(filter(None, (field, said)))


def _field(loc: object) -> str:
    """``["body", "image_url"]`` as ``image_url``, ``["body", "images", 0]`` as ``images.0``."""
    parts = loc if isinstance(loc, list) else [loc]
    named = [str(part) for part in parts if isinstance(part, str | int)]
    return ".".join(named[1:] if named[:1] == ["body"] else named)


def clean(text: str) -> str:
    """``text`` in one line of at most 500 characters, without control and formatting characters."""
    head = text[: 4 * MESSAGE_MAX_CHARS]
    visible = "".join(" " if unicodedata.category(char)[0] == "C" else char for char in head)
    line = " ".join(visible.split())
    return line if len(line) <= MESSAGE_MAX_CHARS else f"{line[: MESSAGE_MAX_CHARS - 1]}…"
