"""Which of the requests that fal lists are those of lost submissions. Pure.

fal lists requests with their inputs, some time after they have ended. A request that is not listed
proves nothing: it may be running, or be listed later. So a submission is found or stays undecided.

Additional inputs of a listed request must be the model's defaults, which fal may have filled in;
otherwise it belongs to another job, perhaps of another run directory. If the inputs or the time of an
entry can't be read, it might be the one, or a second one: then nothing is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from batcher.http.bodies import usable_id
from batcher.jobs.job import recorded
from batcher.ports import Handle, Lost, Trace
from batcher.providers.fal_storage import content_in
from batcher.providers.matching import ListedRequest, match

RECORD_KEYS: Final = frozenset({"path", "sha256"})


def unused(items: Iterable[Mapping[str, Any]], known: Callable[[str], bool]) -> list[Mapping[str, Any]]:
    """The listed requests that no ledger line names."""
    return [item for item in items if not known(str(item.get("request_id")))]


def found_among(
    lost: Sequence[Lost], items: Iterable[Mapping[str, Any]], schema: Mapping[str, Any] | None
) -> dict[str, Trace]:
    """The requests of submissions to one model, by job id, among ``items`` that belong to no job yet.

    ``schema`` is that of the model's inputs, None if it isn't known.
    """
    model = lost[0].model
    listed = {request.handle.id: request for item in items if (request := _listed(item, model))}
    if len(listed) < len({str(item.get("request_id")) for item in items}):
        return {}
    ours = [msgspec.structs.replace(one, input=_plain(one.input)) for one in lost]
    defaults = _defaults(schema)
    possible = (
        request
        for request in listed.values()
        if any(_differs_by_defaults(one.input, request.input, defaults) for one in ours)
    )
    return match(ours, possible, lambda _: False, lambda _: False)


def _listed(item: Mapping[str, Any], model: str) -> ListedRequest | None:
    request_id, sent_at = usable_id(item.get("request_id")), _moment(item.get("sent_at"))
    inputs = item.get("json_input")
    if request_id is None or sent_at is None or not isinstance(inputs, dict):
        return None
    return ListedRequest(Handle(model, request_id), _plain(recorded(inputs)), sent_at)


def _differs_by_defaults(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], defaults: Mapping[str, Any]
) -> bool:
    more = {name: value for name, value in theirs.items() if name not in ours}
    return all(value is None or (name, value) in defaults.items() for name, value in more.items())


def _defaults(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    properties = (schema or {}).get("properties")
    named = properties.items() if isinstance(properties, dict) else ()
    return {
        name: _plain(one["default"]) for name, one in named if isinstance(one, dict) and "default" in one
    }


def _plain(value: Any) -> Any:
    """``value`` with files as their hash alone: local ones, ``data:`` URIs and uploads of ours."""
    if isinstance(value, str) and (sha256 := content_in(value)) is not None:
        return {"sha256": sha256}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        is_file = value.keys() == RECORD_KEYS
        return {key: _plain(item) for key, item in value.items() if not is_file or key == "sha256"}
    return value


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
