"""The account's book stays short: what ended long ago becomes one line a day, and no line is lost."""

import json
import multiprocessing
import threading
import zlib
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.app.account import open_account
from batcher.app.spend import By, entries_of, rebuild, totals
from batcher.clock import iso
from batcher.disk import LocalDisk
from batcher.engine.host import Host
from batcher.errors import RunDirError
from batcher.ledger import book_fold
from batcher.ledger.book import Book, Limits, reservation
from batcher.ledger.book_attempts import Attempts
from batcher.ledger.book_file import BOOK_NAME, FOLD, RESERVE, SETTLE, UNTIL, WAIT, BookFile, Entry
from batcher.ledger.book_fold import FOLD_AFTER, fold_file, folded
from batcher.options.run import Options
from tests.ledger.test_book import NOON, SetClock, book, lines, reserve

API = "https://api/v1"


def entry(day, job, usd, kind=SETTLE, run_dir="/b", api=API):
    """An attempt of ``day`` days ago."""
    at = iso(NOON - timedelta(days=day))
    return Entry(kind, at, api, run_dir, job, 1, usd, "m", digest_of(job))


def digest_of(job):
    return f"{zlib.crc32(job.encode()):016x}"


def write(folder, entries):
    BookFile(folder, LocalDisk()).append(list(entries))


def sums(folder, now=NOON):
    one = book(folder, "/me", clock=SetClock(now))
    known = Attempts.of(BookFile(folder, LocalDisk()).news()).by_key.values()
    by_day = {day: round(usd, 6) for day, usd in one._spent_usd.items() if round(usd, 6)}
    return by_day, *(
        {k: round(v, 6) for k, v in totals(known, by).items() if round(v, 6)}
        for by in (By.MODEL, By.RUN)
    )


def attempt(day, letter, usd, kind, place):
    """The time of an attempt is that of its reservation, and never changes."""
    return entry(day, f"{place[0]}{letter}{day}", usd, kind, *place)


ENTRIES = st.lists(
    st.builds(
        attempt,
        st.sampled_from([0, 1, 7, 9, 10, 31, 91, 93, 400]),
        st.sampled_from("abc"),
        st.sampled_from([0.0, 0.5, 1.25]),
        st.sampled_from([SETTLE, RESERVE]),
        st.sampled_from([("/b", API), ("/c", API), ("/o", "https://other/v1")]),
    ),
    max_size=30,
)


@given(ENTRIES, ENTRIES)
def test_all_sums_stay_the_same_however_often_it_is_folded(tmp_path_factory, before, between):
    plain, short = (tmp_path_factory.mktemp(name) for name in ("plain", "short"))
    for entries in (before, between):
        # A late line about what is folded is the one thing that may not be kept.
        until = Attempts.of(BookFile(short, LocalDisk()).readable()).folded_until
        fresh = [one for one in entries if one.at >= until]
        for folder in (plain, short):
            write(folder, fresh)
        now_folded = folded(BookFile(short, LocalDisk()).readable(), NOON, UTC)
        with (file := BookFile(short, LocalDisk())).exclusive():
            file.replace(now_folded)
    assert sums(short) == sums(plain)
    paid, paid_short = (book(folder, "/me").paid_elsewhere for folder in (plain, short))
    for one in [*before, *between]:
        assert paid(one.job, one.digest) == paid_short(one.job, one.digest)


def test_what_ended_long_ago_is_one_line_a_day_and_the_rest_stays(tmp_path):
    write(tmp_path, [entry(30, f"x{n}", 1.0) for n in range(50)] + [entry(30, "open", 1.0, RESERVE)])
    write(tmp_path, [entry(1, "new", 1.0, RESERVE), entry(1, "new", 2.0), entry(1, "", 0, WAIT)])
    short = folded(BookFile(tmp_path, LocalDisk()).news(), NOON, UTC)
    assert [(one.kind, one.usd) for one in short] == [
        (UNTIL, 0.0), (FOLD, 50.0), (RESERVE, 1.0), (SETTLE, 2.0),
    ]  # fmt: skip
    assert len(short[1].paid) == 50


