"""The rows of the table of options for output, notifications and logs, and for the sandbox."""

from __future__ import annotations

from typing import Final

from batcher.options.kinds import ADDRESS, EVENTS, FILE, FLAG, PART, SEED, SPEED, choice
from batcher.options.option import Group, Many, On, Option, Shapes, under

JOBS, ONCE, TALK = Shapes.JOBS, Shapes.ONCE, Shapes.TALK
RUN, LIST = On.RUN, Many.LIST

TALK_ROWS: Final = under(
    Group.TALK,
    Option("sandbox", FLAG, JOBS, "Use the embedded stand-in for the API."),
    Option(
        "sandbox-speed",
        SPEED,
        JOBS,
        "Speed-up factor of the sandbox.",
        on=RUN,
        default="1",
        to="sandbox.speed",
    ),
    Option(
        "sandbox-faults",
        PART,
        JOBS,
        "The share of the sandbox's answers that fail, such as 0.1: see `batcher sandbox --help`.",
        on=RUN,
        default="0",
        to="sandbox.faults",
    ),
    Option(
        "sandbox-seed",
        SEED,
        JOBS,
        "Seed of the sandbox's pictures, durations and faults.",
        on=RUN,
        default="0",
        to="sandbox.seed",
    ),
    Option("dry-run", FLAG, ONCE, "The same as `batcher plan`.", on=RUN),
    Option(
        "notify",
        ADDRESS,
        TALK,
        "Notify this webhook, or address of Slack, e-mail, ..., of start and end (repeatable).",
        many=LIST,
        on=RUN,
    ),
    Option(
        "notify-on",
        EVENTS,
        TALK,
        "Notify only of these: start, success, failure, attention.",
        many=LIST,
        on=RUN,
    ),
    Option("metrics-file", FILE, TALK, "Write Prometheus metrics to this file.", on=RUN),
    Option("log-file", FILE, TALK, "Append a log to this file, with rotation.", on=RUN),
    Option(
        "log-level",
        choice("debug", "info", "warning", "error"),
        TALK,
        "The lowest level that is written to --log-file.",
        on=RUN,
        default="info",
    ),
    Option("json", FLAG, TALK, "Print one JSON object on stdout."),
    Option("quiet", FLAG, TALK, "Print nothing unless a human is needed.", short="q"),
    Option(
        "verbose",
        FLAG,
        TALK,
        "Print a line for each API call and download, with its timing.",
        short="v",
    ),
    Option(
        "ignore-old-failures",
        FLAG,
        TALK,
        "Exit 0 even if failures of earlier runs remain.",
        on=RUN,
        to="ignore_old_failures",
    ),
    Option(
        "log-format",
        choice("text", "json"),
        TALK,
        "Format of progress and warnings on stderr.",
        on=RUN,
        default="text",
    ),
)
