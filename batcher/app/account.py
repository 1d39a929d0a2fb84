"""Opens the account's book for a run, and corrects entries of dead runs."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

from batcher.app.prepare import Prepared
from batcher.engine.account import Account
from batcher.engine.host import Host
from batcher.errors import BatcherError, RunDirError
from batcher.jobs.lifecycle import SANDBOX_API
from batcher.ledger.book import Book, Limits
from batcher.ledger.book_file import BookFile, state_dir
from batcher.ledger.book_fold import FOLD_FROM_LINES, fold_file, paid_number
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.run_dir_lock import is_segment_held
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot
from batcher.options.run import Options
from batcher.planning.plan import PlanGroup
from batcher.terminal import counted, legible

_HERE = (
    "this run directory (its ledger, which was deleted, moved away or replaced, doesn't know of it: put "
    "it back if you can)"
)


def open_account(options: Options, api: str, run_dir: Path, host: Host) -> Account | None:
    """The account of a run against ``api``; None in the sandbox, or if the book can't be opened.

    Raises LedgerError or RunDirError if ``--max-cost-per`` or ``--account-concurrency`` can't be kept.
    """
    if api == SANDBOX_API:
        return None
    file, book = _book(options, api, run_dir, host)
    limits, assumed_usd = book.limits, options.money.assume_price_usd or 0.0
    account = Account(book, host.disk, host.clock, host.observer.warn, assumed_usd)
    account.settle_dead = lambda: _correct_other_runs(account, host)
    try:
        if file.line_count() > FOLD_FROM_LINES:  # first, so that the book is in memory only once
            _fold(file, host)
        book.refresh()
        if limits:
            file.append([])
            account.settle_dead()
    except BatcherError as error:
        if limits:
            raise
        host.observer.warn(f"the account's book is not kept: {error}")
        return None
    return account


def read_book(options: Options, api: str, run_dir: Path, host: Host) -> Book | None:
    """The account's book for a plan, which writes nothing. None in the sandbox.

    Raises LedgerError as a run would: if it can't be read and there is a limit to keep.
    """
    if api == SANDBOX_API:
        return None
    _, book = _book(options, api, run_dir, host)
    try:
        book.refresh()
    except BatcherError:
        if book.limits:
            raise
        return None
    return book


def _book(options: Options, api: str, run_dir: Path, host: Host) -> tuple[BookFile, Book]:
    limits = Limits(options.money.max_cost_per, options.pace.account_concurrency)
    file = BookFile(state_dir(host.env, host.home), host.disk)
    return file, Book(file, (api, legible(run_dir.absolute())), limits, host.clock)


def _fold(file: BookFile, host: Host) -> None:
    """Keep the book short. One that another run uses now stays as it is."""
    with suppress(RunDirError):
        fold_file(file, host.clock.now())


def bought_elsewhere(prepared: Prepared, snapshot: Snapshot, book: Book | None) -> str | None:
    """A warning that jobs to be submitted are already paid for in another run directory, or in this one
    by a ledger that is gone."""
    if book is None or not prepared.plan.to_buy:
        return None
    lost = book.paid_here(lambda job: snapshot.get(job) is not None, is_empty=snapshot.last_run is None)
    if not lost and not book.knows_others:
        return None
    places: Counter[str] = Counter()
    for job, decision in prepared.work(snapshot):
        if decision.bucket is PlanGroup.NEW:
            place = book.paid_elsewhere(job.id, job.digest)
            if snapshot.get(job.id) is None and paid_number(job.id, job.digest) in lost:
                place = _HERE
            places.update([place] if place is not None else [])
    if not places:
        return None
    most, count = places.most_common(1)[0]
    more = f" and {places.total() - count} in others" if len(places) > 1 else ""
    some = counted(
        count, "of the jobs that would be bought was", "of the jobs that would be bought were"
    )
    return f"{some} already paid for in {most}{more}"


def _correct_other_runs(account: Account, host: Host) -> None:
    """Replace the reservations of dead runs with the costs in their ledgers."""
    ours = account.book.run_dir
    others = {entry.run_dir for entry in account.book.reservations()} - {ours}
    for run_dir in sorted(others):
        path = Path(run_dir)
        segments = segments_in(path, host.disk)
        held = [is_segment_held(path, name, host.disk) for name in segments]
        if segments and not any(one is not False for one in held):
            try:
                snapshot = read_snapshot(path, host.disk)
            except BatcherError:
                continue  # it counts at its reservation
            account.correct_costs(snapshot, run_dir, lambda job: True)
