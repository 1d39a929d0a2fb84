"""The account's book: caps over directories, processes and time."""

import json
import subprocess
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.disk import LocalDisk
from batcher.errors import LedgerError, ModelCapReached, RunDirError
from batcher.ledger.book import Book, Limits, Periods, reservation
from batcher.ledger.book_file import BOOK_NAME, BookFile, state_dir
from batcher.ledger.book_fold import folded, paid_number
from tests.forked import popen
from tests.support.api_server import environment, run_typed, served, typed

FLUX = "blackforestlabs/flux-1/dev/text-to-image"
PRICE_USD = 0.025
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
DIGEST = "0123456789abcdef"


class SetClock:
    def __init__(self, at=NOON):
        self.at = at

    def now(self):
        return self.at


def book(folder, run_dir="/a", caps=None, clock=None, unfinished=None):
    limits = Limits(caps or {}, unfinished)
    made = Book(BookFile(folder, LocalDisk()), ("https://api/v1", run_dir), limits, clock or SetClock())
    made.zone = UTC
    made.refresh()
    return made


def reserve(one, job, usd, attempt=1):
    owner = (one.api, one.run_dir)
    refused = one.reserve(reservation(owner, (job, attempt, "m", DIGEST), usd, one._clock.now()))
    one.write()
    return refused


def lines(folder):
    return [json.loads(line) for line in (folder / BOOK_NAME).read_text().splitlines()]


# The cap


def test_runs_of_many_directories_share_one_cap(tmp_path):
    first, second = (book(tmp_path, name, {"day": 3.0}) for name in ("/a", "/b"))
    assert reserve(first, "x", 1.0) is reserve(second, "x", 1.0) is reserve(first, "y", 1.0) is None
    full = reserve(second, "y", 1.0)
    assert full.exit_code == 3
    assert str(full) == (
        "--max-cost-per day=3: $3.00 of this day is spent, and the next job may cost $1.00; the rest "
        "stays pending until 2026-11-28 00:00+00:00"
    )
    assert len(lines(tmp_path)) == 3


def test_what_is_settled_counts_with_what_it_cost(tmp_path):
    one = book(tmp_path, caps={"day": 3.0})
    reserve(one, "x", 3.0)
    one.settle(("/a", "x", 1), 0.5)
    one.settle(("/a", "x", 1), 0.5)
    one.write()
    assert (one.spent_usd("day"), len(lines(tmp_path))) == (0.5, 2)
    assert reserve(book(tmp_path, "/b", {"day": 3.0}), "x", 2.5) is None


def test_a_new_day_opens_the_day_and_not_the_month(tmp_path):
    clock = SetClock()
    one = book(tmp_path, caps={"day": 2.0, "month": 3.0}, clock=clock)
    assert reserve(one, "x", 2.0) is None
    assert "day=2" in str(reserve(one, "y", 1.0))
    clock.at += timedelta(days=1)
    assert reserve(one, "y", 1.0) is None
    assert "month=3" in str(reserve(one, "z", 1.0))
    clock.at += timedelta(days=4)
    assert reserve(one, "z", 2.0) is None


def test_a_clock_that_is_set_back_over_midnight_opens_nothing(tmp_path):
    clock = SetClock()
    one = book(tmp_path, caps={"day": 2.0}, clock=clock)
    reserve(one, "x", 2.0)
    clock.at -= timedelta(days=1)
    assert reserve(one, "y", 1.0) is not None


@pytest.mark.parametrize(
    ("now", "day_hours"),
    [("2026-03-29T12:00", 23), ("2026-10-25T12:00", 25), ("2026-11-27T12:00", 24)],
)
def test_days_begin_at_the_users_midnight_also_when_clocks_change(now, day_hours):
    periods = Periods.at(datetime.fromisoformat(now).replace(tzinfo=BERLIN), BERLIN)
    begins, ends = periods.begins["day"].astimezone(UTC), periods.ends["day"].astimezone(UTC)
    assert ends - begins == timedelta(hours=day_hours)


