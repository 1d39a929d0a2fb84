"""From a manifest to a checked, priced and confirmed plan: everything before spending."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from batcher.app.model_names import idle_caps
from batcher.dataset.card import path_warning
from batcher.dataset.metadata_rows import ColumnTypes
from batcher.engine.host import Host
from batcher.errors import InputError, UnreachableError, UsageError
from batcher.jobs.identity import price_key
from batcher.jobs.job import Job
from batcher.jobs.marks import marks_named
from batcher.layout import MARKS_NAME
from batcher.ledger.costs import Costs
from batcher.ledger.marks_file import marked
from batcher.ledger.snapshot import Snapshot
from batcher.manifest.id_table import Roll
from batcher.manifest.load import Manifest
from batcher.manifest.remedy import remedy_of
from batcher.manifest.tally import ManifestTally
from batcher.options.facts import Money
from batcher.options.ids import strangers
from batcher.options.run import Options
from batcher.planning.media_urls import MediaUrl, UrlWatch, media_urls
from batcher.planning.plan import Decision, Plan, decide, make_plan
from batcher.planning.survey import CanaryChoice, Estimate, Survey
from batcher.providers.catalog import Specs
from batcher.terminal import counted, money

ASK_FROM_JOBS = 20


class Question(NamedTuple):
    """A doubt about a purchase, and the option that answers it if there is no user to ask."""

    text: str
    flag: str


@dataclass(frozen=True, repr=False)
class Prepared:
    """A manifest checked against schemas and ledger: what a run would do with it.

    Without a repr, which would be that of a table of a million ids: ``asyncio.run`` makes one of what
    its main task returns, when it looks for its signal handler.
    """

    options: Options
    run_dir: Path
    manifest: Manifest
    specs: Specs
    plan: Plan
    tally: ManifestTally
    columns: ColumnTypes
    survey: Survey
    spent_usd: float
    roll: Roll

    @cached_property
    def canary(self) -> frozenset[str]:
        """The jobs that go first; none if there would be no others to submit."""
        choice = self.survey.canary
        if choice is None or self.plan.to_buy <= choice.jobs:
            return frozenset()
        return choice.ids()

    @property
    def expected_cost_usd(self) -> float | None:
        """The estimated cost, corrected by the costs that the API has reported, as a cap counts it."""
        cost_usd = self.plan.estimated_cost_usd
        return None if cost_usd is None else cost_usd + self.survey.estimate.surplus_usd

    def unpriced_models(self) -> set[str]:
        """The models of jobs that would be submitted without a known price."""
        return {line.model for line in self.survey.estimate.lines if line.usd is None}

    def unpriced_lines(self) -> str:
        """Why these have no price, one line each."""
        lines = [pair for pair in self.survey.estimate.lines.items() if pair[0].usd is None]
        return "\n".join(f"{count} × {line.model}: {line.problem}" for line, count in lines)

    def work(self, snapshot: Snapshot) -> Iterator[tuple[Job, Decision]]:
        """The second pass: each selected job with its decision, by its state at that time."""
        for job in self._canaries_first():
            yield job, decide(job, snapshot.get(job.id), self.options.policy)

    def media_urls(self, snapshot: Snapshot) -> Iterator[MediaUrl]:
        """The URLs in media fields of the jobs that would be bought."""
        for job, decision in self.work(snapshot):
            if decision.buys:
                yield from media_urls(job, self.specs.get(job.model))

    def chosen(self) -> frozenset[str] | None:
        """The ids that ``--only`` and ``--limit`` choose from the whole manifest; None means all."""
        selection = self.options.selection
        if selection.limit is None and selection.only is None:
            return None
        blocks = self.manifest.blocks(self.specs.by_model, ManifestTally(), self.tally)
        return frozenset(job.id for _, chosen in selection.select(blocks) for job in chosen)

    def _canaries_first(self) -> Iterator[Job]:
        """The selected jobs: the canary's in one pass over the manifest, the others in the next."""
        left = set(self.canary)
        if left:
            for job in self._selected():
                if job.id in left:
                    left.discard(job.id)
                    yield job
                if not left:
                    break
        for job in self._selected():
            if job.id not in self.canary:
                yield job

    def _selected(self) -> Iterator[Job]:
        blocks = self.manifest.blocks(self.specs.by_model, ManifestTally(), self.tally)
        chosen = self.options.selection.select(self.roll.keep(blocks))
        return (job for _, block in chosen for job in block if job.id not in self.plan.edited)


