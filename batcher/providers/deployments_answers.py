"""The meaning of answers about deployments, if it differs from the Model API's (``runcomfy.answers``).

=====================================  ==========================  ==========================
answer                                 to a submission             to any other call
=====================================  ==========================  ==========================
2xx with a usable ``request_id``       a handle, with those of     (the answer)
                                       its URLs that name it
code 10001                             BalanceExhausted            BalanceExhausted
code 10002, 10003, at any status       Unusable                    Unavailable
all else                               as the Model API            as the Model API
=====================================  ==========================  ==========================

``outputs`` are by node and channel. An accepted cancel of a running request does not end it yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from batcher.errors import CallError, Unavailable, Unusable
from batcher.http.bodies import document_of, error_code_of, own_id
from batcher.http.exchange import ApiAnswer, is_at
from batcher.jobs.nodes import node_order
from batcher.ports import CancelOutcome, Handle, Phase, Result
from batcher.providers.runcomfy import answers
from batcher.providers.runcomfy.outputs import COUNT_MAX, is_web_url

GATES: Final = {10002: "the deployment is disabled", 10003: "the deployment was deleted"}
TEXT_CHANNEL: Final = "text"
KEPT: Final = "output"
"""The ``type`` of files that the workflow saves; "temp" are previews."""
CALLS: Final = ("status", "result", "cancel")
ONLY_PREVIEWS: Final = "the workflow saved nothing, it only made {} previews: add a node that saves"


def submission(answer: ApiAnswer, now: datetime, model: str, origin: str) -> Handle:
    """The request that a POST created. Raises by the table's first column.

    URLs are kept as paths, and only those at ``origin`` that name the request.
    """
    document = document_of(answer.body)
    request_id = own_id(document, answer.redact) if answer.ok else None
    if request_id is None:
        _check_gates(answer, document, Unusable)
        request_id = answers.submission(answer, now)
    named = ((call, document.get(f"{call}_url")) for call in CALLS)
    urls = {call: path for call, url in named if (path := _path(url, origin, request_id)) is not None}
    return Handle(model, request_id, urls or None)


def _path(url: object, origin: str, request_id: str) -> str | None:
    """The path of a request's URL."""
    if not isinstance(url, str) or not is_at(origin, url):
        return None
    path = urlsplit(url).path
    segments = path.split("/")
    return path if request_id in segments and not {".", ".."} & set(segments) else None


def _check_gates(answer: ApiAnswer, document: dict[str, Any], kind: type[CallError]) -> None:
    code = error_code_of(document)
    if isinstance(code, int) and code in GATES:
        told = f"{GATES[code]}: {answers.explain(answer, document)}"
        raise kind(told, http_status=answer.status, error_code=code)


def result(answer: ApiAnswer, now: datetime, request_id: str) -> Result:
    """What ``/result`` says of a request. Raises by the table's second column.

    A cancelled request may have run, and the answer does not say so: its time may be charged.
    """
    document = document_of(answer.body)
    if not isinstance(document.get("status"), str):
        _check_gates(answer, document, Unavailable)
    found = answers.result(answer, now, request_id)
    if found.phase is Phase.CANCELLED:
        return msgspec.structs.replace(found, may_cost=True)
    if found.phase is not Phase.SUCCEEDED:
        return found
    outputs = document.get("outputs")
    files = _Saved(outputs)
    message = found.message
    if not files.urls and not files.texts and files.previews:
        message = ONLY_PREVIEWS.format(files.previews)
    return msgspec.structs.replace(
        found, urls=files.urls, texts=files.texts, output=answers.kept_output(outputs), message=message
    )


class _Saved:
    """What a workflow saved: by node (numbers by value), then channel, then position."""

    def __init__(self, outputs: object) -> None:
        found = list(islice(_entries(outputs), COUNT_MAX))
        self.previews = sum(_is_preview(entry) for _, entry in found)
        kept = [(channel, entry) for channel, entry in found if not _is_preview(entry)]
        urls = (_url(entry) for _, entry in kept)
        texts = (entry for channel, entry in kept if _is_text(channel, entry))
        self.urls = tuple(dict.fromkeys(filter(None, urls)))
        self.texts = tuple(dict.fromkeys(texts))


def _entries(outputs: object) -> Iterator[tuple[str, Any]]:
    if not isinstance(outputs, dict):
        return
    for _, channels in sorted(outputs.items(), key=lambda item: node_order(item[0])):
        if isinstance(channels, dict):
            for channel, entries in sorted(channels.items()):
                yield from ((channel, one) for one in (entries if isinstance(entries, list) else ()))


def _is_preview(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("type", KEPT) != KEPT


def _url(entry: Any) -> str | None:
    url = entry.get("url") if isinstance(entry, dict) else entry
    return url if is_web_url(url) else None


def _is_text(channel: str, entry: Any) -> bool:
    return channel == TEXT_CHANNEL and isinstance(entry, str) and bool(entry.strip()) and not _url(entry)


def cancellation(answer: ApiAnswer, now: datetime, request_id: str) -> CancelOutcome:
    """The outcome of a cancel. Raises by the table's second column.

    If the request is still in flight, an accepted cancel is only REQUESTED: the request has not ended.
    """
    outcome = answers.cancellation(answer, now, request_id)
    document = document_of(answer.body)
    word = document.get("status")
    under_way = isinstance(word, str) and answers.phase_of(word) in (Phase.QUEUED, Phase.RUNNING)
    named = CancelOutcome.NOT_CANCELLABLE in (document.get("outcome"), word)
    if outcome is CancelOutcome.NOT_CANCELLABLE and answer.ok and under_way and not named:
        return CancelOutcome.REQUESTED
    return outcome


def listed(answer: ApiAnswer, now: datetime) -> list[dict[str, Any]]:
    """The deployments of an account: a list, or an object with one (which one is not documented)."""
    found: Any = answer.body
    try:
        found = msgspec.json.decode(answer.body or b"")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        found = None
    if not (answer.ok and isinstance(found, list)):
        document = answers.catalogue_object(answer, now)
        found = next((value for value in document.values() if isinstance(value, list)), [])
    return [one for one in found if isinstance(one, dict)]
