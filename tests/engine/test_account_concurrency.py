"""``--account-concurrency``: one cap on the unfinished requests of all runs of the account on the host."""

import asyncio
import json
import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.app.account import open_account
from batcher.disk import LocalAppendFile
from batcher.engine.account import Account
from batcher.engine.host import Host
from batcher.errors import OutcomeUnknown, StoppedError
from batcher.ledger.book import Book, Crowded, Limits
from batcher.ledger.book_file import BOOK_NAME, WAIT, BookFile
from batcher.options.facts import Pace
from batcher.options.run import Options
from tests.ledger.test_book import FLUX, SetClock, book, lines, reserve
from tests.support.api_server import in_background, run_typed, served, typed
from tests.support.engine import (
    Api,
    Batch,
    LoopClock,
    QuickDisk,
    answer,
    bought,
    in_virtual_time,
    job,
    some_jobs,
)


def account_of(folder, run_dir, limits):
    held = Book(BookFile(folder, QuickDisk()), ("https://api/v1", str(run_dir)), limits, LoopClock())
    held.refresh()
    return Account(held, QuickDisk(), LoopClock(), pytest.fail)


def batches(tmp_path, limits, count=2):
    """Runs of an account, in one world with one API."""
    api = Api()
    for number in range(count):
        path = tmp_path / f"run{number}"
        yield Batch(path, api=api, account=account_of(tmp_path / "state", path, limits))


# The engine


@in_virtual_time
async def test_two_runs_share_the_cap_and_both_get_on(tmp_path):
    one, two = batches(tmp_path, Limits(unfinished=4))
    jobs = [[*some_jobs(12)], some_jobs(24)[12:]]
    ended = await asyncio.gather(
        *(b.run(j, concurrency=8) for b, j in zip((one, two), jobs, strict=True))
    )
    assert [run.states for run in ended] == [{"done": 12}, {"done": 12}]
    assert one.api.peak == 4
    last_s = max(at_s for at_s, _ in one.api.posts)
    assert last_s < 24 / 4 * 10 * 1.5, "no slot stays empty for long"
    halves = [[p for p in one.api.prompts[:16] if (int(p[4:]) < 12) is half] for half in (True, False)]
    assert min(map(len, halves)) >= 5, "neither gets all"


@in_virtual_time
async def test_a_run_that_begins_later_gets_its_share(tmp_path):
    one, two = batches(tmp_path, Limits(unfinished=4))

    async def later():
        await asyncio.sleep(25)
        await two.run(some_jobs(200)[100:104], concurrency=8)
        return asyncio.get_running_loop().time()

    _, ended_s = await asyncio.gather(one.run(some_jobs(80), concurrency=40), later())
    assert ended_s < 80, "four jobs of ten seconds, at two at a time"
    assert one.api.peak == 4


@in_virtual_time
async def test_a_wait_is_told_and_ends_with_the_run(tmp_path):
    one, two = batches(tmp_path, Limits(unfinished=2))
    one.api.takes_s = 500
    told = []

    async def look(runner):
        await asyncio.sleep(60)
        told.extend(runner.view.waits())
        runner.control.drain(StoppedError("enough"))

    async def later():
        await asyncio.sleep(5)
        return await two.run(some_jobs(20)[10:], concurrency=3, meanwhile=look)

    _, ended = await asyncio.gather(one.run(some_jobs(2), concurrency=2), later())
    assert f"--account-concurrency 2: unfinished are 2 of {tmp_path / 'run0'}" in told
    assert (ended.states, str(ended.error)) == ({}, "enough")


@in_virtual_time
async def test_a_post_without_an_answer_counts_for_as_long_as_its_request_may_take(tmp_path):
    (one,) = batches(tmp_path, Limits(unfinished=1), 1)
    one.api.posting["job-000"] = [OutcomeUnknown("no answer")]
    await one.run(some_jobs(2), concurrency=5)
    assert one.api.posts[1][0] > 900