def prepare(
    options: Options, manifest: Manifest, specs: Specs, snapshot: Snapshot, run_dir: Path
) -> Generator[None, None, Prepared]:
    """Check every row against schema and ledger, in steps.

    Raises ManifestError, InputError, UsageError.
    """
    manifest.keep_rule(snapshot.rule)
    options = _with_marks(options, snapshot, run_dir)
    tally, columns, roll = ManifestTally(), ColumnTypes(), Roll()
    survey = _survey(specs, options.money, snapshot.costs)
    only = options.selection.only
    unmet = set(only) if isinstance(only, frozenset) else set()
    blocks = _meeting(unmet, columns.watch(roll.note(manifest.blocks(specs.by_model, tally))))
    made = yield from make_plan(blocks, snapshot, options.selection, options.policy, survey.prices_usd)
    for row in made.edited.values():
        tally.reject(row.source.file, [(row.source.line, "id", row.problem)])
    if not options.skip_invalid:
        _raise_if_invalid(tally, specs, options)
    if unmet:
        tally.warnings.append(strangers("--only", unmet, "this manifest"))
    tally.warnings.extend(idle_caps(options, specs.sources))
    if not len(snapshot.records) and (warning := path_warning(run_dir)):
        tally.warnings.append(warning)
    made.duplicates, made.invalid = tally.duplicates, tally.invalid
    spent_usd = snapshot.counted_usd(options.money.assume_price_usd)
    prepared = Prepared(options, run_dir, manifest, specs, made, tally, columns, survey, spent_usd, roll)
    _check_limits(prepared, snapshot)
    return prepared


def _with_marks(options: Options, snapshot: Snapshot, run_dir: Path) -> Options:
    """``options`` with the ids that ``--only @marks:MARK`` currently selects."""
    only = options.selection.only
    names = marks_named(only, "--only") if isinstance(only, str) else None
    if names is None:
        return options
    ids = marked(run_dir, names, snapshot)
    if not ids:
        words = " or ".join(sorted(names))
        raise UsageError(f"--only {only}: no job is marked {words} in {run_dir / MARKS_NAME}")
    return replace(options, selection=replace(options.selection, only=ids))


def _raise_if_invalid(tally: ManifestTally, specs: Specs, options: Options) -> None:
    """Raises ManifestError, with a command that fixes the columns' names, if there is one."""
    if not tally.problem_count:
        return
    remedy = remedy_of(tally.unfit, specs.by_model)
    if remedy is None:
        raise tally.error()
    given = options.given
    command = given.command("plan", **remedy.over(given.complete()))
    others = (
        "" if tally.unfit.explains(tally.problem_count) else " (the other lines have to be mended too)"
    )
    raise tally.error(f"These columns fit so, if that is what they are{others}: {command}")


def _meeting(unmet: set[str], blocks: Iterable[Sequence[Job]]) -> Iterator[Sequence[Job]]:
    """Pass blocks of jobs through; ids that remain in ``unmet`` belong to none of them."""
    for block in blocks:
        if unmet:
            unmet.difference_update(job.id for job in block)
        yield block


def _survey(specs: Specs, money: Money, costs: Costs) -> Survey:
    canary = CanaryChoice(money.canary) if money.canary is not None else None

    def expected_usd(job: Job, price_usd: float) -> float:
        return costs.expected_usd(price_key(job), job.model, price_usd) or price_usd

    expected = expected_usd if costs.exceed_prices else None
    return Survey(Estimate(specs.by_model, money.assume_price_usd, expected), UrlWatch(), canary)


def _check_limits(prepared: Prepared, snapshot: Snapshot) -> None:
    options, made = prepared.options, prepared.plan
    if options.selection.only is not None and not made.selected:
        shown_by = options.given.command("plan", only=None, redo=None)
        raise UsageError(f"--only matches no job of this manifest; some ids are shown by: {shown_by}")
    if not options.money.has_cap or options.money.assume_price_usd is not None or not made.to_buy:
        return
    unpriced = prepared.unpriced_models()
    if any(not prepared.specs.sources[model].outage for model in unpriced):
        raise InputError(
            "--max-cost can't be kept: the price of some jobs is not known; name one with "
            f"--assume-price USD\n{prepared.unpriced_lines()}"
        )
    if snapshot.unpriced_attempts:
        raise InputError(
            f"--max-cost can't be kept: {snapshot.unpriced_attempts} earlier attempts have no known "
            "price; name one with --assume-price USD"
        )


