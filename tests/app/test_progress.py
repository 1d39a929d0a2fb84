"""ObserverGroup: a bar on a terminal, plain lines in logs, and silence when all is well."""

import asyncio
import io
import json

import pytest

from batcher.app.progress import (
    LINE_EVERY_S,
    WARNINGS_KEPT,
    Bar,
    Held,
    JsonLines,
    LogLines,
    Quiet,
    in_words,
    money_in_words,
)
from batcher.ports import RunView, Silence, Spending
from tests.support.engine import FakeClock, in_virtual_time


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def clock():
    return FakeClock()


def test_only_what_there_is_any_of_is_put_in_words():
    assert in_words(RunView(selected=9, done=3)) == ""
    assert in_words(RunView(queued=2, failed=1)) == "2 at the API, 1 failed"
    assert in_words(RunView(queued=1, downloading=2, failed=3, unknown=4)) == (
        "1 at the API, 2 downloading, 3 failed, 4 unknown"
    )


@pytest.mark.parametrize("watcher", [LogLines, JsonLines])
def test_lines_come_at_the_start_once_a_minute_and_at_the_end(watcher, stream, clock):
    lines, view = watcher(stream, clock), RunView(selected=500)
    lines.started(view)
    for second in range(1, 301):
        clock.at_s, view.done = float(second), second
        lines.changed(view)
    lines.finished(view)
    assert len(stream.getvalue().splitlines()) == 1 + 5 + 1
    assert LINE_EVERY_S == 60


def test_lines_say_how_far_the_run_is(stream, clock):
    lines, view = LogLines(stream, clock), RunView(selected=3)
    lines.started(view)
    clock.at_s = 60.0
    view.done, view.queued = 1, 2
    lines.changed(view)
    view.done, view.queued = 3, 0
    lines.finished(view)
    assert stream.getvalue() == (
        "2026-01-01T00:00:00Z batcher: started: 3 jobs\n"
        "2026-01-01T00:01:00Z batcher: 1/3 done, 2 at the API\n"
        "2026-01-01T00:01:00Z batcher: ended: 3/3 done\n"
    )


def test_the_last_line_of_a_run_that_was_stopped_says_why_and_what_is_left(stream, clock):
    view = RunView(selected=9, done=2, failed=1, unknown=1, stopped="the API does not answer\n(lost)")
    LogLines(stream, clock).finished(view)
    assert stream.getvalue().partition("batcher: ")[2] == (
        "ended early: 2/9 done, 1 failed, 1 unknown, 5 left for a later run; "
        "the API does not answer (lost)\n"
    )


def test_lines_hold_no_carriage_returns_and_no_colour(clock):
    terminal, view = Terminal(), RunView(selected=3, failed=1)
    for watcher in (LogLines(terminal, clock), JsonLines(terminal, clock), Quiet(terminal)):
        watcher.started(view)
        clock.at_s += 100
        watcher.changed(view)
        watcher.warn("odd")
        watcher.finished(view)
    assert "\r" not in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()


def test_a_warning_is_a_line_at_once_and_puts_the_next_one_off(stream, clock):
    lines = LogLines(stream, clock)
    clock.at_s = 59.0
    lines.warn("the disk is slow")
    clock.at_s = 61.0
    lines.changed(RunView())
    assert stream.getvalue() == "2026-01-01T00:00:59Z batcher: the disk is slow\n"


def test_json_lines_are_objects_with_a_moment_and_a_message(stream, clock):
    clock.at_s = 1.5
    lines = JsonLines(stream, clock)
    lines.started(RunView(selected=2))
    lines.warn('a "quoted" word')
    at = "2026-01-01T00:00:01.500Z"
    counts = {"selected": 2, "done": 0, "failed": 0, "unknown": 0, "at_api": 0, "downloading": 0}
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"at": at, "level": "info", "message": "started: 2 jobs", **counts},
        {"at": at, "level": "warning", "message": 'a "quoted" word'},
    ]


@pytest.mark.parametrize("watcher", [Quiet, lambda stream: Silence()])
def test_the_quiet_say_nothing_while_all_is_well(watcher, stream):
    quiet, view = watcher(stream), RunView(selected=3)
    quiet.started(view)
    quiet.changed(view)
    quiet.finished(view)
    assert stream.getvalue() == ""


def test_the_quiet_say_what_is_wrong_and_the_silent_not_even_that(stream):
    Silence().warn("odd")
    assert stream.getvalue() == ""
    Quiet(stream).warn("odd")
    assert stream.getvalue() == "batcher: odd\n"


def test_what_the_held_know_is_told_once_a_human_is_needed(stream):
    held = Held(stream)
    held.warn("odd")
    held.warn("odd")
    assert stream.getvalue() == ""
    held.tell()
    held.tell()
    assert stream.getvalue() == "batcher: odd\n"


def test_the_held_keep_a_bounded_number_of_warnings(stream):
    held = Held(stream)
    for number in range(WARNINGS_KEPT + 7):
        held.warn(f"odd {number}")
    held.tell()
    assert len(stream.getvalue().splitlines()) == WARNINGS_KEPT + 1
    assert "... and 7 more warnings" in stream.getvalue()