def test_what_is_paid_for_in_another_directory_is_known_for_ever(tmp_path):
    (tmp_path / "old").mkdir()
    write(tmp_path, [entry(300, "x", 1.0, run_dir=str(tmp_path / "old")), entry(300, "free", 0.0)])
    with (file := BookFile(tmp_path, LocalDisk())).exclusive():
        file.replace(folded(file.readable(), NOON, UTC))
    one = book(tmp_path, "/me")
    assert one.paid_elsewhere("x", digest_of("x")) == str(tmp_path / "old")
    assert one.paid_elsewhere("x", "other inputs") is None
    assert one.paid_elsewhere("free", digest_of("free")) is None


def test_a_late_correction_of_what_was_folded_does_not_count_twice(tmp_path):
    write(tmp_path, [entry(9, "x", 1.0)])
    late = book(tmp_path, "/b")
    with (file := BookFile(tmp_path, LocalDisk())).exclusive():
        file.replace(folded(file.readable(), NOON, UTC))
    late.settle(("/b", "x", 1), 3.0)
    late.write()
    assert sums(tmp_path)[2] == {"/b": 1.0}


def test_what_is_appended_while_it_is_folded_stays(tmp_path, monkeypatch):
    write(tmp_path, [entry(30, f"x{n}", 1.0) for n in range(50)])

    def slowly(*given):
        short = folded(*given)
        BookFile(tmp_path, LocalDisk()).append([entry(0, "y", 4.0)])
        return short

    monkeypatch.setattr(book_fold, "folded", slowly)
    monkeypatch.setattr(book_fold, "FOLD_FROM_LINES", 0)
    assert book_fold.fold_file(BookFile(tmp_path, LocalDisk()), NOON, UTC)
    assert sums(tmp_path)[2] == {"/b": 54.0}


def test_a_run_that_goes_on_reads_a_replaced_book_from_its_beginning(tmp_path):
    write(tmp_path, [entry(30, f"x{n}", 1.0) for n in range(20)])
    goes_on = book(tmp_path, "/me", {"month": 100.0})
    with (file := BookFile(tmp_path, LocalDisk())).exclusive():
        file.replace([entry(0, "y", 4.0)])
    assert reserve(goes_on, "z", 1.0) is None
    assert goes_on.spent_usd("month") == 5.0
    with file.exclusive():  # the inode of the first one may be used again
        file.replace([entry(0, f"w{n}", 1.0) for n in range(40)])
    goes_on.refresh()
    assert goes_on.spent_usd("month") == 40.0


class FullDisk(LocalDisk):
    def write_whole(self, path, chunks):
        def stops():
            for number, chunk in enumerate(chunks):
                if number == 2:
                    raise OSError(28, "No space left on device")
                yield chunk

        super().write_whole(path, stops())


def test_a_disk_that_is_full_leaves_the_book_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(book_fold, "FOLD_FROM_LINES", 10)
    write(tmp_path, [entry(30 + n, f"x{n}", 1.0) for n in range(10) for _ in range(5)])
    before = (tmp_path / BOOK_NAME).read_bytes()
    with pytest.raises(RunDirError):
        fold_file(BookFile(tmp_path, FullDisk()), NOON, UTC)
    assert (tmp_path / BOOK_NAME).read_bytes() == before
    assert fold_file(BookFile(tmp_path, LocalDisk()), NOON, UTC)


def test_after_a_kill_at_any_point_the_book_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    """Each call of the file system on the way is once the last one."""
    monkeypatch.setattr(book_fold, "FOLD_FROM_LINES", 10)

    class Killed(BaseException): ...

    class Dies(LocalDisk):
        def __init__(self, left):
            super().__init__()
            self.left = left

        def write_whole(self, path, chunks):
            temporary = path.with_name(f".{path.name}.1.tmp")
            for number, chunk in enumerate([*chunks, None]):
                if number == self.left:
                    raise Killed
                if chunk is not None:
                    with temporary.open("ab") as file:
                        file.write(chunk)
            if self.left == -1:
                raise Killed
            super().write_whole(path, [temporary.read_bytes()])
            temporary.unlink()
            if self.left == -2:
                raise Killed

    for left in range(-2, 12):
        folder = tmp_path / f"{left + 2}"
        write(folder, [entry(30 + n, f"x{n}", 1.0) for n in range(10) for _ in range(5)])
        expected = sums(folder)
        with suppress(Killed):
            fold_file(BookFile(folder, Dies(left)), NOON, UTC)
        assert sums(folder) == expected
        fold_file(BookFile(folder, LocalDisk()), NOON, UTC)
        assert sums(folder) == expected
        assert len(lines(folder)) == 11
        assert sorted(path.name for path in folder.iterdir()) == [BOOK_NAME, f"{BOOK_NAME}.lock"]