@in_virtual_time
async def test_other_jobs_spend_nothing_while_a_reservation_is_written(tmp_path):
    """``--max-cost`` holds beside ``--max-cost-per``: the budget is asked again after the wait."""
    (one,) = batches(tmp_path, Limits({"day": 100.0}), 1)
    one.max_cost_usd = 3.0
    ended = await one.run(some_jobs(10), concurrency=10)
    assert len(one.api.posts) == 3
    assert ended.spent_usd == 3.0
    assert one.account.book.spent_usd("day") == 3.0


@in_virtual_time
async def test_a_reservation_is_in_the_book_before_its_intent_is_in_the_ledger(tmp_path, monkeypatch):
    (one,) = batches(tmp_path, Limits(), 1)
    writes, path = [], tmp_path / "state" / BOOK_NAME
    append, write = BookFile.append, LocalAppendFile.write

    def appending(file, entries):
        writes.append(len(entries))
        append(file, entries)

    def writing(file, data):
        reserved = {line["job"] for line in lines(path.parent)} if path.exists() else set()
        for line in map(json.loads, data.splitlines()):
            assert line.get("event") != "submitting" or line["job"] in reserved
        write(file, data)

    monkeypatch.setattr(BookFile, "append", appending)
    monkeypatch.setattr(LocalAppendFile, "write", writing)
    ended = await one.run(some_jobs(100), concurrency=50)
    assert ended.states == {"done": 100}
    assert sum(writes) == 200, "a line for each reservation, and one for what became of it"
    assert max(writes) == 50, "those of one group of the ledger's lines are one write"
    assert book(path.parent).reservations() == []


# The book


def test_who_waits_gets_an_even_share_of_what_others_leave(tmp_path):
    one, two = (book(tmp_path, name, unfinished=4) for name in ("/a", "/b"))
    for name in "wxyz":
        assert reserve(one, name, 1.0) is None
    assert isinstance(reserve(two, "w", 1.0), Crowded)
    two.say_waiting()
    one.settle(("/a", "w", 1), 1.0)
    one.write()
    assert isinstance(reserve(one, "v", 1.0), Crowded), "it holds more than its share"
    assert reserve(two, "w", 1.0) is None


def test_a_run_that_does_not_wait_any_more_keeps_nothing_free(tmp_path):
    clock = SetClock()
    one, two = (book(tmp_path, name, unfinished=2, clock=clock) for name in ("/a", "/b"))
    reserve(one, "x", 1.0)
    two.say_waiting()
    two.say_waiting()
    assert [line["kind"] for line in lines(tmp_path)].count(WAIT) == 1
    assert isinstance(reserve(one, "y", 1.0), Crowded)
    clock.at += timedelta(minutes=1)
    assert reserve(one, "y", 1.0) is None


def test_a_thread_that_looks_for_room_and_one_that_settles_do_not_meet(tmp_path):
    """The loop writes to the book while a thread looks."""
    one, seen = book(tmp_path, unfinished=2), []

    class Watched(dict):
        def items(self):
            seen.append(one._threads._is_owned())
            return super().items()

    one._waiting = Watched()
    one.crowded()
    assert seen == [True]


def test_no_request_counts_for_more_than_a_day(tmp_path):
    clock = SetClock()
    one = book(tmp_path, unfinished=1, clock=clock)
    reserve(one, "x", 1.0)
    clock.at += timedelta(hours=23)
    assert isinstance(reserve(one, "y", 1.0), Crowded)
    clock.at += timedelta(hours=2)
    assert reserve(one, "y", 1.0) is None


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["begin", "end", "wait"])), max_size=40))
def test_the_cap_is_never_passed_and_never_stands_empty(tmp_path_factory, deeds):
    folder, limit = tmp_path_factory.mktemp("book"), 4
    books = [book(folder, f"/{number}", unfinished=limit) for number in range(3)]
    held = [[], [], []]
    for number, (who, deed) in enumerate(deeds):
        if deed == "end" and held[who]:
            books[who].settle((f"/{who}", held[who].pop(), 1), 1.0)
        elif deed == "wait":
            books[who].say_waiting()
        elif deed == "begin" and reserve(books[who], f"j{number}", 1.0) is None:
            held[who].append(f"j{number}")
        assert sum(map(len, held)) <= limit
    for number in range(limit):  # all want as much as they can get
        for who, one in enumerate(books):
            one.refresh()
            one.say_waiting()
            if reserve(one, f"last{number}", 1.0) is None:
                held[who].append(f"last{number}")
    assert sum(map(len, held)) == limit


