"""Finds out what became of lost submissions to Replicate, by the list of predictions and their inputs.

A lost attempt's prediction is of its model, unknown to the ledger, created when its POST could have
arrived, and has its inputs. Each of these is yes, no or perhaps: what differs only as a server may have
rewritten it (``5`` and ``"5"``, white space, a file whose hash can't be asked) is perhaps. ``matching``
turns that into verdicts. "Nothing was created" is one only from ``SETTLED`` after the intent, while the
inputs of predictions created then are surely still listed, and only if the server's clock is known.

Times are compared by that clock: the answers' ``Date`` tells how far ours is off.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import isclose
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

from batcher.clock import iso
from batcher.errors import CallError, NotFound, Rejected
from batcher.http.bodies import usable_id
from batcher.http.endpoint import origin_of
from batcher.http.exchange import ApiAnswer, Call
from batcher.http.headers import http_date
from batcher.http.words import clean
from batcher.jobs.job import recorded
from batcher.ports import Handle, Lost, Trace
from batcher.providers.matching import IN_FLIGHT, ListedRequest, match
from batcher.providers.replicate_answers import called, model_name

if TYPE_CHECKING:
    from batcher.clock import Clock

SETTLED: Final = timedelta(seconds=90)
"""Seconds after an intent by which its POST has arrived, or never will.

The POST ends after at most 38 s (30 s, and its body of 512 KiB on the slowest line); a server that still
holds it then is given almost a minute.
"""
ASTRAY: Final = timedelta(minutes=10)
"""Within these seconds of the intent, a prediction is only perhaps its own: clocks are set."""
LISTED: Final = timedelta(minutes=58)
"""Seconds for which a prediction is surely listed with its inputs: they are deleted after an hour."""
CLOCK_OFF_MAX: Final = timedelta(seconds=30)
PAGES_MAX: Final = 400

Fit = bool | None
"""Yes, no, or perhaps (None)."""
DefaultsOf = Callable[[str], Awaitable[Mapping[str, Any]]]
"""Asks for the defaults of a model's inputs. Raises CallErrors."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A listed prediction. ``created_at`` is by our clock."""

    id: str
    created_at: datetime
    document: dict[str, Any]


@dataclass(slots=True)
class Listing:
    """The list of predictions, and the hashes of uploaded files."""

    ask: Callable[[Call], Awaitable[ApiAnswer]]
    ask_object: Callable[[Call], Awaitable[dict[str, Any]]]
    clock: Clock
    base_url: str
    skew: timedelta | None = None
    """How far the server's clock is ahead of ours; None if no answer has told."""

    async def rows(self, first: datetime, last: datetime) -> list[Prediction]:
        """All predictions created between two moments of our clock, and some around them.

        Raises CallErrors: Rejected too if the list can't be read to its end.
        """
        found = await self._read(first, last)
        if abs(self.skew or timedelta()) > CLOCK_OFF_MAX:
            return await self._read(first, last)
        return found

    def is_upload(self, text: str) -> bool:
        """Whether a text is the URL of an uploaded file."""
        file_id = text.removeprefix(f"{self.base_url}/files/")
        return file_id != text and usable_id(file_id) is not None

    async def sha256(self, url: str) -> str | None:
        """The SHA-256 of an uploaded file by its URL; None if that can't be told. Raises CallErrors."""
        path = url.removeprefix(self.base_url)
        try:
            checksums = (await self.ask_object(Call("GET", path))).get("checksums")
        except NotFound:
            return None
        told = checksums.get("sha256") if isinstance(checksums, dict) else None
        return told.lower() if isinstance(told, str) else None

    async def _read(self, first: datetime, last: datetime) -> list[Prediction]:
        skew = self.skew or timedelta()
        query = {"created_after": iso(first + skew), "created_before": iso(last + skew)}
        found: dict[str, Prediction] = {}
        for _ in range(PAGES_MAX):
            page = await self._page(query)
            rows = [self._row(one) for one in _results(page)]
            found.update((row.id, row) for row in rows)
            if page.get("next") is None or (rows and max(row.created_at for row in rows) < first):
                return list(found.values())
            query = self._query_of(page["next"])
        raise Rejected("the list of predictions is too long")

    async def _page(self, query: dict[str, str]) -> dict[str, Any]:
        answer = await self.ask(Call("GET", "/predictions", query))
        now = self.clock.now()
        said = http_date(answer.headers.get("Date", ""))
        self.skew = None if said is None else said - now
        return called(answer, now)

    def _row(self, listed: Any) -> Prediction:
        """Raises Rejected for an entry that can't be read: it may be one of our predictions."""
        if isinstance(listed, dict):
            found, created_at = usable_id(listed.get("id")), _moment(listed.get("created_at"))
            if found is not None and created_at is not None:
                return Prediction(found, created_at - (self.skew or timedelta()), listed)
        raise Rejected("the list of predictions holds something that is none")

    def _query_of(self, url: Any) -> dict[str, str]:
        """The query of the next page's URL. Raises Rejected for a URL of another API."""
        own = f"{self.base_url}/predictions"
        if not isinstance(url, str) or url.partition("?")[0] != own or "?" not in url:
            raise Rejected(f"the list continues at a URL of another API: {clean(str(url))}")
        return dict(parse_qsl(urlsplit(url).query))


def _results(page: dict[str, Any]) -> list[Any]:
    listed = page.get("results")
    if not isinstance(listed, list):
        raise Rejected('the list of predictions came without "results"')
    return listed


def _moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo is not None else moment.replace(tzinfo=UTC)