def _appends(folder, name, count):
    one = book(Path(folder), name, clock=SetClock(datetime.now(UTC)))
    for number in range(count):
        owner = (one.api, one.run_dir)
        one.reserve(reservation(owner, (f"j{number}", 1, "m", "d"), 1.0, datetime.now(UTC)))
        one.settle((name, f"j{number}", 1), 0.5)
        one.write()


def test_no_line_is_lost_while_processes_append_and_the_book_is_replaced(tmp_path):
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_appends, args=(str(tmp_path), f"/{n}", 600)) for n in range(3)]
    for writer in writers:
        writer.start()
    replaced = 0
    while any(writer.is_alive() for writer in writers):
        file = BookFile(tmp_path, LocalDisk())
        release = file.lock()
        with file.exclusive():
            file.replace(folded(file.readable(), datetime.now(UTC), UTC))
        release()
        replaced += 1
    assert replaced > 1
    known = Attempts.of(BookFile(tmp_path, LocalDisk()).news()).by_key.values()
    assert Counter(one.run_dir for one in known) == {f"/{n}": 600 for n in range(3)}
    assert {(one.kind, one.usd) for one in known} == {(SETTLE, 0.5)}


def test_a_run_folds_a_long_book_as_it_begins_and_a_short_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(book_fold, "FOLD_FROM_LINES", 100)
    monkeypatch.setattr("batcher.app.account.FOLD_FROM_LINES", 100)
    home = tmp_path / "home"
    folder = home / ".local/state/batcher"
    begin = [(datetime.now(UTC) - FOLD_AFTER - timedelta(days=2)).isoformat(), "m"]
    write(folder, [Entry(SETTLE, iso(datetime.fromisoformat(begin[0])), API, "/b", f"x{n}", 1, 1.0) for n in range(99)])  # fmt: skip
    host = Host(env={}, home=home)
    options = Options(manifest=Path("m.yaml"))
    before = sum(one.usd for one in entries_of(host, None))
    open_account(options, API, tmp_path / "run", host)
    assert len(lines(folder)) == 99
    write(folder, [Entry(SETTLE, iso(datetime.fromisoformat(begin[0])), API, "/b", f"x{n}", 1, 1.0) for n in range(99)])  # fmt: skip
    account = open_account(options, API, tmp_path / "run", host)
    assert len(lines(folder)) == 2
    assert account is not None
    assert sum(one.usd for one in entries_of(host, None)) == before
    assert rebuild(host, tmp_path) == 1, "of directories that are gone it keeps what it says"
    assert sum(one.usd for one in entries_of(host, None)) == before


def test_a_book_that_is_in_use_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(book_fold, "FOLD_FROM_LINES", 10)
    write(tmp_path, [entry(30, f"x{n}", 1.0) for n in range(50)])
    release = BookFile(tmp_path, LocalDisk()).lock()
    with pytest.raises(RunDirError):
        fold_file(BookFile(tmp_path, LocalDisk()), NOON, UTC)
    release()
    assert fold_file(BookFile(tmp_path, LocalDisk()), NOON, UTC)


def test_threads_share_a_book(tmp_path):
    one = book(tmp_path, "/a", {"day": 100.0})
    workers = [
        threading.Thread(target=lambda n=n: [reserve(one, f"{n}-{i}", 0.1) for i in range(50)])
        for n in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert one.spent_usd("day") == pytest.approx(20.0)
    assert len(lines(tmp_path)) == 200
    assert json.loads((tmp_path / BOOK_NAME).read_text().splitlines()[0])["kind"] == "reserve"
    assert Book(BookFile(tmp_path, LocalDisk()), (API, "/a"), Limits(), SetClock()).reservations() == []


def test_names_that_all_lines_share_are_kept_once(tmp_path):
    file = BookFile(tmp_path, LocalDisk())
    file.append([entry(1, f"job-{number}", 1.0) for number in range(3)])
    entries = list(BookFile(tmp_path, LocalDisk()).news())
    for name in ("api", "run_dir", "model"):
        assert len({id(getattr(one, name)) for one in entries}) == 1, name
    assert file.line_count() == 3