def test_a_bar_shows_how_far_the_run_is_and_what_goes_on():
    terminal = Terminal()
    bar, view = Bar(terminal, colour=False), RunView(selected=4)
    bar.started(view)
    view.done, view.queued = 1, 2
    bar.changed(view)
    view.done, view.queued, view.failed = 3, 0, 1
    bar.finished(view)
    last = terminal.getvalue().split("\r")[-1]
    assert " 75%" in last
    assert "3/4" in last
    assert "1 failed" in last
    assert "at the API" not in last
    assert terminal.getvalue().endswith("\n")


@pytest.mark.parametrize("colour", [True, False])
def test_a_bar_has_colour_only_where_it_is_asked_for(colour):
    terminal = Terminal()
    bar, view = Bar(terminal, colour=colour), RunView(selected=4, done=2)
    bar.started(view)
    bar.finished(view)
    assert ("\x1b[32m" in terminal.getvalue()) is colour


def test_warnings_stand_on_lines_of_their_own_above_the_bar():
    terminal = Terminal()
    bar, view = Bar(terminal, colour=False), RunView(selected=4)
    bar.warn("before the start")
    bar.started(view)
    bar.warn("in between")
    bar.finished(view)
    assert terminal.getvalue().startswith("before the start\n")
    assert "in between\n" in terminal.getvalue()


def test_a_bar_may_go_back_where_a_file_that_was_there_is_fetched_again():
    terminal = Terminal()
    bar, view = Bar(terminal, colour=False), RunView(selected=4, done=4)
    bar.started(view)
    view.done = 3
    bar.finished(view)
    assert "3/4" in terminal.getvalue().split("\r")[-1]


class LoopTime(FakeClock):
    """The time of a virtual loop, which ``call_later`` goes by."""

    def monotonic(self):
        return asyncio.get_running_loop().time()


@in_virtual_time
async def test_a_long_wait_is_told_once_a_minute_with_what_is_awaited_and_until_when():
    stream = io.StringIO()
    lines, view = LogLines(stream, LoopTime()), RunView(selected=2, queued=1)
    view.waits = lambda: ["the API asked for a pause, 3540 s more, until 14:05:10"]
    lines.started(view)
    await asyncio.sleep(30)
    lines.warn("odd")
    await asyncio.sleep(155)
    lines.finished(view)
    await asyncio.sleep(300)
    told = "batcher: 0/2 done, 1 at the API; the API asked for a pause, 3540 s more, until 14:05:10"
    said = [line.partition("Z ")[2] for line in stream.getvalue().splitlines()]
    assert said == [
        "batcher: started: 2 jobs",
        "batcher: odd",
        told,
        told,
        "batcher: ended: 0/2 done, 1 at the API, 1 left for a later run",
    ]


class Made:
    """In tqdm's place: what was shown."""

    def __init__(self):
        self.postfixes, self.n = [], 0

    def __call__(self, **settings):
        self.n = settings["initial"]
        return self

    def set_postfix_str(self, text, refresh):
        self.postfixes.append(text)

    def update(self, more):
        self.n += more

    def refresh(self): ...
    def close(self): ...


def test_the_bar_shows_money_spent_of_the_cap_or_of_what_the_plan_comes_to():
    def words(*usd):
        return money_in_words(RunView(money=lambda: Spending(*usd)))

    assert words(4.2, 5.0) == "$4.20 of at most $5.00"
    assert words(4.2, None, 12.6) == "$4.20 of about $12.60"
    assert words(4.2, None, 4.0) == "$4.20 of about $4.20"
    assert words(4.2) == "$4.20"
    assert words() == ""
    made = Made()
    bar, view = Bar(io.StringIO(), colour=False, make=lambda: made), RunView(selected=3)
    bar.started(view)
    view.money, view.queued = lambda: Spending(1.4, 5.0), 2
    bar.changed(view)
    assert made.postfixes[-1] == "$1.40 of at most $5.00; 2 at the API"


@in_virtual_time
async def test_the_bar_says_what_is_awaited_while_nothing_changes():
    made = Made()
    bar = Bar(io.StringIO(), colour=False, make=lambda: made)
    view = RunView(selected=3, queued=1, waits=lambda: ["the API answers nothing, for 6 s"])
    bar.started(view)
    bar.changed(view)
    await asyncio.sleep(3)
    assert "answers nothing" not in made.postfixes[-1]
    await asyncio.sleep(4)
    assert made.postfixes[-1] == "1 at the API; the API answers nothing, for 6 s"
    bar.changed(view)
    assert made.postfixes[-1] == "1 at the API"
    bar.finished(view)


@in_virtual_time
async def test_a_spinner_turns_while_a_run_is_prepared_and_leaves_nothing_behind():
    stream = Terminal()
    bar = Bar(stream, colour=False, make=Made)
    bar.preparing("asking the API")
    await asyncio.sleep(0.5)
    assert stream.getvalue() == "", "what takes no time is not shown"
    await asyncio.sleep(2)
    assert "asking the API (1 s)" in stream.getvalue()
    bar.prepared()
    assert stream.getvalue().endswith("\r\x1b[K")
    await asyncio.sleep(5)
    assert stream.getvalue().endswith("\r\x1b[K")