@in_virtual_time
async def test_a_run_settles_by_its_ledger_what_another_that_died_has_left_in_the_book(tmp_path):
    run_dir = str(tmp_path / "dead")
    dead = Batch(tmp_path / "dead")
    dead.api.results["ended"] = [answer(cost_usd=2.0)]
    await dead.run([job("ended")])
    await dead.hold(*bought(job("runs"), "r2"))
    left = book(tmp_path / "state", run_dir, clock=dead.clock)
    for name in ("ended", "runs", "never"):
        reserve(left, name, 1.0)
    pace = Pace(account_concurrency=2)
    host = Host(env={"BATCHER_BOOK_DIR": str(tmp_path / "state")}, home=tmp_path, clock=dead.clock)
    account = open_account(Options(manifest=Path("m.yaml"), pace=pace), left.api, tmp_path / "me", host)
    assert [one.job for one in account.book.reservations()] == ["runs"]
    assert account.book.crowded() is None
    assert account.book.spent_usd("day") == 3.0


# Processes


@pytest.fixture
def server():
    with served(FLUX, generate_s=0.3) as server:
        yield server


def manifest(path, name, count):
    jobs = [{"prompt": f"{name} {number}"} for number in range(count)]
    (path / name).write_text(json.dumps({"model": FLUX, "jobs": jobs}))


def start(server, path, name, *words):
    return in_background(
        server, path, typed("run", name, "--yes", "--poll", "0.05", "--account-concurrency", "3", *words)
    )


def test_requests_of_a_run_that_was_killed_count_until_its_ledger_says_otherwise(server, tmp_path):
    for name in ("a.yaml", "b.yaml"):
        manifest(tmp_path, name, 6)
    server.generate_s = 60
    killed = start(server, tmp_path, "a.yaml")
    until = time.monotonic() + 30
    ledger = tmp_path / "output/a/ledger.jsonl"
    while not ledger.exists() or ledger.read_bytes().count(b'"submitted"') < 3:
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(10)
    waits = start(server, tmp_path, "b.yaml", "--log-format", "json")
    book_path = tmp_path / ".local/state/batcher" / BOOK_NAME
    while b'"wait"' not in book_path.read_bytes() and time.monotonic() < until:
        time.sleep(0.02)
    assert len(server.posts) == 3, "three are unfinished, and nobody watches them"
    server.generate_s = 0.2  # all three have ended at the API; the next run of their directory sees it
    assert start(server, tmp_path, "a.yaml").wait(60) == 0
    assert waits.wait(60) == 0
    assert len(server.posts) == 12, "and nothing is bought twice"
    assert server.max_unfinished <= 3 + 1, "a poll tells of an end a moment after it"
    known = book(book_path.parent)
    assert known.reservations() == []


def test_without_a_book_that_can_be_written_nothing_is_submitted(server, tmp_path):
    manifest(tmp_path, "a.yaml", 1)
    (tmp_path / "blocked").write_text("")
    env = {"BATCHER_BOOK_DIR": str(tmp_path / "blocked" / "below")}
    words = ("run", "a.yaml", "--yes", "--account-concurrency", "2")
    assert run_typed(server, tmp_path, *words, **env).returncode == 73
    assert server.posts == []
