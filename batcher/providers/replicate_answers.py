"""What Replicate's answers mean: tables as pure functions, with no I/O.

============================================  ==================  ==================
answer                                        to a submission     to any other call
============================================  ==================  ==================
2xx with a usable ``id``                      that prediction     (the answer)
429; 503 with ``Retry-After``                 TurnedAway          TurnedAway
402                                           BalanceExhausted    BalanceExhausted
401, 403                                      AuthRefused         AuthRefused
404, 410                                      NotFound            NotFound
any 3xx, 400, 422, other clear 4xx            Rejected            Rejected
2xx with nothing usable                       OutcomeUnknown      Unavailable
any other 4xx, any other 5xx                  OutcomeUnknown      Unavailable
============================================  ==================  ==================

How long to wait after a 429 is in the header or, if there is none, in the sentence: ``Your rate limit
resets in ~30s.``
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from batcher.errors import CallError, NotFound, OutcomeUnknown, TurnedAway, Unavailable
from batcher.http.bodies import document_of, usable_id
from batcher.http.endpoint import origin_of
from batcher.http.exchange import ApiAnswer
from batcher.http.headers import RETRY_AFTER_MAX_S, retry_after_s
from batcher.http.statuses import BY_STATUS
from batcher.http.words import clean, words
from batcher.ports import CancelOutcome, Phase, Result
from batcher.providers.runcomfy.answers import explain, kept_output
from batcher.providers.runcomfy.outputs import output_texts, output_urls

PREFIX: Final = "replicate:"
DEPLOYMENTS: Final = "deployments"
OUTPUT_DOMAIN: Final = "replicate.delivery"
HIDDEN: Final = "hidden"
"""The version that answers give for an official model."""
REMOVED: Final = "paid, result lost: Replicate removes results an hour after their end"

PHASES: Final = {
    "starting": Phase.QUEUED,
    "processing": Phase.RUNNING,
    "succeeded": Phase.SUCCEEDED,
    "failed": Phase.FAILED,
    "canceled": Phase.CANCELLED,
    "aborted": Phase.CANCELLED,
}
ABORTED: Final = "aborted"
"""Ended before it started: not charged. ``canceled`` may have run, and then that time is charged."""

_NAME = re.compile(
    r"(?P<kind>deployments/)?(?P<path>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<version>[0-9a-f]{64}))?",
    re.ASCII,
)
_RESETS = re.compile(r"resets in ~?\s*([0-9]{1,6}(?:\.[0-9]+)?)\s*s", re.IGNORECASE)


class ModelName(NamedTuple):
    """The parts of a model's name. ``path`` is ``owner/name``, of a model or of a deployment."""

    path: str
    version: str | None = None
    deployment: bool = False

    def fits(self, document: dict[str, Any]) -> bool | None:
        """Whether a prediction is of this model; None if it does not say so clearly."""
        deployment = document.get("deployment")
        if self.deployment:
            return None if not isinstance(deployment, str) else deployment.endswith(self.path)
        if isinstance(deployment, str) and deployment:
            return False
        named, version = document.get("model"), document.get("version")
        if not isinstance(named, str):
            return version == self.version if isinstance(version, str) and self.version else None
        if named.partition(":")[0] != self.path:
            return False
        if self.version is None or version == self.version:
            return True
        return None if version in (None, HIDDEN) else False


def model_name(model: str) -> ModelName:
    """The parts of ``replicate:owner/name[:version]`` or ``replicate:deployments/owner/name``.

    Raises NotFound: no model can have another name.
    """
    match = _NAME.fullmatch(model.removeprefix(PREFIX))
    if match is None or (match["kind"] and match["version"]):
        raise NotFound(
            f"{clean(model)!r} is no name of a model at Replicate: write replicate:owner/name, "
            "replicate:owner/name:VERSION (64 hexadecimal digits) or replicate:deployments/owner/name"
        )
    return ModelName(match["path"], match["version"], match["kind"] is not None)


def submission(answer: ApiAnswer, now: datetime) -> tuple[str, dict[str, Any]]:
    """The id and the object of the prediction that a POST created. Raises by the first column."""
    document = _turned_away_or_document(answer, now)
    prediction = _own_id(answer, document) if answer.ok else None
    if prediction is not None:
        return prediction, document
    raise _error(BY_STATUS.get(answer.status, OutcomeUnknown), answer, document)


def called(answer: ApiAnswer, now: datetime) -> dict[str, Any]:
    """The object in the answer to any other call. Raises by the second column."""
    document = _turned_away_or_document(answer, now)
    if answer.ok and document:
        return document
    raise _error(BY_STATUS.get(answer.status, Unavailable), answer, document)


def prediction(answer: ApiAnswer, now: datetime, request_id: str) -> dict[str, Any]:
    """The object of the prediction ``request_id``. Raises by the second column."""
    document = called(answer, now)
    if not isinstance(document.get("status"), str):
        raise Unavailable("the API answered without a status", http_status=answer.status)
    if document.get("id") not in (None, request_id):
        raise Unavailable("the API answered about another prediction", http_status=answer.status)
    return document


def result(document: dict[str, Any], answer: ApiAnswer, model: str, base_url: str) -> Result:
    """The result in a prediction's object. ``model`` is the name that the job asked for."""
    word, output = document["status"], document.get("output")
    phase = PHASES.get(word, Phase.UNRECOGNISED)
    ran = phase is Phase.CANCELLED and word != ABORTED and document.get("started_at") is not None
    removed = phase is Phase.SUCCEEDED and output is None and document.get("data_removed") is True
    told = REMOVED if removed else words(document.get("error"))
    urls = file_urls(output, base_url)
    return Result(
        phase=phase,
        word=_shown(word, answer),
        urls=urls,
        texts=() if urls else texts(output),
        output=kept_output(output),
        cost_usd=0.0 if phase is Phase.CANCELLED and not ran else None,
        may_cost=ran,
        message=_shown(told, answer) or None,
        model=_model(document, answer, model),
        removed=removed,
    )