def confirm(prepared: Prepared, host: Host, moved: str | None = None) -> None:
    """Ask on a terminal before large spending, or any while paid jobs have left the manifest.

    Also if the run directory may be a copy: ``moved`` says why. Raises UnreachableError if a cap
    needs prices that can't be fetched now, InputError or UsageError if there is no user to ask,
    UsageError if the answer is no.
    """
    options, made = prepared.options, prepared.plan
    if not made.to_buy:
        return
    _check_prices_known(prepared)
    if options.money.assume_yes or options.sandbox is not None:
        return
    question = question_before(prepared, moved)
    if host.confirm is None:
        if question is not None:
            raise InputError(
                f"{question.text}. Nothing was submitted; if that is meant, add {question.flag}"
            )
        if host.unattended and not options.money.caps_all:
            cap = "no cap for all of them" if options.money.has_cap else "no cap"
            jobs = counted(made.to_buy, "job", "jobs")
            raise UsageError(
                f"{jobs} would be bought, there is no terminal to ask on, and {cap} was "
                "given: add --max-cost USD, --max-cost-per day=USD, or --yes. Nothing was submitted"
            )
        return
    asks = question is not None or made.to_buy > ASK_FROM_JOBS
    text = question.text if question is not None else None
    if asks and not host.confirm(made, prepared.run_dir, text):
        raise UsageError("not confirmed: nothing was submitted")


def question_before(prepared: Prepared, moved: str | None) -> Question | None:
    """What a run asks before it buys anything, apart from how much; ``moved`` is as in ``confirm``."""
    money, made = prepared.options.money, prepared.plan
    if not made.to_buy or money.assume_yes or prepared.options.sandbox is not None:
        return None
    paid = counted(made.left_paid, "job already paid for is", "jobs already paid for are")
    leavers = (
        f"{paid} no longer in the manifest, and {made.to_buy} "
        "would be bought (an edit of `defaults` looks like that: every job becomes a new one)"
    )
    removed = made.left_paid > 0 and not money.allow_removed
    text = ". ".join(filter(None, (leavers if removed else None, moved)))
    flag = "--yes" if moved is not None else "--allow-removed (for a rolling manifest) or --yes"
    return Question(text, flag) if text else None


def _check_prices_known(prepared: Prepared) -> None:
    """Raises UnreachableError if a cap can't be kept because prices can't be fetched from the API."""
    if not prepared.options.money.has_cap:
        return
    for model in sorted(prepared.unpriced_models()):
        problem = prepared.specs.sources[model].problem
        raise UnreachableError(
            f"the API can't be asked for the price of {model} ({problem}), and a cap needs it: run the "
            "same command again later, or name a price with --assume-price USD. Nothing was submitted"
        )


def balance_warning(prepared: Prepared, balance_usd: float | None) -> str | None:
    """A warning if the balance is too low for the plan; None if it suffices or is unknown."""
    made, cost_usd = prepared.plan, prepared.expected_cost_usd
    if balance_usd is None or not made.to_buy or not cost_usd:
        return None
    cap_usd = prepared.options.money.max_cost_usd
    room_usd = cost_usd if cap_usd is None else max(cap_usd - prepared.spent_usd, 0.0)
    needs_usd = min(cost_usd, room_usd)
    if needs_usd <= balance_usd:
        return None
    jobs = max(int(balance_usd / (cost_usd / made.to_buy)), 0)
    where = f"after about {counted(jobs, 'job', 'jobs')}" if jobs else "before the first job"
    return f"needs {money(needs_usd)}, balance {money(balance_usd)}: stops {where}"


def odd_schemas(prepared: Prepared) -> Iterator[str]:
    """Schemas that contradict themselves."""
    for model, spec in prepared.specs.by_model.items():
        if spec.undescribed:
            yield (
                f"{model}: its schema requires {', '.join(spec.undescribed)} without describing it: "
                "sent as it is"
            )


def unchecked_models(prepared: Prepared) -> Iterator[str]:
    """Models whose inputs could not be checked before they are sent."""
    for model in prepared.specs.unchecked:
        if prepared.plan.to_buy:
            why = prepared.specs.sources[model].problem
            yield f"{model}: sent unchecked, no schema is known ({why})"
