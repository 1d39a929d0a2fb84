"""Finds out what became of lost submissions to Replicate, by the list of predictions and their inputs.

A lost attempt *claims* each prediction that may be its own: of its model, unknown to the ledger, created
when its POST could have arrived, with its inputs. Each of these is yes, no or perhaps; what differs only
as a server may have rewritten it (``5`` and ``"5"``, white space, a file whose hash can't be asked) is
perhaps. Attempts that claim the same predictions are decided together:

=====================================================  =============================================
claims                                                 verdict
=====================================================  =============================================
attempts with different inputs claim one prediction    undecided
more certain predictions than attempts                 undecided: some are another program's
certain predictions for equal attempts                 theirs, in the order of their times
none is left, ``SETTLED_S`` after the intent           nothing was created
none, but one that is perhaps its own                  undecided
none, and inputs may have been removed (an hour)       undecided
=====================================================  =============================================

Times are compared by the server's clock: the answers' ``Date`` tells how far ours is off.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import isclose
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from batcher.clock import iso
from batcher.errors import CallError, NotFound, Unavailable
from batcher.http.bodies import usable_id
from batcher.http.endpoint import origin_of
from batcher.http.exchange import ApiAnswer, Call
from batcher.http.headers import http_date
from batcher.http.words import clean
from batcher.jobs.job import recorded
from batcher.ports import Handle, Lost, Trace
from batcher.providers.replicate_answers import called, model_name

if TYPE_CHECKING:
    from batcher.clock import Clock

SETTLED_S: Final = 120.0
"""Seconds from an intent after which its POST has surely arrived, or never will.

The POST ends after at most 46 s (30 s, and its body of 1 MiB on the slowest line); a server that still
holds it then is given a minute.
"""
EARLY: Final = timedelta(seconds=5)
"""By how much a prediction may seem older than the intent, since ``Date`` is exact to a second."""
HELD: Final = timedelta(seconds=SETTLED_S)
ASTRAY: Final = timedelta(minutes=10)
"""So far from the intent a prediction is only perhaps its own: a clock may have been set meanwhile."""
LISTED: Final = timedelta(minutes=58)
"""For so long from its intent a prediction is surely listed with its inputs: they vanish in an hour."""
SKEW_MAX: Final = timedelta(seconds=30)
PAGES_MAX: Final = 400

Claim = bool | None
"""Whether a prediction is an attempt's own: yes, no, or perhaps (None)."""
Defaults = Callable[[str], Awaitable[Mapping[str, Any]]]


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
    _hashes: dict[str, str | None] = field(default_factory=dict)

    async def rows(self, first: datetime, last: datetime) -> list[Prediction]:
        """All predictions created between two moments of our clock, and some around them.

        Raises CallErrors: Unavailable too if the list can't be read to its end.
        """
        found = await self._read(first, last)
        if abs(self.skew or timedelta()) > SKEW_MAX:
            return await self._read(first, last)
        return found

    async def sha256(self, url: str) -> str | None:
        """The SHA-256 of an uploaded file by its URL; None if that can't be told. Raises CallErrors."""
        if url not in self._hashes:
            self._hashes[url] = await self._asked_sha256(url)
        return self._hashes[url]

    async def _asked_sha256(self, url: str) -> str | None:
        file_id = usable_id(url.rpartition("/files/")[2])
        if file_id is None or origin_of(url) != origin_of(self.base_url):
            return None
        try:
            checksums = (await self.ask_object(Call("GET", f"/files/{file_id}"))).get("checksums")
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
        raise Unavailable("the list of predictions is too long")

    async def _page(self, query: dict[str, str]) -> dict[str, Any]:
        answer = await self.ask(Call("GET", "/predictions", query))
        now = self.clock.now()
        said = http_date(answer.headers.get("Date", ""))
        self.skew = None if said is None else said - now
        return called(answer, now)

    def _row(self, listed: Any) -> Prediction:
        """Raises Unavailable for what is no prediction: it may be one of ours."""
        if isinstance(listed, dict):
            found, created_at = usable_id(listed.get("id")), _moment(listed.get("created_at"))
            if found is not None and created_at is not None:
                return Prediction(found, created_at - (self.skew or timedelta()), listed)
        raise Unavailable("the list of predictions holds something that is none")

    def _query_of(self, url: Any) -> dict[str, str]:
        """The query of the next page's URL. Raises Unavailable for a URL of another API."""
        own = f"{self.base_url}/predictions"
        if not isinstance(url, str) or url.partition("?")[0] != own or "?" not in url:
            raise Unavailable(f"the list goes on at a URL of another API: {clean(str(url))}")
        return dict(parse_qsl(urlsplit(url).query))


