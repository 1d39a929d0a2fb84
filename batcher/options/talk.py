"""The rows of the table of options that say what a run tells, and to whom, and those of the sandbox."""

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
        "How many times faster than usual the sandbox works.",
        on=RUN,
        default="1",
        to="sandbox.speed",
    ),
    Option(
        "sandbox-faults",
        PART,
        JOBS,
        "The share of the sandbox's answers that go wrong, as 0.1: `batcher sandbox --help` lists how.",
        on=RUN,
        default="0",
        to="sandbox.faults",
    ),
    Option(
        "sandbox-seed",
        SEED,
        JOBS,
        "Another seed: other pictures, durations and faults.",
        on=RUN,
        default="0",
        to="sandbox.seed",
    ),
    Option("dry-run", FLAG, ONCE, "The same as `batcher plan`.", on=RUN),
    Option(
        "notify",
        ADDRESS,
        TALK,
        "Tell this webhook, or address of Slack, e-mail, ..., of start and end (repeatable).",
        many=LIST,
        on=RUN,
    ),
    Option(
        "notify-on",
        EVENTS,
        TALK,
        "Only of these: start, success, failure, attention.",
        many=LIST,
        on=RUN,
    ),
    Option("metrics-file", FILE, TALK, "Keep Prometheus metrics in this file.", on=RUN),
    Option("log-file", FILE, TALK, "Append a log to this file, which is rotated.", on=RUN),
    Option(
        "log-level",
        choice("debug", "info", "warning", "error"),
        TALK,
        "The least that goes to --log-file.",
        on=RUN,
        default="info",
    ),
    Option("json", FLAG, TALK, "One JSON object on stdout."),
    Option("quiet", FLAG, TALK, "Nothing at all unless a human is needed.", short="q"),
    Option(
        "verbose",
        FLAG,
        TALK,
        "A line for each API call and download, with its timing.",
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
        "How progress and warnings are written to stderr.",
        on=RUN,
        default="text",
    ),
)