def test_the_day_is_the_users_and_not_utcs(tmp_path):
    clock = SetClock(datetime(2026, 11, 27, 22, 30, tzinfo=UTC))  # 23:30 in Berlin
    one = book(tmp_path, caps={"day": 1.0}, clock=clock)
    one.zone = BERLIN
    reserve(one, "x", 1.0)
    clock.at += timedelta(hours=1)
    assert reserve(one, "y", 1.0) is None


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 300), st.integers(0, 300)), max_size=30),
    st.integers(0, 1500),
)
def test_the_cap_is_never_passed_whatever_is_reserved_and_settled(tmp_path_factory, deeds, cap_cents):
    """Costs up to the price; books that see each other's lines only when they reserve."""
    folder = tmp_path_factory.mktemp("book")
    books = [book(folder, f"/{number}", {"day": cap_cents / 100}) for number in range(3)]
    spent_usd = 0.0
    for number, (which, cents, cost_cents) in enumerate(deeds):
        if reserve(books[which], f"j{number}", cents / 100) is None:
            usd = min(cents, cost_cents) / 100
            books[which].settle((f"/{which}", f"j{number}", 1), usd)
            spent_usd += usd
        if number % 3:
            books[which].write()
        assert spent_usd <= cap_cents / 100 + 1e-6
    for one in books:
        one.write()
    assert book(folder).spent_usd("day") == pytest.approx(spent_usd)


def reserve_of(one, job, model, usd):
    refused = one.reserve(reservation((one.api, one.run_dir), (job, 1, model, DIGEST), usd, NOON))
    one.write()
    return refused


def test_a_cap_of_some_models_counts_and_refuses_only_them(tmp_path):
    caps = {"day": 3.0, "day:fal:*": 1.0}
    one = book(tmp_path, caps=caps)
    assert reserve_of(one, "a", "fal:flux", 0.75) is None
    full = reserve_of(book(tmp_path, "/b", caps), "b", "fal:wan", 0.5)
    assert isinstance(full, ModelCapReached)
    assert str(full).startswith(
        "--max-cost-per 'day:fal:*=1': $0.75 of this day is spent on these models, and the next job may"
    )
    assert reserve_of(one, "c", "kling", 2.25) is None
    all_full = reserve_of(one, "d", "fal:wan", 0.5)  # both are: nothing more fits, whatever its model
    assert not isinstance(all_full, ModelCapReached)
    assert str(all_full).startswith("--max-cost-per day=3:")


def test_a_cap_of_some_models_counts_what_was_folded(tmp_path):
    long_ago = SetClock(NOON.replace(day=2))
    old = book(tmp_path, clock=long_ago)
    for job, model in (("a", "fal:flux"), ("b", "kling")):
        old.reserve(reservation((old.api, "/a"), (job, 1, model, DIGEST), 1.0, long_ago.at))
        old.settle(("/a", job, 1), 1.0)
    old.write()
    short = folded(BookFile(tmp_path, LocalDisk()).news(), NOON, UTC)
    assert {entry.kind for entry in short} == {"until", "fold"}
    BookFile(tmp_path, LocalDisk()).replace(short)
    one = book(tmp_path, "/b", {"month:fal:*": 1.5, "month": 9.0})
    assert [room.spent_usd for room in one.rooms()] == [1.0, 2.0]
    assert isinstance(reserve_of(one, "c", "fal:wan", 1.0), ModelCapReached)
    assert reserve_of(one, "c", "kling", 1.0) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["fal:a", "fal:b", "kling"]), st.integers(1, 300))
    ),
    st.integers(0, 900),
    st.integers(0, 900),
)
def test_no_cap_is_passed_whatever_models_are_bought(tmp_path_factory, deeds, all_cents, some_cents):
    folder = tmp_path_factory.mktemp("book")
    caps = {"day": all_cents / 100, "day:fal:*": some_cents / 100}
    books = [book(folder, f"/{number}", caps) for number in range(2)]
    spent = Counter()
    for number, (which, model, cents) in enumerate(deeds):
        fits = spent.total() + cents <= all_cents
        if model.startswith("fal:"):
            fits = fits and spent["fal:a"] + spent["fal:b"] + cents <= some_cents
        taken = reserve_of(books[which], f"j{number}", model, cents / 100) is None
        assert taken == fits
        spent[model] += cents * taken


