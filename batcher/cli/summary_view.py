"""What ``run`` and ``status`` print at the end: counts, money, and what to do about the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from batcher.cli.amounts import duration, size
from batcher.jobs.lifecycle import EXPIRED, NO_OUTPUT, SANDBOX_API, Stage, State
from batcher.ledger.finished import JobRecord
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.summary import REFUSED, Status, Summary
from batcher.options.command import as_path, command
from batcher.options.given import Given
from batcher.providers.registry import DEPLOYMENTS, RUNCOMFY, vendors_of
from batcher.store.bucket import outputs_place
from batcher.terminal import counted, money

PROBLEMS_SHOWN = 10
GENERATIONS_PAGE = "the Generations page of your RunComfy account"


def status_lines(status: Status, given: Given | None = None) -> Iterator[str]:
    """A status and its cost and, if the run's options are known (``given``), how to resume."""
    live = ", a run is under way" if status.live else ""
    yield f"{status.batch}: {status.done} of {status.total} jobs done{live}"
    for state in State:
        count = getattr(status, state.value)
        if count:
            extra = (
                f" ({status.submitting} being submitted now)"
                if (state is State.UNKNOWN and status.submitting)
                else ""
            )
            yield f"  {count:>7}  {state}{extra}"
        if state is State.FAILED and status.refused:
            listing = _list_command(status.run_dir, REFUSED)
            yield f"  {status.refused:>7}  of the failed were refused for their inputs: {listing}"
    if status.bad_quality:
        listing = _list_command(status.run_dir, "done")
        yield f"  {status.bad_quality:>7}  of the done have poor outputs: {listing} --quality bad"
    if status.orphaned:
        yield f"  {status.orphaned:>7}  no longer in the manifest"
    yield f"  {size(status.bytes)} in {outputs_place(Path(status.run_dir))}, cost {_cost(status)}"
    unfinished = status.pending + status.submitted + status.completed
    if unfinished and given is not None and not status.live:
        chosen = " and ".join(given.chosen)
        yield f"  resume {f'what {chosen} chose ' if chosen else ''}with: {given.resume_command()}"
        if chosen:
            yield f"  resume all with: {given.resume_command(limit=None, only=None, shard=None)}"


def _cost(status: Status) -> str:
    known = money(status.cost_usd)
    if status.unpriced_attempts:
        known += " and " + counted(status.unpriced_attempts, "attempt", "attempts") + " of unknown price"
    if not status.reported_cost_usd:
        return known
    all_of_it = status.reported_cost_usd == status.cost_usd
    part = "as" if all_of_it else f"{money(status.reported_cost_usd)} of it as"
    return f"{known} ({part} the API reports; estimated {money(status.estimated_cost_usd)})"


def summary_lines(summary: Summary, snapshot: Snapshot | None, given: Given) -> Iterator[str]:
    """The end of a run: counts, money, the place of the outputs, and what to do about the rest.

    Without a ``snapshot`` the run directory can't be read any more: no command could resume it.
    """
    yield (
        f"{summary.done} of {summary.total} jobs done in {duration(summary.elapsed_s)}"
        f" ({summary.submitted_now} submitted now), {size(summary.bytes)}, cost {_cost(summary)}"
    )
    if summary.done:
        root = Path(summary.run_dir)
        yield f"outputs: {outputs_place(root)}, described in {root / 'metadata.jsonl'}"
    if summary.invalid:
        yield f"{counted(summary.invalid, 'invalid row was', 'invalid rows were')} left out"
    if snapshot is not None:
        yield from _remedies(summary, snapshot, given)
    if summary.stopped:
        yield from f"stopped: {summary.stopped}".split("\n")


def needs_a_human(summary: Summary) -> str:
    """The message of an unattended run: its run directory, how it ended, and what is new."""
    came = {"failed": summary.failed_now, "unknown": summary.unknown_now}
    newly = ", ".join(f"{count} newly {what}" for what, count in came.items() if count)
    return f"{summary.run_dir}: exit {summary.exit_code}, {newly or 'no new failures'}"


def _remedies(summary: Summary, snapshot: Snapshot, given: Given) -> Iterator[str]:
    if summary.cancelled_now or summary.not_cancellable:
        yield _cancelled(summary)
    if summary.not_redone:
        spared = counted(summary.not_redone, "job was", "jobs were")
        yield f"{spared} not bought again: all attempts are used (--max-attempts)"
    ended = _End(summary, snapshot, given)
    if running := ended.jobs(State.SUBMITTED, leavers=True):
        requests = counted(len(running), "request is", "requests are")
        cost, again = _running_cost(running), ended.again(running, "submitted")
        yield f"{requests} still running at the API, and may cost {cost}. Resume with: {again}"
    if completed := ended.jobs(State.COMPLETED, leavers=True):
        generated = counted(len(completed), "is", "are")
        again = ended.again(completed, "completed")
        yield f"{generated} generated but not yet downloaded. Resume with: {again}"
    if summary.pending:
        yield from _pending(summary, given)
    yield from _failures(ended)
    yield from _unknowns(ended)


