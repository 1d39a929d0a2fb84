"""Prints a plan: what happens to which jobs and why, what it costs and how that adds up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from batcher.app.check_urls import UrlReport
from batcher.app.plan import Planned
from batcher.app.prepare import Prepared
from batcher.app.show_bodies import ShownJob
from batcher.cli.amounts import duration
from batcher.ledger.book import PeriodRoom
from batcher.ledger.costs import DUST_USD
from batcher.options.run import Options
from batcher.planning.plan import NOT_SUBMITTED, BucketTotal, Plan, PlanGroup
from batcher.planning.survey import PriceLine
from batcher.providers.catalog import SpecOrigin, SpecSource
from batcher.schema.spec import Quote
from batcher.terminal import money

WORDS: Mapping[PlanGroup, tuple[str, str]] = {
    PlanGroup.NEW: ("+", "new: to be submitted"),
    PlanGroup.EDITED: ("+", "edited: to be submitted as the next attempt"),
    PlanGroup.RETRY: ("+", "to be tried again"),
    PlanGroup.REDO: ("+", "to be bought again"),
    PlanGroup.RESUME: (">", "running at the API: to be watched, never submitted again"),
    PlanGroup.COLLECT: (">", "generated: to be downloaded, at no cost"),
    PlanGroup.DONE: ("=", "done"),
    PlanGroup.FAILED: ("!", "failed: left alone (--retry-failed tries them again)"),
    PlanGroup.REFUSED: ("!", "refused for their inputs: left alone (--retry-refused tries them again)"),
    PlanGroup.UNKNOWN: ("!", "unknown, perhaps paid for: left alone (resolve them, or --retry-unknown)"),
    PlanGroup.CANCELLED: ("!", "cancelled: left alone (--retry-failed tries them again)"),
    PlanGroup.EXHAUSTED: ("!", "out of attempts: left alone (--max-attempts)"),
}
_PROBLEMS_SHOWN = 10
_INLINE = re.compile(r"(data:[^,\"]{1,80},[A-Za-z0-9+/=]{24})[A-Za-z0-9+/=]{100,}")
_PLAIN_REASONS = frozenset({NOT_SUBMITTED, PlanGroup.DONE.value})
"""Reasons that say no more than the line above them."""


def plan_page(planned: Planned) -> Iterator[str]:
    """The whole plan, as lines."""
    prepared = planned.prepared
    made = prepared.plan
    name = prepared.manifest.name
    yield f"{name}: {made.selected} of {made.total} jobs selected, run directory {prepared.run_dir}"
    yield ""
    yield from _buckets(prepared)
    yield ""
    yield summary_line(made)
    yield from _section("Bodies", _shown_lines(planned))
    limits = (*_budget_lines(prepared), *_period_lines(planned), *_wallet(planned))
    yield from _section("Price", [*_price_lines(prepared), *limits])
    if made.to_buy:
        yield from _section("Time", [_time_line(planned)])
    yield from _section("Checked by", _schema_lines(prepared))
    if planned.urls is not None:
        yield from _section("Media URLs", _url_lines(planned.urls))
    yield from _section("Warnings", planned.warnings)
    if made.selected and not made.invalid:
        yield ""
        yield f"Run it: {prepared.options.given.command()}"


def _shown_lines(planned: Planned) -> Iterator[str]:
    """The bodies that would be sent. Only the beginning of inline media is shown."""
    for job in planned.shown:
        meta = f", meta {msgspec.json.encode(job.meta).decode()}" if job.meta else ""
        yield f"{job.id} ({job.source}, {job.model}, {job.action}{meta})"
        yield f"  {_INLINE.sub(lambda m: f'{m[1]}... ({len(m[0])} characters)', job.body.decode())}"


def brief_lines(plan: Plan, run_dir: Path) -> Iterator[str]:
    """The plan in a few lines, for the question before a run."""
    yield f"run directory {run_dir}"
    yield summary_line(plan)


def summary_line(plan: Plan) -> str:
    """A one-line summary, like the last line of ``terraform plan``."""
    counts = {
        "to buy": plan.to_buy,
        "to watch": plan.count(PlanGroup.RESUME),
        "to download": plan.count(PlanGroup.COLLECT),
        "done": plan.count(PlanGroup.DONE),
        "left alone": sum(plan.count(bucket) for bucket, (sign, _) in WORDS.items() if sign == "!"),
    }
    return f"Plan: {', '.join(f'{count} {what}' for what, count in counts.items())}."


def _section(title: str, lines: Any) -> Iterator[str]:
    shown = list(lines)
    if shown:
        yield ""
        yield title
        yield from (f"  {line}" for line in shown)


def _buckets(prepared: Prepared) -> Iterator[str]:
    made = prepared.plan
    for bucket, (sign, words) in WORDS.items():
        total = made.buckets.get(bucket)
        if total is not None:
            yield from _bucket_lines(sign, words, total, priced=total.buys > 0)
    if made.gone.count:
        yield from _bucket_lines("-", "no longer in the manifest", made.gone, priced=True)
    if made.duplicates:
        yield _line(".", made.duplicates, "duplicates of other rows: run once")
        yield from (f"         {repeated}" for repeated in prepared.tally.repeated)
    if made.invalid:
        yield _line("!", made.invalid, "invalid rows: left out")


def _line(sign: str, count: int, words: str, price: str = "") -> str:
    return f"{sign} {count:>6}  {words}{price}"


def _bucket_lines(sign: str, words: str, total: BucketTotal, *, priced: bool) -> Iterator[str]:
    price = ""
    if priced:
        price = ", price unknown" if total.unpriced else f"  {money(total.price_usd)}"
    yield _line(sign, total.count, words, price)
    for job_id, reason in total.examples:
        yield f"         {job_id}" if reason in _PLAIN_REASONS else f"         {job_id}: {reason}"
    if total.count > len(total.examples):
        yield f"         ... and {total.count - len(total.examples)} more"


def _price_lines(prepared: Prepared) -> Iterator[str]:
    lines = prepared.survey.estimate.lines
    for line, count in sorted(lines.items(), key=lambda item: (item[0].model, -item[1])):
        yield f"{formula(line, count)}  {line.model}"
    for model in sorted({line.model for line in lines}):
        yield from _price_note(prepared, model)
    if lines:
        yield f"total {money(prepared.plan.estimated_cost_usd)}"


def _price_note(prepared: Prepared, model: str) -> Iterator[str]:
    """The vendor's note about a price, and a warning if it may be a minimum."""
    spec = prepared.specs.get(model)
    if spec is None or not spec.base_price_usd:
        return
    if spec.pricing_note:
        yield f"note on {model}: {spec.pricing_note}"
    if spec.price_varies:
        yield f"the price of {model} is a floor: {', '.join(spec.price_varies)} may raise it"


