"""Ended attempts are packed, and nothing shows it."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from batcher.clock import iso
from batcher.disk import LocalDisk
from batcher.ledger.book import Book, Limits
from batcher.ledger.book_attempts import Attempts, EndedAttempts
from batcher.ledger.book_file import FOLD, RESERVE, SETTLE, UNTIL, BookFile, Entry
from tests.ledger.test_book import NOON, SetClock, reserve

API = "https://api/v1"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DIGESTS = [
    "0123456789abcdef",
    "000000000000000f",
    "0123456789ABCDEF",
    "01 23456789abcdef",
    "0123",
    "no digest at all",
    None,
]
TIMES = [*(iso(NOON + timedelta(milliseconds=n)) for n in (0, 1, 999, 86_400_000)), "2026-11-27T12:00Z"]

ENTRIES = st.builds(
    Entry,
    st.sampled_from([RESERVE, SETTLE, SETTLE, SETTLE, FOLD, UNTIL]),
    st.sampled_from(TIMES),
    st.sampled_from([API, "https://other/v1"]),
    st.sampled_from(["/a", "/b"]),
    st.sampled_from(["x", "y", "Ünïcode", "", "fox-0123456789abcdef"]),
    st.integers(-1, 2),
    st.sampled_from([0.0, 0.1, 1.25]),
    st.sampled_from(["kling", "fal:flux", None]),
    st.sampled_from(DIGESTS),
    st.sampled_from([(), (1, 2)]),
)


@given(st.lists(ENTRIES, max_size=40))
def test_packed_attempts_are_told_from_others_by_nothing(entries):
    plain, packed = Attempts(), Attempts(EndedAttempts(API))
    for entry in entries:
        assert plain.takes(entry) == packed.takes(entry)
        for one in entries:
            assert plain.last(one.key) == packed.last(one.key)
    assert plain.folded_until == packed.folded_until


@given(
    st.integers(600_000_000_000, 4_000_000_000_000).map(lambda ms: EPOCH + timedelta(milliseconds=ms))
)
def test_a_time_is_packed_to_its_millisecond(moment):
    ended = EndedAttempts(API)
    entry = Entry(SETTLE, iso(moment), API, "/a", "x", 1, 0.1, "m", DIGESTS[0])
    assert ended.keeps(entry)
    assert ended.get(entry.key) == entry


def test_an_ended_attempt_takes_one_row_and_no_object(tmp_path):
    """Also one that is settled twice, and one that another process has bought."""
    ours, theirs = (
        Book(BookFile(tmp_path, LocalDisk()), (API, run_dir), Limits(), SetClock())
        for run_dir in ("/a", "/b")
    )
    for one in (ours, theirs):
        for number in range(100):
            reserve(one, f"j{number}", 1.0)
            for usd in (0.5, 0.25):
                one.settle((one.run_dir, f"j{number}", 1), usd)
    theirs.write()
    ours.refresh()
    attempts = ours._attempts
    assert (attempts.by_key, len(attempts._ended)) == ({}, 200)
    assert len(attempts._ended._digests) == 200
    assert (ours.spent_usd("day"), len(ours._paid)) == (50.0, 100)


def test_the_digest_of_a_job_that_is_named_after_it_is_not_kept_twice():
    ended = EndedAttempts(API)
    entries = [
        Entry(SETTLE, TIMES[0], API, "/a", f"fox-{number:016x}", 1, 0.1, "m", f"{number:016x}")
        for number in range(100)
    ]
    assert all(map(ended.keeps, entries))
    assert (len(ended), len(ended._digests)) == (100, 0)
    assert [ended.get(entry.key) for entry in entries] == entries


def test_a_digest_is_replaced_and_dropped_with_its_attempt():
    ended = EndedAttempts(API)
    first, second = (
        Entry(SETTLE, TIMES[0], API, "/a", "by hand", 1, 0.1, "m", digest) for digest in DIGESTS[:2]
    )
    assert ended.keeps(first)
    assert ended.keeps(second)
    assert (ended.get(first.key), len(ended._digests)) == (second, 1)
    ended.drop(first.key)
    assert (ended.get(first.key), len(ended), len(ended._digests)) == (None, 0, 0)