def _cancelled(summary: Summary) -> str:
    told = counted(summary.cancelled_now, "request was", "requests were") + " cancelled"
    if summary.cancelled_running:
        told += f", {summary.cancelled_running} of them while running: they may be charged"
    elif summary.cancelled_now:
        told += " and cost nothing"
    if summary.not_cancellable:
        told += f"; {counted(summary.not_cancellable, 'was', 'were')} not: running, or ended already"
    return told


Found = list[tuple[str, JobRecord]]


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a run of ``given``, and the jobs that it has left."""

    summary: Summary
    snapshot: Snapshot
    given: Given

    @property
    def is_of_all(self) -> bool:
        """Whether the run took all jobs of the manifest (of its shard, if it has one)."""
        return not {"--limit", "--only"} & {*self.given.chosen}

    def jobs(self, *states: State, leavers: bool = False) -> Found:
        """The jobs in ``states``, those that reached it in this run first; of a shard, its own.

        With ``leavers`` also jobs that left the manifest, if the run concerns them.
        """
        shard = self.given.values.get("shard")
        found = [
            (job_id, record)
            for job_id, record in self.snapshot.unfinished()
            if record.state in states
            and (not record.orphaned or (leavers and self.is_of_all))
            and (shard is None or shard.has(job_id))
        ]
        return sorted(found, key=lambda pair: pair[0] not in self.summary.newly)

    def again(self, jobs: Found, states: str, **more: Any) -> str:
        """The command that resumes ``jobs``, which are in ``states``: with the run's own selection if
        that has all of them, else with a list of them.
        """
        if self.is_of_all or all(self._has(job_id) for job_id, _ in jobs):
            return self.given.resume_command(**more)
        return self.given.resume_listed(self.summary.run_dir, states, **more)

    def _has(self, job_id: str) -> bool:
        """Whether the run's selection surely has a job."""
        if job_id in self.summary.newly:
            return True
        only, limit = self.given.values.get("only"), self.given.values.get("limit")
        is_glob = isinstance(only, str) and not only.startswith("@") and limit is None
        return is_glob and fnmatchcase(job_id, str(only))


def _pending(summary: Summary, given: Given) -> Iterator[str]:
    """A run that was not stopped has left only what it was not asked for: its command would again."""
    pending = counted(summary.pending, "job is pending", "jobs are pending")
    chosen = given.chosen
    if not chosen or (summary.stopped and summary.selected == summary.total):
        yield f"{pending}. Resume with: {given.resume_command()}"
        return
    left_out = f"that {' and '.join(chosen)} left out"
    if summary.stopped:
        pending = (
            f"{pending}, with those {left_out}. Resume this selection with: {given.resume_command()}"
        )
    else:
        pending = f"{pending} {left_out}"
    if "--shard" in chosen:
        yield pending
    else:
        yield f"{pending}. To run them all: {given.resume_command(limit=None, only=None)}"


def _running_cost(running: Found) -> str:
    unpriced = sum(record.charge_usd is None for _, record in running)
    known = money(sum(record.charge_usd or 0.0 for _, record in running))
    if not unpriced:
        return known
    return "an unknown amount" if unpriced == len(running) else f"{known} and more (prices unknown)"


def _failures(ended: _End) -> Iterator[str]:
    bad = ended.jobs(State.FAILED, State.CANCELLED)
    failed = [pair for pair in bad if not pair[1].is_refused]
    yield from _refusals([pair for pair in bad if pair[1].is_refused], ended)
    if not failed:
        return
    yield f"{len(failed)} {_ended_badly(failed)}:"
    yield from _listed(failed, ended.summary, "failed,cancelled")
    downloads = [pair for pair in failed if pair[1].stage is Stage.DOWNLOAD]
    if downloads:
        yield f"  downloads are tried again, at no cost, by: {ended.again(downloads, 'failed')}"
    yield from _retries(failed, ended)


def _ended_badly(failed: Found) -> str:
    were_cancelled = "was cancelled" if len(failed) == 1 else "were cancelled"
    states = {record.state for _, record in failed}
    if State.CANCELLED not in states:
        return "failed"
    return were_cancelled if State.FAILED not in states else f"failed or {were_cancelled}"


