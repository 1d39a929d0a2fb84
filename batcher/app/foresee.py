"""What a plan says beyond its jobs: time, warnings, the room under caps, what a run would ask."""

from __future__ import annotations

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
from batcher.planning.durations import Forecast, forecast
from batcher.store.local import RunDir


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
    prepared: Prepared, snapshot: Snapshot, host: Host, held: tuple[RunDir, Book | None]
) -> Planned:
    """A plan with its warnings. ``held``: the run directory, and the account's book."""
    (tree, book), options = held, prepared.options
    seen_s = snapshot.timings.by_model()
    expected = forecast(prepared.survey.estimate.jobs_by_model(), seen_s, options.pace.concurrency)
    doubts = (
        moved_since(snapshot, tree, host.disk),
        bought_elsewhere(prepared, snapshot, book),
    )
    question = question_before(prepared, ". ".join(filter(None, doubts)) or None)
    return Planned(
        prepared,
        expected,
        (
            *prepared.tally.told(),
            *odd_schemas(prepared),
            *prepared.survey.urls.warnings(host.clock.now(), expected.duration_s),
            *([] if question is None else [f"{question.text}: a run asks, or needs {question.flag}"]),
        ),
        rooms=tuple(book.rooms()) if book is not None else (),
    )
