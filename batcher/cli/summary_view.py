"""What ``run`` and ``status`` print at the end: counts, money, and what to do about the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from batcher.cli.amounts import duration, money, size
from batcher.jobs.lifecycle import EXPIRED, NO_OUTPUT, SANDBOX_API, Record, Stage, State
from batcher.ledger.finished import JobRecord
from batcher.ledger.snapshot import Snapshot
from batcher.ledger.summary import REFUSED, Status, Summary
from batcher.options.command import as_path, command
from batcher.options.given import Given
from batcher.providers.registry import DEPLOYMENTS, RUNCOMFY, vendors_of
from batcher.store.bucket import outputs_place
from batcher.terminal import counted

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
        yield f"  resume with: {given.resume_command()}"


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
    again = given.resume_command()
    if summary.cancelled_now or summary.not_cancellable:
        cancelled = counted(summary.cancelled_now, "queued request was", "queued requests were")
        late = counted(summary.not_cancellable, "runs", "run")
        yield f"{cancelled} cancelled and cost nothing, {late} already and can't be cancelled"
    running = [r for _, r in snapshot.unfinished() if r.state is State.SUBMITTED]
    if summary.not_redone:
        spared = counted(summary.not_redone, "job was", "jobs were")
        yield f"{spared} not bought again: all attempts are used (--max-attempts)"
    if running:
        requests, cost = counted(len(running), "request is", "requests are"), _running_cost(running)
        yield f"{requests} still running at the API, and may cost {cost}. Resume with: {again}"
    if summary.completed:
        generated = counted(summary.completed, "is", "are")
        yield f"{generated} generated but not yet downloaded. Resume with: {again}"
    if summary.pending:
        yield from _pending(summary, given)
    yield from _failures(summary, snapshot, given)
    yield from _unknowns(summary, snapshot, given)


def _pending(summary: Summary, given: Given) -> Iterator[str]:
    """A run that was not stopped has left only what it was not asked for: its command would again."""
    pending = counted(summary.pending, "job is pending", "jobs are pending")
    chosen = [f"--{key}" for key in ("limit", "only", "shard") if given.values.get(key)]
    if summary.stopped or not chosen:
        yield f"{pending}. Resume with: {given.resume_command()}"
        return
    text = f"{pending} that {' and '.join(chosen)} left out"
    if "--shard" in chosen:
        yield text
    else:
        yield f"{text}. To run them all: {given.resume_command(limit=None, only=None)}"


def _running_cost(running: list[Record]) -> str:
    unpriced = sum(record.charge_usd is None for record in running)
    known = money(sum(record.charge_usd or 0.0 for record in running))
    if not unpriced:
        return known
    return "an unknown amount" if unpriced == len(running) else f"{known} and more (prices unknown)"


def _in_states(summary: Summary, snapshot: Snapshot, *states: State) -> list[tuple[str, JobRecord]]:
    """The jobs of the manifest in ``states``, those that reached it in this run first."""
    found = [
        (job_id, record)
        for job_id, record in snapshot.unfinished()
        if record.state in states and not record.orphaned
    ]
    return sorted(found, key=lambda pair: pair[0] not in summary.newly)


def _failures(summary: Summary, snapshot: Snapshot, given: Given) -> Iterator[str]:
    bad = _in_states(summary, snapshot, State.FAILED, State.CANCELLED)
    failed = [pair for pair in bad if not pair[1].is_refused]
    yield from _refusals([pair for pair in bad if pair[1].is_refused], summary, given)
    if not failed:
        return
    yield f"{len(failed)} failed or {'was' if len(failed) == 1 else 'were'} cancelled:"
    yield from _listed(failed, summary, "failed,cancelled")
    others = [record for _, record in failed if not _is_fetched_again(record)]
    if any(record.stage is Stage.DOWNLOAD for _, record in failed):
        yield f"  downloads are tried again, at no cost, by: {given.resume_command()}"
    at_most = given.complete()["max_attempts"]
    over = [record.attempt for record in others if record.attempt >= at_most]
    if len(over) < len(others):
        again = given.resume_command(retry_failed=True)
        yield f"  to try the others again, at their price: {again}"
    if over:
        raised = given.resume_command(retry_failed=True, max_attempts=max(over) + 1)
        yield f"  {len(over)} have had all of --max-attempts {at_most}; to try them too: {raised}"


def _is_fetched_again(record: JobRecord) -> bool:
    """Whether any next run tries it again, at no cost, and ``--retry-failed`` does nothing else."""
    return record.stage is Stage.DOWNLOAD and record.code not in (EXPIRED, NO_OUTPUT)


def _refusals(refused: list[tuple[str, JobRecord]], summary: Summary, given: Given) -> Iterator[str]:
    if not refused:
        return
    yield f"{counted(len(refused), 'was', 'were')} refused for their inputs, and would be refused again:"
    yield from _listed(refused, summary, REFUSED)
    yield "  fix their inputs in the manifest; to submit unchanged ones again, at their price:"
    yield f"    {given.resume_command(retry_refused=True)}"


def _listed(jobs: list[tuple[str, JobRecord]], summary: Summary, states: str) -> Iterator[str]:
    """The first few, and the command that lists all."""
    for job_id, record in jobs[:PROBLEMS_SHOWN]:
        where = f"at {record.stage}" if record.stage is not None else "cancelled"
        code = f" [{record.code}]" if record.code is not None else ""
        yield f"  {job_id}: {where}{code} {record.message or ''}".rstrip()
    if len(jobs) > PROBLEMS_SHOWN:
        listing = _list_command(summary.run_dir, states)
        yield f"  ... and {len(jobs) - PROBLEMS_SHOWN} more: {listing}"


def _unknowns(summary: Summary, snapshot: Snapshot, given: Given) -> Iterator[str]:
    unknown = _in_states(summary, snapshot, State.UNKNOWN)
    if not unknown:
        return
    yield f"{len(unknown)} unknown: the POST left, no answer came, so each may have been charged:"
    for job_id, record in unknown[:PROBLEMS_SHOWN]:
        why = record.message or "this program ended before the answer"
        yield f"  {job_id}: sent {record.submitting_at}; {why}"
    if len(unknown) > PROBLEMS_SHOWN:
        listing = _list_command(summary.run_dir, "unknown")
        yield f"  ... and {len(unknown) - PROBLEMS_SHOWN} more: {listing}"
    vendors = vendors_of(record.model or "" for _, record in unknown)
    if not {RUNCOMFY, DEPLOYMENTS}.issuperset(vendors):
        auto = command("resolve", as_path(summary.run_dir), "--auto")
        yield f"  those that their vendor lists are found by the next run, and by: {auto}"
    first = command("resolve", as_path(summary.run_dir), unknown[0][0])
    sandboxed = snapshot.last_run is not None and snapshot.last_run.api == SANDBOX_API
    place = "the sandbox's list" if sandboxed else _pages(vendors)
    yield f"  look for them on {place}, then resolve each, as in"
    if sandboxed:
        yield f"    {command('sandbox', 'generations', as_path(summary.run_dir))}"
    yield f"    {first} --request-id ID"
    yield f"    {first} --not-created"
    yield "  or buy them once more, in any case:"
    yield f"    {given.resume_command(retry_unknown=True)}"


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