def formula(line: PriceLine, count: int) -> str:
    """The calculation of the price of ``count`` equal jobs: ``24 × 5 s × $0.28/s = $33.60``."""
    if line.quote is not None:
        return f"{count} × {_factors(line.quote)} = {money(count * line.quote.usd)}"
    if line.assumed_usd is not None:
        total = money(count * line.assumed_usd)
        return f"{count} × {money(line.assumed_usd)} (--assume-price) = {total}"
    return f"{count} × unknown ({line.problem})"


def _factors(quote: Quote) -> str:
    unit = "s" if quote.unit == "second" else quote.unit
    factors = [] if quote.seconds is None else [f"{quote.seconds:g} s"]
    if quote.outputs != 1.0:
        factors.append(
            f"{quote.outputs:g}" if quote.seconds is not None else f"{quote.outputs:g} {unit}s"
        )
    return " × ".join([*factors, f"{money(quote.unit_price_usd)}/{unit}"])


def _budget_lines(prepared: Prepared) -> Iterator[str]:
    spent_usd, cost_usd = prepared.spent_usd, prepared.expected_cost_usd
    if prepared.survey.estimate.surplus_usd > DUST_USD:
        yield f"up to {money(cost_usd)} by the costs that the API has reported so far"
    if spent_usd:
        yield f"already spent in this run directory {money(spent_usd)}"
    if (retries := prepared.options.policy.retries) and prepared.plan.to_buy:
        yield f"--retries {retries}: a generation that fails may be bought up to {retries} times more"
    cap_usd = prepared.options.money.max_cost_usd
    if cap_usd is None or cost_usd is None:
        return
    room_usd = max(cap_usd - spent_usd, 0.0)
    if cost_usd <= room_usd + DUST_USD:
        yield f"--max-cost {money(cap_usd)} has room for all of it"
    else:
        yield f"--max-cost {money(cap_usd)} has room for {money(room_usd)}: the rest would stay pending"


def _period_lines(planned: Planned) -> Iterator[str]:
    """The rest under the account's caps, over all run directories."""
    for room in planned.rooms:
        cost_usd = planned.prepared.survey.estimate.cost_usd(room.covers)
        if not cost_usd:
            yield f"{room}, {money(room.left_usd)} left until {room.opens}"
        elif room.has(cost_usd):
            yield f"{room}, room for all of it"
        else:
            left = money(room.left_usd)
            yield f"{room}, room for {left}: the rest would stay pending until {room.opens}"


def _wallet(planned: Planned) -> Iterator[str]:
    if planned.balance_usd is not None:
        yield f"balance of the account {money(planned.balance_usd)}"


