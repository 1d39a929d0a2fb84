"""The options of ``run`` and ``plan``, and what they amount to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batcher.cli.params import (
    Concurrency,
    Dollars,
    Duration,
    OutputPlace,
    Poll,
    Rate,
    ShardType,
    Share,
    Size,
)
from batcher.errors import UsageError

if TYPE_CHECKING:
    from batcher.options import Options

F = TypeVar("F", bound=Callable[..., Any])
_POSITIVE = click.IntRange(min=1)

_PLANNING = (
    click.argument("manifest", type=click.Path(path_type=Path, dir_okay=False)),
    click.option(
        "-o",
        "--output",
        type=OutputPlace(),
        metavar="RUN_DIR",
        help="Run directory, or where the outputs go: s3://bucket/prefix, gs://, az://, file://."
        "  [default: output/<batch name>]",
    ),
    click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False, readable=False),
        metavar="DIR",
        help="Where the ledger is kept while outputs go to a bucket.  [default: output/<batch name>]",
    ),
    click.option("--model", metavar="ID", help="Model of every job that names none."),
    click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Override an input of every job (repeatable).",
    ),
    click.option("--meta", multiple=True, metavar="COLUMN", help="Keep a column as metadata."),
    click.option("--ignore", multiple=True, metavar="COLUMN", help="Drop a column."),
    click.option("--skip-invalid", is_flag=True, help="Leave bad rows out instead of stopping."),
    click.option("--limit", type=_POSITIVE, metavar="N", help="Only the first N jobs."),
    click.option("--only", metavar="GLOB|@FILE", help="Only these job ids."),
    click.option(
        "--shard",
        type=ShardType(),
        help="Only the I-th of N parts of the jobs; auto: as Slurm or Kubernetes say.",
    ),
    click.option("--retry-failed", is_flag=True, help="Try failed and cancelled jobs again."),
    click.option(
        "--retry-unknown",
        is_flag=True,
        help="Submit jobs again whose POST was never answered: they may be paid for twice.",
    ),
    click.option("--redo", is_flag=True, help="With --only: buy these again whatever their state."),
    click.option(
        "--max-attempts",
        type=_POSITIVE,
        default=3,
        show_default=True,
        help="Attempts per job over all runs.",
    ),
    click.option(
        "-c",
        "--concurrency",
        type=Concurrency(),
        default=8,
        show_default=True,
        help="Unfinished requests at the API; auto finds out how many it takes.",
    ),
    click.option("--max-cost", type=Dollars(), help="Never let this run directory cost more."),
    click.option("--assume-price", type=Dollars(), help="Price of jobs that nobody else prices."),
    click.option("--sandbox", is_flag=True, help="Use the embedded stand-in for the API."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout."),
    click.option("-q", "--quiet", is_flag=True, help="Nothing at all unless something is wrong."),
    click.option("-v", "--verbose", is_flag=True, help="Say more about errors."),
)

_RUNNING = (
    click.option("--rate", type=Rate(), metavar="N/s|N/m", help="Submissions at most."),
    click.option("--downloads", type=_POSITIVE, default=8, show_default=True, help="At a time."),
    click.option("--poll", type=Poll(), default="auto", show_default=True, help="Polling interval."),
    click.option(
        "--job-timeout",
        type=Duration(),
        default="2h",
        show_default=True,
        help="Stop watching a job after this long; the next run polls it again.",
    ),
    click.option(
        "--outage-timeout",
        type=Duration(),
        default="10m",
        show_default=True,
        help="Give up when no call succeeds for this long.",
    ),
    click.option("--max-failures", type=Share(), help="Stop submitting after more failures than this."),
    click.option(
        "--canary",
        type=_POSITIVE,
        metavar="N",
        help="First only N jobs, spread over models and parameters; then the rest, if they fare well.",
    ),
    click.option(
        "--canary-failures",
        type=Share(),
        default="20%",
        show_default=True,
        help="Stop when more of the canary fail.",
    ),
    click.option("-y", "--yes", is_flag=True, help="Don't ask before buying."),
    click.option(
        "--dask",
        metavar="tcp://HOST:PORT|local:N",
        help="Share the jobs out over the workers of a Dask cluster, or over N processes here.",
    ),
    click.option(
        "--on-interrupt",
        type=click.Choice(["detach", "cancel"]),
        default="detach",
        show_default=True,
        help="What becomes of remote work on Ctrl-C.",
    ),
    click.option(
        "--grace",
        type=Duration(),
        default="5s",
        show_default=True,
        help="How long Ctrl-C waits for answers of POSTs under way.",
    ),
    click.option(
        "--allow-host", multiple=True, metavar="HOST", help="Also download from here (repeatable)."
    ),
    click.option("--max-file-size", type=Size(), default="2GiB", show_default=True),
    click.option("--dry-run", is_flag=True, help="The same as `batcher plan`."),
    click.option(
        "--ignore-old-failures",
        is_flag=True,
        help="Exit 0 even where failures of earlier runs remain.",
    ),
    click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True),
    click.option("--sandbox-speed", type=click.FloatRange(min=0.01), default=1.0, hidden=True),
    click.option("--sandbox-faults", type=click.FloatRange(0, 1), default=0.0, hidden=True),
    click.option("--sandbox-seed", type=int, default=0, hidden=True),
)


def planning_options(command: F) -> F:
    """The options that ``run`` and ``plan`` share."""
    for option in reversed(_PLANNING):
        command = option(command)
    return command


def running_options(command: F) -> F:
    """The options that only a run has."""
    for option in reversed(_RUNNING):
        command = option(command)
    return command


def options_from(given: dict[str, Any]) -> Options:
    """What the command line amounts to. Raises UsageError."""
    from batcher.manifest import Overrides
    from batcher.options import Options, SandboxOptions
    from batcher.planning import Policy

    if given["redo"] and given["only"] is None:
        raise UsageError("--redo buys jobs again: say which with --only")
    bucket_url = given["output"] if isinstance(given["output"], str) else None
    if bucket_url is None and given["state_dir"] is not None:
        raise UsageError("--state-dir goes with --output s3://..., gs://, az:// or file://")
    return Options(
        manifest=given["manifest"],
        output=given["state_dir"] if bucket_url is not None else given["output"],
        bucket_url=bucket_url,
        overrides=Overrides(
            model=given["model"],
            set=_pairs(given["sets"]),
            meta_columns=frozenset(given["meta"]),
            ignore_columns=frozenset(given["ignore"]),
        ),
        skip_invalid=given["skip_invalid"],
        selection=_selection(given),
        policy=Policy(
            given["retry_failed"], given["retry_unknown"], given["redo"], given["max_attempts"]
        ),
        pace=_pace(given),
        money=_money(given),
        trust=_trust(given),
        sandbox=SandboxOptions(
            given.get("sandbox_speed", 1.0),
            given.get("sandbox_faults", 0.0),
            given.get("sandbox_seed", 0),
        )
        if given["sandbox"]
        else None,
        ignore_old_failures=given.get("ignore_old_failures", False),
        check_urls=given.get("check_urls", False),
    )


def _money(given: dict[str, Any]) -> Any:
    from batcher.options import Money
    from batcher.runner.canary import DEFAULT_CANARY_FAILURES
    from batcher.runner.canary import Share as Limit

    max_failures, percent = given.get("max_failures") or (None, False)
    return Money(
        max_cost_usd=given["max_cost"],
        assume_price_usd=given["assume_price"],
        max_failures=max_failures,
        max_failures_percent=percent,
        canary=given.get("canary"),
        canary_failures=Limit(*given.get("canary_failures", DEFAULT_CANARY_FAILURES)),
        assume_yes=given.get("yes", False),
    )


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {text!r}: write FIELD=VALUE")
        pairs[name.strip()] = value
    return pairs


def _selection(given: dict[str, Any]) -> Any:
    from batcher.planning import Selection

    only = given["only"]
    if only is not None and only.startswith("@"):
        only = ids_in(Path(only[1:]), "--only")
    return Selection(given["limit"], only, given["shard"])


def ids_in(path: Path, option: str) -> frozenset[str]:
    """Job ids from a file: one a line, or the JSON lines that ``status --list`` prints."""
    import msgspec

    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option} @{path}: can't be read: {error}") from None
    ids = set()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("{"):
            try:
                text = msgspec.json.decode(text)["job"]
            except (msgspec.MsgspecError, KeyError, TypeError):
                raise UsageError(f"{path}:{number}: a JSON line without a job") from None
        if text:
            ids.add(text)
    return frozenset(ids)


def _pace(given: dict[str, Any]) -> Any:
    from batcher.pace import AUTO_START
    from batcher.runner import Pace

    adapts = given["concurrency"] == "auto"
    concurrency = AUTO_START if adapts else given["concurrency"]
    if "poll" not in given:
        return Pace(concurrency, adapts)
    return Pace(
        concurrency,
        adapts,
        downloads=given["downloads"],
        rate_per_s=given["rate"],
        poll_interval_s=None if given["poll"] == "auto" else given["poll"],
        job_timeout_s=given["job_timeout"],
        outage_timeout_s=given["outage_timeout"],
        grace_s=given["grace"],
        cancel_on_interrupt=given["on_interrupt"] == "cancel",
    )


def _trust(given: dict[str, Any]) -> Any:
    from batcher.options import Trust

    if "allow_host" not in given:
        return Trust()
    return Trust(given["allow_host"], given["max_file_size"])