def cancellation(document: dict[str, Any]) -> CancelOutcome:
    """The outcome of a cancel, by the object that answers it."""
    phase = PHASES.get(document["status"], Phase.UNRECOGNISED)
    if phase is Phase.CANCELLED:
        return CancelOutcome.CANCELLED
    ended = phase in (Phase.SUCCEEDED, Phase.FAILED)
    return CancelOutcome.NOT_CANCELLABLE if ended else CancelOutcome.REQUESTED


def file_urls(output: Any, base_url: str) -> tuple[str, ...]:
    """The output files of a prediction, in their order.

    Models may echo links that were in their inputs: if there are URLs on Replicate's own hosts, only
    these are outputs.
    """
    urls = output_urls(output)
    return tuple(url for url in urls if _is_replicates(url, base_url)) or urls


def texts(output: Any) -> tuple[str, ...]:
    """The outputs that are not files. A list of strings is one text: language models return it so."""
    pieces = output if isinstance(output, list) else []
    if pieces and all(isinstance(one, str) and not one.startswith("data:") for one in pieces):
        whole = "".join(pieces)
        return (whole,) if whole.strip() else ()
    return output_texts(output)


def entry(model: str, described: dict[str, Any], version: dict[str, Any]) -> dict[str, Any]:
    """A model and its version in the form of RunComfy's catalogue. It has no price."""
    told = described.get("description")
    found: dict[str, Any] = {
        "model_id": model,
        "display_name": described.get("name") or model,
        "description": told if isinstance(told, str) else "",
        "categories": [],
        "pricing_note": "Replicate's API gives no prices: see the model's page",
    }
    schema = _input_schema(version.get("openapi_schema"))
    return found if schema is None else {**found, "input_schema": schema}


_REFERENCE = "#/components/schemas/"


def _input_schema(openapi: Any) -> dict[str, Any] | None:
    """``components.schemas.Input`` with the schemas that it refers to as its own ``$defs``."""
    schemas: Any = openapi
    for step in ("components", "schemas"):
        schemas = schemas.get(step) if isinstance(schemas, dict) else None
    if not isinstance(schemas, dict) or not isinstance(schemas.get("Input"), dict):
        return None
    needed: dict[str, Any] = {}
    waiting = [*_references(schemas["Input"], 0)]
    while waiting:
        name = waiting.pop()
        if name not in needed and isinstance(schemas.get(name), dict):
            needed[name] = _moved(schemas[name], 0)
            waiting += _references(schemas[name], 0)
    return {"properties": {}, **_moved(schemas["Input"], 0), "$defs": needed}


_DEPTH_MAX = 40


def _references(value: Any, depth: int) -> Iterator[str]:
    if depth > _DEPTH_MAX:
        return
    if isinstance(value, list):
        for item in value:
            yield from _references(item, depth + 1)
    elif isinstance(value, dict):
        named = value.get("$ref")
        if isinstance(named, str) and named.startswith(_REFERENCE):
            yield named.removeprefix(_REFERENCE)
        for item in value.values():
            yield from _references(item, depth + 1)


def _moved(value: Any, depth: int) -> Any:
    """``value`` with its references into ``$defs``."""
    if depth > _DEPTH_MAX:
        return {}
    if isinstance(value, list):
        return [_moved(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {key: _moved(item, depth + 1) for key, item in value.items()}
    return value.replace(_REFERENCE, "#/$defs/") if isinstance(value, str) else value


def _is_replicates(url: str, base_url: str) -> bool:
    try:
        host = (urlsplit(url).hostname or "").lower()
        return f".{host}".endswith(f".{OUTPUT_DOMAIN}") or origin_of(url) == origin_of(base_url)
    except ValueError:
        return False


def _own_id(answer: ApiAnswer, document: dict[str, Any]) -> str | None:
    """The usable id of an object, unless most of it is the token."""
    found = usable_id(document.get("id"))
    return found if found is not None and 2 * len(answer.redact(found)) >= len(found) else None


def _turned_away_or_document(answer: ApiAnswer, now: datetime) -> dict[str, Any]:
    """The answer's JSON object, empty if it has none. Raises TurnedAway."""
    document = document_of(answer.body)
    wait_s = retry_after_s(answer.retry_after, now)
    if answer.status == 429 or (answer.status == 503 and wait_s is not None):
        said = explain(answer, document)
        wait_s = _resets_in_s(said) if wait_s is None else wait_s
        raise TurnedAway(said, retry_after_s=wait_s, http_status=answer.status)
    return document


def _resets_in_s(sentence: str) -> float | None:
    match = _RESETS.search(sentence)
    return min(float(match[1]), RETRY_AFTER_MAX_S) if match else None


def _error(kind: type[CallError], answer: ApiAnswer, document: dict[str, Any]) -> CallError:
    return kind(explain(answer, document), http_status=answer.status)


def _model(document: dict[str, Any], answer: ApiAnswer, asked: str) -> str | None:
    """``asked`` if the prediction is of that model, else the model that it names, if any."""
    named = document.get("model")
    if not isinstance(named, str):
        return None
    if not asked or model_name(asked).fits(document) is not False:
        return asked or None
    version = document.get("version")
    versioned = isinstance(version, str) and version != HIDDEN and ":" not in named
    return _shown(f"{PREFIX}{named}:{version}" if versioned else f"{PREFIX}{named}", answer)


def _shown(text: str, answer: ApiAnswer) -> str:
    return clean(answer.redact(clean(text)))