def _time_line(planned: Planned) -> str:
    expected = planned.forecast
    chosen = planned.prepared.options.pace
    pace = f"at -c {chosen.concurrency}" + (" to begin with" if chosen.adapts else "")
    if expected.duration_s is None:
        return f"unknown {pace}: not every model has finished a job in this run directory yet"
    seen = f"judged by {expected.seen} generations seen in this run directory"
    return f"about {duration(expected.duration_s)} {pace}, {seen}"


def _schema_lines(prepared: Prepared) -> Iterator[str]:
    """The schema by which each model's jobs were checked."""
    for model, source in prepared.specs.sources.items():
        yield f"{model}: {_checked_by(source)}"


def _checked_by(source: SpecSource) -> str:
    age = "" if source.age_s is None else f" of {duration(source.age_s)} ago"
    why = f" ({source.problem})" if source.problem else ""
    words = {
        SpecOrigin.CATALOGUE: "the API's catalogue, asked just now",
        SpecOrigin.CACHE: f"the API's catalogue{age}, from the cache",
        SpecOrigin.STALE: f"the API's catalogue{age}, from the cache: it can't be asked now",
        SpecOrigin.STORED: f"the API's catalogue{age}, as an earlier run here kept it",
        SpecOrigin.BUILT_IN: "the built-in schema, which knows no price: the catalogue can't be asked",
    }
    return words.get(source.origin, "NOTHING: no schema of this model is known") + why


def _url_lines(report: UrlReport) -> Iterator[str]:
    yield f"{report.checked} asked about, {report.checked - report.problem_count} in order"
    yield from report.problems[:_PROBLEMS_SHOWN]
    if report.problem_count > _PROBLEMS_SHOWN:
        yield f"... and {report.problem_count - _PROBLEMS_SHOWN} more"


def plan_json(planned: Planned) -> dict[str, Any]:
    """The plan as JSON, for scripts. An unknown price is null."""
    prepared, made = planned.prepared, planned.prepared.plan
    pace = prepared.options.pace
    return {
        "batch": prepared.manifest.name,
        "run_dir": str(prepared.run_dir),
        "total": made.total,
        "selected": made.selected,
        **{bucket.value: made.count(bucket) for bucket in PlanGroup},
        "duplicates": made.duplicates,
        "invalid": made.invalid,
        "orphaned": made.gone.count,
        "to_buy": made.to_buy,
        **_money_json(prepared),
        "max_cost_per": {room.name: _room_json(room) for room in planned.rooms},
        "balance_usd": _rounded(planned.balance_usd),
        "estimated_s": planned.forecast.duration_s,
        "concurrency": "auto" if pace.adapts else pace.concurrency,
        "concurrency_by_model": dict(pace.model_caps),
        "examples": _examples_json(made),
        "schemas": {model: str(source) for model, source in prepared.specs.sources.items()},
        "unchecked": list(prepared.specs.unchecked),
        **({"shown": [_shown_json(job) for job in planned.shown]} if planned.shown else {}),
        "warnings": list(planned.warnings),
        "urls": _urls_json(planned.urls),
    }


def _shown_json(job: ShownJob) -> dict[str, Any]:
    fields = {name: getattr(job, name) for name in ("id", "model", "source", "action", "meta")}
    return {**fields, "body": msgspec.json.decode(job.body)}


def _money_json(prepared: Prepared) -> dict[str, Any]:
    options: Options = prepared.options
    return {
        "estimated_cost_usd": _rounded(prepared.plan.estimated_cost_usd),
        "computed": [_computed(line, n) for line, n in prepared.survey.estimate.lines.items()],
        "spent_usd": _rounded(prepared.spent_usd),
        "max_cost_usd": options.money.max_cost_usd,
    }


def _room_json(room: PeriodRoom) -> dict[str, Any]:
    spent_usd, left_usd = _rounded(room.spent_usd), _rounded(room.left_usd)
    ends = room.ends.isoformat()
    return {"cap_usd": room.cap_usd, "spent_usd": spent_usd, "left_usd": left_usd, "opens_at": ends}


def _computed(line: PriceLine, count: int) -> dict[str, Any]:
    quote = line.quote._asdict() if line.quote is not None else {}
    usd = None if line.usd is None else _rounded(count * line.usd)
    return {"model": line.model, "jobs": count, "usd": usd, "formula": formula(line, count), **quote}


def _examples_json(made: Plan) -> dict[str, list[dict[str, str]]]:
    totals = {bucket.value: total for bucket, total in made.buckets.items()} | {"orphaned": made.gone}
    return {
        name: [{"job": job_id, "reason": reason} for job_id, reason in total.examples]
        for name, total in totals.items()
        if total.count
    }


def _urls_json(report: UrlReport | None) -> dict[str, Any] | None:
    if report is None:
        return None
    return {"checked": report.checked, "bad": report.problem_count, "problems": report.problems}


def _rounded(usd: float | None) -> float | None:
    return None if usd is None else round(usd, 6)