# The file


def test_a_torn_last_line_is_no_line_and_the_next_one_stands_alone(tmp_path):
    reserve(book(tmp_path), "x", 1.0)
    with (tmp_path / BOOK_NAME).open("a") as file:
        file.write('{"kind":"reserve","at":"2026-')
    one = book(tmp_path, "/b")
    assert one.spent_usd("day") == 1.0
    reserve(one, "y", 1.0)
    assert (tmp_path / BOOK_NAME).read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("bad", ["{}", "[1]", "nonsense", '{"kind":"reserve","at":"yesterday"}', "\0"])
def test_a_line_that_is_none_is_named_with_the_remedy(tmp_path, bad):
    reserve(book(tmp_path), "x", 1.0)
    with (tmp_path / BOOK_NAME).open("a") as file:
        file.write(bad + "\n")
    with pytest.raises(LedgerError, match=r"book.jsonl:2: .*batcher spend --rebuild"):
        book(tmp_path)


def test_another_api_has_its_own_sums(tmp_path):
    other = Book(BookFile(tmp_path, LocalDisk()), ("https://other/v1", "/o"), Limits(), SetClock())
    reserve(other, "x", 5.0)
    assert book(tmp_path).spent_usd("day") == 0.0


def test_a_folder_that_can_not_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError):
        reserve(book(tmp_path / "file" / "below", caps={"day": 1.0}), "x", 1.0)


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({}, "/home/me/.local/state/batcher"),
        ({"XDG_STATE_HOME": "/x"}, "/x/batcher"),
        ({"XDG_STATE_HOME": "x"}, "/home/me/.local/state/batcher"),
        ({"XDG_STATE_HOME": "/x", "BATCHER_BOOK_DIR": "/y"}, "/y"),
    ],
)
def test_where_it_lies(env, folder):
    assert state_dir(env, Path("/home/me")) == Path(folder)


def test_what_a_deleted_directory_bought_counts_beside_what_is_bought_again(tmp_path):
    clock = SetClock()
    one = book(tmp_path, caps={"day": 5.0}, clock=clock)
    reserve(one, "x", 2.0)
    one.settle(("/a", "x", 1), 1.5)
    one.write()
    for spent_usd in (3.0, 4.5):
        clock.at += timedelta(minutes=1)
        again = book(tmp_path, caps={"day": 5.0}, clock=clock)
        assert reserve(again, "x", 2.0) is None
        again.settle(("/a", "x", 1), 1.5)
        again.refresh()
        assert again.spent_usd("day") == pytest.approx(spent_usd)
    assert reserve(again, "y", 1.0).exit_code == 3
    late = folded(BookFile(tmp_path, LocalDisk()).readable(), clock.at + timedelta(days=30))
    assert sum(entry.usd for entry in late) == pytest.approx(4.5)


def test_the_directory_knows_what_it_paid_for_and_its_ledger_lost(tmp_path):
    one = book(tmp_path)
    for job, usd in (("kept", 1.0), ("lost", 1.0), ("free", 1.0), ("begun", 1.0)):
        reserve(one, job, usd)
        if job != "begun":
            one.settle(("/a", job, 1), 0.0 if job == "free" else usd)
    reserve(book(tmp_path, "/b"), "other", 1.0)
    one.refresh()
    lost, begun = paid_number("lost", DIGEST), paid_number("begun", DIGEST)
    assert one.paid_here(lambda job: job == "kept", is_empty=False) == {lost}
    assert one.paid_here(lambda job: job == "kept", is_empty=True) == {lost, begun}


# The command


@pytest.fixture
def server():
    with served(FLUX, generate_s=0.05) as server:
        yield server


def manifest(path, name, *prompts):
    jobs = [{"prompt": prompt} for prompt in prompts]
    (path / name).write_text(json.dumps({"model": FLUX, "jobs": jobs}))


def run(server, path, *words):
    return run_typed(server, path, "run", *words, "--poll", "0.05")


