"""The table of options of ``run`` and ``plan``: the only place that defines them.

The command line, its help, the Python API, ``BATCHER_*`` variables, ``batcher.toml``, a manifest's
``run:`` map, ``batcher config`` and the commands that we print are made from these rows.

To add an option: one row in :data:`TABLE`, and one field in ``facts`` that it fills. A row is
``Option(name, kind, shapes, help, ...)`` under its heading (``Group``):

- ``name`` is the text after ``--``. In Python and in files ``-`` is ``_``; in the environment
  ``max-cost`` is ``BATCHER_MAX_COST``. Names have no units: the kind defines how values are written.
- ``kind``, from ``kinds.py``, defines how a value is read and written: ``USD``, ``DURATION``, ``FLAG``.
- ``shapes`` is what the option affects: ``JOBS`` (which jobs, their inputs, where their outputs go),
  ``MONEY`` (what may be spent), ``ONCE`` (a permission for one run: a printed command to resume leaves
  it out) or ``TALK`` (none of these). Printed commands repeat all but ``TALK``.
- ``help`` is one line that describes the option.
- ``to`` is the field in ``Options`` that gets the value: ``"money.max_cost_usd"``, ``"skip_invalid"``.
  None: ``app/asked.py`` has a rule for it (``RULES``), or only the command line uses it.
- ``default`` is written as it would be typed; without one it is None, false, or empty.
- ``on`` is ``RUN`` or ``PLAN`` if only that command has it. An option that changes the count or the
  price of a plan belongs to both, which is the default.
- ``many`` is ``LIST`` (repeatable; a list in files) or ``MAP`` (``NAME=VALUE``; a mapping in files).

``RunOptions`` in ``batcher/api.py`` also names each option, for type checkers: a test compares it to
this table. Values are checked by their kind when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from batcher.options.kinds import (
    ASSIGNED,
    CHARACTER,
    COLUMNS,
    CONCURRENCY,
    COUNT,
    DURATION,
    FIELDS,
    FLAG,
    FOLDER,
    HOSTS,
    IDS,
    MODEL,
    NAME,
    ON_LOCK,
    PER_PERIOD,
    PLACE,
    POLL,
    RATE,
    RENAMED,
    SCHEDULER,
    SHARD,
    SHARE,
    SIZE,
    TIMES,
    USD,
    VARIABLE,
    choice,
)
from batcher.options.option import Group, Many, On, Option, Shapes, under
from batcher.options.talk import TALK_ROWS

JOBS, MONEY, ONCE, TALK = Shapes
RUN, PLAN, LIST, MAP = On.RUN, On.PLAN, Many.LIST, Many.MAP

TABLE: Final[tuple[Option, ...]] = (
    *under(
        Group.WHAT,
        Option(
            "output",
            PLACE,
            JOBS,
            "Run directory, or where the outputs go: s3://bucket/prefix, gs://, az://, file://."
            "  [default: output/<batch name>, beside the manifest]",
            short="o",
        ),
        Option(
            "state-dir",
            FOLDER,
            JOBS,
            "Where the ledger is kept while outputs go to a bucket."
            "  [default: output/<batch name>, beside the manifest]",
        ),
        Option(
            "model",
            MODEL,
            JOBS,
            "Model of every job, overriding the rows' own.",
            to="overrides.model",
        ),
        Option(
            "set",
            ASSIGNED,
            JOBS,
            "Override an input of every job (repeatable).",
            many=MAP,
            to="overrides.set",
        ),
        Option("format", NAME, JOBS, "The manifest's format, if its name doesn't tell: csv, ..."),
        Option("encoding", NAME, JOBS, "The manifest's encoding, if not UTF-8: cp1252, gb18030, ..."),
        Option("delimiter", CHARACTER, JOBS, "The separator between cells: ';', tab, pipe, ..."),
        Option(
            "rename",
            RENAMED,
            JOBS,
            "Read a column as this input (or id, meta.x, vars.x); #N is the N-th column.",
            many=MAP,
        ),
        Option("vars", COLUMNS, JOBS, "Make a column a variable of templates.", many=LIST),
        Option(
            "meta",
            COLUMNS,
            JOBS,
            "Keep a column as metadata; '*': all that are not inputs of the model.",
            many=LIST,
        ),
        Option(
            "ignore",
            COLUMNS,
            JOBS,
            "Drop a column; '*': all that are not inputs of the model.",
            many=LIST,
        ),
        Option(
            "var",
            VARIABLE,
            JOBS,
            "A variable for the templates of every job.",
            many=MAP,
            to="overrides.vars",
        ),
        Option(
            "extra",
            FIELDS,
            JOBS,
            "Send an input that the model's schema doesn't list.",
            many=LIST,
            to="overrides.extra",
        ),
        Option(
            "per-row",
            FLAG,
            JOBS,
            "Make rows with the same inputs separate jobs, and buy each.",
            to="overrides.per_row",
        ),
        Option("skip-invalid", FLAG, JOBS, "Leave bad rows out instead of stopping.", to="skip_invalid"),
        Option(
            "show",
            COUNT,
            TALK,
            "Print the request bodies of the first N jobs of each model and set of inputs.",
            on=PLAN,
            to="show",
        ),
        Option(
            "check-urls",
            FLAG,
            TALK,
            "Ask each media URL's server about the file.",
            on=PLAN,
            to="check_urls",
        ),
    ),
    *under(
        Group.WHICH,
        Option("limit", COUNT, JOBS, "Only the first N jobs.", to="selection.limit"),
        Option("only", IDS, JOBS, "Only these job ids."),
        Option(
            "shard",
            SHARD,
            JOBS,
            "Only the I-th of N parts of the jobs; auto: as set by Slurm or Kubernetes.",
            to="selection.shard",
        ),
        Option(
            "retry-failed", FLAG, ONCE, "Try failed and cancelled jobs again.", to="policy.retry_failed"
        ),
        Option(
            "retry-refused",
            FLAG,
            ONCE,
            "Try jobs again whose inputs the API refused: they may be charged, and refused again.",
            to="policy.retry_refused",
        ),
        Option(
            "retry-unknown",
            FLAG,
            ONCE,
            "Submit jobs again whose POST was never answered: they may be paid for twice.",
            to="policy.retry_unknown",
        ),
        Option("redo", FLAG, ONCE, "With --only: buy these again, in any state.", to="policy.redo"),
        Option(
            "max-attempts",
            COUNT,
            MONEY,
            "Attempts per job over all runs.",
            to="policy.max_attempts",
            default="3",
        ),
    ),
    *under(
        Group.PACE,
        Option(
            "concurrency",
            CONCURRENCY,
            MONEY,
            "Maximum of unfinished requests; auto: find the limit; 'kling/*=4': for these models.",
            short="c",
            default="8",
            many=MAP,
        ),
        Option(
            "account-concurrency",
            COUNT,
            MONEY,
            "Maximum of unfinished requests for all runs of the account on this host.",
            on=RUN,
            to="pace.account_concurrency",
        ),
        Option("rate", RATE, MONEY, "Maximum rate of submissions.", on=RUN, to="pace.rate_per_s"),
        Option(
            "downloads", COUNT, TALK, "Parallel downloads.", on=RUN, to="pace.downloads", default="8"
        ),
        Option("poll", POLL, TALK, "Polling interval.", on=RUN, default="auto"),
        Option(
            "job-timeout",
            DURATION,
            TALK,
            "Stop watching a job after this long; the next run polls it again.",
            on=RUN,
            to="pace.job_timeout_s",
            default="2h",
        ),
        Option(
            "outage-timeout",
            DURATION,
            TALK,
            "Give up if no call succeeds for this long.  [default: 10m; 60s before the first answer]",
            on=RUN,
        ),
        Option("max-runtime", DURATION, TALK, "End within this time.", on=RUN, to="pace.max_runtime_s"),
        Option(
            "dask",
            SCHEDULER,
            JOBS,
            "Run the jobs on the workers of a Dask cluster, or in N local processes.",
            on=RUN,
            to="dask",
        ),
    ),
    *under(
        Group.MONEY,
        Option(
            "max-cost", USD, MONEY, "Maximum total cost of this run directory.", to="money.max_cost_usd"
        ),
        Option(
            "max-cost-per",
            PER_PERIOD,
            MONEY,
            "Maximum cost of all runs of the account: day=20,month=300; 'day:fal:*=5': of these models.",
            many=MAP,
        ),
        Option(
            "assume-price",
            USD,
            MONEY,
            "Price to assume for jobs whose price is unknown.",
            to="money.assume_price_usd",
        ),
        Option(
            "canary",
            COUNT,
            MONEY,
            "Run N jobs first, spread over models and parameters; the rest if these succeed.",
            on=RUN,
            to="money.canary",
        ),
        Option(
            "canary-failures",
            SHARE,
            MONEY,
            "Stop if more of the canary jobs fail.",
            on=RUN,
            default="20%",
        ),
        Option(
            "retries",
            TIMES,
            MONEY,
            "Retry a job up to this many times if its generation fails for a temporary reason.",
            to="policy.retries",
            default="0",
        ),
        Option("max-failures", SHARE, MONEY, "Stop submitting if more jobs fail than this.", on=RUN),
        Option(
            "existing",
            FLAG,
            MONEY,
            "Never create a new run directory: exit 73 if there is none.",
            on=RUN,
            to="money.existing",
        ),
        Option(
            "allow-removed",
            FLAG,
            MONEY,
            "Buy even if jobs already paid for have left the manifest (for rolling manifests).",
            on=RUN,
            to="money.allow_removed",
        ),
        Option("yes", FLAG, ONCE, "Don't ask before buying.", short="y", on=RUN, to="money.assume_yes"),
    ),
    *under(
        Group.STOP,
        Option(
            "on-interrupt",
            choice("detach", "cancel"),
            TALK,
            "On Ctrl-C, leave remote work running, or cancel it if the vendor can.",
            on=RUN,
            default="detach",
        ),
        Option(
            "on-lock",
            ON_LOCK,
            TALK,
            "If another run holds RUN_DIR: exit 75, exit 0 silently, or wait for it.",
            on=RUN,
            default="fail",
        ),
        Option(
            "grace",
            DURATION,
            TALK,
            "How long to wait on Ctrl-C for answers to POSTs in flight.",
            on=RUN,
            to="pace.grace_s",
            default="5s",
        ),
    ),
    *under(
        Group.TRUST,
        Option(
            "allow-host",
            HOSTS,
            JOBS,
            "Also download from this host (repeatable).",
            many=LIST,
            on=RUN,
            to="trust.allow_hosts",
        ),
        Option(
            "max-file-size",
            SIZE,
            JOBS,
            "Refuse larger outputs.",
            on=RUN,
            to="trust.max_file_bytes",
            default="2GiB",
        ),
    ),
    *TALK_ROWS,
)

BY_KEY: Mapping[str, Option] = {option.key: option for option in TABLE}


def options_of(command: str) -> tuple[Option, ...]:
    """The rows of ``run`` or ``plan``."""
    return tuple(option for option in TABLE if command in option.on.value)


def defaults() -> dict[str, Any]:
    """The default value of every option, by key."""
    return {option.key: option.default_value() for option in TABLE}
