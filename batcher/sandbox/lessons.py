"""Describes each fault: what happens, and the effect on a batch. Help and docs are made from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from batcher.sandbox.faults import OF_STAGE, PART_OF_SHARE, WEIGHTS, Fault, FaultStage

_UNKNOWN = "unknown: look it up, then `resolve`"
_AGAIN = "asked again"
_WAITED = "waited out; nothing was created"
_OUTAGE = "asked again, after longer and longer waits"
_NO_FILE = "tried once more, then failed at download; run again"
_FAILED = "failed; `--retry-failed` or `--retries` buys it again"
_REFUSED = "refused: mend the prompt; only `--retry-refused` buys it as it is"


class Lesson(NamedTuple):
    """What happens, and what becomes of the job."""

    happens: str
    outcome: str


LESSONS = {
    Fault.CONNECT_DROPPED: Lesson("the connection closes before the POST is read", _UNKNOWN),
    Fault.SUBMIT_DROPPED: Lesson("the job is created, then the connection closes", _UNKNOWN),
    Fault.SUBMIT_INTERNAL: Lesson("500; created in half of the cases", _UNKNOWN),
    Fault.SUBMIT_GATEWAY: Lesson("502 of a gateway; created in half of the cases", _UNKNOWN),
    Fault.SUBMIT_UNAVAILABLE: Lesson(
        "503 without `Retry-After`, HTML; created in half of the cases", _UNKNOWN
    ),
    Fault.SUBMIT_BUSY: Lesson("503 with `Retry-After`", _WAITED),
    Fault.SUBMIT_LIMITED: Lesson("429 with `Retry-After` in seconds", _WAITED),
    Fault.SUBMIT_LIMITED_DATE: Lesson("429 with `Retry-After` as a date", _WAITED),
    Fault.SUBMIT_ERROR_CODE: Lesson(
        "200 whose body refuses the prompt (422001)", "failed at submit, at no cost: mend the prompt"
    ),
    Fault.SUBMIT_UNREADABLE: Lesson("200 with torn JSON; created in half of the cases", _UNKNOWN),
    Fault.SUBMIT_NO_ID: Lesson("200 without `request_id`; created in half of the cases", _UNKNOWN),
    Fault.SUBMIT_REDIRECT: Lesson(
        "307 to another place", "failed: a redirect is never followed, nor given the token"
    ),
    Fault.POLL_DROPPED: Lesson("the connection closes without an answer", _AGAIN),
    Fault.POLL_INTERNAL: Lesson("500", _OUTAGE),
    Fault.POLL_GATEWAY: Lesson("502 of a gateway", _OUTAGE),
    Fault.POLL_UNAVAILABLE: Lesson("503 without `Retry-After`, HTML", _OUTAGE),
    Fault.POLL_BUSY: Lesson("503 with `Retry-After`", "asked again after the wait"),
    Fault.POLL_LIMITED: Lesson("429 with `Retry-After` in seconds", "all calls wait, then go on"),
    Fault.POLL_LIMITED_DATE: Lesson("429 with `Retry-After` as a date", "all calls wait, then go on"),
    Fault.POLL_UNREADABLE: Lesson("200 with torn JSON", _AGAIN),
    Fault.POLL_NOT_READY: Lesson("400 with 400005, of a request under way", _AGAIN),
    Fault.POLL_ERROR_CODE: Lesson(
        "200 with an `error_code` (500001)", "asked again: it is about the call, not about the job"
    ),
    Fault.POLL_LOST: Lesson(
        "404 for a request that exists, once", "asked again: only a 404 that persists is believed"
    ),
    Fault.GENERATE_SLOW: Lesson("it takes five times as long", "waited for, up to `--job-timeout`"),
    Fault.GENERATE_REFUSED: Lesson("the content filter refuses the prompt", _REFUSED),
    Fault.GENERATE_FAILED: Lesson("the model gives up", _FAILED),
    Fault.GENERATE_FAILED_RESULT: Lesson("`/status` says completed, `/result` says failed", _FAILED),
    Fault.GENERATE_ERROR_LIST: Lesson("the model gives up, and `error` is a list of objects", _FAILED),
    Fault.GENERATE_NO_OUTPUT: Lesson(
        "succeeded, with nothing under `output`", "failed at download (`no_output`): paid for, no file"
    ),
    Fault.GENERATE_OTHER_SHAPE: Lesson(
        "upright where broad was asked for, or the reverse",
        "done, with a note in `quality`: `--redo`",
    ),
    Fault.GENERATE_STRANGE_WORD: Lesson("an undocumented status", "polled on"),
    Fault.GENERATE_SYNONYMS: Lesson(
        "pending, processing, canceled, cancellation_requested", "taken for the documented words"
    ),
    Fault.DOWNLOAD_DROPPED: Lesson("the connection closes without an answer", "downloaded again"),
    Fault.DOWNLOAD_INTERNAL: Lesson("500", "downloaded again"),
    Fault.DOWNLOAD_BUSY: Lesson("503 with `Retry-After`", "downloaded after the wait"),
    Fault.DOWNLOAD_TRUNCATED: Lesson("half of the file, then the end", "the rest is asked for"),
    Fault.DOWNLOAD_WRONG_LENGTH: Lesson("a Content-Length that promises too much", "downloaded again"),
    Fault.DOWNLOAD_HTML: Lesson("an HTML page in place of the file", _NO_FILE),
    Fault.DOWNLOAD_EMPTY: Lesson("an empty body", _NO_FILE),
    Fault.DOWNLOAD_EXPIRED: Lesson("403: the URL has expired", "a fresh URL is asked for"),
    Fault.DOWNLOAD_RANGE_IGNORED: Lesson("200 with the whole file in place of a range", "begun again"),
}


def share(fault: Fault) -> float:
    """The share (0..1) of ``fault`` among all faults of POSTs, polls, generations or downloads."""
    weights = sum(WEIGHTS[other] for other in OF_STAGE[fault.stage])
    return PART_OF_SHARE.get(fault.stage, 1.0) * WEIGHTS[fault] / weights


def in_order() -> list[Fault]:
    """All faults, stage by stage, the most common first."""
    return [fault for stage in FaultStage for fault in sorted(OF_STAGE[stage], key=share, reverse=True)]


def help_lines() -> Iterator[str]:
    """The faults for a terminal."""
    for fault in in_order():
        lesson = LESSONS[fault]
        yield f"{fault:24}{share(fault):4.0%}  {lesson.happens} -> {lesson.outcome}"


def table() -> Iterator[str]:
    """The faults as a table in Markdown."""
    yield "| fault | share | what happens | what becomes of the job |"
    yield "| --- | --- | --- | --- |"
    for fault in in_order():
        lesson = LESSONS[fault]
        yield f"| `{fault}` | {share(fault):.0%} | {lesson.happens} | {lesson.outcome} |"


if __name__ == "__main__":
    print("\n".join(table()))  # noqa: T201 - it is for docs/sandbox.md