def spend(path, *words):
    return json.loads(run_typed(None, path, "spend", "--json", *words).stdout)


def test_a_cap_per_day_holds_over_dated_directories(server, tmp_path):
    manifest(tmp_path, "a.yaml", "1", "2")
    manifest(tmp_path, "b.yaml", "3", "4", "5")
    cap = ("--max-cost-per", f"day={PRICE_USD * 3},month=9")
    assert run(server, tmp_path, "a.yaml", "-o", "out/1", *cap).returncode == 0
    second = run(server, tmp_path, "b.yaml", "-o", "out/2", *cap)
    assert (second.returncode, len(server.posts)) == (3, 3)
    assert "--max-cost-per day=0.075" in second.stdout
    assert "pending until" in second.stdout
    by_run = spend(tmp_path, "--by", "run")
    assert by_run["total_usd"] == pytest.approx(3 * PRICE_USD)
    assert [Path(place).name for place in by_run["spent_usd"]] == ["1", "2"]
    assert spend(tmp_path, "--by", "model")["spent_usd"] == {FLUX: pytest.approx(3 * PRICE_USD)}
    assert spend(tmp_path, "--by", "vendor")["spent_usd"] == {"runcomfy": pytest.approx(3 * PRICE_USD)}
    assert spend(tmp_path, "out/1")["total_usd"] == pytest.approx(2 * PRICE_USD)


def test_what_was_spent_below_no_folder_is_not_said_to_be_nothing(tmp_path):
    ran = run_typed(None, tmp_path, "spend", "nosuch")
    assert (ran.returncode, ran.stdout, "'nosuch' does not exist" in ran.stderr) == (64, "", True)


def test_a_lost_or_damaged_book_is_made_again_from_the_ledgers(server, tmp_path):
    server.cost_usd = 0.04
    manifest(tmp_path, "a.yaml", "1", "2")
    assert run(server, tmp_path, "a.yaml", "-o", "out/1", "--yes").returncode == 0
    before = spend(tmp_path)
    assert before["total_usd"] == pytest.approx(0.08)
    kept = tmp_path / ".local/state/batcher" / BOOK_NAME
    kept.write_text("garbage\n")
    refused = run(server, tmp_path, "a.yaml", "-o", "out/2", "--max-cost-per", "day=9")
    assert (refused.returncode, "--rebuild" in refused.stderr) == (65, True)
    assert len(server.posts) == 2
    assert spend(tmp_path, "--rebuild") == before


def test_jobs_that_another_directory_paid_for_are_bought_again_only_with_a_yes(server, tmp_path):
    manifest(tmp_path, "a.yaml", "1", "2")
    assert run(server, tmp_path, "a.yaml", "-o", "out/1", "--max-cost", "9").returncode == 0
    manifest(tmp_path, "a.yaml", "1", "2", "3")
    again = run(server, tmp_path, "a.yaml", "-o", "out/2", "--max-cost", "9")
    assert (again.returncode, len(server.posts)) == (65, 2)
    assert (
        f"2 of the jobs that would be bought were already paid for in {tmp_path}/out/1" in again.stderr
    )
    assert run(server, tmp_path, "a.yaml", "-o", "out/2", "--max-cost", "9", "--yes").returncode == 0


def test_a_directory_that_was_moved_away_is_bought_again_only_with_a_yes_and_within_the_cap(
    server, tmp_path
):
    manifest(tmp_path, "a.yaml", "1", "2")
    cap = ("--max-cost-per", f"day={PRICE_USD * 3}")
    assert run(server, tmp_path, "a.yaml", "-o", "out/1", *cap).returncode == 0
    (tmp_path / "out/1").rename(tmp_path / "out/moved")
    told = "2 of the jobs that would be bought were already paid for in this run directory"
    planned = run_typed(server, tmp_path, "plan", "a.yaml", "-o", "out/1", *cap)
    assert (told in planned.stdout, "needs --yes" in planned.stdout) == (True, True)
    again = run(server, tmp_path, "a.yaml", "-o", "out/1", *cap)
    assert (again.returncode, told in again.stderr, len(server.posts)) == (65, True, 2)
    assert run(server, tmp_path, "a.yaml", "-o", "out/1", *cap, "--yes").returncode == 3
    assert len(server.posts) == 3
    assert spend(tmp_path)["total_usd"] == pytest.approx(3 * PRICE_USD)
    assert spend(tmp_path, "--rebuild")["total_usd"] == pytest.approx(3 * PRICE_USD)
    third = run(server, tmp_path, "a.yaml", "-o", "out/moved", *cap)
    assert (third.returncode, len(server.posts)) == (0, 3)