async def verdicts(
    lost: Sequence[Lost], known: Callable[[str], bool], listing: Listing, defaults: DefaultsOf
) -> dict[str, Trace]:
    """What became of lost attempts, by job id; the undecided are left out. Raises CallErrors."""
    if not lost:
        return {}
    asked_at = listing.clock.now()
    first = min(one.sent_at for one in lost) - ASTRAY
    last = max(one.sent_at for one in lost) + IN_FLIGHT + ASTRAY
    rows = {row.id: row for row in await listing.rows(first, last) if not known(row.id)}
    comparison = await _prepared(lost, rows, listing, defaults)
    listed = [ListedRequest(Handle("", row.id), {}, row.created_at) for row in rows.values()]

    def is_settled(one: Lost) -> bool:
        return listing.skew is not None and SETTLED <= asked_at - one.sent_at <= LISTED

    found = match(lost, listed, known, is_settled, comparison.fits)
    models = {one.job_id: one.model for one in lost}
    return {
        job_id: Trace(trace.request and Handle(models[job_id], trace.request.id))
        for job_id, trace in found.items()
    }


async def _prepared(
    lost: Sequence[Lost], rows: Mapping[str, Prediction], listing: Listing, defaults: DefaultsOf
) -> Comparison:
    """A comparison, after asking for the hashes and defaults that it needs. Raises CallErrors."""
    compared = Comparison(rows)
    for row in rows.values():
        for url in filter(listing.is_upload, _texts(row.document.get("input"))):
            if url not in compared.hashes:
                compared.hashes[url] = await listing.sha256(url)
    for model in {one.model for one in lost} if rows else ():
        with suppress(CallError):  # without them, inputs that a server may have added stay unclear
            compared.defaults[model] = await defaults(model)
    return compared


@dataclass(frozen=True, slots=True)
class Comparison:
    """Compares lost attempts with listed predictions.

    ``hashes`` are those of uploaded files by URL, None if one can't be told. ``defaults`` are those of
    the inputs, which a server may add, by model.
    """

    rows: Mapping[str, Prediction]
    hashes: dict[str, str | None] = field(default_factory=dict)
    defaults: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def fits(self, lost: Lost, listed: ListedRequest) -> Fit:
        """Whether a listed prediction has the model and the inputs of an attempt, and is not older."""
        row = self.rows[listed.handle.id]
        if lost.sent_at - row.created_at > ASTRAY:
            return False
        return _all([model_name(lost.model).fits(row.document), self._has_input(lost, row)])

    def _has_input(self, lost: Lost, row: Prediction) -> Fit:
        theirs = row.document.get("input")
        if not isinstance(theirs, dict) or row.document.get("data_removed") is True:
            return None
        theirs = {name: recorded(value) for name, value in theirs.items()}
        told: list[Fit] = [
            self._agrees(value, theirs[name]) if name in theirs else None
            for name, value in lost.input.items()
        ]
        more = {n: value for n, value in theirs.items() if n not in lost.input and value is not None}
        defaults = self.defaults.get(lost.model, {})
        told += [defaults[n] == v if n in defaults else None for n, v in more.items()]
        return _all(told)

    def _agrees(self, ours: Any, theirs: Any) -> Fit:
        """Whether an input that we sent is the one that is listed, both as a ledger records them."""
        if isinstance(ours, dict) and ours.keys() == {"path", "sha256"}:
            return self._is_content(ours["sha256"], theirs)
        if isinstance(ours, list) and isinstance(theirs, list):
            if len(ours) != len(theirs):
                return False
            return _all([self._agrees(*pair) for pair in zip(ours, theirs, strict=True)])
        if isinstance(ours, dict) and isinstance(theirs, dict):
            common = ours.keys() & theirs.keys()
            told = [self._agrees(ours[name], theirs[name]) for name in common]
            return _all([*told, True if ours.keys() == theirs.keys() else None])
        return _same(ours, theirs)

    def _is_content(self, sha256: str, theirs: Any) -> Fit:
        if isinstance(theirs, dict) and isinstance(theirs.get("sha256"), str):
            return bool(theirs["sha256"] == sha256)
        found = self.hashes.get(theirs) if isinstance(theirs, str) else None
        return None if found is None else found == sha256


def _texts(value: Any, levels: int = 8) -> Iterator[str]:
    """All strings in an input."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict) and levels:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item, levels - 1)


def _all(told: list[Fit]) -> Fit:
    """No if any is no, else perhaps if any is perhaps, else yes."""
    if False in told:
        return False
    return None if None in told else True


def _same(ours: Any, theirs: Any) -> Fit:
    """Whether two values are equal; perhaps if a server may have rewritten one as the other."""
    if type(ours) is type(theirs) and ours == theirs:
        return True
    if isinstance(ours, bool) or isinstance(theirs, bool) or ours is None or theirs is None:
        return False if isinstance(ours, bool) and isinstance(theirs, bool) else None
    number, listed = _number(ours), _number(theirs)
    if number is not None and listed is not None:
        if not isclose(number, listed, rel_tol=1e-6, abs_tol=1e-9):
            return False
        return True if ours == theirs else None
    if isinstance(ours, str) and isinstance(theirs, str):
        if ours.startswith("https://") and theirs.startswith("https://"):
            return False if origin_of(ours) == origin_of(theirs) else None
        return None if _plain(ours) == _plain(theirs) else False
    return (
        False if isinstance(theirs, str | int | float) and isinstance(ours, str | int | float) else None
    )


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, str | int | float) else None
    except (ValueError, OverflowError):
        return None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
