"""Matches lost submissions with the requests that a provider lists: certain, or not at all.

Equal jobs (the same model and inputs) are interchangeable, so they are matched by their number. A
request that may belong to two different jobs, or one more than there are lost submissions, decides
nothing: a wrong match would lose a paid result or pay for it twice. A request that only perhaps fits is
never adopted, and while there is one, "nothing" is no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from batcher.ports import Handle, Lost, Trace

SKEW = timedelta(seconds=5)
"""How far the clocks may differ."""
IN_FLIGHT = timedelta(seconds=300)
"""How long after its intent a POST may still create its request."""


@dataclass(frozen=True, slots=True)
class ListedRequest:
    """A request as a provider lists it, with its inputs as our ledger would hold them."""

    handle: Handle
    input: dict[str, Any]
    created_at: datetime


def has_inputs(lost: Lost, request: ListedRequest) -> bool | None:
    """Whether a request has the inputs of a submission; the provider may have added its defaults."""
    return (
        request.handle.model == lost.model
        and all(
            name in request.input and request.input[name] == value for name, value in lost.input.items()
        )
        and request.created_at >= lost.sent_at - SKEW
    )


def match(
    lost: Sequence[Lost],
    listed: Iterable[ListedRequest],
    known: Callable[[str], bool],
    is_settled: Callable[[Lost], bool],
    fits: Callable[[Lost, ListedRequest], bool | None] = has_inputs,
) -> dict[str, Trace]:
    """What became of each lost submission that is certain, by job id.

    ``known`` says that a request belongs to another attempt. ``is_settled`` says that everything that a
    submission created is surely listed by now: only then can "nothing" be the answer. ``fits`` says
    whether a request is one of a submission's job; None if that can't be told.
    """
    free = [request for request in listed if not known(request.handle.id)]
    groups = _alike(lost)
    fitting = [_fitting(group[0], free, fits) for group in groups]
    shared = _shared([[*certain, *perhaps] for certain, perhaps in fitting])
    traces: dict[str, Trace] = {}
    for group, (certain, perhaps) in zip(groups, fitting, strict=True):
        in_time = all(_in_time(group, request) for request in certain)
        decides = in_time and (not perhaps or len(certain) == len(group))
        if decides and not shared.intersection(r.handle.id for r in (*certain, *perhaps)):
            traces |= _verdicts(group, certain, is_settled)
    return traces


def _fitting(
    lost: Lost,
    listed: list[ListedRequest],
    fits: Callable[[Lost, ListedRequest], bool | None],
) -> tuple[list[ListedRequest], list[ListedRequest]]:
    """The requests that surely fit a submission, and those that perhaps do."""
    told = [(request, fits(lost, request)) for request in listed]
    return [one for one, fit in told if fit], [one for one, fit in told if fit is None]


def _verdicts(
    group: list[Lost], requests: list[ListedRequest], is_settled: Callable[[Lost], bool]
) -> dict[str, Trace]:
    """The verdicts on equal submissions, the earliest with the earliest request."""
    if len(requests) > len(group):
        return {}
    if len(requests) < len(group) and not all(map(is_settled, group)):
        return {}
    found = sorted(requests, key=lambda request: request.created_at)
    handles = [request.handle for request in found]
    padded = [*handles, *[None] * (len(group) - len(handles))]
    return {one.job_id: Trace(handle) for one, handle in zip(group, padded, strict=True)}


def _alike(lost: Sequence[Lost]) -> list[list[Lost]]:
    """Submissions of equal jobs together, each group in the order of time."""
    groups: dict[bytes, list[Lost]] = {}
    for one in sorted(lost, key=lambda one: one.sent_at):
        key = msgspec.json.encode((one.model, one.input), order="deterministic")
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _shared(fitting: list[list[ListedRequest]]) -> set[str]:
    """Requests that may belong to more than one group."""
    seen: set[str] = set()
    shared: set[str] = set()
    for requests in fitting:
        ids = {request.handle.id for request in requests}
        shared |= seen & ids
        seen |= ids
    return shared


def _in_time(group: list[Lost], request: ListedRequest) -> bool:
    """Whether one of these submissions can have created the request."""
    return any(
        one.sent_at - SKEW <= request.created_at <= one.sent_at + IN_FLIGHT + SKEW for one in group
    )