def test_the_sandbox_is_never_in_the_book(tmp_path):
    manifest(tmp_path, "a.yaml", "1")
    done = run(None, tmp_path, "a.yaml", "--sandbox", "--sandbox-speed", "100")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / ".local/state/batcher").exists()
    assert spend(tmp_path, "output")["total_usd"] == 0


def test_a_state_folder_that_can_not_be_written_stops_a_capped_run_only(server, tmp_path):
    manifest(tmp_path, "a.yaml", "1")
    (tmp_path / "blocked").write_text("")
    env = {"BATCHER_BOOK_DIR": str(tmp_path / "blocked" / "below")}
    words = ("run", "a.yaml", "--poll", "0.05")
    refused = run_typed(server, tmp_path, *words, "--max-cost-per", "day=9", **env)
    assert (refused.returncode, len(server.posts)) == (73, 0)
    done = run_typed(server, tmp_path, *words, "--yes", **env)
    assert (done.returncode, "book is not kept" in done.stderr) == (0, True)


def test_existing_begins_no_new_directory(server, tmp_path):
    manifest(tmp_path, "a.yaml", "1")
    refused = run(server, tmp_path, "a.yaml", "-o", "out", "--yes", "--existing")
    assert (refused.returncode, len(server.posts), (tmp_path / "out").exists()) == (73, 0, False)
    assert run(server, tmp_path, "a.yaml", "-o", "out", "--yes").returncode == 0
    assert run(server, tmp_path, "a.yaml", "-o", "out", "--yes", "--existing").returncode == 0


def test_a_run_directory_lies_beside_its_manifest_wherever_cron_stands(server, tmp_path):
    (tmp_path / "clips").mkdir()
    manifest(tmp_path / "clips", "a.yaml", "1")
    assert run(server, tmp_path, "clips/a.yaml", "--yes").returncode == 0
    assert (tmp_path / "clips/output/a/ledger.jsonl").exists()


def test_one_that_began_in_the_working_directory_stays_there(server, tmp_path):
    (tmp_path / "clips").mkdir()
    manifest(tmp_path / "clips", "a.yaml", "1")
    assert run(server, tmp_path, "clips/a.yaml", "-o", "output/a", "--yes").returncode == 0
    assert run(server, tmp_path, "clips/a.yaml", "--yes").returncode == 0
    assert len(server.posts) == 1


def test_processes_that_are_killed_at_random_never_pass_the_cap_together(server, tmp_path):
    server.generate_s = 0.2
    cap_usd, names = PRICE_USD * 20, ("a", "b", "c")
    for name in names:
        manifest(tmp_path, f"{name}.yaml", *(f"{name}{number}" for number in range(15)))
    env = environment(server, tmp_path)
    words = ("-c", "40", "--poll", "0.05", "--max-cost-per", f"day={cap_usd}")
    for round_number in range(3):
        started = [
            popen(
                typed("run", f"{name}.yaml", "-o", f"out/{name}", *words),
                cwd=tmp_path,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for name in names
        ]
        if round_number < 2:
            deadline, before = time.monotonic() + 20, len(server.posts)
            while len(server.posts) < before + 3 and time.monotonic() < deadline:
                time.sleep(0.02)
            for process in started:
                process.kill()
        for process in started:
            process.wait(60)
    assert len(server.posts) <= 20, "each POST may have been charged"
    assert len(server.posts) >= 3
    assert spend(tmp_path)["total_usd"] <= cap_usd + 1e-6