def _retries(failed: Found, ended: _End) -> Iterator[str]:
    """How to buy failed jobs again: those with an attempt left, and the others."""
    at_most = ended.given.complete()["max_attempts"]
    bought = [pair for pair in failed if not _is_fetched_again(pair[1])]
    over = [pair for pair in bought if pair[1].attempt >= at_most]
    left = [pair for pair in bought if pair[1].attempt < at_most]
    again = partial(ended.again, states="failed,cancelled", retry_failed=True)
    if left:
        them = (
            f"{len(left)} of them" if len(left) < len(failed) else "it" if len(failed) == 1 else "them"
        )
        price = "at its price" if len(left) == 1 else "at their price"
        yield f"  to try {them} again, {price}: {again(left)}"
    if over:
        have = counted(len(over), "has", "have")
        them = ("it" if len(over) == 1 else "them") + (" too" if left else "")
        raised = again(over, max_attempts=max(record.attempt for _, record in over) + 1)
        yield f"  {have} had all of --max-attempts {at_most}; to try {them}: {raised}"


def _is_fetched_again(record: JobRecord) -> bool:
    """Whether any next run tries it again, at no cost, and ``--retry-failed`` does nothing else."""
    return record.stage is Stage.DOWNLOAD and record.code not in (EXPIRED, NO_OUTPUT)


def _refusals(refused: Found, ended: _End) -> Iterator[str]:
    if not refused:
        return
    yield f"{counted(len(refused), 'was', 'were')} refused for their inputs, and would be refused again:"
    yield from _listed(refused, ended.summary, REFUSED)
    yield "  fix their inputs in the manifest; to submit unchanged ones again, at their price:"
    yield f"    {ended.again(refused, REFUSED, retry_refused=True)}"


def _listed(jobs: Found, summary: Summary, states: str) -> Iterator[str]:
    """The first few, and the command that lists all."""
    for job_id, record in jobs[:PROBLEMS_SHOWN]:
        where = f"at {record.stage}" if record.stage is not None else "cancelled"
        code = f" [{record.code}]" if record.code is not None else ""
        yield f"  {job_id}: {where}{code} {record.message or ''}".rstrip()
    if len(jobs) > PROBLEMS_SHOWN:
        listing = _list_command(summary.run_dir, states)
        yield f"  ... and {len(jobs) - PROBLEMS_SHOWN} more: {listing}"


def _unknowns(ended: _End) -> Iterator[str]:
    unknown, run_dir = ended.jobs(State.UNKNOWN), ended.summary.run_dir
    if not unknown:
        return
    yield f"{len(unknown)} unknown: the POST left, no clear answer came, so each may have been charged:"
    for job_id, record in unknown[:PROBLEMS_SHOWN]:
        why = record.message or "this program ended before the answer"
        yield f"  {job_id}: sent {record.submitting_at}; {why}"
    if len(unknown) > PROBLEMS_SHOWN:
        listing = _list_command(run_dir, "unknown")
        yield f"  ... and {len(unknown) - PROBLEMS_SHOWN} more: {listing}"
    vendors = vendors_of(record.model or "" for _, record in unknown)
    if not {RUNCOMFY, DEPLOYMENTS}.issuperset(vendors):
        auto = command("resolve", as_path(run_dir), "--auto")
        yield f"  those that their vendor lists are found by the next run, and by: {auto}"
    first = command("resolve", as_path(run_dir), unknown[0][0])
    last_run = ended.snapshot.last_run
    sandboxed = last_run is not None and last_run.api == SANDBOX_API
    place = "the sandbox's list" if sandboxed else _pages(vendors)
    yield f"  look for them on {place}, then resolve each, as in"
    if sandboxed:
        yield f"    {command('sandbox', 'generations', as_path(run_dir))}"
    yield f"    {first} --request-id ID"
    yield f"    {first} --not-created"
    yield "  or buy them once more, in any case:"
    yield f"    {ended.again(unknown, 'unknown', retry_unknown=True)}"


def _pages(vendors: list[str]) -> str:
    """Where a user looks requests up."""
    named = ("RunComfy" if one in (RUNCOMFY, DEPLOYMENTS) else one for one in vendors)
    pages = (
        GENERATIONS_PAGE if one == "RunComfy" else f"the list of requests of your {one} account"
        for one in dict.fromkeys(named)
    )
    return " or ".join(pages)


def _list_command(run_dir: str, states: str) -> str:
    return command("status", as_path(run_dir), "--list", states)
