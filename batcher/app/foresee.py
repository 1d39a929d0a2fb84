"""What a plan says beyond its jobs: time, warnings, the room under caps, what a run would ask."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

from batcher.app.account import bought_elsewhere
from batcher.app.check_urls import UrlReport
from batcher.app.guard import moved_since
from batcher.app.host import Host
from batcher.app.prepare import Prepared, balance_warning, question_before
from batcher.app.schema_warnings import odd_schemas
from batcher.app.show_bodies import ShownJob
from batcher.ledger.book import Book, PeriodRoom
from batcher.ledger.snapshot import Snapshot
from batcher.store.local import RunDir


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long a plan's jobs may take. ``duration_s`` is None if a model is not in the ledger.

    ``seen`` counts the generations that the forecast is based on.
    """

    duration_s: float | None
    seen: int


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan to print. ``urls`` is None if they were not checked, ``shown`` are the jobs of
    ``--show``, ``rooms`` what ``--max-cost-per`` leaves."""

    prepared: Prepared
    forecast: Forecast
    warnings: tuple[str, ...]
    urls: UrlReport | None = None
    balance_usd: float | None = None
    """The account's balance; None if it can't be queried."""
    shown: tuple[ShownJob, ...] = ()
    rooms: tuple[PeriodRoom, ...] = ()

    def with_balance(self, balance_usd: float | None) -> Planned:
        """The plan with the account's balance, and a warning if that is too low."""
        short = balance_warning(self.prepared, balance_usd)
        warnings = self.warnings if short is None else (*self.warnings, short)
        return replace(self, balance_usd=balance_usd, warnings=warnings)


def foresee(
    prepared: Prepared, snapshot: Snapshot, host: Host, store: RunDir, book: Book | None
) -> Planned:
    """A plan with its warnings. ``book`` is the account's, None if there is none."""
    seen_s = snapshot.timings.by_model()
    concurrency = prepared.options.pace.concurrency
    expected = forecast(prepared.survey.estimate.jobs_by_model(), seen_s, concurrency)
    question = question_before(prepared, doubts_about(prepared, snapshot, host, store, book))
    return Planned(
        prepared,
        expected,
        (
            *prepared.tally.notices(),
            *odd_schemas(prepared),
            *prepared.survey.urls.warnings(host.clock.now(), expected.duration_s),
            *([] if question is None else [f"{question.text}: a run asks, or needs {question.flag}"]),
        ),
        rooms=tuple(book.rooms()) if book is not None else (),
    )


def doubts_about(
    prepared: Prepared, snapshot: Snapshot, host: Host, store: RunDir, book: Book | None
) -> str | None:
    """Why jobs to be bought may already be paid for: in a moved run directory, or in another one."""
    doubts = (
        moved_since(snapshot, store, host.disk),
        bought_elsewhere(prepared, snapshot, book),
    )
    return ". ".join(filter(None, doubts)) or None


def forecast(
    jobs_by_model: Mapping[str, int], seen_s: Mapping[str, list[float]], concurrency: int
) -> Forecast:
    """The median duration of each model's jobs, one after the other in ``concurrency`` rows."""
    seen = sum(len(seen_s.get(model, ())) for model in jobs_by_model)
    if not jobs_by_model or any(not seen_s.get(model) for model in jobs_by_model):
        return Forecast(None, seen)
    medians_s = {model: statistics.median(seen_s[model]) for model in jobs_by_model}
    in_a_row_s = sum(medians_s[model] * count for model, count in jobs_by_model.items())
    return Forecast(max(in_a_row_s / concurrency, *medians_s.values()), seen)