def _results(page: dict[str, Any]) -> list[Any]:
    listed = page.get("results")
    if not isinstance(listed, list):
        raise Unavailable('the list of predictions came without "results"')
    return listed


def _moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo is not None else moment.replace(tzinfo=UTC)


async def verdicts(
    lost: Sequence[Lost], known: Callable[[str], bool], listing: Listing, defaults: Defaults
) -> dict[str, Trace]:
    """What became of lost attempts, by job id; the undecided are left out. Raises CallErrors."""
    if not lost:
        return {}
    first = min(one.sent_at for one in lost) - ASTRAY
    last = max(one.sent_at for one in lost) + HELD + ASTRAY
    asked_at = listing.clock.now()
    rows = [row for row in await listing.rows(first, last) if not known(row.id)]
    claims = Claims(listing, defaults)
    for one in lost:
        await claims.add(one, rows)
    told: dict[str, Trace] = {}
    for group in claims.groups():
        told |= _decided(group, claims, asked_at)
    return told


def _decided(group: list[Lost], claims: Claims, asked_at: datetime) -> dict[str, Trace]:
    """The verdicts on attempts that claim the same predictions. ``asked_at`` is before the list."""
    group = sorted(group, key=lambda one: one.sent_at)
    certain = {row.id: row for one in group for row in claims.certain(one)}
    if len({_key(one) for one in group}) > 1 or len(certain) > len(group):
        return {}
    told: dict[str, Trace] = {}
    for row in sorted(certain.values(), key=lambda row: row.created_at):
        owners = (one for one in group if one.job_id not in told and row in claims.certain(one))
        owner = next(owners, None)
        if owner is None:
            return {}
        told[owner.job_id] = Trace(Handle(owner.model, row.id))
    taken = {trace.request.id for trace in told.values() if trace.request is not None}
    for one in group:
        age = asked_at - one.sent_at
        is_told = claims.knows_time and timedelta(seconds=SETTLED_S) <= age <= LISTED
        if one.job_id not in told and is_told and claims.ids(one) <= taken:
            told[one.job_id] = Trace(None)
    return told


def _key(lost: Lost) -> bytes:
    return msgspec.json.encode([lost.model, lost.input], order="deterministic")


class Claims:
    """Which predictions may belong to which attempts."""

    def __init__(self, listing: Listing, defaults: Defaults) -> None:
        self._listing = listing
        self._defaults = defaults
        self._lost: list[Lost] = []
        self._claimed: dict[str, list[tuple[Prediction, Claim]]] = {}
        self._defaults_of: dict[str, Mapping[str, Any] | None] = {}

    @property
    def knows_time(self) -> bool:
        """Whether the server's clock is known: without it, no absence proves anything."""
        return self._listing.skew is not None

    def certain(self, lost: Lost) -> list[Prediction]:
        """The predictions that surely fit an attempt."""
        return [row for row, claim in self._claimed[lost.job_id] if claim]

    def ids(self, lost: Lost) -> set[str]:
        """The ids of all predictions that an attempt claims."""
        return {row.id for row, _ in self._claimed[lost.job_id]}

    async def add(self, lost: Lost, rows: Iterable[Prediction]) -> None:
        """Compare an attempt with the listed predictions. Raises CallErrors."""
        self._lost.append(lost)
        compared = [(row, await self._claim(lost, row)) for row in rows]
        self._claimed[lost.job_id] = [(row, claim) for row, claim in compared if claim is not False]

    def groups(self) -> list[list[Lost]]:
        """The attempts, those together that claim a common prediction."""
        group_of: dict[str, list[Lost]] = {}
        claimants: defaultdict[str, list[Lost]] = defaultdict(list)
        for one in self._lost:
            group_of[one.job_id] = [one]
            for row_id in self.ids(one):
                claimants[row_id].append(one)
        for together in claimants.values():
            merged = {one.job_id: one for each in together for one in group_of[each.job_id]}
            group = list(merged.values())
            group_of.update((job_id, group) for job_id in merged)
        return list({id(group): group for group in group_of.values()}.values())

    async def _claim(self, lost: Lost, row: Prediction) -> Claim:
        """Whether a prediction is an attempt's own."""
        after = row.created_at - lost.sent_at
        if not -ASTRAY <= after <= HELD + ASTRAY:
            return False
        of_model = model_name(lost.model).fits(row.document)
        if of_model is False:
            return False
        has_input = await self._has_input(lost, row)
        if has_input is False:
            return False
        return True if of_model and has_input and -EARLY <= after <= HELD else None

    async def _has_input(self, lost: Lost, row: Prediction) -> Claim:
        theirs = row.document.get("input")
        if not isinstance(theirs, dict) or row.document.get("data_removed") is True:
            return None
        theirs = {name: recorded(value) for name, value in theirs.items()}
        told = [
            await self._agrees(value, theirs[name]) if name in theirs else None
            for name, value in lost.input.items()
        ]
        more = {n: value for n, value in theirs.items() if n not in lost.input and value is not None}
        if False not in told and more:
            defaults = await self._defaults_for(lost.model)
            told += [None if defaults is None else defaults.get(n) == v for n, v in more.items()]
        return _all(told)

    async def _defaults_for(self, model: str) -> Mapping[str, Any] | None:
        """The defaults, which a server may add to the inputs; None if they can't be asked."""
        if model not in self._defaults_of:
            try:
                self._defaults_of[model] = await self._defaults(model)
            except CallError:
                self._defaults_of[model] = None
        return self._defaults_of[model]

    async def _agrees(self, ours: Any, theirs: Any) -> Claim:
        """Whether an input that we sent is the one that is listed, both as a ledger records them."""
        if isinstance(ours, dict) and ours.keys() == {"path", "sha256"}:
            return await self._is_content(ours["sha256"], theirs)
        if isinstance(ours, list) and isinstance(theirs, list):
            if len(ours) != len(theirs):
                return False
            return _all([await self._agrees(*pair) for pair in zip(ours, theirs, strict=True)])
        if isinstance(ours, dict) and isinstance(theirs, dict):
            common = ours.keys() & theirs.keys()
            told = [await self._agrees(ours[name], theirs[name]) for name in common]
            return _all([*told, True if ours.keys() == theirs.keys() else None])
        return _same(ours, theirs)

    async def _is_content(self, sha256: str, theirs: Any) -> Claim:
        if isinstance(theirs, dict) and isinstance(theirs.get("sha256"), str):
            return bool(theirs["sha256"] == sha256)
        found = await self._listing.sha256(theirs) if isinstance(theirs, str) else None
        return None if found is None else found == sha256


def _all(told: list[Claim]) -> Claim:
    """No if any is no, else perhaps if any is perhaps, else yes."""
    if False in told:
        return False
    return None if None in told else True


def _same(ours: Any, theirs: Any) -> Claim:
    """Whether two values are equal; perhaps if a server may have made the one of the other."""
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
